package events

import (
	"context"
	"iter"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
)

// Query says which events a follower wants.
type Query struct {
	Device string    // only this device and its modules; empty: all
	Module string    // only this module of Device
	Since  time.Time // from then on; zero: only what comes
	Group  string    // consumer group; empty: DefaultGroup
	Count  int       // stop after so many; zero: never
}

// lineBytes is about how much text one step of Follow yields at most.
const lineBytes = 64 << 10

// Follow gives the events that q asks for, as they come, until ctx ends or q.Count
// were given; those of several partitions in the order of their times as far as
// they are there. Each step yields one or more whole lines of JSON, each with its
// newline, valid until the next step; an error ends it. The result is for one use.
func (s *Stream) Follow(ctx context.Context, q Query) (iter.Seq2[[]byte, error], error) {
	if _, err := s.Group(q.Group); err != nil {
		return nil, err
	}
	from := End()
	if !q.Since.IsZero() {
		from = AtTime(q.Since, true)
	}
	partitions := s.partitions
	if q.Device != "" {
		i := s.PartitionOf(q.Device)
		partitions = s.partitions[i : i+1]
	}
	f := &follower{s: s, q: q, wake: make(chan struct{}, 1)}
	for _, p := range partitions { // here, so that what comes from now on is not missed
		f.from = append(f.from, feed{r: p.reader(from)})
	}
	return func(yield func([]byte, error) bool) { f.run(ctx, yield) }, nil
}

// follower merges partitions.
type follower struct {
	s     *Stream
	q     Query
	from  []feed
	wake  chan struct{}
	given int
	text  writer
}

// feed is one partition and the events of it that are at hand.
type feed struct {
	r      *Reader
	events []Event
	dry    bool // there was nothing more
}

func (f *follower) run(ctx context.Context, yield func([]byte, error) bool) {
	for i := range f.from {
		p := f.from[i].r.p
		p.watch(f.wake)
		defer p.unwatch(f.wake)
		defer f.from[i].r.Close()
	}
	for ctx.Err() == nil {
		err := f.gather(ctx)
		if len(f.text.line) > 0 && !yield(f.text.line, nil) {
			return
		}
		switch {
		case err != nil:
			yield(nil, err)
			return
		case f.full():
			return
		case len(f.text.line) > 0:
			continue
		}
		select {
		case <-f.wake:
			for i := range f.from {
				f.from[i].dry = false
			}
		case <-f.s.closed:
			yield(nil, fault.New(fault.Unavailable, "the hub is stopping"))
			return
		case <-ctx.Done():
		}
	}
}

func (f *follower) full() bool { return f.q.Count > 0 && f.given >= f.q.Count }

// gather writes what is there and wanted, up to about lineBytes.
func (f *follower) gather(ctx context.Context) error {
	f.text.reset()
	for len(f.text.line) < lineBytes && !f.full() && ctx.Err() == nil {
		e, err := f.next()
		if e == nil || err != nil {
			return err
		}
		s := &e.Message.System
		if f.q.Device != "" && s.ConnectionDevice != f.q.Device || f.q.Module != "" && s.ConnectionModule != f.q.Module {
			continue
		}
		f.text.event(e)
		f.given++
	}
	return nil
}

// next takes the earliest event at hand; nil when there is none.
func (f *follower) next() (*Event, error) {
	var first *feed
	for i := range f.from {
		d := &f.from[i]
		if len(d.events) == 0 && !d.dry {
			var err error
			if d.events, err = d.r.Poll(); err != nil {
				return nil, err
			}
			d.dry = len(d.events) == 0
		}
		if len(d.events) > 0 && (first == nil || d.events[0].Enqueued.Before(first.events[0].Enqueued)) {
			first = d
		}
	}
	if first == nil {
		return nil, nil
	}
	e := &first.events[0]
	first.events = first.events[1:]
	return e, nil
}
