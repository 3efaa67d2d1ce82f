package amqphead

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	azure "github.com/Azure/go-amqp"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/trust/sas"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// TestThousandIdentities: one of a thousand on a connection has an expired token, the
// others do not notice.
func TestThousandIdentities(t *testing.T) {
	r := serve(t, &headtest.Backend{Judge: byToken})
	const n, bad = 1000, 500
	ids := make([]ident.ID, n)
	for i := range ids {
		ids[i] = ident.ID{Device: fmt.Sprintf("dev%d", i)}
	}
	c := r.own()
	goroutines := runtime.NumGoroutine()
	codes := c.prove(ids, func(id ident.ID) string {
		if id == ids[bad] {
			return sas.Sign(host+"/"+id.Resource(), key, time.Now().Add(-time.Hour), "")
		}
		return tokenFor(id)
	})
	var disposed atomic.Int32
	accepted := make(chan struct{})
	for i, id := range ids {
		s, err := c.s.Sender(soon(t), amqp.Attaching{Target: &amqp.Target{Address: id.Resource() + "/messages/events"}}, amqp.SenderFuncs{
			OnDisposed: func(_ *amqp.Sender, d amqp.Disposition) {
				if d.State.Outcome != amqp.Accepted {
					t.Errorf("%s: %v", id, d.State.Error)
				}
				if disposed.Add(1) == n-1 {
					close(accepted)
				}
			}})
		if i == bad {
			if e, ok := errors.AsType[*amqp.Error](err); codes[id] != 401 || !ok || e.Condition != amqp.ErrUnauthorized {
				t.Errorf("the expired one: %d, %v", codes[id], err)
			}
			continue
		}
		if err != nil || codes[id] != 200 {
			t.Fatalf("%s: %d, %v", id, codes[id], err)
		}
		b, err := (&amqp.Message{Data: [][]byte{[]byte(id.Device)}}).Append(nil)
		if err == nil {
			_, err = s.SendWait(soon(t), amqp.Sending{Payload: b})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-accepted:
	case <-time.After(10 * time.Second):
		t.Fatalf("%d of %d are accepted", disposed.Load(), n-1)
	}
	for _, m := range r.b.Messages(t, n-1) {
		if m.From.Device != string(m.Body) {
			t.Errorf("%s sent what %s did", m.From, m.Body)
		}
	}
	r.b.AwaitGone(t, ids[bad])
	// Workers end by themselves a moment later.
	awaitThat(t, "goroutines to end", func() bool { return runtime.NumGoroutine() < goroutines+20 })
	// The thousand-and-first is refused, alone.
	s := c.send("devices/dev0/messages/events", amqp.SenderFuncs{})
	_, err := c.s.Sender(soon(t), amqp.Attaching{Target: &amqp.Target{Address: "devices/dev500/messages/events"}}, amqp.SenderFuncs{})
	if e, ok := errors.AsType[*amqp.Error](err); !ok || e.Condition != amqp.ErrUnauthorized {
		t.Error(err)
	}
	if s.Credit() == 0 {
		t.Error("no credit")
	}
	more := make([]ident.ID, 2) // one place is left
	more[0], more[1] = ident.ID{Device: "more0"}, ident.ID{Device: "more1"}
	if codes := c.prove(more, tokenFor); codes[more[0]]+codes[more[1]] != 200+403 {
		t.Errorf("%v", codes)
	}
}

// awaitThat waits for a condition that nobody announces.
func awaitThat(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.After(10 * time.Second)
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for !ok() {
		select {
		case <-end:
			t.Fatalf("waited in vain for %s", what)
		case <-look.C:
		}
	}
}

// TestManyLinks: a peer that attaches without end gets the protocol's error.
func TestManyLinks(t *testing.T) {
	r := serve(t, &headtest.Backend{Judge: byToken}, func(c *Config) { c.MaxLinks = 500 })
	c := r.own(dev)
	var refused *amqp.Error
	for i := range 10_000 {
		_, err := c.s.Sender(soon(t), amqp.Attaching{Target: &amqp.Target{Address: "devices/dev/messages/events"}}, amqp.SenderFuncs{})
		if err != nil {
			var ok bool
			if refused, ok = errors.AsType[*amqp.Error](err); !ok {
				t.Fatal(err)
			}
			if i < 490 {
				t.Errorf("refused at %d", i)
			}
			break
		}
	}
	if refused == nil || refused.Condition != amqp.ErrResourceLimit {
		t.Errorf("%v", refused)
	}
}

// TestManyRefusals: a stranger's attaches cost no more than judging a few at a time.
func TestManyRefusals(t *testing.T) {
	var judging, most atomic.Int32
	r := serve(t, &headtest.Backend{Judge: func(c *ident.Claim) (*ident.Principal, error) {
		n := judging.Add(1)
		defer judging.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		return byToken(c)
	}})
	c := r.own()
	var wrong []ident.ID
	for i := range 900 {
		wrong = append(wrong, ident.ID{Device: fmt.Sprint(i)})
	}
	codes := c.prove(wrong, func(id ident.ID) string {
		return sas.Sign(host+"/"+id.Resource(), []byte("x"), time.Now().Add(time.Hour), "")
	})
	for id, code := range codes {
		if code != 401 {
			t.Errorf("%s: %d", id, code)
		}
	}
	if n := most.Load(); n < 1 || n > 32 {
		t.Errorf("%d are judged at a time", n)
	}
}

// TestNeverReads: a device that gives no credit, or does not read at all, costs bounded
// memory.
func TestNeverReads(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	c := r.own(mod)
	for _, address := range []string{"/messages/events", "/twin"} {
		if _, err := c.s.Receiver(soon(t), amqp.Attaching{Source: &amqp.Source{Address: mod.Resource() + address}}, amqp.Receiving{}, amqp.ReceiverFuncs{}); err != nil {
			t.Fatal(err)
		}
	}
	a := r.b.AwaitOpen(t, mod, head.Inputs)
	m := message.Message{Body: make([]byte, 1000), System: message.System{Input: "in"}}
	for i := range 100_000 {
		a.Device.Deliver(head.Inputs, []head.Delivery{{Token: uint64(i), Message: &m}})
	}
	p := r.only(t).only(t)
	p.inputs.box.mu.Lock()
	if n := len(p.inputs.box.queue); n == 0 || n > maxQueued || p.inputs.box.bytes > maxQueuedBytes {
		t.Errorf("%d messages wait", n)
	}
	p.inputs.box.mu.Unlock()
	// Changes of desired properties, which cannot come again, cost the links.
	for i := range int64(10_000) {
		a.Device.Desired(i, make([]byte, 1000))
	}
	r.b.AwaitGone(t, mod)
}

// only is the one connection.
func (r *rig) only(t *testing.T) *Conn {
	t.Helper()
	seen := r.b.Attached(t, mod)
	return seen.Device.(*peer).c
}

func (c *Conn) only(t *testing.T) *peer {
	t.Helper()
	all := c.all()
	if len(all) != 1 {
		t.Fatalf("%d identities", len(all))
	}
	return all[0]
}

// TestStopsReading: a peer that sends on and reads nothing runs out of credit, others
// are served, and its end is seen.
func TestStopsReading(t *testing.T) {
	r := serve(t, &headtest.Backend{Discard: true})
	near, far := net.Pipe() // no buffers of the system in between
	done := make(chan struct{})
	go func() { defer close(done); r.s.ServeConn(t.Context(), far) }()
	gate := &gated{Conn: near, stop: make(chan struct{}), over: make(chan struct{})}
	c := r.ownOver(gate, dev)
	s := c.send("devices/dev/messages/events", amqp.SenderFuncs{})
	close(gate.stop)
	b, err := (&amqp.Message{Data: [][]byte{make([]byte, 100)}}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	sent := 0
	for ; sent < 5000; sent++ {
		if _, err := s.Send(amqp.Sending{Payload: b}); err != nil {
			break
		}
	}
	if sent > 1000 {
		t.Errorf("%d messages are taken from a peer that reads nothing", sent)
	}
	other := r.connect(ident.ID{Device: "other"})
	if err := other.sender("devices/other/messages/events", nil).Send(soon(t), azure.NewMessage(nil), nil); err != nil {
		t.Error(err)
	}
	near.Close()
	close(gate.over)
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the connection does not end")
	}
}

// gated is a connection that stops reading.
type gated struct {
	net.Conn
	stop, over chan struct{}
}

func (g *gated) Read(b []byte) (int, error) {
	select {
	case <-g.stop:
		<-g.over
		return 0, io.EOF
	default:
		return g.Conn.Read(b)
	}
}

// TestBackPressure: while nothing becomes durable, a sender is not read from without
// end.
func TestBackPressure(t *testing.T) {
	r := serve(t, &headtest.Backend{Hold: true}, func(c *Config) { c.WindowBytes = 64 << 10 })
	c := r.own(dev)
	s := c.send("devices/dev/messages/events", amqp.SenderFuncs{})
	b, err := (&amqp.Message{Data: [][]byte{make([]byte, 10_000)}}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	var sending sync.WaitGroup
	defer sending.Wait()
	const n = 900
	sending.Go(func() {
		for range n {
			if _, err := s.SendWait(t.Context(), amqp.Sending{Payload: b}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	conn := r.b.Attached(t, dev).Device.(*peer).c
	over := func() bool {
		conn.underway.mu.Lock()
		defer conn.underway.mu.Unlock()
		return conn.underway.bytes > 64<<10
	}
	awaitThat(t, "the bound to be reached", over)
	if n := len(r.b.Messages(t, 1)); n > 30 { // the bound and what one read brings
		t.Errorf("%d messages of 10 kB are taken", n)
	}
	for len(r.b.Messages(t, 1)) < n || r.b.Held() > 0 {
		r.b.Await(t, "a batch", func() bool { return true })
		if held := r.b.Held(); held > 0 {
			r.b.Release(held, nil)
		}
	}
}

// TestMultiFrame: a message without an end is refused.
func TestMultiFrame(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	c := r.own(dev)
	detached := make(chan error, 1)
	s := c.send("devices/dev/messages/events", amqp.SenderFuncs{OnDetached: func(_ *amqp.Sender, err error) { detached <- err }})
	big := bytes.Repeat([]byte("x"), 300<<10)
	b, err := (&amqp.Message{Data: [][]byte{big}}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.SendWait(soon(t), amqp.Sending{Payload: b}); err != nil { // refused, but the link lives
		t.Fatal(err)
	}
	if _, err := s.SendWait(soon(t), amqp.Sending{Payload: make([]byte, 2<<20)}); !errors.Is(err, amqp.ErrTooLarge) {
		t.Errorf("%v", err)
	}
	select {
	case err := <-detached:
		t.Errorf("detached: %v", err)
	default:
	}
}
