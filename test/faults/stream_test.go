package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/test/rig"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

// window is how many messages a sender has under way: enough that a kill always
// strikes some in the middle.
const window = 32

// sender publishes a numbered stream as a good device does: in order, and after a
// break everything again that was not acknowledged, beginning with the oldest. It
// counts as acknowledged only what the server has said so.
type sender struct {
	id    rig.Identity
	every time.Duration // pause between messages; zero: as fast as the window lets

	acked atomic.Int64 // highest number acknowledged, without gaps below
	last  atomic.Int64 // stop after this number; zero: go on
	broke atomic.Int64 // connections that broke
}

// run sends until everything up to last is acknowledged, or ctx ends.
func (s *sender) run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := s.connected(ctx)
		if err == nil {
			return nil
		}
		if refusal, ok := errors.AsType[rig.Refusal](err); ok && refusal == rig.Refusal(mqtt.RefusedNotAuthorized) {
			return fmt.Errorf("%s was refused: %w", s.id.Name(), err)
		}
		s.broke.Add(1)
		select {
		case <-time.After(20 * time.Millisecond): // the server is down
		case <-ctx.Done():
		}
	}
	return fmt.Errorf("%s: %w with %d acknowledged", s.id.Name(), ctx.Err(), s.acked.Load())
}

// connected sends over one connection and gives nil when all is done.
func (s *sender) connected(ctx context.Context) error {
	c, err := rig.Dial(ctx, s.id)
	if err != nil {
		return err
	}
	defer c.Drop()
	topic := s.id.Path() + "/messages/events/$.ct=application%2Fjson&$.ce=utf-8"
	if s.id.Module != "" {
		topic += "&$.on=numbers"
	}
	var ids []uint16 // of what is under way, oldest first
	next := s.acked.Load() + 1
	pace := time.NewTicker(max(s.every, time.Nanosecond))
	defer pace.Stop()
	for {
		if last := s.last.Load(); last > 0 && s.acked.Load() >= last {
			c.Close()
			return nil
		}
		for len(ids) < window && (s.last.Load() == 0 || next <= s.last.Load()) {
			id, err := c.Send(topic, fmt.Appendf(nil, `{"n":%d}`, next))
			if err != nil {
				return err
			}
			ids = append(ids, id)
			next++
			if s.every > 0 {
				select {
				case <-pace.C:
				case <-ctx.Done():
					return ctx.Err()
				}
				break
			}
		}
		if len(ids) == 0 {
			continue
		}
		f, err := c.Next(rig.Patience)
		if err != nil {
			return err
		}
		var ack mqtt.Ack
		if err := ack.Decode(f); err != nil {
			return err
		}
		if ack.ID != ids[0] { // Azure acknowledges in order, and SDKs insist
			return fmt.Errorf("%s: PUBACK of %d, want %d", s.id.Name(), ack.ID, ids[0])
		}
		ids = ids[1:]
		s.acked.Add(1)
	}
}

// finish lets a sender that runs stop soon, with everything acknowledged.
func (s *sender) finish() { s.last.Store(max(s.acked.Load(), 1) + 2*window) }

// account follows what arrives from a number of senders and holds it to the promise:
// every number once or more, and the first of each in order.
type account struct {
	seen   map[string]int64 // highest number so far
	twice  int
	orders []string // what came too early
}

func (a *account) add(t *testing.T, e rig.Event) {
	t.Helper()
	var body struct{ N int64 }
	if err := json.Unmarshal(e.Body, &body); err != nil || body.N < 1 {
		t.Fatalf("an event has the body %s (%v)", e.Body, err)
	}
	name := e.Device
	if e.Module != "" {
		name += "/" + e.Module
	}
	switch want := a.seen[name] + 1; {
	case body.N == want:
		a.seen[name] = want
	case body.N < want:
		a.twice++
	default:
		a.orders = append(a.orders, fmt.Sprintf("%s: number %d came when %d was next", name, body.N, want))
		a.seen[name] = body.N
	}
}

// audit reads the hub's event stream until everything that the senders know as
// acknowledged is there.
func audit(t *testing.T, h *rig.Hub, senders []*sender, limit time.Duration) {
	t.Helper()
	a := account{seen: map[string]int64{}}
	missing := func() string {
		for _, s := range senders {
			if got, want := a.seen[s.id.Name()], s.acked.Load(); got < want {
				return fmt.Sprintf("%s: %d of %d arrived", s.id.Name(), got, want)
			}
		}
		return ""
	}
	events := h.Events(t)
	late := time.After(limit)
	for missing() != "" {
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatalf("the event stream ended: %s", missing())
			}
			a.add(t, e)
		case <-late:
			t.Fatalf("acknowledged messages are lost: %s", missing())
		}
	}
	for _, o := range a.orders[:min(len(a.orders), 10)] {
		t.Errorf("out of order: %s", o)
	}
	total, broke := int64(0), int64(0)
	for _, s := range senders {
		total += s.acked.Load()
		broke += s.broke.Load()
	}
	t.Logf("%d messages acknowledged, all there in order; %d came twice; connections broke %d times", total, a.twice, broke)
}

// runAll runs senders beside the test; the function it gives waits for their end.
func runAll(t *testing.T, senders []*sender) (wait func()) {
	t.Helper()
	ended := make(chan error, len(senders))
	for _, s := range senders {
		go func() { ended <- s.run(t.Context()) }()
	}
	return func() {
		t.Helper()
		late := time.After(2 * rig.Patience)
		for _, s := range senders {
			s.finish()
		}
		for range senders {
			select {
			case err := <-ended:
				if err != nil {
					t.Fatal(err)
				}
			case <-late:
				for _, s := range senders {
					t.Logf("%s: %d of %d acknowledged", s.id.Name(), s.acked.Load(), s.last.Load())
				}
				t.Fatal("a sender did not come to an end")
			}
		}
	}
}

// progress waits until every sender had some more acknowledged.
func progress(t *testing.T, senders []*sender, more int64) {
	t.Helper()
	for _, s := range senders {
		goal := s.acked.Load() + more
		rig.Eventually(t, s.id.Name()+" goes on", func() bool { return s.acked.Load() >= goal })
	}
}
