package events

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/storage/log"
)

// Position says where in a partition to start reading. The zero value is Start.
type Position struct {
	kind      kind
	number    int64 // offset, sequence number or milliseconds
	inclusive bool
}

type kind uint8

const (
	atStart kind = iota
	atEnd
	atOffset
	atSequence
	atTime
)

// Start is the oldest event still kept.
func Start() Position { return Position{} }

// End is what comes from now on.
func End() Position { return Position{kind: atEnd} }

// AtOffset is the event at an offset, or the one after it when not inclusive. The
// next event stands for one that is gone, and an offset beyond the end is End.
func AtOffset(offset int64, inclusive bool) Position {
	return Position{atOffset, offset, inclusive}
}

// AtSequence is the event of a sequence number, or the one after it when not
// inclusive. The next event stands for one that is gone, and a number that was not
// given out yet is End.
func AtSequence(sequence int64, inclusive bool) Position {
	return Position{atSequence, sequence, inclusive}
}

// AtTime is the first event that was enqueued at t or later; not inclusive, in a
// later millisecond than t.
func AtTime(t time.Time, inclusive bool) Position {
	ms := t.UnixMilli()
	if inclusive && t.Nanosecond()%int(time.Millisecond) != 0 {
		ms++
	}
	return Position{atTime, ms, inclusive}
}

// maxKept bounds the properties for which a slot of a reader's batch keeps memory.
const maxKept = 64

// Reader reads one partition. It is for one goroutine at a time. What it holds is
// bounded, whatever it has still to read.
type Reader struct {
	p      *partition
	r      *log.Reader
	skip   Position // events before it are passed over
	events []Event
}

// Reader opens a reader of a partition; it fails with fault.GenericNotFound when
// there is no such partition.
func (s *Stream) Reader(partition int, from Position) (*Reader, error) {
	p, err := s.partition(partition)
	if err != nil {
		return nil, err
	}
	return p.reader(from), nil
}

func (p *partition) reader(from Position) *Reader {
	r := &Reader{p: p, r: p.log.NewReader(log.Oldest)}
	if !from.inclusive && from.number < math.MaxInt64 {
		from.number++ // from here on all are inclusive
	}
	end := p.log.End()
	switch from.kind {
	case atEnd:
		r.r.Resume(end)
	case atOffset:
		switch {
		case from.number >= int64(end):
			r.r.Resume(end)
		case from.number > 0:
			r.r.Seek(log.Offset(from.number))
			r.skip = from
		}
	case atSequence:
		if p.info().Last < from.number {
			r.r.Resume(end)
			break
		}
		r.resume(p.before(from.number+1, func(h head) int64 { return h.sequence }))
		r.skip = from
	case atTime:
		r.resume(p.before(from.number, func(h head) int64 { return h.millis }))
		r.skip = from
	}
	return r
}

func (r *Reader) resume(at log.Offset) {
	if at == log.Oldest {
		r.r.Seek(at)
	} else {
		r.r.Resume(at)
	}
}

// Next waits for events and gives the next ones in order, some 64 KiB of them or at
// least one. They are valid until the next call of Next or Poll. It fails when ctx
// ends, and with fault.Unavailable when the stream is closed.
func (r *Reader) Next(ctx context.Context) ([]Event, error) {
	for {
		recs, err := r.r.Next(ctx)
		if err != nil {
			return nil, r.fault(ctx, err)
		}
		if events := r.decode(recs); len(events) > 0 {
			return events, nil
		}
	}
}

// Poll is Next without waiting: it gives no events when there are no more now.
func (r *Reader) Poll() ([]Event, error) {
	for {
		recs, err := r.r.Poll()
		if err != nil {
			return nil, r.fault(context.Background(), err)
		}
		if len(recs) == 0 {
			return nil, nil
		}
		if events := r.decode(recs); len(events) > 0 {
			return events, nil
		}
	}
}

func (r *Reader) fault(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return err
	case errors.Is(err, log.ErrClosed):
		return fault.Wrap(err, fault.Unavailable, "the hub is stopping")
	default:
		return fault.Wrap(err, fault.ServerError, "events of partition %d cannot be read", r.p.index)
	}
}

// decode makes events of those records that are not to be passed over.
func (r *Reader) decode(recs []log.Record) []Event {
	for i := range r.events { // hold on to no buffer of an earlier batch
		m := &r.events[i].Message
		kept := m.Properties[:0]
		if cap(kept) > maxKept {
			kept = nil
		}
		clear(kept[:cap(kept)])
		*m = message.Message{Properties: kept}
	}
	r.events = r.events[:0]
	for i := range recs {
		rec := &recs[i]
		if r.skip.kind != atStart && r.passes(rec) {
			continue
		}
		if len(r.events) < cap(r.events) {
			r.events = r.events[:len(r.events)+1]
		} else {
			r.events = append(r.events, Event{})
		}
		e := &r.events[len(r.events)-1]
		e.Partition, e.Offset = r.p.index, int64(rec.Offset)
		if err := e.decode(rec.Payload); err != nil {
			r.p.o.Log.Error("a stored event cannot be read and is left out", "partition", r.p.index, "offset", rec.Offset, "err", err)
			r.events = r.events[:len(r.events)-1]
		}
	}
	return r.events
}

// passes says whether a record lies before where reading is to start, which ends
// with the first that does not.
func (r *Reader) passes(rec *log.Record) bool {
	key := int64(rec.Offset)
	if r.skip.kind != atOffset {
		sequence, millis, err := parseHead(rec.Payload)
		if err != nil {
			return false // it is reported where it is decoded
		}
		key = sequence
		if r.skip.kind == atTime {
			key = millis
		}
	}
	if key < r.skip.number {
		return true
	}
	r.skip = Position{}
	return false
}

// Close gives back what the reader holds.
func (r *Reader) Close() { r.r.Close() }
