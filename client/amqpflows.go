package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// Resources of twin requests (device-protocol 6.9).
const (
	reportedResource = "/properties/reported"
	desiredResource  = "/notifications/twin/properties/desired"
)

// inboundWindow is how many messages the server may have under way to the handler; they
// fit into the inbox whatever their size.
const inboundWindow = maxInboxBytes / message.MaxTelemetry

// listen implements protocol.
func (a *amqpConn) listen(ctx context.Context, f flow) error {
	if f == desiredChanges {
		if err := a.c.listen(ctx); err != nil {
			return err
		}
		_, err := a.c.request(ctx, watchTwin, nil)
		return err
	}
	a.opening.Lock()
	defer a.opening.Unlock()
	switch f {
	case twinAnswers:
		if err := a.pair(ctx, "twin", "/twin", maxRequests, a.twin.Store, a.twinDelivered); err != nil {
			return fmt.Errorf("attach twin links: %w", err)
		}
	case methodCalls:
		if err := a.pair(ctx, "methods", "/methods/deviceBound", maxCalls, a.methods.Store, a.methodDelivered); err != nil {
			return fmt.Errorf("attach method links: %w", err)
		}
	default:
		rest := "/messages/deviceBound"
		if a.c.id.IsModule() {
			rest = "/messages/events"
		}
		if _, err := a.receive(ctx, a.attaching("messages", rest, "", amqp.RoleReceiver), inboundWindow, a.messageDelivered); err != nil {
			return fmt.Errorf("attach message link: %w", err)
		}
	}
	return nil
}

// request implements protocol.
func (a *amqpConn) request(ctx context.Context, op twinOp, rid string, body []byte) error {
	m := amqp.Message{Properties: amqp.Properties{CorrelationID: rid}, Data: [][]byte{body}}
	note := func(name, value string) {
		m.Annotations = append(m.Annotations, amqp.Entry{Key: amqp.Symbol(name), Value: value})
	}
	switch op {
	case getTwin:
		note("operation", "GET")
	case patchTwin:
		note("operation", "PATCH")
		note("resource", reportedResource)
	case watchTwin:
		note("operation", "PUT")
		note("resource", desiredResource)
	}
	return a.send(ctx, a.twin.Load(), &m)
}

// send sends a message that wants no outcome.
func (a *amqpConn) send(ctx context.Context, on *amqp.Sender, m *amqp.Message) error {
	b, err := m.Append(nil)
	if err != nil {
		return fmt.Errorf("encode AMQP message: %w", err)
	}
	_, err = on.SendWait(ctx, amqp.Sending{Payload: b})
	switch {
	case err == nil, ctx.Err() != nil:
		return err
	case errors.Is(err, amqp.ErrTooLarge):
		return fault.Wrap(err, fault.MessageTooLarge, "%d bytes are more than %s takes", len(b), a.c.cfg.gateway())
	}
	return a.c.because(a.mux.because(err))
}

// twinDelivered takes an answer, which has the request's id, or a change of desired
// properties, which has none.
func (a *amqpConn) twinDelivered(r *amqp.Receiver, d amqp.Delivery) {
	m, ok := a.read(r, d)
	if !ok {
		return
	}
	version, _ := m.Annotations.Integer("version")
	var rid string
	switch id := m.Properties.CorrelationID.(type) {
	case nil:
		a.c.desired(version, m.Body())
		return
	case string:
		rid = id
	case amqp.UUID:
		rid = id.String()
	default:
		return // none of ours
	}
	status, _ := m.Annotations.Integer("status")
	a.c.twin.answer(rid, response{int(status), version, slices.Clone(m.Body())})
}

// read settles and decodes what needs no word from the application.
func (a *amqpConn) read(r *amqp.Receiver, d amqp.Delivery) (m amqp.Message, ok bool) {
	accept(r, d)
	if err := m.Decode(d.Payload); err != nil {
		a.c.cfg.Log.Warn("message of the server cannot be read", "device", a.c.id.Device, "module", a.c.id.Module, "link", r.Name(), "err", err)
		return m, false
	}
	return m, true
}

// methodDelivered takes a call of a direct method.
func (a *amqpConn) methodDelivered(r *amqp.Receiver, d amqp.Delivery) {
	m, ok := a.read(r, d)
	if !ok {
		return
	}
	name, _ := m.ApplicationProperties.Text("IoThub-methodname")
	rid := m.Properties.CorrelationID
	if b, ok := rid.([]byte); ok {
		rid = slices.Clone(b)
	}
	if name == "" || rid == nil {
		a.c.cfg.Log.Warn("direct method without a name or an id is ignored", "device", a.c.id.Device, "module", a.c.id.Module)
		return
	}
	a.c.invoke(call{name: name, rid: rid, payload: slices.Clone(m.Body())})
}

// reply implements protocol.
func (a *amqpConn) reply(ctx context.Context, rid any, r method.Reply) {
	m := amqp.Message{
		Properties:            amqp.Properties{CorrelationID: rid},
		ApplicationProperties: amqp.Map{{Key: "IoThub-status", Value: int32(r.Status)}},
		Data:                  [][]byte{r.Payload},
	}
	if err := a.send(ctx, a.methods.Load(), &m); err != nil && a.c.Err() == nil {
		a.c.cfg.Log.Warn("reply to a direct method cannot be sent", "device", a.c.id.Device, "module", a.c.id.Module, "err", err)
	}
}

// messageDelivered takes a message for the handler.
func (a *amqpConn) messageDelivered(r *amqp.Receiver, d amqp.Delivery) {
	var in amqp.Message
	if err := in.Decode(d.Payload); err != nil {
		a.c.cfg.Log.Warn("message cannot be read and is refused", "device", a.c.id.Device, "module", a.c.id.Module, "err", err)
		if !d.Settled {
			_ = r.Settle(d.ID, amqp.State{Outcome: amqp.Rejected, Error: &amqp.Error{Condition: amqp.ErrDecode}})
		}
		return
	}
	a.inbound.Store(r)
	m := messageOf(&in)
	if !a.c.in.push(delivery{d.ID, d.Settled, m}) {
		a.c.end(fault.New(fault.TooManyInflight, "%s sends more messages than can wait", a.c.cfg.gateway()))
	}
}

// acknowledge implements protocol.
func (a *amqpConn) acknowledge(id uint32) {
	_ = a.inbound.Load().Settle(id, amqp.State{Outcome: amqp.Accepted})
}
