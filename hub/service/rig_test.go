package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	azure "github.com/Azure/go-amqp"

	"github.com/selvedge-io/selvedge/head/amqphead"
	"github.com/selvedge-io/selvedge/hub/events"
	"github.com/selvedge-io/selvedge/hub/inbox"
	"github.com/selvedge-io/selvedge/hub/registry"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// rig is a Service behind a plain AMQP listener: what the AMQP head does but for the
// tokens, of which it takes some for granted.
type rig struct {
	*Service
	t      testing.TB
	stream *events.Stream
	box    *box
	at     string

	mu      sync.Mutex
	allowed func(resource string) bool // nil: all
	watched map[string]func(error)     // by resource
}

func newRig(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	stream, err := events.Open(events.Config{Dir: t.TempDir(), Partitions: 2, Groups: []string{"second"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stream.Close() })
	r := &rig{t: t, stream: stream, box: &box{news: make(chan struct{})}, watched: map[string]func(error){}}
	cfg := Config{Registry: r.box, Inbox: r.box, Events: stream, Hosts: []string{"hub.example.test", "localhost"}, Entity: "selvedge"}
	if change != nil {
		change(&cfg)
	}
	r.Service = New(cfg)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.at = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	running.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { r.serve(ctx, nc) })
		}
	})
	t.Cleanup(func() { l.Close(); cancel(); running.Wait() })
	return r
}

func (r *rig) serve(ctx context.Context, nc net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	p := &fakePeer{rig: r, ctx: ctx}
	amqp.Serve(ctx, nc, amqp.Config{Handler: p, SASL: &amqp.SASLServer{}})
	cancel()
	p.work.Wait()
}

// fakePeer is a connection as the AMQP head would make it.
type fakePeer struct {
	*rig
	ctx  context.Context
	work sync.WaitGroup
}

func (p *fakePeer) Open(*amqp.Conn, *amqp.Open) error { return nil }

func (p *fakePeer) Closed(*amqp.Conn, error) {}

func (p *fakePeer) Attach(in *amqp.Incoming) {
	address := ""
	switch {
	case in.Role == amqp.RoleReceiver && in.Target != nil:
		address = in.Target.Address
	case in.Role == amqp.RoleSender && in.Source != nil:
		address = in.Source.Address
	}
	if _, path, ok := strings.Cut(address, "://"); ok {
		_, address, _ = strings.Cut(path, "/")
	}
	if !p.attach(p, strings.Trim(address, "/"), in) {
		in.Refuse(&amqp.Error{Condition: amqp.ErrNotFound})
	}
}

func (p *fakePeer) Go(f func(context.Context)) { p.work.Go(func() { f(p.ctx) }) }

func (p *fakePeer) Remote() string { return "test" }

func (p *fakePeer) Service(_ context.Context, resource string, _ amqphead.Right) (string, time.Time, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.allowed != nil && !p.allowed(resource) {
		return "", time.Time{}, fault.New(fault.UnauthorizedAccess, "not %s", resource)
	}
	return "service", time.Time{}, nil
}

func (p *fakePeer) Watch(resource string, _ amqphead.Right, _ time.Time, over func(error)) (stop func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watched[resource] = over
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.watched, resource)
	}
}

// allow limits what tokens are good for.
func (r *rig) allow(f func(resource string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.allowed = f
}

// session is a session of a new connection.
func (r *rig) session() *azure.Session {
	r.t.Helper()
	c, err := azure.Dial(r.t.Context(), "amqp://"+r.at, &azure.ConnOptions{HostName: "hub.example.test", SASLType: azure.SASLTypeAnonymous()})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	s, err := c.NewSession(r.t.Context(), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// append puts events with these bodies into the stream, durably.
func (r *rig) append(device string, bodies ...string) {
	r.t.Helper()
	batch := make([]message.Message, len(bodies))
	for i, b := range bodies {
		batch[i] = message.Message{Body: []byte(b), System: message.System{ConnectionDevice: device, Source: message.Telemetry}}
	}
	done := make(chan error, 1)
	r.stream.Append(device, batch, func(err error) { done <- err })
	if err := await(r.t, "the disk", done); err != nil {
		r.t.Fatal(err)
	}
}

// await takes one of what comes.
func await[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("waited in vain for %s", what)
		panic("not reached")
	}
}

// eventually waits until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(10 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// condition is why a link was refused or ended, or a message rejected.
func condition(err error) azure.ErrCond {
	if e, ok := errors.AsType[*azure.LinkError](err); ok && e.RemoteErr != nil {
		return e.RemoteErr.Condition
	}
	if e, ok := errors.AsType[*azure.Error](err); ok {
		return e.Condition
	}
	return azure.ErrCond(fmt.Sprint("no condition: ", err))
}

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// box is an inbox and a registry in memory. Devices are those named pump and a#b.
type box struct {
	mu       sync.Mutex
	sent     []message.Message
	feedback []inbox.Feedback
	news     chan struct{}
	failing  error
	last     int64
}

func (b *box) Get(_ context.Context, id ident.ID) (registry.Identity, error) {
	if id.Device != "pump" && id.Device != "a#b" {
		return registry.Identity{}, fault.New(fault.DeviceNotFound, "there is no device %q", id.Device)
	}
	return registry.Identity{ID: id}, nil
}

func (b *box) Send(_ context.Context, to ident.ID, m *message.Message) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failing != nil {
		return b.failing
	}
	b.sent = append(b.sent, m.Clone())
	return nil
}

func (b *box) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failing = err
}

// ended adds feedback records with these message ids.
func (b *box) ended(ids ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range ids {
		b.last++
		b.feedback = append(b.feedback, inbox.Feedback{ID: b.last, Of: ident.ID{Device: "pump"}, Generation: "g1",
			MessageID: id, Enqueued: time.Now(), Status: inbox.Success, At: time.Now()})
	}
	close(b.news)
	b.news = make(chan struct{})
}

func (b *box) Feedback(ctx context.Context, after int64, most int) ([]inbox.Feedback, error) {
	for {
		b.mu.Lock()
		var out []inbox.Feedback
		for _, f := range b.feedback {
			if f.ID > after && len(out) < most {
				out = append(out, f)
			}
		}
		news := b.news
		b.mu.Unlock()
		if len(out) > 0 {
			return out, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (b *box) DropFeedback(_ context.Context, ids ...int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failing != nil {
		return b.failing
	}
	b.feedback = slices.DeleteFunc(b.feedback, func(f inbox.Feedback) bool { return slices.Contains(ids, f.ID) })
	return nil
}

// left is the ids of messages whose feedback is kept.
func (b *box) left() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ids []string
	for _, f := range b.feedback {
		ids = append(ids, f.MessageID)
	}
	return cmp.Or(strings.Join(ids, " "), "none")
}

// redirectInfo is what a redirect says beside its text.
func redirectInfo(err error) map[string]any {
	if e, ok := errors.AsType[*azure.LinkError](err); ok && e.RemoteErr != nil {
		return e.RemoteErr.Info
	}
	return nil
}
