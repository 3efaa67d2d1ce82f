package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/edge/broker"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
	"github.com/selvedge-io/selvedge/storage/queue"
)

// hub is a parent in memory. It can be cut off, refuse identities, lose connections in
// the middle of things and choke on a message.
type hub struct {
	mu       sync.Mutex
	up       bool
	refused  map[string]error // by module
	choke    string           // a body that costs the connection
	why      error            // what is said of it, if not that the connection is lost
	mute     bool             // take messages, acknowledge nothing
	conns    map[*conn]bool
	dials    map[string]int
	received map[string][]string // by module
	most     int                 // messages under way on a connection at once
	changed  chan struct{}
}

func newHub() *hub {
	return &hub{up: true, refused: make(map[string]error), conns: make(map[*conn]bool), dials: make(map[string]int),
		received: make(map[string][]string), changed: make(chan struct{})}
}

func (h *hub) note() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *hub) set(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	h.note()
}

func (h *hub) dial(_ context.Context, of ident.ID) (Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dials[of.Module]++
	defer h.note()
	if !h.up {
		return nil, errors.New("connection refused")
	}
	if err := h.refused[of.Module]; err != nil {
		return nil, err
	}
	c := &conn{h: h, id: of, done: make(chan struct{}), parcels: make(chan publication, 10000)}
	h.conns[c] = true
	go c.run()
	return c, nil
}

// cut loses all connections, and lets none in until it is switched on again.
func (h *hub) cut() {
	h.set(func() { h.up = false })
	h.lose()
}

func (h *hub) lose() {
	h.mu.Lock()
	var all []*conn
	for c := range h.conns {
		all = append(all, c)
	}
	h.mu.Unlock()
	for _, c := range all {
		c.end(errors.New("connection reset"))
	}
}

func (h *hub) wait(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(15 * time.Second)
	for {
		h.mu.Lock()
		ok, changed := cond(), h.changed
		h.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (h *hub) connected(module string) *conn {
	for c := range h.conns {
		if c.id.Module == module {
			return c
		}
	}
	return nil
}

type publication struct {
	bodies []string
	done   func(error)
}

type conn struct {
	h       *hub
	id      ident.ID
	parcels chan publication
	done    chan struct{}

	mu      sync.Mutex
	err     error
	ended   bool
	under   int
	desired func(int64, []byte)
	method  func(context.Context, *method.Call) method.Reply
}

func (c *conn) run() {
	for {
		select {
		case p := <-c.parcels:
			if !c.take(p) {
				p.done(cmp.Or(c.h.why, errors.New("connection lost")))
			}
		case <-c.done:
			for { // Publish sends nothing any more
				select {
				case p := <-c.parcels:
					p.done(errors.New("connection lost"))
				default:
					return
				}
			}
		}
	}
}

// take says whether it answered.
func (c *conn) take(p publication) bool {
	c.h.mu.Lock()
	if c.h.mute {
		c.h.mu.Unlock()
		<-c.done
		return false
	}
	for _, b := range p.bodies {
		if !c.h.conns[c] {
			c.h.mu.Unlock()
			return false
		}
		if c.h.choke != "" && b == c.h.choke {
			c.h.mu.Unlock()
			c.end(errors.New("message too large"))
			return false
		}
		c.h.received[c.id.Module] = append(c.h.received[c.id.Module], b)
	}
	c.h.note()
	c.h.mu.Unlock()
	c.mu.Lock()
	c.under -= len(p.bodies)
	c.mu.Unlock()
	p.done(nil)
	return true
}

func (c *conn) end(err error) {
	c.h.mu.Lock()
	delete(c.h.conns, c)
	c.h.note()
	c.h.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.ended, c.err = true, err
		close(c.done)
	}
}

func (c *conn) Publish(batch []message.Message, done func(error)) {
	p := publication{done: done}
	for i := range batch {
		if batch[i].System.Output != "" {
			panic("an output went to the hub")
		}
		p.bodies = append(p.bodies, string(batch[i].Body))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		go done(c.err)
		return
	}
	c.under += len(batch)
	c.h.mu.Lock()
	c.h.most = max(c.h.most, c.under)
	c.h.note()
	c.h.mu.Unlock()
	c.parcels <- p
}

func (c *conn) Twin(context.Context) ([]byte, error) { return []byte(c.id.Module), nil }
func (c *conn) Report(context.Context, []byte) (int64, error) {
	return 7, nil
}
func (c *conn) OnDesired(_ context.Context, f func(int64, []byte)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.desired = f
	return nil
}
func (c *conn) OnMethod(_ context.Context, f func(context.Context, *method.Call) method.Reply) error {
	c.mu.Lock()
	c.method = f
	c.mu.Unlock()
	c.h.set(func() {})
	return nil
}
func (c *conn) Done() <-chan struct{} { return c.done }
func (c *conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
func (c *conn) Close() error { c.end(nil); return nil }

// child notes what it is told.
type child struct {
	mu     sync.Mutex
	told   []string
	notice chan struct{}
}

func (c *child) note(format string, args ...any) {
	c.mu.Lock()
	c.told = append(c.told, fmt.Sprintf(format, args...))
	c.mu.Unlock()
	select {
	case c.notice <- struct{}{}:
	default:
	}
}

func (c *child) Linked(_ context.Context, of ident.ID) { c.note("linked %s", of.Module) }
func (c *child) Desired(_ context.Context, of ident.ID, version int64, patch []byte) error {
	c.note("desired %s %d %s", of.Module, version, patch)
	return nil
}
func (c *child) Invoke(_ context.Context, of ident.ID, call *method.Call) (method.Reply, error) {
	if call.Name == "fail" {
		return method.Reply{}, fault.New(fault.DeviceNotOnline, "not there")
	}
	return method.Reply{Status: 200, Payload: []byte(`"` + of.Module + `"`)}, nil
}

func (c *child) wait(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		c.mu.Lock()
		for _, s := range c.told {
			if s == want {
				c.mu.Unlock()
				return
			}
		}
		c.mu.Unlock()
		select {
		case <-c.notice:
		case <-deadline:
			t.Fatalf("the broker was never told %q, but %q", want, c.told)
		}
	}
}

// world is a link with a hub in memory and a real queue.
type world struct {
	*Link
	t      *testing.T
	hub    *hub
	child  *child
	q      *queue.Queue
	cancel func()
	done   chan error
}

var _ broker.Child = (*child)(nil)

func start(t *testing.T, dir string, h *hub, tune ...func(*Config)) *world {
	t.Helper()
	q, err := queue.Open(dir, queue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Device: "edge1", Queue: q, Dial: h.dial, Log: slog.New(slog.DiscardHandler),
		FirstRetry: time.Millisecond, MaxRetry: 10 * time.Millisecond, RefusedWait: 20 * time.Millisecond, Grace: 50 * time.Millisecond}
	for _, f := range tune {
		f(&cfg)
	}
	w := &world{Link: New(cfg), t: t, hub: h, child: &child{notice: make(chan struct{}, 1)}, q: q, done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	go func() { w.done <- w.Run(ctx, w.child) }()
	t.Cleanup(w.stop)
	return w
}

func (w *world) stop() {
	if w.cancel == nil {
		return
	}
	w.cancel()
	w.cancel = nil
	if err := <-w.done; err != nil {
		w.t.Error(err)
	}
	if err := w.q.Close(); err != nil {
		w.t.Error(err)
	}
}

func id(module string) ident.ID { return ident.ID{Device: "edge1", Module: module} }

// send puts numbered messages into a module's outbox and waits until they are durable.
func (w *world) send(module string, from, to int) {
	w.t.Helper()
	var bodies []string
	for i := from; i < to; i++ {
		bodies = append(bodies, fmt.Sprint(i))
	}
	w.sendBodies(module, bodies...)
}

func (w *world) sendBodies(module string, bodies ...string) {
	w.t.Helper()
	out, err := w.Outbox(id(module))
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan error, 1)
	w.q.Append(func(a *queue.Appender) {
		for _, b := range bodies {
			m := message.Message{Body: []byte(b), System: message.System{Output: "o", MessageID: b[:min(len(b), 10)]}}
			a.Add([]queue.Target{{Endpoint: out}}, m.Append)
		}
	}, func(err error) { done <- err })
	if err := <-done; err != nil {
		w.t.Fatal(err)
	}
}

// arrived waits until the hub has messages 0 to n of a module, each at least once, and
// checks that none came before one that was sent earlier.
func (w *world) arrived(module string, n int) {
	w.t.Helper()
	last := fmt.Sprint(n - 1)
	w.hub.wait(w.t, fmt.Sprintf("message %s of %s", last, module), func() bool {
		got := w.hub.received[module]
		return len(got) > 0 && got[len(got)-1] == last
	})
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	next := 0 // the first number that has not come
	for i, b := range w.hub.received[module] {
		var x int
		if _, err := fmt.Sscan(b, &x); err != nil {
			w.t.Fatal(err)
		}
		if x > next {
			w.t.Fatalf("at place %d message %d of %s came before %d", i, x, module, next)
		}
		if x == next {
			next++
		}
	}
	if next != n {
		w.t.Fatalf("%d messages of %s came, want %d", next, module, n)
	}
}
