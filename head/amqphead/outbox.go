package amqphead

import (
	"bytes"
	"errors"
	"slices"
	"sync"

	"github.com/selvedge-io/selvedge/wire/amqp"
)

// Bounds of what waits for the credit of one link.
const (
	maxQueued      = 4096
	maxQueuedBytes = 8 << 20
)

// parcel is an encoded message on its way to the peer.
type parcel struct {
	payload []byte

	// Of deliveries only.
	delivery bool
	tag      [16]byte
	token    uint64
	same     uint64 // two parcels with one such number are the same message; 0: none
}

// outbox sends on one link while the peer gives credit, and keeps what it cannot send.
type outbox struct {
	mu     sync.Mutex
	link   *amqp.Sender // nil while there is none
	queue  []parcel
	bytes  int
	sent   func(parcel)        // after a message that no disposition follows; under mu
	failed func(parcel, error) // for a message that the peer never takes; under mu
}

// attach makes link the one to send on and sends what waits.
func (o *outbox) attach(link *amqp.Sender) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.link = link
	o.pump()
}

// detach forgets the link, if it is still that one, and what waits unless keep.
func (o *outbox) detach(link *amqp.Sender, keep bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.link != link {
		return
	}
	o.link = nil
	if !keep {
		o.queue, o.bytes = nil, 0
	}
}

// put sends p, or keeps a copy of it until it can be sent. It is false when too much
// waits already or there is no link.
func (o *outbox) put(p parcel) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.link == nil {
		return false
	}
	if len(o.queue) == 0 && o.send(p) {
		return true
	}
	if p.same != 0 {
		for i := range o.queue {
			if o.queue[i].same == p.same { // its lock has ended meanwhile
				o.queue[i].token, o.queue[i].tag = p.token, p.tag
				return true
			}
		}
	}
	if len(o.queue) >= maxQueued || o.bytes > 0 && o.bytes+len(p.payload) > maxQueuedBytes {
		return false
	}
	p.payload = bytes.Clone(p.payload)
	o.queue = append(o.queue, p)
	o.bytes += len(p.payload)
	return true
}

// pump sends what waits as far as the link takes it.
func (o *outbox) pump() {
	n := 0
	for n < len(o.queue) && o.send(o.queue[n]) {
		o.bytes -= len(o.queue[n].payload)
		n++
	}
	if n == len(o.queue) {
		o.queue = nil
		return
	}
	o.queue = slices.Delete(o.queue, 0, n)
}

// send is false when p has to wait.
func (o *outbox) send(p parcel) bool {
	sending := amqp.Sending{Payload: p.payload}
	if p.delivery {
		sending.Tag, sending.Ref = p.tag[:], p.token
	}
	_, err := o.link.Send(sending)
	mode, _ := o.link.SettleModes()
	switch {
	case errors.Is(err, amqp.ErrNotReady):
		return false
	case err != nil:
		// A link that is gone is told of by Detached; what was lost with it is the
		// backend's to give out again.
		if o.failed != nil && errors.Is(err, amqp.ErrTooLarge) {
			o.failed(p, err)
		}
	case mode == amqp.SendSettled && o.sent != nil:
		o.sent(p)
	}
	return true
}

// drop takes the message of that number out, if it waits.
func (o *outbox) drop(same uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queue = slices.DeleteFunc(o.queue, func(p parcel) bool {
		if p.same == same {
			o.bytes -= len(p.payload)
		}
		return p.same == same
	})
}

// unsent takes out what waits.
func (o *outbox) unsent() []parcel {
	o.mu.Lock()
	defer o.mu.Unlock()
	waiting := o.queue
	o.queue, o.bytes = nil, 0
	return waiting
}

// replies are the SenderEvents of a link whose messages are answers or notices: no
// outcome of theirs matters.
type replies struct {
	box      *outbox
	detached func(s *amqp.Sender)
}

// Ready implements amqp.SenderEvents.
func (r replies) Ready(*amqp.Sender) { r.box.ready() }

// Disposed implements amqp.SenderEvents.
func (r replies) Disposed(s *amqp.Sender, d amqp.Disposition) {
	if !d.Settled {
		s.Settle(d.ID, amqp.State{Outcome: amqp.Accepted})
	}
}

// Detached implements amqp.SenderEvents.
func (r replies) Detached(s *amqp.Sender, _ error) { r.detached(s) }

func (o *outbox) ready() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.link != nil {
		o.pump()
	}
}
