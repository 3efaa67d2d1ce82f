package queue

import (
	"encoding/binary"
	"errors"
	"time"
)

// A record of the log under the queue is
//
//	version (1) · enqueued, µs since 1970 (uvarint) · number of targets (uvarint)
//	· per target: lane (uvarint) and time to live in ms, 0 for none (uvarint)
//	· message
const recordVersion = 1

// key names a lane: the endpoint's id and the priority in the low four bits.
type key uint64

func makeKey(id uint64, priority uint8) key { return key(id<<4 | uint64(priority)) }

func (k key) endpoint() uint64 { return uint64(k) >> 4 }

func (k key) priority() uint8 { return uint8(k & 15) }

var errMalformed = errors.New("malformed queue record")

func appendRecord(dst []byte, now time.Time, targets []Target) []byte {
	dst = append(dst, recordVersion)
	dst = binary.AppendUvarint(dst, uint64(now.UnixMicro()))
	dst = binary.AppendUvarint(dst, uint64(len(targets)))
	for _, t := range targets {
		dst = binary.AppendUvarint(dst, uint64(makeKey(t.Endpoint.id, t.Priority)))
		dst = binary.AppendUvarint(dst, uint64((t.TTL+time.Millisecond-1)/time.Millisecond))
	}
	return dst
}

// record is a parsed record; it points into the bytes it was parsed from.
type record struct {
	enqueued time.Time
	targets  []byte
	payload  []byte
}

func parseRecord(b []byte) (record, error) {
	if len(b) == 0 || b[0] != recordVersion {
		return record{}, errMalformed
	}
	b = b[1:]
	at, n := binary.Uvarint(b)
	if n <= 0 {
		return record{}, errMalformed
	}
	b = b[n:]
	count, n := binary.Uvarint(b)
	if n <= 0 || count > uint64(len(b)) {
		return record{}, errMalformed
	}
	b = b[n:]
	targets := b
	for range 2 * count {
		_, n := binary.Uvarint(b)
		if n <= 0 {
			return record{}, errMalformed
		}
		b = b[n:]
	}
	return record{time.UnixMicro(int64(at)), targets[:len(targets)-len(b)], b}, nil
}

// each calls visit for every target; TTL 0 is none.
func (r record) each(visit func(k key, ttl time.Duration)) {
	for b := r.targets; len(b) > 0; {
		k, n := binary.Uvarint(b)
		ms, m := binary.Uvarint(b[n:])
		b = b[n+m:]
		visit(key(k), time.Duration(ms)*time.Millisecond)
	}
}

// ttl is the time to live of the first target for k.
func (r record) ttl(k key) (ttl time.Duration, found bool) {
	r.each(func(other key, d time.Duration) {
		if other == k && !found {
			ttl, found = d, true
		}
	})
	return ttl, found
}

// expiry is when a message with that time to live ends, given the queue's own
// bound; the zero time is never.
func (r record) expiry(ttl, maxAge time.Duration) time.Time {
	if maxAge > 0 && (ttl == 0 || maxAge < ttl) {
		ttl = maxAge
	}
	if ttl == 0 {
		return time.Time{}
	}
	return r.enqueued.Add(ttl)
}
