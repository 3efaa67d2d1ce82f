package service

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/selvedge-io/selvedge/head/amqphead"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

const (
	// sendWindow is how many messages a service may have under way on one link.
	sendWindow = 100
	// maxIncoming is the largest message taken off the wire, in bytes; what is above
	// message.MaxToDevice is refused by its outcome, not with the link.
	maxIncoming = 256 << 10
	// maxBacklog bounds what all links together have under way, in bytes.
	maxBacklog = 64 << 20
)

// backlog counts bytes under way.
type backlog struct{ n atomic.Int64 }

func (b *backlog) take(n int) bool {
	if b.n.Add(int64(n)) <= maxBacklog {
		return true
	}
	b.give(n)
	return false
}

func (b *backlog) give(n int) { b.n.Add(-int64(n)) }

// outbound is a link on which a service sends messages to devices. Each is settled
// once it is durable or refused; those for one device are kept in order.
type outbound struct {
	s      *Service
	peer   peer
	policy string
	gone   func()

	mu      sync.Mutex
	waiting []delivery
	working bool
}

// delivery is a message as it came.
type delivery struct {
	id      uint32
	settled bool
	batch   bool
	payload []byte // owned
}

// takeMessages attaches a link for messages to devices.
func (s *Service) takeMessages(ctx context.Context, a *attaching) {
	o := &outbound{s: s, peer: a.peer, policy: a.policy, gone: a.gone}
	a.receiver(ctx, amqp.Receiving{Window: sendWindow, MaxMessageSize: maxIncoming}, o)
}

// Delivered implements amqp.ReceiverEvents.
func (o *outbound) Delivered(r *amqp.Receiver, d amqp.Delivery) {
	if !o.s.backlog.take(len(d.Payload)) {
		o.settle(r, &delivery{id: d.ID, settled: d.Settled}, fault.New(fault.Throttled, "too many messages to devices are under way"))
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting = append(o.waiting, delivery{id: d.ID, settled: d.Settled, batch: d.Format == amqp.BatchFormat, payload: bytes.Clone(d.Payload)})
	if !o.working {
		o.working = true
		o.peer.Go(func(ctx context.Context) { o.work(ctx, r) })
	}
}

// Detached implements amqp.ReceiverEvents.
func (o *outbound) Detached(*amqp.Receiver, error) { o.gone() }

// work sends what waits until nothing does.
func (o *outbound) work(ctx context.Context, r *amqp.Receiver) {
	for {
		o.mu.Lock()
		all := o.waiting
		o.waiting = nil
		o.working = len(all) > 0
		o.mu.Unlock()
		if len(all) == 0 {
			return
		}
		o.send(ctx, r, all)
		for i := range all {
			o.s.backlog.give(len(all[i].payload))
		}
	}
}

// send sends messages, those for different devices side by side, so that they share
// the disk's syncs.
func (o *outbound) send(ctx context.Context, r *amqp.Receiver, all []delivery) {
	type parcel struct {
		*delivery
		message.Message
	}
	byRecipient := map[string][]parcel{}
	for i := range all {
		d := &all[i]
		m, err := d.message()
		if err != nil {
			o.settle(r, d, err)
			continue
		}
		byRecipient[m.System.To] = append(byRecipient[m.System.To], parcel{d, m})
	}
	var sending sync.WaitGroup
	for to, parcels := range byRecipient {
		sending.Go(func() {
			for i := range parcels {
				err := o.s.send(ctx, o, to, &parcels[i].Message)
				if ctx.Err() != nil {
					return // the connection is over, nobody would hear the outcome
				}
				o.settle(r, parcels[i].delivery, err)
			}
		})
	}
	sending.Wait()
}

// send keeps one message for the device that it is addressed to.
func (s *Service) send(ctx context.Context, o *outbound, to string, m *message.Message) error {
	id, err := message.Recipient(to, func(id ident.ID) error {
		_, err := s.cfg.Registry.Get(ctx, id)
		return err
	})
	if err != nil {
		return err
	}
	m.System.To = "/devices/" + id.Device + "/messages/devicebound"
	if err := s.cfg.Inbox.Send(ctx, id, m); err != nil {
		return err
	}
	s.log.InfoContext(ctx, "audit", "change", "send message", "by", o.policy, "device", id.Device, "remote", o.peer.Remote(), "id", m.System.MessageID)
	return nil
}

// settle tells the outcome, where it is wanted. A link that has gone has none.
func (o *outbound) settle(r *amqp.Receiver, d *delivery, err error) {
	if fault.Is(err, fault.ServerError) {
		o.s.log.Error("message to device not kept", "remote", o.peer.Remote(), "err", err)
	}
	if d.settled {
		return
	}
	state := amqp.State{Outcome: amqp.Accepted}
	if err != nil {
		state = amqp.State{Outcome: amqp.Rejected, Error: errorOf(err)}
	}
	// The error is that the link is over; then the service does not hear and sends again.
	_ = r.Settle(d.id, state)
}

// message reads the AMQP form of a message to a device (device-protocol 4.2,
// service-protocol 8.1). It may point into the delivery.
func (d *delivery) message() (m message.Message, err error) {
	if d.batch {
		return m, fault.New(fault.ArgumentInvalid, "messages to devices are sent one by one, not in batches")
	}
	var in amqp.View
	if err := in.Decode(d.payload); err != nil {
		return m, fault.Wrap(err, fault.ArgumentInvalid, "the message is no AMQP message")
	}
	if err := amqphead.ReadMessage(&in, &m); err != nil {
		return m, err
	}
	if m.System.Expiry.IsZero() && in.Header.TTL > 0 {
		m.System.Expiry = time.Now().Add(in.Header.TTL)
	}
	m.System.Ack, err = message.ReadAck(m.System.Ack)
	return m, err
}
