package amqp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// raw is a peer that does exactly what a test says.
type raw struct {
	t  testing.TB
	nc net.Conn
	in *reader
}

// dialRaw starts a server and shakes hands with it.
func dialRaw(t testing.TB, cfg Config) (p *raw, wait func() error) {
	t.Helper()
	a, b := socketPair(t)
	wait = serve(t, a, cfg)
	p = &raw{t, b, newReader(b, 1<<20)}
	p.bytes(headerAMQP[:])
	p.send(0, &Open{ContainerID: "raw", MaxFrameSize: 512, ChannelMax: 100})
	p.header(headerAMQP)
	if got := p.next(); got != "open" {
		t.Fatalf("the server begins with %s", got)
	}
	return p, wait
}

func (p *raw) bytes(b []byte) {
	p.t.Helper()
	if _, err := p.nc.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

func (p *raw) send(channel uint16, perf codec, payload ...byte) {
	p.t.Helper()
	var w wire
	w.add(channel, perf, payload...)
	p.bytes(w.b)
}

func (p *raw) ending(channel uint16, descriptor byte) {
	p.t.Helper()
	var w wire
	w.frame(frameAMQP, channel, func(e *encoder) { e.ending(descriptor, nil) })
	p.bytes(w.b)
}

func (p *raw) header(want [headerSize]byte) {
	p.t.Helper()
	p.nc.SetReadDeadline(time.Now().Add(10 * time.Second))
	if h, err := p.in.header(); err != nil || h != want {
		p.t.Fatalf("the header is %x, %v", h, err)
	}
}

// next describes the next frame as text.
func (p *raw) next() string {
	p.t.Helper()
	p.nc.SetReadDeadline(time.Now().Add(10 * time.Second))
	f, err := p.in.next()
	if err == io.EOF {
		return "EOF"
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return describe(p.t, f)
}

// until reads until a frame that begins with prefix.
func (p *raw) until(prefix string) string {
	p.t.Helper()
	for {
		got := p.next()
		if strings.HasPrefix(got, prefix) {
			return got
		}
		if got == "EOF" {
			p.t.Fatalf("the connection ended before %q came", prefix)
		}
	}
}

func (p *raw) expect(want ...string) {
	p.t.Helper()
	for _, want := range want {
		if got := p.next(); got != want {
			p.t.Fatalf("got  %s\nwant %s", got, want)
		}
	}
}

func describe(t testing.TB, f frame) string {
	t.Helper()
	if len(f.body) == 0 {
		return "empty"
	}
	d := decoder{b: f.body}
	n := d.descriptor()
	fs := d.composite()
	text := ""
	cond := func(err *Error) string {
		if err == nil {
			return ""
		}
		return " " + string(err.Condition)
	}
	switch n {
	case descOpen:
		text = "open"
	case descBegin:
		var p begin
		p.decode(&fs)
		text = fmt.Sprintf("begin %d remote=%d", f.channel, p.remote)
	case descAttach:
		var p attach
		p.decode(&fs)
		text = fmt.Sprintf("attach %s %v handle=%d snd=%d rcv=%d", p.name, p.role, p.handle, p.sndMode, p.rcvMode)
		if p.source != nil {
			text += " source=" + p.source.Address
		}
		if p.target != nil {
			text += " target=" + p.target.Address
		}
	case descFlow:
		var p flow
		p.decode(&fs)
		text = "flow"
		if p.hasHandle {
			text = fmt.Sprintf("flow handle=%d count=%d credit=%d drain=%v", p.handle, p.count, p.credit, p.drain)
		}
	case descTransfer:
		var p transfer
		p.decode(&fs)
		text = fmt.Sprintf("transfer handle=%d id=%d more=%v settled=%v bytes=%d", p.handle, p.id, p.more, p.settled, len(d.b))
	case descDisposition:
		var p disposition
		p.decode(&fs)
		text = fmt.Sprintf("disposition %v %d-%d settled=%v %v%s", p.role, p.first, p.last, p.settled, p.state.Outcome, cond(p.state.Error))
	case descDetach:
		var p detach
		p.decode(&fs)
		text = fmt.Sprintf("detach handle=%d closed=%v%s", p.handle, p.closed, cond(p.err))
	case descEnd:
		text = "end" + cond(fs.error())
	case descClose:
		text = "close" + cond(fs.error())
	default:
		text = fmt.Sprintf("0x%02x", n)
	}
	if fs.err != nil {
		t.Fatal(fs.err)
	}
	return text
}

func (p *raw) begin(channel uint16, window uint32) {
	p.t.Helper()
	p.send(channel, &begin{incomingWindow: window, outgoingWindow: 100, handleMax: 100})
	p.until("begin")
}

func (p *raw) attachSender(channel uint16, name string, handle uint32) {
	p.t.Helper()
	p.send(channel, &attach{name: name, handle: handle, role: RoleSender, sndMode: SendMixed, source: &Source{}, target: &Target{Address: name}})
}

func (p *raw) attachReceiver(channel uint16, name string, handle uint32) {
	p.t.Helper()
	p.send(channel, &attach{name: name, handle: handle, role: RoleReceiver, source: &Source{Address: name}, target: &Target{}})
}

func (p *raw) transfer(channel uint16, handle, id uint32, more bool, size int) {
	p.t.Helper()
	p.send(channel, &transfer{handle: handle, id: id, hasID: true, tag: []byte{byte(id)}, hasTag: true, more: more}, make([]byte, size)...)
}

func TestPipelinedConversation(t *testing.T) {
	for _, sasl := range []bool{false, true} {
		a, b := socketPair(t)
		var got [][]byte
		h := &testHandler{}
		h.receiver.OnDelivered = func(r *Receiver, d Delivery) {
			got = append(got, bytes.Clone(d.Payload))
			r.Settle(d.ID, State{Outcome: Accepted})
		}
		var outcomes []string
		h.sender.OnReady = func(s *Sender) {
			for _, err := s.Send(Sending{Payload: make([]byte, 600)}); err == nil; _, err = s.Send(Sending{Payload: make([]byte, 600)}) {
			}
		}
		h.sender.OnDisposed = func(s *Sender, d Disposition) {
			outcomes = append(outcomes, fmt.Sprint(d.ID, " ", d.State.Outcome, " ", d.Settled))
		}
		wait := serve(t, a, Config{Handler: h, SASL: &SASLServer{}})
		p := &raw{t, b, newReader(b, 1<<20)}
		p.bytes(conversation(sasl))
		if sasl {
			p.header(headerSASL)
			p.expect("0x40", "0x44")
		}
		p.header(headerAMQP)
		p.expect("open", "begin 0 remote=1",
			"attach l receiver handle=0 snd=0 rcv=0 source= target=t",
			"flow handle=0 count=0 credit=100 drain=false",
			"attach l sender handle=1 snd=0 rcv=1 source=s target=",
			"transfer handle=1 id=0 more=true settled=false bytes=444",
			"transfer handle=1 id=0 more=false settled=false bytes=156",
			"transfer handle=1 id=1 more=true settled=false bytes=444",
			"flow handle=1 count=2 credit=3 drain=false",
			"disposition receiver 0-0 settled=true accepted",
			"transfer handle=1 id=0 more=false settled=false bytes=156",
			"flow handle=1 count=5 credit=0 drain=true",
			"detach handle=0 closed=true", "end", "close")
		if err := wait(); err != nil {
			t.Errorf("Serve gives %v", err)
		}
		if len(got) != 1 || !bytes.Equal(got[0], []byte{1, 2, 3, 4, 5}) {
			t.Errorf("delivered %v", got)
		}
		if want := []string{"0 released false", "1 released false"}; !slices.Equal(outcomes, want) {
			t.Errorf("outcomes are %v, want %v", outcomes, want)
		}
	}
	noGoroutines(t)
}

func TestViolations(t *testing.T) {
	tests := []struct {
		name string
		do   func(p *raw)
		want string
	}{
		{"second open", func(p *raw) { p.send(0, &Open{}) }, "close amqp:illegal-state"},
		{"frame too long", func(p *raw) { p.bytes([]byte{0, 0x10, 0, 0, 2, 0, 0, 0}) }, "close amqp:connection:framing-error"},
		{"frame of an unknown type", func(p *raw) { p.bytes([]byte{0, 0, 0, 8, 2, 7, 0, 0}) }, "close amqp:connection:framing-error"},
		{"body within the header", func(p *raw) { p.bytes([]byte{0, 0, 0, 8, 1, 0, 0, 0}) }, "close amqp:connection:framing-error"},
		{"no performative", func(p *raw) { p.bytes([]byte{0, 0, 0, 12, 2, 0, 0, 0, 0, 0x53, 0x77, 0x45}) }, "close amqp:connection:framing-error"},
		{"a session never begun", func(p *raw) { p.attachSender(3, "x", 0) }, "close amqp:not-allowed"},
		{"end of a session never begun", func(p *raw) { p.ending(3, descEnd) }, "close amqp:not-allowed"},
		{"channel in use", func(p *raw) { p.send(0, &begin{}) }, "close amqp:illegal-state"},
		{"answer to no begin", func(p *raw) { p.send(1, &begin{answers: true, remote: 0}) }, "close amqp:illegal-state"},
		{"channel above the most", func(p *raw) { p.send(4, &begin{}) }, "close amqp:connection:framing-error"},
		{"handle above the most", func(p *raw) { p.attachSender(0, "x", 5) }, "close amqp:connection:framing-error"},
		{"handle in use", func(p *raw) { p.attachSender(0, "x", 0) }, "end amqp:session:handle-in-use"},
		{"transfer on no link", func(p *raw) { p.transfer(0, 4, 0, false, 1) }, "end amqp:session:unattached-handle"},
		{"transfer on a link to receive", func(p *raw) { p.transfer(0, 1, 0, false, 1) }, "end amqp:session:unattached-handle"},
		{"flow on no link", func(p *raw) { p.send(0, &flow{handle: 4, hasHandle: true}) }, "end amqp:session:unattached-handle"},
		{"detach of no link", func(p *raw) { p.send(0, &detach{handle: 4}) }, "end amqp:session:unattached-handle"},
		{"transfer without credit", func(p *raw) {
			for id := range uint32(3) {
				p.transfer(0, 0, id, false, 1)
			}
		}, "detach handle=0 closed=true amqp:link:transfer-limit-exceeded"},
		{"delivery without an id", func(p *raw) { p.send(0, &transfer{handle: 0}) }, "detach handle=0 closed=true amqp:invalid-field"},
		{"delivery within a delivery", func(p *raw) { p.transfer(0, 0, 0, true, 1); p.transfer(0, 0, 1, false, 1) }, "detach handle=0 closed=true amqp:invalid-field"},
		{"message too long", func(p *raw) {
			for range 5 {
				p.transfer(0, 0, 0, true, 300)
			}
		}, "detach handle=0 closed=true amqp:link:message-size-exceeded"},
		{"tag too long", func(p *raw) {
			p.send(0, &transfer{handle: 0, hasID: true, hasTag: true, tag: make([]byte, 33)})
		}, "detach handle=0 closed=true amqp:invalid-field"},
		{"too many unfinished messages", func(p *raw) {
			p.attachSender(0, "c", 2)
			for _, handle := range []uint32{0, 2} {
				p.transfer(0, handle, handle, true, 600)
				p.transfer(0, handle, handle, true, 350)
			}
		}, "detach handle=2 closed=true amqp:resource-limit-exceeded"},
		{"transactions", func(p *raw) {
			p.bytes(slices.Concat([]byte{0, 0, 0, 27, 2, 0, 0, 0}, unhex(p.t, "00 5312 c0 0e 07 a10178 5202 42 40 40 40 00 5330 45")))
		}, "detach handle=2 closed=true amqp:not-implemented"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := &testHandler{window: 2}
			h.receiver.OnDelivered = func(*Receiver, Delivery) {}
			p, wait := dialRaw(t, Config{
				Handler: h, MaxSessions: 4, MaxLinks: 5, MaxMessageSize: 1000, MaxPartial: 1500, CloseTimeout: 5 * time.Second,
			})
			p.begin(0, 10)
			p.attachSender(0, "a", 0)
			p.attachReceiver(0, "b", 1)
			test.do(p)
			prefix, _, _ := strings.Cut(test.want, " ")
			if got := p.until(prefix); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if prefix == "close" {
				p.ending(0, descClose)
				p.nc.Close()
				if err := wait(); err == nil {
					t.Error("Serve gives no error")
				}
				return
			}
			// The rest of the connection is none the worse.
			p.begin(2, 10)
			p.attachSender(2, "other", 0)
			p.until("attach other")
			p.transfer(2, 0, 0, false, 10)
			p.ending(0, descClose)
			p.until("close")
			if err := wait(); err != nil {
				t.Errorf("Serve gives %v", err)
			}
		})
	}
	noGoroutines(t)
}

func TestBadBeginnings(t *testing.T) {
	header := string(headerAMQP[:])
	open := func(o Open) string {
		var w wire
		w.add(0, &o)
		return string(w.b)
	}
	for name, test := range map[string]struct{ in, want string }{
		"HTTP":                     {"GET / HTTP/1.1\r\n", "EOF"},
		"AMQP 0.9.1":               {"AMQP\x00\x00\x09\x01", "EOF"},
		"SASL where there is none": {string(headerSASL[:]), "EOF"},
		"frames too small":         {header + open(Open{MaxFrameSize: 100}), "open close amqp:invalid-field"},
		"impatient":                {header + open(Open{MaxFrameSize: 512, IdleTimeout: time.Millisecond}), "open close amqp:not-allowed"},
		"not open":                 {header + "\x00\x00\x00\x0c\x02\x00\x00\x00\x00\x53\x11\x45", "open close amqp:connection:framing-error"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := socketPair(t)
			wait := serve(t, a, Config{})
			p := &raw{t, b, newReader(b, 1<<20)}
			p.bytes([]byte(test.in))
			p.header(headerAMQP)
			if tcp := b.(*net.TCPConn); test.want == "EOF" {
				tcp.CloseWrite()
			}
			got := p.next()
			if got != "EOF" {
				got += " " + p.next()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			b.Close()
			if err := wait(); err == nil {
				t.Error("Serve gives no error")
			}
		})
	}
}

func TestOpenRefused(t *testing.T) {
	told := make(chan error, 1)
	cause := errors.New("unknown host")
	h := &testHandler{open: func(*Conn, *Open) error { return cause }, closed: func(_ *Conn, err error) { told <- err }}
	p, wait := dialRaw(t, Config{Handler: h})
	p.expect("close amqp:unauthorized-access")
	p.nc.Close()
	if err := wait(); !errors.Is(err, cause) {
		t.Errorf("Serve gives %v", err)
	}
	if err := next(t, told); !errors.Is(err, cause) {
		t.Errorf("Closed gets %v", err)
	}
}

func TestPeerVanishes(t *testing.T) {
	lost := make(chan Disposition, 10)
	gone := make(chan error, 1)
	h := &testHandler{}
	h.sender.OnReady = func(s *Sender) {
		for i := range 3 {
			s.Send(Sending{Ref: i})
		}
	}
	h.sender.OnDisposed = func(_ *Sender, d Disposition) { lost <- d }
	h.sender.OnDetached = func(_ *Sender, err error) { gone <- err }
	p, wait := dialRaw(t, Config{Handler: h})
	p.begin(0, 10)
	p.attachReceiver(0, "r", 0)
	p.send(0, &flow{incomingWindow: 10, handle: 0, hasHandle: true, hasCredit: true, credit: 10})
	p.until("transfer handle=0 id=2")
	p.send(0, &disposition{role: RoleReceiver, first: 1, last: 1, settled: true, state: State{Outcome: Accepted}})
	if d := next(t, lost); d.Ref != 1 || d.State.Outcome != Accepted {
		t.Errorf("disposed %+v", d)
	}
	p.nc.Close()
	if err := wait(); err != io.EOF {
		t.Errorf("Serve gives %v", err)
	}
	for _, want := range []int{0, 2} {
		if d := next(t, lost); d.Ref != want || d.State.Outcome != Lost || !d.Settled {
			t.Errorf("lost %+v, want %d", d, want)
		}
	}
	if err := next(t, gone); err != io.EOF {
		t.Errorf("Detached gets %v", err)
	}
}
