package consumer

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"sync"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// desk is a pair of links on which questions are asked and answered: $cbs and
// $management.
type desk struct {
	address string
	ours    string // where answers go
	send    *amqp.Sender

	mu      sync.Mutex
	last    uint64
	waiting map[string]chan answer
	broken  error
}

type answer struct {
	m   *amqp.Message
	err error
}

func openDesk(ctx context.Context, s *amqp.Session, address string) (*desk, error) {
	d := &desk{address: address, ours: "answers-of-" + address[1:], waiting: map[string]chan answer{}}
	_, err := s.Receiver(ctx, amqp.Attaching{Source: &amqp.Source{Address: address}, Target: &amqp.Target{Address: d.ours}},
		amqp.Receiving{Window: 8}, amqp.ReceiverFuncs{
			OnDelivered: d.delivered,
			OnDetached:  func(_ *amqp.Receiver, reason error) { d.end(reason) },
		})
	if err != nil {
		return nil, err
	}
	d.send, err = s.Sender(ctx, amqp.Attaching{Target: &amqp.Target{Address: address}}, amqp.SenderFuncs{
		OnDisposed: d.disposed,
		OnDetached: func(_ *amqp.Sender, reason error) { d.end(reason) },
	})
	return d, err
}

// ask sends a question and gives the answer, a fault when it says that it failed.
func (d *desk) ask(ctx context.Context, m *amqp.Message) (*amqp.Message, error) {
	c := make(chan answer, 1)
	d.mu.Lock()
	if d.broken != nil {
		d.mu.Unlock()
		return nil, d.broken
	}
	d.last++
	id := strconv.FormatUint(d.last, 10)
	d.waiting[id] = c
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.waiting, id)
	}()
	m.Properties = amqp.Properties{MessageID: id, To: d.address, ReplyTo: d.ours}
	payload, err := m.Append(nil)
	if err != nil {
		return nil, fmt.Errorf("encode question to %s: %w", d.address, err)
	}
	if _, err := d.send.SendWait(ctx, amqp.Sending{Payload: payload, Ref: id}); err != nil {
		return nil, err
	}
	select {
	case a := <-c:
		return a.m, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for an answer from %s: %w", d.address, context.Cause(ctx))
	}
}

func (d *desk) tell(id string, a answer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.waiting[id]; c != nil {
		delete(d.waiting, id)
		c <- a
	}
}

func (d *desk) end(reason error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = reason
	for id, c := range d.waiting {
		delete(d.waiting, id)
		c <- answer{err: reason}
	}
}

// disposed is called when the hub has taken a question, or has refused it.
func (d *desk) disposed(_ *amqp.Sender, o amqp.Disposition) {
	id, _ := o.Ref.(string)
	switch {
	case o.State.Outcome == amqp.Accepted, o.State.Outcome == amqp.Lost:
	case o.State.Error != nil:
		d.tell(id, answer{err: o.State.Error})
	default:
		d.tell(id, answer{err: fmt.Errorf("the hub does not take questions to %s", d.address)})
	}
}

func (d *desk) delivered(r *amqp.Receiver, in amqp.Delivery) {
	if !in.Settled {
		// The error is that the link is over, which is told elsewhere.
		_ = r.Settle(in.ID, amqp.State{Outcome: amqp.Accepted})
	}
	m := &amqp.Message{}
	if err := m.Decode(bytes.Clone(in.Payload)); err != nil {
		d.end(fmt.Errorf("read an answer from %s: %w", d.address, err))
		return
	}
	id, _ := m.Properties.CorrelationID.(string)
	status, _ := m.ApplicationProperties.Integer("status-code")
	if status >= 200 && status < 300 {
		d.tell(id, answer{m: m})
		return
	}
	text, _ := m.ApplicationProperties.Text("status-description")
	code := fault.ServerError
	switch {
	case status == 401:
		code = fault.UnauthorizedAccess
	case status == 404:
		code = fault.GenericNotFound
	case status >= 400 && status < 500:
		code = fault.ArgumentInvalid
	}
	d.tell(id, answer{err: fault.New(code, "%s", text)})
}
