package consumer

import (
	"context"
	"time"

	"github.com/selvedge-io/selvedge/hub/events"
)

// patience is how long the events of other partitions wait for one that is behind, which
// may have lost what was to come.
const patience = 2 * time.Second

// Next waits for the next event that is wanted: those that were there when the stream
// was opened in the order of their times, later ones as they come. It fails when ctx ends, or the stream.
func (s *Stream) Next(ctx context.Context) (*events.Event, error) {
	for {
		if err := s.fill(ctx); err != nil {
			return nil, err
		}
		e := s.take()
		m := &e.Message.System
		if (s.q.Device == "" || m.ConnectionDevice == s.q.Device) && (s.q.Module == "" || m.ConnectionModule == s.q.Module) {
			return e, nil
		}
	}
}

// fill waits until it is known which event comes next.
func (s *Stream) fill(ctx context.Context) error {
	var tired <-chan time.Time
	for {
		for more := true; more; {
			select {
			case i := <-s.in:
				i.from.queue = append(i.from.queue, i)
			default:
				more = false
			}
		}
		some, all := false, true
		for _, f := range s.feeds {
			some = some || len(f.queue) > 0
			all = all && (len(f.queue) > 0 || !f.behind)
		}
		if some && all {
			return nil
		}
		if some && tired == nil {
			tired = time.After(patience)
		}
		select {
		case i := <-s.in:
			i.from.queue = append(i.from.queue, i)
		case <-tired:
			for _, f := range s.feeds {
				f.behind = f.behind && len(f.queue) > 0
			}
		case <-s.over:
			s.mu.Lock()
			defer s.mu.Unlock()
			return toFault(s.reason)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// take takes the earliest event at hand; there is one.
func (s *Stream) take() *events.Event {
	var first *feed
	for _, f := range s.feeds {
		if len(f.queue) > 0 && (first == nil || f.queue[0].event.Enqueued.Before(first.queue[0].event.Enqueued)) {
			first = f
		}
	}
	i := first.queue[0]
	first.queue = first.queue[1:]
	if i.event.Sequence >= first.until {
		first.behind = false
	}
	if first.used++; first.used == window/2 {
		first.used = 0
		// The error is that the link is over, which is told elsewhere.
		_ = first.receiver.Grant(window / 2)
	}
	return i.event
}
