package amqp

import (
	"bytes"
	"context"
	"net"
	"testing"
	"time"
)

func FuzzValue(f *testing.F) {
	for _, test := range values {
		f.Add(unhex(f, test.wire))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		v, _, err := ReadValue(in)
		if err != nil {
			return
		}
		once, err := AppendValue(nil, v)
		if err != nil {
			t.Fatalf("%#v was decoded and does not encode: %v", v, err)
		}
		again, rest, err := ReadValue(once)
		if err != nil || len(rest) > 0 {
			t.Fatalf("%x does not decode again: %v", once, err)
		}
		if twice, err := AppendValue(nil, again); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%x is not stable, becomes %x: %v", once, twice, err)
		}
	})
}

func FuzzMessage(f *testing.F) {
	m := fullMessage()
	b, err := m.Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(AppendData(AppendData(nil, b), b))
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, err := range Each(BatchFormat, in) {
			_ = err
		}
		var m Message
		if m.Decode(in) != nil {
			return
		}
		once, err := m.Append(nil)
		if err != nil {
			t.Fatalf("%+v was decoded and does not encode: %v", m, err)
		}
		var again Message
		if err := again.Decode(once); err != nil {
			t.Fatalf("%x does not decode again: %v", once, err)
		}
		if twice, err := again.Append(nil); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%x is not stable, becomes %x: %v", once, twice, err)
		}
	})
}

// codec is a performative.
type codec interface {
	decode(f *fields)
	encode(e *encoder)
}

func performatives() map[uint64]codec {
	return map[uint64]codec{
		descOpen: new(Open), descBegin: new(begin), descAttach: new(attach), descFlow: new(flow),
		descTransfer: new(transfer), descDisposition: new(disposition), descDetach: new(detach),
	}
}

func FuzzPerformative(f *testing.F) {
	for _, p := range samples() {
		var e encoder
		p.encode(&e)
		f.Add(e.b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var s saslFrame
		if s.decode(in) == nil {
			var e encoder
			if s.encode(&e); e.err != nil {
				t.Fatal(e.err)
			}
		}
		d := decoder{b: in}
		p := performatives()[d.descriptor()]
		if p == nil {
			return
		}
		fs := d.composite()
		p.decode(&fs)
		if d.err != nil || fs.err != nil {
			return
		}
		var once, twice encoder
		if p.encode(&once); once.err != nil {
			t.Fatalf("%+v was decoded and does not encode: %v", p, once.err)
		}
		d = decoder{b: once.b}
		again := performatives()[d.descriptor()]
		fs = d.composite()
		again.decode(&fs)
		if d.join(&fs.decoder); d.err != nil {
			t.Fatalf("%x does not decode again: %v", once.b, d.err)
		}
		if again.encode(&twice); !bytes.Equal(once.b, twice.b) {
			t.Fatalf("%x is not stable, becomes %x", once.b, twice.b)
		}
	})
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 0, 0, 8, 2, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 13, 3, 1, 0, 0, 1, 2, 3, 4, 5, 9})
	f.Fuzz(func(t *testing.T, in []byte) {
		_, size, need, err := split(in, 1<<16)
		switch {
		case err != nil:
		case size > len(in), size == 0 && need <= len(in):
			t.Errorf("size %d, need %d of %d bytes", size, need, len(in))
		}
		r := newReader(bytes.NewReader(in), 4096)
		for err == nil {
			_, err = r.next()
		}
	})
}

// FuzzServer feeds a whole server, whose handler accepts everything and answers.
func FuzzServer(f *testing.F) {
	f.Add(conversation(false))
	f.Add(conversation(true))
	f.Fuzz(func(t *testing.T, in []byte) {
		h := &testHandler{}
		h.sender.OnReady = func(s *Sender) {
			for range 20 {
				s.Send(Sending{Payload: make([]byte, 700)})
			}
		}
		ended := make(chan struct{})
		h.closed = func(*Conn, error) { close(ended) }
		opened := false
		h.open = func(*Conn, *Open) error { opened = true; return nil }
		nc := &script{in: in}
		Serve(context.Background(), nc, Config{
			Handler: h, SASL: &SASLServer{}, MaxMessageSize: 1 << 12, MaxPartial: 1 << 13, MaxLinks: 8, MaxSessions: 4,
			CloseTimeout: time.Second,
		})
		if opened {
			select {
			case <-ended:
			default:
				t.Error("Closed was not called")
			}
		}
	})
}

// FuzzServerFrames feeds a server whose connection is open already with well-formed
// frames of bodies that are not: one byte of channel, two of length, the body.
func FuzzServerFrames(f *testing.F) {
	var seed []byte
	rest := conversation(false)[headerSize:]
	for len(rest) > 0 {
		fr, size, _, err := split(rest, 1<<16)
		if err != nil {
			f.Fatal(err)
		}
		rest = rest[size:]
		seed = append(seed, byte(fr.channel), byte(len(fr.body)>>8), byte(len(fr.body)))
		seed = append(seed, fr.body...)
	}
	f.Add(seed[3+int(seed[2]):]) // without open
	f.Fuzz(func(t *testing.T, in []byte) {
		w := wire{b: append([]byte(nil), headerAMQP[:]...)}
		w.add(0, &Open{MaxFrameSize: 512, ChannelMax: 3})
		for len(in) > 3 {
			channel, n := uint16(in[0]%5), min(int(in[1])<<8|int(in[2]), len(in)-3)
			w.frame(frameAMQP, channel, nil, in[3:3+n]...)
			in = in[3+n:]
		}
		told := map[any]bool{}
		h := &testHandler{window: 5}
		h.receiver.OnDelivered = func(r *Receiver, d Delivery) {
			if told[r] {
				t.Error("a delivery after Detached")
			}
			if d.ID%3 > 0 && !d.Settled {
				r.Settle(d.ID, State{Outcome: Accepted})
			}
		}
		h.receiver.OnDetached = func(r *Receiver, _ error) {
			if told[r] {
				t.Error("Detached twice")
			}
			told[r] = true
		}
		open := map[any]bool{}
		h.sender.OnReady = func(s *Sender) {
			for range 20 {
				ref := new(int)
				if _, err := s.Send(Sending{Payload: make([]byte, 700), Ref: ref}); err == nil && s.sndMode != SendSettled {
					open[ref] = true
				}
			}
		}
		h.sender.OnDisposed = func(s *Sender, d Disposition) {
			if !open[d.Ref] {
				t.Error("an outcome without a delivery")
			}
			delete(open, d.Ref)
		}
		var conn *Conn
		h.open = func(c *Conn, _ *Open) error { conn = c; return nil }
		Serve(context.Background(), &script{in: w.b}, Config{
			Handler: h, MaxMessageSize: 1 << 12, MaxPartial: 1 << 13, MaxLinks: 8, MaxSessions: 4, Window: 20, CloseTimeout: time.Second,
		})
		if len(open) > 0 {
			t.Errorf("%d deliveries got no outcome", len(open))
		}
		if conn.links != 0 || conn.partial != 0 {
			t.Errorf("%d links and %d bytes are left over", conn.links, conn.partial)
		}
	})
}

// script is a net.Conn that reads what was given and takes all writes.
type script struct {
	net.Conn
	in []byte
}

func (s *script) Read(b []byte) (int, error) {
	if len(s.in) == 0 {
		return 0, net.ErrClosed
	}
	n := copy(b, s.in)
	s.in = s.in[n:]
	return n, nil
}

func (s *script) Write(b []byte) (int, error)      { return len(b), nil }
func (s *script) Close() error                     { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }
