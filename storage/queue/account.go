package queue

import (
	"cmp"
	"encoding/binary"
	"slices"
	"time"

	"github.com/selvedge-io/selvedge/storage/log"
)

// account tells the lanes what became durable. It runs on the log's committer.
func (q *Queue) account(base log.Offset, recs []log.Record) {
	q.mu.Lock()
	if n := len(q.segments); n == 0 || q.segments[n-1].base != base {
		q.begin(base)
	}
	s := &q.segments[len(q.segments)-1]
	for _, rec := range recs {
		q.count(s, rec, true)
	}
	q.mu.Unlock()
	q.wake(q.dirty)
}

// count enters one record of s; fresh says that the lanes do not know of it. The
// caller holds q.mu.
func (q *Queue) count(s *segment, rec log.Record, fresh bool) {
	if fresh {
		q.counted = rec.Next
	}
	r, err := parseRecord(rec.Payload)
	if err != nil {
		q.o.Log.Error("record of the queue cannot be read", "offset", rec.Offset, "err", err)
		return
	}
	r.each(func(k key, ttl time.Duration) {
		s.outlives(r, ttl)
		id := k.endpoint()
		if id >= uint64(len(q.endpoints)) || q.endpoints[id] == nil {
			return
		}
		e := q.endpoints[id]
		l := e.lane(k.priority())
		if fresh {
			l.arrive(rec.Offset, len(r.payload))
			q.wake(e.wake)
		} else {
			l.active.add(len(r.payload))
		}
	})
}

// outlives extends the life of the segment to that of a message in it.
func (s *segment) outlives(r record, ttl time.Duration) {
	if r.enqueued.After(s.last) {
		s.last = r.enqueued
	}
	switch end := r.expiry(ttl, 0); {
	case end.IsZero():
		s.forever = true
	case end.After(s.expiry):
		s.expiry = end
	}
}

// dead says whether the time of all messages in the segment is over.
func (s *segment) dead(now time.Time, maxAge time.Duration) bool {
	return !s.forever && now.After(s.expiry) || maxAge > 0 && now.After(s.last.Add(maxAge))
}

// begin enters the segment that is now written to. The caller holds q.mu.
func (q *Queue) begin(base log.Offset) {
	q.segments = append(q.segments, segment{base: base, end: maxOffset})
	q.restart()
}

// restart begins the lanes' counts of a segment. The caller holds q.mu.
func (q *Queue) restart() {
	for _, e := range q.endpoints {
		if e != nil {
			for _, l := range e.lanes {
				l.active = tally{}
			}
		}
	}
}

// seal notes what a finished segment holds for whom, so that lanes can pass it by.
// It runs on the log's committer.
func (q *Queue) seal(base, end log.Offset) {
	q.mu.Lock()
	i := q.find(base)
	if i < 0 || i != len(q.segments)-1 || q.segments[i].base != base {
		q.mu.Unlock()
		return
	}
	s := &q.segments[i]
	s.end = end
	for _, e := range q.endpoints {
		if e == nil {
			continue
		}
		for _, l := range e.lanes {
			if l.active.n > 0 {
				s.lanes = append(s.lanes, share{l.key, l.active})
			}
		}
	}
	note := s.note()
	q.mu.Unlock()
	if err := q.log.WriteSidecar(base, note); err != nil {
		q.o.Log.Debug("summary of a segment not kept", "segment", base, "err", err)
	}
}

// A note is, all in varints: last and expiry in µs since 1970, 1 if forever,
// then per lane its key, number and bytes of messages.
func (s *segment) note() []byte {
	slices.SortFunc(s.lanes, func(a, b share) int { return cmp.Compare(a.key, b.key) })
	var b []byte
	forever := uint64(0)
	if s.forever {
		forever = 1
	}
	b = binary.AppendVarint(b, s.last.UnixMicro())
	b = binary.AppendVarint(b, s.expiry.UnixMicro())
	b = binary.AppendUvarint(b, forever)
	for _, l := range s.lanes {
		b = binary.AppendUvarint(b, uint64(l.key))
		b = binary.AppendVarint(b, l.n)
		b = binary.AppendVarint(b, l.bytes)
	}
	return b
}

func (s *segment) parseNote(b []byte) error {
	d := decoder{b: b}
	s.last, s.expiry = time.UnixMicro(d.int()), time.UnixMicro(d.int())
	s.forever = d.uint() != 0
	for len(d.b) > 0 && d.err == nil {
		s.lanes = append(s.lanes, share{key(d.uint()), tally{d.int(), d.int()}})
	}
	return d.err
}

// decoder reads varints; after an error it gives zeroes.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.b, d.err = nil, errMalformed
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.b, d.err = nil, errMalformed
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) offset() log.Offset { return log.Offset(d.int()) }

func (d *decoder) tally() tally { return tally{d.int(), d.int()} }
