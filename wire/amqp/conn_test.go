package amqp

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestServerShutsDown(t *testing.T) {
	a, b := socketPair(t)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- Serve(ctx, a, Config{Handler: &testHandler{}}) }()
	c, err := Connect(deadline(t), b, Config{})
	if err != nil {
		t.Fatal(err)
	}
	s := begin1(t, c)
	gone := make(chan error, 1)
	if _, err := s.Sender(deadline(t), Attaching{}, SenderFuncs{OnDetached: func(_ *Sender, err error) { gone <- err }}); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := next(t, gone); condition(err) != ErrDetachForced {
		t.Errorf("Detached gets %v", err)
	}
	next(t, c.Done())
	if err := c.Err(); condition(err) != ErrConnectionForced {
		t.Errorf("the client ended with %v", err)
	}
	if err := next(t, result); condition(err) != ErrConnectionForced {
		t.Errorf("Serve gives %v", err)
	}
	if _, err := c.Begin(deadline(t)); !errors.Is(err, ErrClosed) {
		t.Errorf("Begin gives %v", err)
	}
	noGoroutines(t)
}

func TestSASL(t *testing.T) {
	server := Config{Handler: &testHandler{}, SASL: &SASLServer{Authenticate: func(_ context.Context, who Credentials) error {
		if who.Mechanism == Plain && (who.Username != "u" || who.Password != "p") {
			return errors.New("who?")
		}
		return nil
	}}}
	for _, login := range []*Login{nil, {Mechanism: Anonymous}, {Mechanism: MSSBCBS}, {Mechanism: External}, {Mechanism: Plain, Username: "u", Password: "p"}} {
		opened := make(chan *Credentials, 1)
		server.Handler = &testHandler{open: func(c *Conn, o *Open) error { opened <- c.Credentials(); return nil }}
		connect(t, server, Config{Login: login})
		k := next(t, opened)
		if login == nil && k != nil || login != nil && (k == nil || k.Mechanism != login.Mechanism || k.Username != login.Username) {
			t.Errorf("with %+v, the credentials are %+v", login, k)
		}
	}
	for _, login := range []*Login{{Mechanism: Plain, Username: "u"}, {Mechanism: "SCRAM"}} {
		a, b := socketPair(t)
		serve(t, a, server)
		if _, err := Connect(deadline(t), b, Config{Login: login}); !errors.Is(err, ErrAuthentication) {
			t.Errorf("%+v gives %v", login, err)
		}
	}
}

func TestPlainWithoutInitialResponse(t *testing.T) {
	a, b := socketPair(t)
	got := make(chan Credentials, 1)
	serve(t, a, Config{SASL: &SASLServer{Mechanisms: []Symbol{Plain}, Authenticate: func(_ context.Context, k Credentials) error {
		got <- k
		return nil
	}}})
	p := &raw{t, b, newReader(b, 1<<20)}
	var w wire
	w.b = append(w.b, headerSASL[:]...)
	init := saslFrame{descriptor: descInit, mechanism: Plain}
	w.frame(frameSASL, 0, init.encode)
	response := saslFrame{descriptor: descResponse, response: []byte("z\x00u\x00p")}
	w.frame(frameSASL, 0, response.encode)
	p.bytes(w.b)
	p.header(headerSASL)
	p.expect("0x40", "0x42", "0x44")
	if k := next(t, got); k.Authzid != "z" || k.Username != "u" || k.Password != "p" {
		t.Errorf("credentials are %+v", k)
	}
}

func TestConnectGivesUp(t *testing.T) {
	_, b := socketPair(t) // nobody answers
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Connect(ctx, b, Config{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Connect gives %v", err)
	}
	a, b := socketPair(t)
	a.Close()
	if _, err := Connect(deadline(t), b, Config{}); err == nil {
		t.Error("Connect to nobody succeeds")
	}
	noGoroutines(t)
}

// pipes runs a server and a client within a synctest bubble.
func pipes(t *testing.T, server, client Config) (c *Conn, result chan error) {
	a, b := net.Pipe()
	result = make(chan error, 1)
	go func() { result <- Serve(t.Context(), a, server) }()
	c, err := Connect(t.Context(), b, client)
	if err != nil {
		t.Fatal(err)
	}
	return c, result
}

func TestHeartbeats(t *testing.T) {
	for name, idle := range map[string][2]time.Duration{
		"both": {30 * time.Second, 20 * time.Second}, "asked by the server": {time.Second, time.Hour}, "asked by the client": {time.Hour, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, result := pipes(t, Config{Handler: &testHandler{}, IdleTimeout: idle[0]}, Config{IdleTimeout: idle[1]})
				time.Sleep(time.Hour)
				if _, err := c.Begin(t.Context()); err != nil {
					t.Errorf("after an hour: %v", err)
				}
				c.Close(nil)
				<-c.Done()
				if err := <-result; err != nil {
					t.Errorf("Serve gives %v", err)
				}
			})
		})
	}
}

func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		result := make(chan error, 1)
		go func() {
			result <- Serve(t.Context(), a, Config{Handler: &testHandler{}, IdleTimeout: 10 * time.Second})
		}()
		var w wire
		w.b = append(w.b, headerAMQP[:]...)
		w.add(0, &Open{MaxFrameSize: 512, IdleTimeout: 2 * time.Second})
		var beats atomic.Int32
		go func() {
			b.Write(w.b)
			r := newReader(b, 1<<20)
			r.header()
			for {
				f, err := r.next()
				if err != nil {
					return
				}
				if len(f.body) == 0 {
					beats.Add(1)
				}
			}
		}()
		start := time.Now()
		if err := <-result; condition(err) != ErrResourceLimit {
			t.Errorf("Serve gives %v", err)
		}
		if took := time.Since(start); took < 20*time.Second || took > 25*time.Second {
			t.Errorf("silence was noticed after %v", took)
		}
		if n := beats.Load(); n < 18 || n > 22 {
			t.Errorf("%d heartbeats in 20 seconds, want one a second", n)
		}
		b.Close()
	})
}

func TestHandshakeTakesTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		start := time.Now()
		if err := Serve(t.Context(), a, Config{}); err == nil || time.Since(start) != 30*time.Second {
			t.Errorf("Serve gives %v after %v", err, time.Since(start))
		}
		b.Close()
	})
}

// A peer that grants everything and reads nothing costs what MaxBuffered says.
func TestPeerStopsReading(t *testing.T) {
	var server atomic.Pointer[Sender]
	var sent atomic.Int64
	h := &testHandler{}
	h.sender.OnReady = func(s *Sender) {
		server.Store(s)
		for {
			if _, err := s.Send(Sending{Payload: make([]byte, 1000)}); err != nil {
				return
			}
			sent.Add(1)
		}
	}
	gone := make(chan error, 1)
	h.sender.OnDetached = func(_ *Sender, err error) { gone <- err }
	p, wait := dialRaw(t, Config{Handler: h, MaxBuffered: 100 << 10, MaxUnsettled: 1 << 30, WriteTimeout: 300 * time.Millisecond})
	p.nc.(*net.TCPConn).SetReadBuffer(4096)
	p.begin(0, 1<<32-1)
	p.send(0, &attach{name: "r", role: RoleReceiver, sndMode: SendSettled, source: &Source{}, target: &Target{}})
	p.send(0, &flow{incomingWindow: 1<<32 - 1, hasHandle: true, hasCredit: true, credit: 1<<32 - 1})
	eventually(t, "the first message", func() bool { return server.Load() != nil })
	c := server.Load().Session().Conn()
	eventually(t, "the sender is held up or cut", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		if n := c.buffered(); n > 102<<10+writeChunk {
			t.Fatalf("%d bytes are buffered", n)
		}
		return c.out.err != nil
	})
	if err := wait(); err == nil || err == io.EOF {
		t.Errorf("Serve gives %v", err)
	}
	next(t, gone)
	noGoroutines(t)
}

// One that reads slowly gets everything.
func TestSlowReader(t *testing.T) {
	const count = 3000
	h := &testHandler{}
	var sent int
	h.sender.OnReady = func(s *Sender) {
		for sent < count {
			if _, err := s.Send(Sending{Payload: make([]byte, 1000)}); err != nil {
				return
			}
			sent++
		}
	}
	p, _ := dialRaw(t, Config{Handler: h, MaxBuffered: 20 << 10})
	p.begin(0, 1<<32-1)
	p.send(0, &attach{name: "r", role: RoleReceiver, sndMode: SendSettled, source: &Source{}, target: &Target{}})
	p.send(0, &flow{incomingWindow: 1<<32 - 1, hasHandle: true, hasCredit: true, credit: 1<<32 - 1})
	for n := 0; n < count*1000; {
		p.nc.SetReadDeadline(time.Now().Add(10 * time.Second))
		f, err := p.in.next()
		if err != nil {
			t.Fatal(err)
		}
		d := decoder{b: f.body}
		if d.descriptor() == descTransfer {
			d.composite()
			n += len(d.b)
		}
	}
}

// The hook of a Handler that works batches through.
type batching struct {
	testHandler
	rounds   atomic.Int32
	pending  []Delivery
	receiver *Receiver
}

func (b *batching) Idle(c *Conn) {
	if len(b.pending) == 0 {
		return
	}
	for i, d := range b.pending {
		if d.Payload[0] != byte(d.ID) || d.Tag[0] != byte(d.ID) {
			c.Close(errorf(ErrInternal, "payload %d holds %d", d.ID, d.Payload[0]))
		}
		if i == len(b.pending)-1 {
			b.receiver.SettleRange(b.pending[0].ID, d.ID, State{Outcome: Accepted})
		}
	}
	b.rounds.Add(1)
	b.pending = b.pending[:0]
}

func TestIdleHandler(t *testing.T) {
	const count = 2000
	h := &batching{}
	h.attach = func(in *Incoming) {
		h.receiver, _ = in.Receiver(Accepting{}, Receiving{Window: 500}, ReceiverFuncs{
			OnDelivered: func(_ *Receiver, d Delivery) { h.pending = append(h.pending, d) },
		})
	}
	c, _ := connect(t, Config{Handler: h}, Config{})
	done := make(chan struct{})
	settled := 0
	snd, err := begin1(t, c).Sender(deadline(t), Attaching{}, SenderFuncs{OnDisposed: func(*Sender, Disposition) {
		if settled++; settled == count {
			close(done)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range count {
		if _, err := snd.SendWait(deadline(t), Sending{Tag: []byte{byte(i)}, Payload: []byte{byte(i), 1, 2, 3}}); err != nil {
			t.Fatal(err)
		}
	}
	next(t, done)
	if n := h.rounds.Load(); n == 0 || n > count {
		t.Errorf("%d rounds", n)
	}
}

// One that asks without end and reads nothing is not read from either.
func TestPeerAsksAndDoesNotRead(t *testing.T) {
	conns := make(chan *Conn, 1)
	h := &testHandler{open: func(c *Conn, _ *Open) error { conns <- c; return nil }}
	a, b := net.Pipe() // holds nothing back itself
	defer b.Close()
	wait := serve(t, a, Config{Handler: h, MaxBuffered: 50 << 10, WriteTimeout: 300 * time.Millisecond})
	p := &raw{t, b, newReader(b, 1<<20)}
	p.bytes(headerAMQP[:])
	p.send(0, &Open{ContainerID: "raw", MaxFrameSize: 512})
	p.header(headerAMQP)
	p.until("open")
	p.begin(0, 10)
	c := next(t, conns)
	var w wire
	for range 1000 {
		w.add(0, &flow{incomingWindow: 10, echo: true})
	}
	most := 0
	for {
		p.nc.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if _, err := p.nc.Write(w.b); err != nil {
			break
		}
		c.mu.Lock()
		most = max(most, c.buffered())
		c.mu.Unlock()
	}
	// A read of 64 KiB may be answered before the limit is looked at.
	if most == 0 || most > 2*50<<10+4*64<<10 {
		t.Errorf("%d bytes were buffered", most)
	}
	if err := wait(); err == nil {
		t.Error("Serve gives no error")
	}
}
