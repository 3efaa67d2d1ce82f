package client

import (
	"errors"
	"sync"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// Bounds of what goes into one transfer: IoT Hub takes batches of 256 KiB
// (device-protocol 6.7.2), of which some is left for what frames the messages.
const (
	batchMessages = 256
	batchBytes    = 200 << 10
	keepPacked    = 64 << 10 // larger buffers are given up
)

// pipeline is the telemetry under way on an AMQP link. Messages published together
// travel together, in one transfer with one outcome.
type pipeline struct {
	a    *amqpConn
	send *amqp.Sender // set before anybody has the Client

	sending sync.Mutex // held by a publish, so that batches do not mix
	encoder telemetry  // for who holds sending
	packed  []byte     // likewise: the last transfer of several messages

	mu       sync.Mutex
	room     sync.Cond   // less is under way, or the connection is over
	queue    []*shipment // not done, oldest first
	under    int         // messages under way
	bytes    int         // of them
	ended    error       // the connection is over
	failed   error       // a shipment failed that may be sent again, so what follows it fails too
	settling bool        // someone calls the done functions
}

// shipment is a batch under way.
type shipment struct {
	open  int // transfers without an outcome, and one more until all are sent
	err   error
	done  func(error)
	first part // most have no other
}

// part is one transfer of a shipment.
type part struct {
	of              *shipment
	messages, bytes int
}

func (p *pipeline) init(a *amqpConn) {
	p.a = a
	p.room.L = &p.mu
}

// publish implements protocol.
func (a *amqpConn) publish(batch []message.Message, done func(error)) {
	p := &a.out
	p.sending.Lock()
	defer p.sending.Unlock()
	s := &shipment{open: 1, done: done}
	unfit := checkAll(batch, checkSize)
	p.mu.Lock()
	p.queue = append(p.queue, s)
	p.mu.Unlock()
	if unfit != nil {
		p.close(s, refused{unfit})
		return
	}
	t := &s.first
	for len(batch) > 0 {
		n, out, err := p.pack(batch)
		if err != nil {
			p.close(s, refused{fault.Wrap(err, fault.ArgumentInvalid, "the message cannot be sent over AMQP")})
			return
		}
		*t = part{s, n, len(out.Payload)}
		out.Ref = t
		if !p.enter(t) {
			return
		}
		_, err = p.send.SendWait(a.c.ctx, out)
		if errors.Is(err, amqp.ErrTooLarge) {
			err = fault.Wrap(err, fault.MessageTooLarge, "a message of %d bytes is more than %s takes", len(out.Payload), a.c.cfg.gateway())
			p.leave(t, refused{err})
			p.close(s, nil)
			return
		}
		if err != nil {
			return // the connection ends, which fails s
		}
		if batch = batch[n:]; len(batch) > 0 {
			t = new(part)
		}
		if len(out.Payload) > keepPacked {
			p.encoder, p.packed = telemetry{}, nil
		}
	}
	p.close(s, nil)
}

// pack encodes as much of batch as goes into one transfer, and says how many messages
// that is. The payload is valid until the next call.
func (p *pipeline) pack(batch []message.Message) (n int, out amqp.Sending, err error) {
	most := min(len(batch), batchMessages, p.a.c.cfg.Window)
	if most > 1 && batch[0].Size()+batch[1].Size() > batchBytes {
		most = 1
	}
	if most == 1 {
		out.Payload, err = p.encoder.encode(&batch[0])
		return 1, out, err
	}
	p.packed = p.packed[:0]
	for n < most {
		b, err := p.encoder.encode(&batch[n])
		if err != nil {
			return 0, out, err
		}
		if n > 0 && len(p.packed)+len(b) > batchBytes {
			break
		}
		p.packed = amqp.AppendData(p.packed, b)
		n++
	}
	return n, amqp.Sending{Payload: p.packed, Format: amqp.BatchFormat}, nil
}

// enter counts t in as soon as there is room, which there always is when nothing is
// under way; false means that the connection is over and t's shipment has failed.
func (p *pipeline) enter(t *part) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	cfg := &p.a.c.cfg
	for p.ended == nil && p.under > 0 && (p.under+t.messages > cfg.Window || p.bytes >= cfg.WindowBytes) {
		p.room.Wait()
	}
	if p.ended != nil {
		p.settle()
		return false
	}
	p.under += t.messages
	p.bytes += t.bytes
	t.of.open++
	return true
}

// leave counts t out.
func (p *pipeline) leave(t *part, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.under -= t.messages
	p.bytes -= t.bytes
	t.of.open--
	if t.of.err == nil {
		t.of.err = err
	}
	p.room.Signal() // only the publish that holds sending waits
	p.settle()
}

// close says that all of s is sent, or with err that the rest of it never will be.
func (p *pipeline) close(s *shipment, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.open--
	if s.err == nil {
		s.err = err
	}
	p.settle()
}

// disposed takes the server's word on a transfer.
func (p *pipeline) disposed(snd *amqp.Sender, d amqp.Disposition) {
	if !d.Settled {
		snd.Settle(d.ID, d.State)
	}
	var err error
	switch d.State.Outcome {
	case amqp.Accepted:
	case amqp.Lost:
		return // the end of the connection fails it
	case amqp.Rejected:
		f := faultOf(d.State.Error)
		if err = f; ownFault(f) {
			err = refused{f}
		}
	default:
		err = fault.New(fault.Unavailable, "%s does not take messages now (%v)", p.a.c.cfg.gateway(), d.State.Outcome)
	}
	p.leave(d.Ref.(*part), err)
}

// settle calls the done functions of what is done, in order: one goroutine at a time,
// which also sees what others change meanwhile. The caller holds p.mu, which is let go
// for the calls.
func (p *pipeline) settle() {
	if p.settling {
		return
	}
	p.settling = true
	for len(p.queue) > 0 {
		s := p.queue[0]
		err := s.err
		switch {
		case p.failed != nil:
			err = p.failed
		case s.open == 0:
		case p.ended != nil:
			err = p.ended
		default:
			p.settling = false
			return
		}
		fails := err != nil && p.failed == nil && !isRefused(err)
		if fails {
			p.failed = err
		}
		p.queue[0] = nil
		if p.queue = p.queue[1:]; len(p.queue) == 0 {
			p.queue = nil
		}
		p.mu.Unlock()
		s.done(err)
		if fails {
			p.a.c.end(err)
		}
		p.mu.Lock()
	}
	p.settling = false
}

func isRefused(err error) bool {
	_, ok := errors.AsType[refused](err)
	return ok
}

// stop fails all that is under way and all that will come.
func (p *pipeline) stop(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = err
	p.room.Broadcast()
	p.settle()
}
