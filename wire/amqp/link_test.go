package amqp

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestSendAndSettle(t *testing.T) {
	h := &testHandler{window: 10}
	type arrival struct {
		d       Delivery
		payload string
		tag     string
	}
	got := make(chan arrival, 100)
	h.receiver.OnDelivered = func(r *Receiver, d Delivery) {
		got <- arrival{d, string(d.Payload), string(d.Tag)}
		switch string(d.Payload) {
		case "reject":
			r.Settle(d.ID, State{Outcome: Rejected, Error: errorf("c", "why")})
		case "modify":
			r.Settle(d.ID, State{Outcome: Modified, DeliveryFailed: true})
		default:
			r.Settle(d.ID, State{Outcome: Accepted})
		}
	}
	c, wait := connect(t, Config{Handler: h}, Config{})
	s := begin1(t, c)
	outcomes := make(chan Disposition, 100)
	snd, err := s.Sender(deadline(t), Attaching{
		Target: &Target{Address: "a"}, SenderSettleMode: SendMixed,
	}, SenderFuncs{OnDisposed: func(_ *Sender, d Disposition) { outcomes <- d }})
	if err != nil {
		t.Fatal(err)
	}
	if _, target, _, _ := snd.Answer(); target == nil || target.Address != "a" {
		t.Errorf("the server answers with target %+v", target)
	}
	for i, text := range []string{"", "reject", "modify", "ok"} {
		id, err := snd.SendWait(deadline(t), Sending{Tag: []byte("0123456789abcdef"), Format: 5, Payload: []byte(text), Ref: text})
		if err != nil {
			t.Fatal(err)
		}
		a := next(t, got)
		if a.payload != text || a.d.ID != id || a.tag != "0123456789abcdef" || a.d.Format != 5 || a.d.Settled {
			t.Errorf("arrived %+v", a)
		}
		d := next(t, outcomes)
		if d.ID != id || d.Ref != text || !d.Settled || d.State.Outcome != []Outcome{Accepted, Rejected, Modified, Accepted}[i] {
			t.Errorf("outcome of %q is %+v", text, d)
		}
		if text == "reject" && (d.State.Error == nil || d.State.Error.Error() != "c: why") || text == "modify" && !d.State.DeliveryFailed {
			t.Errorf("outcome of %q is %+v", text, d.State)
		}
	}
	if _, err := snd.SendWait(deadline(t), Sending{Payload: []byte("settled"), Settled: true}); err != nil {
		t.Fatal(err)
	}
	if a := next(t, got); !a.d.Settled || a.payload != "settled" {
		t.Errorf("arrived %+v", a)
	}
	if _, err := snd.Send(Sending{Payload: make([]byte, 2<<20)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("2 MiB give %v", err)
	}
	if _, err := snd.Send(Sending{Tag: make([]byte, 40)}); err == nil {
		t.Error("a tag of 40 bytes passes")
	}
	c.Close(nil)
	if err := wait(); err != nil {
		t.Errorf("Serve gives %v", err)
	}
	<-c.Done()
	if err := c.Err(); err != nil {
		t.Errorf("the client ended with %v", err)
	}
	if _, err := snd.Send(Sending{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Send on a closed connection gives %v", err)
	}
	if err := snd.Wait(deadline(t)); !errors.Is(err, ErrClosed) {
		t.Errorf("Wait on a closed connection gives %v", err)
	}
	noGoroutines(t)
}

// Large messages through small frames and windows, on many links at once.
func TestWindows(t *testing.T) {
	const links, messages = 8, 20
	var received atomic.Int32
	h := &testHandler{window: 3}
	h.receiver.OnDelivered = func(r *Receiver, d Delivery) {
		for _, b := range d.Payload {
			if b != d.Tag[0] {
				t.Errorf("payload of link %d holds %d", d.Tag[0], b)
				break
			}
		}
		if len(d.Payload) != 20000+int(d.Tag[1]) {
			t.Errorf("payload has %d bytes", len(d.Payload))
		}
		received.Add(1)
		r.Settle(d.ID, State{Outcome: Accepted})
	}
	c, _ := connect(t, Config{Handler: h, Window: 4, MaxFrameSize: 700}, Config{})
	s := begin1(t, c)
	var sending sync.WaitGroup
	for l := range links {
		var settled atomic.Int32
		all := make(chan struct{})
		snd, err := s.Sender(deadline(t), Attaching{}, SenderFuncs{OnDisposed: func(_ *Sender, d Disposition) {
			if settled.Add(1) == messages {
				close(all)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		sending.Go(func() {
			for i := range messages {
				payload := make([]byte, 20000+i)
				for j := range payload {
					payload[j] = byte(l)
				}
				if _, err := snd.SendWait(deadline(t), Sending{Tag: []byte{byte(l), byte(i)}, Payload: payload}); err != nil {
					t.Error(err)
					return
				}
			}
			next(t, all)
		})
	}
	sending.Wait()
	if n := received.Load(); n != links*messages {
		t.Errorf("received %d", n)
	}
}

func TestReceiveByCredit(t *testing.T) {
	h := &testHandler{}
	var sent atomic.Int32
	h.sender.OnReady = func(s *Sender) {
		for s.Credit() > 0 && sent.Load() < 5 {
			if _, err := s.Send(Sending{Payload: []byte{byte(sent.Add(1))}}); err != nil {
				t.Error(err)
			}
		}
	}
	c, _ := connect(t, Config{Handler: h}, Config{})
	s := begin1(t, c)
	got := make(chan Delivery, 10)
	drained := make(chan struct{}, 1)
	rcv, err := s.Receiver(deadline(t), Attaching{Source: &Source{Address: "q"}}, Receiving{}, ReceiverFuncs{
		OnDelivered: func(r *Receiver, d Delivery) { r.Settle(d.ID, State{Outcome: Accepted}); got <- d },
		OnDrained:   func(*Receiver) { drained <- struct{}{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := rcv.Grant(2); err != nil {
		t.Fatal(err)
	}
	next(t, got)
	next(t, got)
	if err := rcv.Grant(10); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		next(t, got)
	}
	if err := rcv.Drain(); err != nil {
		t.Fatal(err)
	}
	next(t, drained)
	sent.Store(4)
	if err := rcv.Grant(1); err != nil {
		t.Fatal(err)
	}
	next(t, got)
	if len(got) > 0 || sent.Load() != 5 {
		t.Errorf("%d more came, %d sent", len(got), sent.Load())
	}
}

func TestSecondMode(t *testing.T) {
	h := &testHandler{}
	unsettled := make(chan Disposition, 10)
	var server atomic.Pointer[Sender]
	h.sender.OnReady = func(s *Sender) {
		server.Store(s)
		for s.Credit() > 0 {
			if _, err := s.Send(Sending{}); err != nil {
				return
			}
		}
	}
	h.sender.OnDisposed = func(s *Sender, d Disposition) { unsettled <- d }
	c, _ := connect(t, Config{Handler: h, MaxUnsettled: 4}, Config{})
	s := begin1(t, c)
	_, err := s.Receiver(deadline(t), Attaching{ReceiverSettleMode: ReceiveSecond}, Receiving{Window: 100}, ReceiverFuncs{
		OnDelivered: func(r *Receiver, d Delivery) { r.Settle(d.ID, State{Outcome: Released}) },
	})
	if err != nil {
		t.Fatal(err)
	}
	// Each round, four are in flight; settling them lets the next four go.
	for range 5 {
		for range 4 {
			d := next(t, unsettled)
			if d.Settled || d.State.Outcome != Released {
				t.Errorf("disposed %+v", d)
			}
			server.Load().Settle(d.ID, State{Outcome: Accepted})
		}
	}
}

func TestAttachAnsweredLater(t *testing.T) {
	asked := make(chan *Incoming, 10)
	h := &testHandler{attach: func(in *Incoming) { asked <- in }}
	c, _ := connect(t, Config{Handler: h}, Config{})
	s := begin1(t, c)
	var attaching sync.WaitGroup
	attaching.Go(func() {
		if _, err := s.Sender(deadline(t), Attaching{Name: "n"}, SenderFuncs{}); err != nil {
			t.Error(err)
		}
	})
	slow := next(t, asked)
	// Meanwhile others come through, the same name in the other direction included.
	attaching.Go(func() {
		if _, err := s.Receiver(deadline(t), Attaching{Name: "n"}, Receiving{}, ReceiverFuncs{}); err != nil {
			t.Error(err)
		}
	})
	in := next(t, asked)
	if in.Role != RoleSender || in.Name != "n" {
		t.Errorf("asked for %v of %s", in.Role, in.Name)
	}
	if _, err := in.Receiver(Accepting{}, Receiving{}, ReceiverFuncs{}); err == nil {
		t.Error("the wrong role is accepted")
	}
	if _, err := in.Sender(Accepting{}, SenderFuncs{}); err != nil {
		t.Error(err)
	}
	if _, err := slow.Receiver(Accepting{Properties: Map{{Symbol("p"), int32(1)}}}, Receiving{}, ReceiverFuncs{}); err != nil {
		t.Error(err)
	}
	attaching.Wait()
	if _, err := slow.Receiver(Accepting{}, Receiving{}, ReceiverFuncs{}); !errors.Is(err, ErrDetached) {
		t.Errorf("answering twice gives %v", err)
	}
	slow.Refuse(nil)
	// One that is given up before the answer.
	short, cancel := context.WithCancel(t.Context())
	attaching.Go(func() {
		if _, err := s.Sender(short, Attaching{Name: "given up"}, SenderFuncs{}); !errors.Is(err, context.Canceled) {
			t.Errorf("attach gives %v", err)
		}
	})
	in = next(t, asked)
	cancel()
	attaching.Wait()
	gone := make(chan error, 1)
	if _, err := in.Receiver(Accepting{}, Receiving{}, ReceiverFuncs{OnDetached: func(_ *Receiver, err error) { gone <- err }}); err != nil {
		t.Error(err)
	}
	if err := next(t, gone); err != ErrDetached {
		t.Errorf("Detached gets %v", err)
	}
}

func TestNeighboursUndisturbed(t *testing.T) {
	h := &testHandler{attach: func(in *Incoming) {
		if in.Target.Address == "bad" {
			in.Refuse(errorf(ErrUnauthorized, "expired"))
			return
		}
		in.Receiver(Accepting{}, Receiving{Window: 5}, ReceiverFuncs{OnDelivered: func(r *Receiver, d Delivery) {
			switch string(d.Payload) {
			case "end":
				r.Session().End(errorf(ErrInternal, "boom"))
			case "detach":
				r.Detach(errorf(ErrStolen, "elsewhere"))
			default:
				r.Settle(d.ID, State{Outcome: Accepted})
			}
		}})
	}}
	c, _ := connect(t, Config{Handler: h}, Config{})
	type ends struct {
		snd  *Sender
		lost chan Disposition
		gone chan error
	}
	open := func(s *Session, address string) (e ends, err error) {
		e.lost, e.gone = make(chan Disposition, 5), make(chan error, 1)
		e.snd, err = s.Sender(deadline(t), Attaching{Target: &Target{Address: address}}, SenderFuncs{
			OnDisposed: func(_ *Sender, d Disposition) { e.lost <- d },
			OnDetached: func(_ *Sender, err error) { e.gone <- err },
		})
		return e, err
	}
	must := func(s *Session) ends {
		t.Helper()
		e, err := open(s, "good")
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	ok := func(e ends) {
		t.Helper()
		if _, err := e.snd.SendWait(deadline(t), Sending{}); err != nil {
			t.Fatal(err)
		}
		if d := next(t, e.lost); d.State.Outcome != Accepted {
			t.Errorf("disposed %+v", d)
		}
	}
	one, two := begin1(t, c), begin1(t, c)
	a, b, other := must(one), must(one), must(two)
	if _, err := open(one, "bad"); condition(err) != ErrUnauthorized {
		t.Errorf("a refused link gives %v", err)
	}
	ok(a)
	if _, err := a.snd.SendWait(deadline(t), Sending{Payload: []byte("detach")}); err != nil {
		t.Fatal(err)
	}
	if d := next(t, a.lost); d.State.Outcome != Lost {
		t.Errorf("disposed %+v", d)
	}
	if err := next(t, a.gone); condition(err) != ErrStolen {
		t.Errorf("Detached gets %v", err)
	}
	if _, err := a.snd.Send(Sending{}); !errors.Is(err, ErrDetached) {
		t.Errorf("Send gives %v", err)
	}
	ok(b)
	if _, err := b.snd.SendWait(deadline(t), Sending{Payload: []byte("end")}); err != nil {
		t.Fatal(err)
	}
	if err := next(t, b.gone); condition(err) != ErrInternal {
		t.Errorf("Detached gets %v", err)
	}
	if _, err := b.snd.Send(Sending{}); !errors.Is(err, ErrEnded) && !errors.Is(err, ErrDetached) {
		t.Errorf("Send gives %v", err)
	}
	if _, err := open(one, "good"); !errors.Is(err, ErrEnded) {
		t.Errorf("attach on an ended session gives %v", err)
	}
	ok(other)
	other.snd.Detach(nil)
	if err := next(t, other.gone); err != ErrDetached {
		t.Errorf("Detached gets %v", err)
	}
	two.End(nil)
	ok(must(begin1(t, c)))
}

// A connection of 1,000 identities must cost links, not goroutines.
func TestManyLinks(t *testing.T) {
	const count = 1000
	h := &testHandler{}
	c, _ := connect(t, Config{Handler: h}, Config{})
	s := begin1(t, c)
	before := runtime.NumGoroutine()
	var m0, m1 runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m0)
	var all []*Sender
	for i := range count {
		snd, err := s.Sender(deadline(t), Attaching{Name: fmt.Sprintf("link-%d", i), Target: &Target{Address: "devices/d/messages/events"}}, SenderFuncs{})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, snd)
	}
	runtime.GC()
	runtime.ReadMemStats(&m1)
	per := (int64(m1.HeapAlloc) - int64(m0.HeapAlloc)) / count / 2 // both ends are here
	t.Logf("%d bytes for an end of an idle link", per)
	if per > 4096 {
		t.Errorf("an end of an idle link takes %d bytes", per)
	}
	eventually(t, "no goroutines for links", func() bool { return runtime.NumGoroutine() < before+10 })
	for _, snd := range all {
		if _, err := snd.SendWait(deadline(t), Sending{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTooManyLinks(t *testing.T) {
	p, wait := dialRaw(t, Config{Handler: &testHandler{}, MaxLinks: 10, CloseTimeout: 5 * time.Second})
	p.begin(0, 10)
	p.begin(1, 10)
	p.begin(2, 10)
	refused := 0
	for i := range uint32(21) {
		p.attachSender(uint16(i%3), fmt.Sprint("l", i), i/3)
	}
	for {
		got := p.next()
		if got == "close amqp:resource-limit-exceeded" {
			break
		}
		if len(got) > 6 && got[:6] == "detach" {
			refused++
		}
	}
	if refused != 10 {
		t.Errorf("%d links were refused", refused)
	}
	p.nc.Close()
	if err := wait(); condition(err) != ErrResourceLimit {
		t.Errorf("Serve gives %v", err)
	}
}
