package amqphead

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"

	"github.com/google/uuid"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// pipe is a flow of deliveries to an identity and the link that it goes by.
type pipe struct {
	p    *peer
	flow head.Flow
	box  outbox
	last *amqp.Sender // under peer.mu
}

var _ amqp.SenderEvents = (*pipe)(nil)

func (x *pipe) init(p *peer, f head.Flow) {
	x.p, x.flow = p, f
	x.box.sent = func(d parcel) { p.later(f, d.token, head.Completed) }
	x.box.failed = func(d parcel, err error) {
		p.c.srv.refuse(p.c.remote, "message does not fit the AMQP link of the device", "device", p.id.Device, "module", p.id.Module, "err", err)
		p.later(f, d.token, head.Rejected)
	}
}

// accept takes the link, in place of an older one.
func (x *pipe) accept(in *amqp.Incoming) {
	s, ok := x.p.send(in, x)
	if !ok {
		return
	}
	x.p.mu.Lock()
	old := x.last
	x.last = s
	x.p.mu.Unlock()
	if old != nil {
		old.Detach(errReplaced)
	}
	x.box.attach(s)
	x.p.want(x.flow, true)
}

// Ready implements amqp.SenderEvents.
func (x *pipe) Ready(*amqp.Sender) { x.box.ready() }

// Detached implements amqp.SenderEvents.
func (x *pipe) Detached(s *amqp.Sender, _ error) {
	// Messages of inputs go back to their queue when the flow is shut; those for
	// devices stay locked, so that what waits may go by the next link.
	x.box.detach(s, x.flow == head.ToDevice)
	x.p.mu.Lock()
	current := x.last == s
	if current {
		x.last = nil
	}
	x.p.mu.Unlock()
	if current {
		x.p.want(x.flow, false)
	}
	x.p.disown(s)
}

// Disposed implements amqp.SenderEvents: it does what the peer decided (device-protocol
// 6.8 and 6.11).
func (x *pipe) Disposed(s *amqp.Sender, d amqp.Disposition) {
	outcome := head.Completed
	switch d.State.Outcome {
	case amqp.Lost:
		return // it stays unsettled until the backend gives it out again
	case amqp.Rejected:
		if outcome = head.Rejected; x.flow == head.Inputs {
			outcome = head.Abandoned // a module that refuses shall have it again
		}
	case amqp.Released, amqp.Modified:
		outcome = head.Abandoned
	}
	token, _ := d.Ref.(uint64)
	x.p.att.Settle(x.flow, token, outcome)
	if outcome == head.Abandoned && x.flow == head.Inputs {
		// It comes again before what waits, so that has to come after it.
		for _, waiting := range x.box.unsent() {
			x.p.att.Settle(x.flow, waiting.token, head.Abandoned)
		}
	}
	if !d.Settled { // second mode: .NET waits for this
		s.Settle(d.ID, amqp.State{Outcome: amqp.Accepted})
	}
}

// Deliver implements head.Device.
func (p *peer) Deliver(f head.Flow, batch []head.Delivery) {
	x := &p.toDevice
	if f == head.Inputs {
		x = &p.inputs
	}
	for i := range batch {
		d := &batch[i]
		tag, lock := lockOf(d.Message.System.LockToken)
		b, err := appendDelivery(nil, f, p.id, d.Message, lock)
		if err != nil {
			p.later(f, d.Token, head.Rejected)
			continue
		}
		// What finds no room stays unsettled, and comes again.
		x.box.put(parcel{payload: b, tag: tag[:], token: d.Token, same: d.Message.System.Sequence})
	}
}

// lockOf is the delivery-tag for a lock token, which .NET reads as a GUID: its bytes
// with the first three groups little-endian. A message without one gets one.
func lockOf(text string) (tag [16]byte, lock string) {
	id, err := uuid.Parse(text)
	if err != nil {
		rand.Read(id[:]) // never fails
		id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
		text = id.String()
	}
	return guid(id), text
}

// guid is the byte order of .NET.
func guid(id [16]byte) (b [16]byte) {
	binary.LittleEndian.PutUint32(b[:], binary.BigEndian.Uint32(id[:]))
	binary.LittleEndian.PutUint16(b[4:], binary.BigEndian.Uint16(id[4:]))
	binary.LittleEndian.PutUint16(b[6:], binary.BigEndian.Uint16(id[6:]))
	copy(b[8:], id[8:])
	return b
}

// appendDelivery encodes a message on its way to a device or to a module's input
// (device-protocol 4.2). C wants all application properties to be strings.
func appendDelivery(dst []byte, f head.Flow, id ident.ID, m *message.Message, lock string) ([]byte, error) {
	s := &m.System
	out := amqp.Message{
		Properties: amqp.Properties{
			To:                 s.To,
			ContentType:        amqp.Symbol(s.ContentType),
			ContentEncoding:    amqp.Symbol(s.ContentEncoding),
			AbsoluteExpiryTime: s.Expiry,
		},
		Data: [][]byte{m.Body},
	}
	if s.MessageID != "" {
		out.Properties.MessageID = s.MessageID
	}
	if s.CorrelationID != "" {
		out.Properties.CorrelationID = s.CorrelationID
	}
	if s.UserID != "" {
		out.Properties.UserID = []byte(s.UserID)
	}
	note := func(key amqp.Symbol, v any) {
		out.Annotations = append(out.Annotations, amqp.Entry{Key: key, Value: v})
	}
	text := func(key amqp.Symbol, v string) {
		if v != "" {
			note(key, v)
		}
	}
	note("x-opt-lock-token", lock)
	if f == head.ToDevice {
		note("x-opt-sequence-number", s.Sequence)
		if !s.Enqueued.IsZero() {
			note("iothub-enqueuedtime", s.Enqueued)
		}
		note("iothub-deliverycount", s.DeliveryCount)
		if s.To == "" {
			out.Properties.To = "/" + id.Resource() + "/messages/devicebound"
		}
	} else {
		note("x-opt-input-name", s.Input)
		device := s.ConnectionDevice
		if device == "" {
			device = id.Device
		}
		note("iothub-connection-device-id", device)
		text("iothub-connection-module-id", s.ConnectionModule)
		text(noteInterface, s.InterfaceID)
		text(noteComponent, s.Component)
	}
	property := func(name, v string) {
		if v != "" {
			out.ApplicationProperties = append(out.ApplicationProperties, amqp.Entry{Key: name, Value: v})
		}
	}
	property(propCreation, creation(s.CreationTime))
	if f == head.Inputs {
		property(propSchema, s.Schema)
	}
	property(propOperation, s.Operation)
	switch s.Ack {
	case "none", "positive", "negative", "full": // .NET throws on others
		if f == head.ToDevice {
			property(propAck, s.Ack)
		}
	}
	for _, p := range m.Properties {
		if p.Name != "" {
			out.ApplicationProperties = append(out.ApplicationProperties, amqp.Entry{Key: p.Name, Value: p.Value})
		}
	}
	return out.Append(dst)
}

// creation is the creation time in the one form that .NET reads, or nothing.
func creation(s string) string {
	t, ok := message.ParseTime(s)
	if !ok {
		return ""
	}
	return t.Format(message.TimeFormat)
}

// newUUID is a random one, as AMQP has them.
func newUUID() amqp.UUID { return amqp.UUID(uuid.New()) }

// uuidOf reads a uuid in any form that a client may make of it.
func uuidOf(v any) (amqp.UUID, bool) {
	switch v := v.(type) {
	case amqp.UUID:
		return v, true
	case []byte:
		if len(v) == 16 {
			return amqp.UUID(v), true
		}
		id, err := uuid.ParseBytes(v)
		return amqp.UUID(id), err == nil
	case string:
		if len(v) == 32 {
			var id amqp.UUID
			_, err := hex.Decode(id[:], []byte(v))
			return id, err == nil
		}
		id, err := uuid.Parse(v)
		return amqp.UUID(id), err == nil
	}
	return amqp.UUID{}, false
}
