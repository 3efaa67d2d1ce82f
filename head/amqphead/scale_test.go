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
	"github.com/selvedge-io/selvedge/model/fault"
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

// TestBatches: Microsoft's batch format is one transfer, taken or refused as a whole.
func TestBatches(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	c := r.own(dev)
	states := make(chan amqp.State, 10)
	s := c.send("devices/dev/messages/events", amqp.SenderFuncs{OnDisposed: func(_ *amqp.Sender, d amqp.Disposition) { states <- d.State }})
	send := func(bodies ...[]byte) amqp.State {
		t.Helper()
		var batch []byte
		for _, body := range bodies {
			m := amqp.Message{Data: [][]byte{body}, ApplicationProperties: amqp.Map{{Key: "k", Value: "v"}}}
			inner, err := m.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			batch = amqp.AppendData(batch, inner)
		}
		if _, err := s.SendWait(soon(t), amqp.Sending{Payload: batch, Format: amqp.BatchFormat}); err != nil {
			t.Fatal(err)
		}
		select {
		case state := <-states:
			return state
		case <-time.After(10 * time.Second):
			t.Fatal("no disposition")
		}
		return amqp.State{}
	}
	if got := send([]byte("one")); got.Outcome != amqp.Accepted {
		t.Errorf("%v", got)
	}
	fifty := make([][]byte, 50)
	for i := range fifty {
		fifty[i] = fmt.Append(nil, i)
	}
	if got := send(fifty...); got.Outcome != amqp.Accepted {
		t.Errorf("%v", got)
	}
	if got := send([]byte("good"), make([]byte, 300<<10), []byte("good")); got.Outcome != amqp.Rejected || got.Error == nil || got.Error.Condition != amqp.ErrMessageSize {
		t.Errorf("%v", got)
	}
	if got := send(make([][]byte, maxInner+1)...); got.Outcome != amqp.Rejected || got.Error.Condition != amqp.ErrMessageSize {
		t.Errorf("%v", got)
	}
	if got := send(); got.Outcome != amqp.Accepted { // of nothing
		t.Errorf("%v", got)
	}
	if _, err := s.SendWait(soon(t), amqp.Sending{Payload: []byte("garbage")}); err != nil {
		t.Fatal(err)
	}
	if got := <-states; got.Outcome != amqp.Rejected || got.Error.Condition != errArgument {
		t.Errorf("%v", got)
	}
	if got := send([]byte("last")); got.Outcome != amqp.Accepted {
		t.Errorf("%v", got)
	}
	all := r.b.Messages(t, 52)
	if len(all) != 52 || string(all[51].Body) != "last" || string(all[50].Body) != "49" || all[7].Properties[0].Value != "v" {
		t.Errorf("%d messages", len(all))
	}
}

// TestRefusedTelemetry: the backend's refusal reaches the sender with its condition.
func TestRefusedTelemetry(t *testing.T) {
	var refusal error
	r := serve(t, &headtest.Backend{Refuse: func([]message.Message) error { return refusal }})
	c := r.own(dev)
	states := make(chan amqp.State, 1)
	s := c.send("devices/dev/messages/events", amqp.SenderFuncs{OnDisposed: func(_ *amqp.Sender, d amqp.Disposition) { states <- d.State }})
	b, err := (&amqp.Message{Data: [][]byte{{}}}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	for code, want := range map[fault.Code]amqp.Symbol{
		fault.Throttled: "com.microsoft:device-container-throttled", fault.QuotaExceeded: "amqp:resource-limit-exceeded",
		fault.ServerError: "amqp:internal-error", fault.PreconditionFailed: "com.microsoft:precondition-failed",
		fault.InvalidOperation: "amqp:not-allowed", fault.Unauthorized: "amqp:unauthorized-access",
	} {
		refusal = fault.New(code, "no")
		if _, err := s.SendWait(soon(t), amqp.Sending{Payload: b}); err != nil {
			t.Fatal(err)
		}
		if got := <-states; got.Outcome != amqp.Rejected || got.Error == nil || got.Error.Condition != want {
			t.Errorf("%v: %v", code, got)
		}
	}
}

// TestSecondMode: .NET waits until the server has settled what it decided.
func TestSecondMode(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	c := r.own(dev)
	in := make(chan amqp.Delivery, 10)
	link, err := c.s.Receiver(soon(t), amqp.Attaching{Source: &amqp.Source{Address: "devices/dev/messages/devicebound"}, ReceiverSettleMode: amqp.ReceiveSecond},
		amqp.Receiving{Window: 2}, amqp.ReceiverFuncs{OnDelivered: func(_ *amqp.Receiver, d amqp.Delivery) {
			d.Tag = bytes.Clone(d.Tag)
			in <- d
		}})
	if err != nil {
		t.Fatal(err)
	}
	if _, mode := link.SettleModes(); mode != amqp.ReceiveSecond {
		t.Errorf("mode %v", mode)
	}
	a := r.b.AwaitOpen(t, dev, head.ToDevice)
	outcomes := []struct {
		said amqp.Outcome
		want head.Outcome
	}{{amqp.Rejected, head.Rejected}, {amqp.Modified, head.Abandoned}, {amqp.Accepted, head.Completed}, {amqp.Released, head.Abandoned}}
	var batch []head.Delivery
	for i := range outcomes {
		batch = append(batch, head.Delivery{Token: uint64(i), Message: &message.Message{System: message.System{Sequence: uint64(i + 1)}}})
	}
	a.Device.Deliver(head.ToDevice, batch)
	for i, o := range outcomes { // only two fit the window until they are settled
		select {
		case d := <-in:
			if len(d.Tag) != 16 {
				t.Errorf("tag %x", d.Tag)
			}
			link.Settle(d.ID, amqp.State{Outcome: o.said})
		case <-time.After(10 * time.Second):
			t.Fatalf("delivery %d does not come", i)
		}
	}
	for i, s := range a.Settled(t, len(outcomes)) {
		if s.Token != uint64(i) || s.Outcome != outcomes[i].want {
			t.Errorf("%+v", s)
		}
	}
}
