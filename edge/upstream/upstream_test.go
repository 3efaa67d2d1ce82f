package upstream

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
)

func TestMessagesGoUpInOrder(t *testing.T) {
	w := start(t, t.TempDir(), newHub())
	for i := range 10 {
		w.send("a", i*100, i*100+100)
		w.send("b", i*10, i*10+10)
	}
	w.arrived("a", 1000)
	w.arrived("b", 100)
	if n := len(w.hub.received["a"]) + len(w.hub.received["b"]); n != 1100 {
		t.Errorf("%d messages arrived, so some more than once", n)
	}
	if w.hub.most > 256 {
		t.Errorf("%d messages under way, the most is 256", w.hub.most)
	}
	out, err := w.Outbox(id("a"))
	if err != nil {
		t.Fatal(err)
	}
	w.until("all to be settled", func() bool { return out.Len() == 0 })
	if c := w.Counts(); c.Sent != 1100 || c.Dropped != 0 {
		t.Errorf("counts %+v", c)
	}
}

func (w *world) until(what string, cond func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestOrderOverManyLosses(t *testing.T) {
	h := newHub()
	w := start(t, t.TempDir(), h)
	var sender sync.WaitGroup
	sender.Go(func() {
		for i := range 200 {
			w.send("a", i*10, i*10+10)
		}
	})
	for n := range 20 {
		h.wait(t, "some messages", func() bool { return len(h.received["a"]) > n*50 })
		h.lose()
	}
	sender.Wait()
	w.arrived("a", 2000)
}

func TestBacklogOfAnEarlierRun(t *testing.T) {
	dir := t.TempDir()
	h := newHub()
	h.up = false
	w := start(t, dir, h)
	w.send("a", 0, 500)
	w.send("gone", 0, 5)
	w.stop()
	h.up = true
	w = start(t, dir, h)
	w.arrived("a", 500)
	w.arrived("gone", 5)
}

func TestStateOfTheLink(t *testing.T) {
	h := newHub()
	h.up = false
	w := start(t, t.TempDir(), h)
	states := make(chan bool, 10)
	w.Watch(func(online bool) { states <- online })
	defer w.Hold(id(ident.EdgeHub))()
	if w.Online() {
		t.Error("online without a hub")
	}
	h.set(func() { h.up = true })
	if !<-states || !w.Online() {
		t.Error("not online")
	}
	h.cut()
	if <-states || w.Online() {
		t.Error("still online")
	}
	h.set(func() { h.up = true })
	if !<-states {
		t.Error("not online again")
	}
}

func TestRefusedIdentityHoldsUpNobody(t *testing.T) {
	h := newHub()
	h.refused["bad"] = fault.New(fault.Unauthorized, "no")
	w := start(t, t.TempDir(), h)
	w.send("bad", 0, 1000)
	w.send("good", 0, 1000)
	w.arrived("good", 1000)
	if _, err := w.Twin(t.Context(), id("bad")); !fault.Is(err, fault.Unauthorized) {
		t.Errorf("twin of a refused identity: %v", err)
	}
	h.set(func() { delete(h.refused, "bad") })
	w.arrived("bad", 1000)
}

// TestPoison sends a message that costs the connection whenever it comes. It is dropped
// when it may be too large, and holds up its sender, but nobody else, when it is not.
func TestPoison(t *testing.T) {
	for _, c := range []struct {
		name string
		body string
		why  error
		gone bool
	}{
		{"large", strings.Repeat("x", message.MaxTelemetry), nil, true},
		{"small", "x", nil, false},
		{"small, but its topic is too long", "x", fault.New(fault.MessageTooLarge, "no"), true},
		{"refused for what is in it", "x", fault.New(fault.ArgumentInvalid, "no"), true},
		{"refused for now", "x", fault.New(fault.Throttled, "no"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHub()
			h.choke, h.why = c.body, c.why
			w := start(t, t.TempDir(), h)
			w.send("a", 0, 100)
			w.sendBodies("a", c.body)
			w.send("a", 100, 200)
			w.send("b", 0, 200)
			w.arrived("b", 200)
			if c.gone {
				w.arrived("a", 200)
				if n := w.Counts().Dropped; n != 1 {
					t.Errorf("%d messages dropped, want 1", n)
				}
				return
			}
			h.wait(t, "many attempts", func() bool { return h.dials["a"] > 10 })
			w.arrived("a", 100)
			if n := w.Counts().Dropped; n != 0 {
				t.Errorf("%d messages dropped", n)
			}
			h.set(func() { h.choke = "" })
			h.wait(t, "the message and those after it", func() bool {
				got := h.received["a"]
				return got[len(got)-1] == "199"
			})
		})
	}
}

func TestWindowIsBounded(t *testing.T) {
	h := newHub()
	h.mute = true
	w := start(t, t.TempDir(), h)
	w.send("a", 0, 1000)
	h.wait(t, "a full window", func() bool { return h.most == 256 })
	h.set(func() { h.mute = false })
	h.lose()
	w.arrived("a", 1000)
	if h.most > 256 {
		t.Errorf("%d messages under way", h.most)
	}
}

func TestDesiredAndMethods(t *testing.T) {
	h := newHub()
	w := start(t, t.TempDir(), h, func(c *Config) { c.Linger = time.Millisecond })
	release := w.Hold(id("m"))
	w.child.wait(t, "linked m")
	if twin, err := w.Twin(t.Context(), id("m")); err != nil || string(twin) != "m" {
		t.Errorf("twin %s, %v", twin, err)
	}
	if v, err := w.Report(t.Context(), id("m"), nil); err != nil || v != 7 {
		t.Errorf("version %d, %v", v, err)
	}
	h.mu.Lock()
	c := h.connected("m")
	h.mu.Unlock()
	patch := []byte(`{"a":1}`)
	c.desired(3, patch)
	copy(patch, "garbage")
	w.child.wait(t, `desired m 3 {"a":1}`)
	if c.method != nil {
		t.Error("methods are taken before the module does")
	}
	w.Methods(id("m"), true)
	h.wait(t, "methods", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.method != nil })
	if r := c.method(t.Context(), &method.Call{Name: "x"}); r.Status != 200 || string(r.Payload) != `"m"` {
		t.Errorf("reply %+v", r)
	}
	if r := c.method(t.Context(), &method.Call{Name: "fail"}); r.Status != 404 || string(r.Payload) != `{"message":"not there"}` {
		t.Errorf("reply %+v", r)
	}

	h.lose() // all of it comes back
	h.wait(t, "methods again", func() bool {
		c = h.connected("m")
		if c == nil {
			return false
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.method != nil && c.desired != nil
	})
	w.Methods(id("m"), false)
	release()
	release()
	h.wait(t, "the connection to end, so that the hub calls nobody", func() bool { return h.connected("m") == nil })
}

func TestChangesThatComeTooFast(t *testing.T) {
	block := make(chan struct{})
	s := subscriptions{changes: make(chan change, 64)}
	for i := range 200 {
		s.note(int64(i+1), []byte("{}"))
	}
	close(block)
	last := change{version: -1}
	for len(s.changes) > 0 {
		last = <-s.changes
	}
	if last.version != 0 {
		t.Errorf("the last of too many changes is %d, want a look at the whole twin", last.version)
	}
}

func TestIdleConnectionIsClosed(t *testing.T) {
	h := newHub()
	w := start(t, t.TempDir(), h, func(c *Config) { c.Idle = time.Millisecond })
	w.Hold(id("m"))()
	w.Hold(id("n"))
	h.wait(t, "one connection", func() bool { return h.connected("n") != nil && h.connected("m") == nil })
}

func TestDiscard(t *testing.T) {
	h := newHub()
	h.up = false
	w := start(t, t.TempDir(), h)
	w.send("a", 0, 10)
	if err := w.Discard(); err != nil {
		t.Fatal(err)
	}
	if names := w.q.Names(); len(names) != 0 {
		t.Errorf("endpoints %v are left", names)
	}
	w.send("a", 0, 5)
	h.set(func() { h.up = true })
	w.arrived("a", 5)
	if n := len(h.received["a"]); n != 5 {
		t.Errorf("%d messages arrived, want 5", n)
	}
}

func TestAwait(t *testing.T) {
	h := newHub()
	h.up = false
	w := start(t, t.TempDir(), h)
	defer w.Hold(id("m"))()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := w.Await(ctx, id("m")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if _, err := w.Report(t.Context(), id("m"), nil); err == nil {
		t.Error("a report went through without a hub")
	}
	h.set(func() { h.up = true })
	if err := w.Await(t.Context(), id("m")); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestBackoff(t *testing.T) {
	b := backoff{first: 100 * time.Millisecond, most: time.Second}
	for i, most := range []time.Duration{100, 200, 400, 800, 1000, 1000} {
		most *= time.Millisecond
		if d := b.next(); d < most/2 || d > most {
			t.Errorf("pause %d is %v, want from %v to %v", i, d, most/2, most)
		}
	}
	b.reset()
	if d := b.next(); d > 100*time.Millisecond {
		t.Errorf("after a reset the pause is %v", d)
	}
}
