package amqphead

import (
	"encoding/binary"
	"encoding/hex"
	"sync"

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

	locks uuid.UUID // the tokens of locks begin like it
}

var _ amqp.SenderEvents = (*pipe)(nil)

func (x *pipe) init(p *peer, f head.Flow) {
	x.p, x.flow, x.locks = p, f, uuid.New()
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
	x.p.mu.Lock()
	current := x.last == s
	if current {
		x.last = nil
	}
	x.p.mu.Unlock()
	if current {
		// Messages for devices stay locked, so what waits may go by the next link.
		if x.flow == head.Inputs {
			x.giveBack()
		}
		x.box.detach(s, true)
		x.p.want(x.flow, false)
	}
	x.p.disown(s)
}

// giveBack abandons what waits.
func (x *pipe) giveBack() {
	for _, waiting := range x.box.unsent() {
		x.p.att.Settle(x.flow, waiting.token, head.Abandoned)
	}
}

// Disposed implements amqp.SenderEvents: it does what the peer decided (device-protocol
// 6.8 and 6.11).
func (x *pipe) Disposed(s *amqp.Sender, d amqp.Disposition) {
	outcome := head.Completed
	switch d.State.Outcome {
	case amqp.Lost:
		if x.flow == head.ToDevice {
			return // it stays locked for its time
		}
		outcome = head.Abandoned // the next link may be there before the flow is shut
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
		x.giveBack() // it comes again before what waits, so that has to come after it
	}
	if !d.Settled { // second mode: .NET waits for this
		s.Settle(d.ID, amqp.State{Outcome: amqp.Accepted})
	}
}

// builders encode deliveries; what is sent is copied.
var builders = sync.Pool{New: func() any { return new(amqp.Builder) }}

// maxKept is the largest buffer that goes back to the pool, in bytes.
const maxKept = 64 << 10

// Deliver implements head.Device.
func (p *peer) Deliver(f head.Flow, batch []head.Delivery) {
	x := &p.toDevice
	if f == head.Inputs {
		x = &p.inputs
	}
	b := builders.Get().(*amqp.Builder)
	for i := range batch {
		d := &batch[i]
		tag, lock := x.lockOf(d.Message.System.LockToken, d.Token)
		buildDelivery(b, f, p.id, d.Message, lock)
		payload, err := b.Bytes()
		if err != nil {
			p.later(f, d.Token, head.Rejected)
			continue
		}
		// What finds no room stays unsettled, and comes again.
		x.box.put(parcel{payload: payload, delivery: true, tag: tag, token: d.Token, same: d.Message.System.Sequence})
	}
	if kept, _ := b.Bytes(); cap(kept) <= maxKept {
		builders.Put(b)
	}
}

// lockOf is the delivery-tag for a lock token, which .NET reads as a GUID: its bytes
// with the first three groups little-endian. A message without one gets one that is
// unique on its link.
func (x *pipe) lockOf(text string, token uint64) (tag [16]byte, lock string) {
	id, err := uuid.Parse(text)
	if err != nil {
		id = x.locks
		binary.BigEndian.PutUint64(id[8:], token^binary.BigEndian.Uint64(x.locks[8:]))
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

// buildDelivery encodes a message on its way to a device or to a module's input
// (device-protocol 4.2). C wants all application properties to be strings.
func buildDelivery(b *amqp.Builder, f head.Flow, id ident.ID, m *message.Message, lock string) {
	s := &m.System
	text := func(key, v string) {
		if v != "" {
			b.Text(key, v)
		}
	}
	to := s.To
	b.Reset()
	b.Annotations()
	b.Text("x-opt-lock-token", lock)
	if f == head.ToDevice {
		if to == "" {
			to = "/" + id.Resource() + "/messages/devicebound"
		}
		b.Ulong("x-opt-sequence-number", s.Sequence)
		if !s.Enqueued.IsZero() {
			b.Time("iothub-enqueuedtime", s.Enqueued)
		}
		b.Ubyte("iothub-deliverycount", s.DeliveryCount)
	} else {
		b.Text("x-opt-input-name", s.Input)
		if s.ConnectionDevice != "" {
			b.Text("iothub-connection-device-id", s.ConnectionDevice)
		} else {
			b.Text("iothub-connection-device-id", id.Device)
		}
		text("iothub-connection-module-id", s.ConnectionModule)
		text(noteInterface, s.InterfaceID)
		text(noteComponent, s.Component)
	}
	b.End()
	properties := amqp.Properties{
		To:                 to,
		ContentType:        amqp.Symbol(s.ContentType),
		ContentEncoding:    amqp.Symbol(s.ContentEncoding),
		AbsoluteExpiryTime: s.Expiry,
	}
	if s.MessageID != "" {
		properties.MessageID = s.MessageID
	}
	if s.CorrelationID != "" {
		properties.CorrelationID = s.CorrelationID
	}
	if s.UserID != "" {
		properties.UserID = []byte(s.UserID)
	}
	b.Properties(&properties)
	b.ApplicationProperties()
	text(propCreation, creation(s.CreationTime))
	if f == head.Inputs {
		text(propSchema, s.Schema)
	} else {
		switch s.Ack {
		case "none", "positive", "negative", "full": // .NET throws on others
			b.Text(propAck, s.Ack)
		}
	}
	text(propOperation, s.Operation)
	for i := range m.Properties {
		if m.Properties[i].Name != "" {
			b.Text(m.Properties[i].Name, m.Properties[i].Value)
		}
	}
	b.End()
	b.Data(m.Body)
}

// creation is the creation time in the one form that .NET reads, or nothing.
func creation(s string) string {
	if s == "" {
		return ""
	}
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
