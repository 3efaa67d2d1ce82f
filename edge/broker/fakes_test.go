package broker

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
	"github.com/selvedge-io/selvedge/storage/kv"
	"github.com/selvedge-io/selvedge/storage/queue"
)

// parent is a hub that can be switched on and off. It keeps twins as the test sets them
// and notes what it is told.
type parent struct {
	q *queue.Queue

	mu      sync.Mutex
	up      chan struct{} // closed while online
	twins   map[ident.ID]string
	reports []string
	refuse  error // what Report answers
	holds   map[ident.ID]int
	methods map[ident.ID]bool
	changed chan struct{} // something above did
}

func newParent(q *queue.Queue) *parent {
	return &parent{q: q, up: make(chan struct{}), twins: make(map[ident.ID]string), holds: make(map[ident.ID]int),
		methods: make(map[ident.ID]bool), changed: make(chan struct{}, 1000)}
}

func (p *parent) online(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if yes {
		close(p.up)
	} else {
		p.up = make(chan struct{})
	}
}

func (p *parent) twin(of ident.ID, doc string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.twins[of] = doc
}

// knows gives how often an identity is held and whether it takes methods.
func (p *parent) knows(of ident.ID) (holds int, methods bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.holds[of], p.methods[of]
}

func (p *parent) Run(ctx context.Context, _ Child) error { <-ctx.Done(); return ctx.Err() }

func (p *parent) Online() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.up:
		return true
	default:
		return false
	}
}

func (p *parent) Hold(of ident.ID) func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holds[of]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.holds[of]--
	}
}

func (p *parent) Methods(of ident.ID, can bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.methods[of] = can
}

func (p *parent) Await(ctx context.Context, _ ident.ID) error {
	p.mu.Lock()
	up := p.up
	p.mu.Unlock()
	select {
	case <-up:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *parent) Twin(_ context.Context, of ident.ID) ([]byte, error) {
	if !p.Online() {
		return nil, fault.New(fault.Unavailable, "offline")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if t, ok := p.twins[of]; ok {
		return []byte(t), nil
	}
	return []byte(`{"desired":{"$version":1},"reported":{"$version":1}}`), nil
}

func (p *parent) Report(_ context.Context, of ident.ID, patch []byte) (int64, error) {
	if !p.Online() {
		return 0, fault.New(fault.Unavailable, "offline")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reports = append(p.reports, of.Module+" "+string(patch))
	p.changed <- struct{}{}
	return int64(len(p.reports)) + 1, p.refuse
}

// reported waits for n reports of a module and gives them.
func (p *parent) reported(t *testing.T, module string, n int) []string {
	t.Helper()
	for {
		p.mu.Lock()
		var got []string
		for _, r := range p.reports {
			var m, patch string
			if _, err := fmt.Sscanf(r, "%s %s", &m, &patch); err == nil && m == module {
				got = append(got, r[len(m)+1:])
			}
		}
		p.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-p.changed:
		case <-time.After(10 * time.Second):
			t.Fatalf("%d reports of %s, want %d: %q", len(got), module, n, got)
		}
	}
}

func (p *parent) Outbox(of ident.ID) (*queue.Endpoint, error) {
	return p.q.Endpoint("iothub/" + of.String())
}
func (p *parent) Discard() error { return p.q.Remove("iothub/edge1/sensor") }

// device is a module's connection that notes what it gets.
type device struct {
	ack bool // settle at once

	mu       sync.Mutex
	attached head.Attachment
	got      []delivery
	desired  []string
	closed   error
	calls    int // that were never answered
	reply    func(c *method.Call) (method.Reply, error)
	changed  chan struct{}
}

type delivery struct {
	token     uint64
	input     string
	body      string
	duplicate bool
	m         message.Message
}

func newDevice(ack bool) *device { return &device{ack: ack, changed: make(chan struct{}, 1)} }

func (d *device) note() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

func (d *device) Deliver(f head.Flow, batch []head.Delivery) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, x := range batch {
		d.got = append(d.got, delivery{x.Token, x.Message.System.Input, string(x.Message.Body), x.Duplicate, x.Message.Clone()})
		if d.ack {
			d.attached.Settle(f, x.Token, head.Completed)
		}
	}
	d.note()
}

func (d *device) Desired(version int64, patch []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.desired = append(d.desired, fmt.Sprintf("%d %s", version, patch))
	d.note()
}

func (d *device) Invoke(ctx context.Context, c *method.Call) (method.Reply, error) {
	if d.reply == nil {
		d.mu.Lock()
		d.calls++
		d.note()
		d.mu.Unlock()
		<-ctx.Done()
		return method.Reply{}, ctx.Err()
	}
	return d.reply(c)
}

func (d *device) Close(reason error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = reason
	d.note()
}

// wait waits until cond holds of the device.
func (d *device) wait(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		d.mu.Lock()
		ok := cond()
		d.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-d.changed:
		case <-deadline:
			t.Fatalf("waited in vain for %s; got %d deliveries, desired %q", what, len(d.got), d.desired)
		}
	}
}

func (d *device) bodies(t testing.TB, n int) []delivery {
	t.Helper()
	d.wait(t, fmt.Sprint(n, " deliveries"), func() bool { return len(d.got) >= n })
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]delivery(nil), d.got...)
}

// world is a broker over a directory, with a parent that starts offline.
type world struct {
	*Broker
	t      testing.TB
	dir    string
	parent *parent
	q      *queue.Queue
	store  *kv.Store
	cancel func()
	done   chan error
}

type anyone struct{}

func (anyone) Device(_ context.Context, c *ident.Claim) (*ident.Principal, error) {
	return &ident.Principal{ID: c.ID}, nil
}

func start(t testing.TB, dir string, tune ...func(*Config)) *world {
	t.Helper()
	q, err := queue.Open(dir+"/queue", queue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	store, err := kv.Open(dir + "/kv")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, q: q, store: store, parent: newParent(q), done: make(chan error, 1)}
	cfg := Config{Device: "edge1", Auth: anyone{}, Queue: q, Store: store, Parent: w.parent, Log: slog.New(slog.DiscardHandler), Version: "test", Window: 64}
	for _, f := range tune {
		f(&cfg)
	}
	if w.Broker, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	go func() { w.done <- w.Run(ctx) }()
	w.wait("Run", func() bool { return w.spawn(func(context.Context) {}) })
	t.Cleanup(w.stop)
	return w
}

// stop ends the world; a later start over its directory is a restart.
func (w *world) stop() {
	if w.cancel == nil {
		return
	}
	w.cancel()
	w.cancel = nil
	if err := <-w.done; err != nil {
		w.t.Errorf("Run: %v", err)
	}
	if err := w.q.Close(); err != nil {
		w.t.Error(err)
	}
	if err := w.store.Close(); err != nil {
		w.t.Error(err)
	}
}

func id(module string) ident.ID { return ident.ID{Device: "edge1", Module: module} }

func (w *world) routes(json string) {
	w.t.Helper()
	err := w.Apply(context.Background(), []byte(`{"schemaVersion":"1.1","storeAndForwardConfiguration":{"timeToLiveSecs":-1},"routes":`+json+`}`))
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) attach(module string, d *device, flows ...head.Flow) head.Attachment {
	w.t.Helper()
	a, err := w.Attach(context.Background(), &ident.Principal{ID: id(module)}, d)
	if err != nil {
		w.t.Fatal(err)
	}
	d.mu.Lock()
	d.attached = a
	d.mu.Unlock()
	for _, f := range flows {
		a.Open(f)
	}
	return a
}

// send publishes bodies as one batch and waits until they are durable.
func (w *world) send(module, output string, bodies ...string) error {
	batch := make([]message.Message, len(bodies))
	for i, b := range bodies {
		batch[i] = message.Message{Body: []byte(b), System: message.System{Output: output}}
	}
	done := make(chan error, 1)
	w.Publish(&ident.Principal{ID: id(module), Generation: "g", Method: "{}", ModelID: "dtmi:x;1"}, batch, func(err error) { done <- err })
	for i := range batch { // the caller may use its buffers again
		clear(batch[i].Body)
		batch[i] = message.Message{}
	}
	return <-done
}

func (w *world) mustSend(module, output string, bodies ...string) {
	w.t.Helper()
	if err := w.send(module, output, bodies...); err != nil {
		w.t.Fatal(err)
	}
}

func numbers(from, to int) []string {
	var out []string
	for i := from; i < to; i++ {
		out = append(out, fmt.Sprint(i))
	}
	return out
}
