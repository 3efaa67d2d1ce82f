package server

import (
	"context"
	"encoding/base64"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/hub/registry"
	"github.com/selvedge-io/selvedge/hub/twins"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
	"github.com/selvedge-io/selvedge/model/twin"
	"github.com/selvedge-io/selvedge/trust/sas"
)

// fakeDevice is a connection that settles nothing by itself.
type fakeDevice struct {
	t         testing.TB
	delivered chan head.Delivery
	desired   chan int64
	invoked   chan struct{}
	closed    chan error
	over      chan struct{} // closed when the connection has ended, for Invoke

	mu   sync.Mutex
	gone bool // detached: no call may come
}

func newDevice(t testing.TB) *fakeDevice {
	return &fakeDevice{t: t, delivered: make(chan head.Delivery, 100), desired: make(chan int64, 100), invoked: make(chan struct{}, 1),
		closed: make(chan error, 10), over: make(chan struct{})}
}

func (d *fakeDevice) called(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone {
		d.t.Errorf("%s after Detach", what)
	}
}

func (d *fakeDevice) Deliver(_ head.Flow, batch []head.Delivery) {
	d.called("Deliver")
	for _, m := range batch {
		kept := m.Message.Clone()
		m.Message = &kept
		d.delivered <- m
	}
}

func (d *fakeDevice) Desired(version int64, _ []byte) {
	d.called("Desired")
	d.desired <- version
}

func (d *fakeDevice) Invoke(context.Context, *method.Call) (method.Reply, error) {
	d.called("Invoke")
	d.invoked <- struct{}{}
	<-d.over
	return method.Reply{}, fault.New(fault.ConnectionClosed, "gone")
}

func (d *fakeDevice) Close(reason error) {
	d.called("Close")
	d.closed <- reason
}

// detach ends the connection as heads do.
func (d *fakeDevice) detach(a head.Attachment) {
	a.Detach()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gone = true
}

// openBackend opens the rooms of a hub without any listener.
func openBackend(t testing.TB) *backend {
	t.Helper()
	cfg := Default()
	cfg.DataDir = t.TempDir()
	s, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.close(); err != nil {
			t.Error(err)
		}
	})
	return r.backend
}

// register makes a device and gives its principal.
func register(t testing.TB, b *backend, id ident.ID) *ident.Principal {
	t.Helper()
	if _, err := b.registry.Create(t.Context(), registry.Spec{ID: id}); err != nil {
		t.Fatal(err)
	}
	return principal(t, b, id)
}

// principal proves an identity with its own key.
func principal(t testing.TB, b *backend, id ident.ID) *ident.Principal {
	t.Helper()
	rec, err := b.registry.Identity(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	key, err := base64.StdEncoding.DecodeString(rec.Keys[0])
	if err != nil {
		t.Fatal(err)
	}
	who, err := b.Authenticate(t.Context(), &ident.Claim{ID: id,
		Token: sas.Sign("localhost/"+id.Resource(), key, time.Now().Add(time.Hour), "")})
	if err != nil {
		t.Fatal(err)
	}
	return who
}

func attach(t testing.TB, b *backend, who *ident.Principal, d head.Device) head.Attachment {
	t.Helper()
	a, err := b.Attach(t.Context(), who, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Detach)
	return a
}

func send(t testing.TB, b *backend, to ident.ID, body string) {
	t.Helper()
	if err := b.inbox.Send(t.Context(), to, text(body)); err != nil {
		t.Fatal(err)
	}
}

func TestNewerConnectionTakesAllFlows(t *testing.T) {
	b := openBackend(t)
	who := register(t, b, pump)
	older, newer := newDevice(t), newDevice(t)
	close(older.over)
	first := attach(t, b, who, older)
	for f := range head.Flows {
		first.Open(f)
	}
	send(t, b, pump, "1")
	if d := next(t, "delivery", older.delivered); string(d.Message.Body) != "1" {
		t.Errorf("delivered %s", d.Message.Body)
	}
	second := attach(t, b, who, newer)
	if err := next(t, "the close of the older connection", older.closed); !fault.Is(err, fault.TakenOver) {
		t.Errorf("the older connection was closed with %v", err)
	}
	for f := range head.Flows {
		second.Open(f)
	}
	older.detach(first)
	first.Open(head.Methods) // late calls of the older head change nothing
	first.Settle(head.ToDevice, 1, head.Completed)
	send(t, b, pump, "2")
	for _, want := range []string{"1", "2"} {
		if d := next(t, "delivery", newer.delivered); string(d.Message.Body) != want {
			t.Errorf("delivered %s, want %s", d.Message.Body, want)
		}
	}
	if _, err := b.twins.Apply(t.Context(), twins.Update{ID: pump, Desired: &twin.Object{}}, ""); err != nil {
		t.Fatal(err)
	}
	if v := next(t, "desired", newer.desired); v != 2 {
		t.Errorf("desired version %d", v)
	}
	go func() {
		next(t, "the call", newer.invoked)
		close(newer.over)
	}()
	if _, err := b.methods.Invoke(t.Context(), pump, &method.Call{Name: "x", ResponseTimeout: 5 * time.Second}); !fault.Is(err, fault.ConnectionClosed) {
		t.Errorf("call gave %v", err)
	}
	newer.detach(second)
	newer.detach(second)
	if n := b.connected(); n != 0 {
		t.Errorf("%d connected", n)
	}
}

func TestDetachWaitsForCalls(t *testing.T) {
	b := openBackend(t)
	d := newDevice(t)
	a := attach(t, b, register(t, b, pump), d)
	a.Open(head.Methods)
	answered := make(chan error, 1)
	go func() {
		_, err := b.methods.Invoke(t.Context(), pump, &method.Call{Name: "x", ResponseTimeout: 5 * time.Second})
		answered <- err
	}()
	next(t, "the call", d.invoked)
	detached := make(chan struct{})
	go func() {
		defer close(detached)
		d.detach(a)
	}()
	eventually(t, "the flow to be shut", func() bool { return b.methods.Counts().Listening == 0 })
	select {
	case <-detached:
		t.Error("Detach has not waited for the call")
	default:
	}
	close(d.over)
	<-detached
	if err := next(t, "the answer", answered); !fault.Is(err, fault.ConnectionClosed) {
		t.Error(err)
	}
}

func TestShutKeepsDeliveriesUntilSettled(t *testing.T) {
	b := openBackend(t)
	d := newDevice(t)
	a := attach(t, b, register(t, b, pump), d)
	a.Open(head.ToDevice)
	send(t, b, pump, "1")
	first := next(t, "delivery", d.delivered)
	a.Shut(head.ToDevice)
	send(t, b, pump, "2")
	a.Settle(head.ToDevice, first.Token, head.Completed)
	eventually(t, "the first to be done", func() bool {
		n, err := b.inbox.Waiting(t.Context(), pump)
		return err == nil && n == 1
	})
	a.Open(head.ToDevice)
	if m := next(t, "delivery", d.delivered); string(m.Message.Body) != "2" {
		t.Errorf("delivered %s", m.Message.Body)
	}
}

// Modules have no cloud-to-device messages and their device's are not for them.
func TestModuleGetsNoMessagesOfItsDevice(t *testing.T) {
	b := openBackend(t)
	register(t, b, pump)
	module, device := newDevice(t), newDevice(t)
	a := attach(t, b, register(t, b, valve), module)
	a.Open(head.ToDevice)
	send(t, b, pump, "1")
	attach(t, b, principal(t, b, pump), device).Open(head.ToDevice)
	next(t, "delivery", device.delivered)
	if len(module.delivered) > 0 {
		t.Error("the module got it")
	}
}

// Between judging a claim and attaching, the identity may change.
func TestRevokedBeforeAttach(t *testing.T) {
	b := openBackend(t)
	stolen := register(t, b, pump)
	rolled := &registry.Authentication{Type: registry.SAS} // empty keys: new ones
	if _, err := b.registry.Update(t.Context(), registry.Spec{ID: pump, Auth: rolled}, "*"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Attach(t.Context(), stolen, newDevice(t)); !fault.Is(err, fault.Unauthorized) {
		t.Errorf("keys rolled: %v", err)
	}
	who := principal(t, b, pump)
	reason, disabled := "nothing of its credentials", false
	if _, err := b.registry.Update(t.Context(), registry.Spec{ID: pump, StatusReason: &reason}, "*"); err != nil {
		t.Fatal(err)
	}
	a, err := b.Attach(t.Context(), who, newDevice(t))
	if err != nil {
		t.Fatalf("something else changed: %v", err)
	}
	a.Detach()
	if _, err := b.registry.Update(t.Context(), registry.Spec{ID: pump, Enabled: &disabled}, "*"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Attach(t.Context(), who, newDevice(t)); !fault.Is(err, fault.Unauthorized) {
		t.Errorf("disabled: %v", err)
	}
	if err := b.registry.Delete(t.Context(), pump, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Attach(t.Context(), who, newDevice(t)); err == nil {
		t.Error("deleted: attached")
	}
	register(t, b, pump)
	if _, err := b.Attach(t.Context(), who, newDevice(t)); !fault.Is(err, fault.Unauthorized) {
		t.Errorf("made anew: %v", err)
	}
	if n := b.connected(); n != 0 {
		t.Errorf("%d connected", n)
	}
}

func TestStoppedBackendAttachesNobody(t *testing.T) {
	b := openBackend(t)
	who := register(t, b, pump)
	b.stop()
	if _, err := b.Attach(t.Context(), who, newDevice(t)); !fault.Is(err, fault.Unavailable) {
		t.Error(err)
	}
}

// The registry hears of activity now and then, not of each batch.
func TestActivityIsRare(t *testing.T) {
	b := openBackend(t)
	who := register(t, b, pump)
	a := attach(t, b, who, newDevice(t)).(*attachment)
	start := time.Unix(1_000_000, 0)
	told := 0
	for n := range 100 {
		if a.due(start.Add(time.Duration(n) * time.Second)) {
			told++
		}
	}
	if told != 4 {
		t.Errorf("told %d times in 100 s, want 4", told)
	}
}

// The done calls of one sender come in the order of its Publish calls, refusals too.
func TestPublishKeepsOrder(t *testing.T) {
	b := openBackend(t)
	who := register(t, b, pump)
	results := make(chan string, 10)
	large := string(make([]byte, message.MaxTelemetry+1))
	for n, body := range []string{"a", large, "b", large, "c"} {
		b.Publish(who, []message.Message{*text(body)}, func(err error) { results <- fmt.Sprint(n, fault.CodeOf(err)) })
	}
	for _, want := range []string{"0 0", "1 413001", "2 0", "3 413001", "4 0"} {
		if got := next(t, "done", results); got != want {
			t.Errorf("done %s, want %s", got, want)
		}
	}
	if c := b.counters; c.messages.Load() != 3 || c.refused.Load() != 2 || c.bytes.Load() != 3 {
		t.Errorf("counted %d messages, %d refused, %d bytes", c.messages.Load(), c.refused.Load(), c.bytes.Load())
	}
}

func TestSessions(t *testing.T) {
	b := openBackend(t)
	register(t, b, pump)
	register(t, b, valve)
	subs := []head.Subscription{{Filter: "devices/pump/messages/devicebound/#", QoS: 1}, {Filter: `$iothub/methods/POST/"ü"/#`}}
	check := func(when string, of ident.ID, want []head.Subscription, wantFound bool) {
		t.Helper()
		got, found, err := b.Subscriptions(t.Context(), of)
		if err != nil || found != wantFound || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, %v, %v", when, got, found, err)
		}
	}
	save := func(of ident.ID, subs []head.Subscription) {
		t.Helper()
		if err := b.SaveSubscriptions(t.Context(), of, subs); err != nil {
			t.Fatal(err)
		}
	}
	check("new", pump, nil, false)
	save(pump, subs)
	save(valve, subs[:1])
	check("saved", pump, subs, true)
	save(pump, []head.Subscription{})
	check("none left", pump, nil, true)
	save(pump, nil)
	check("forgotten", pump, nil, false)
	check("of the module", valve, subs[:1], true)
	if err := b.registry.Delete(t.Context(), pump, ""); err != nil {
		t.Fatal(err)
	}
	register(t, b, pump)
	register(t, b, valve)
	check("deleted with its device", valve, nil, false)
	if err := b.SaveSubscriptions(t.Context(), ident.ID{Device: "unknown"}, subs); err == nil {
		t.Error("saved for nobody")
	}
}
