package amqphead

import (
	"bytes"
	"hash/maphash"
	"sync"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// Bounds of what goes to the backend at once.
const (
	batchMessages = 128
	batchBytes    = 256 << 10
	// maxInner bounds the messages in one transfer of Microsoft's batch format: tiny
	// ones cost far more memory than the peer's bytes.
	maxInner = 2048
)

// telemetry is a link by which an identity sends telemetry.
type telemetry struct {
	p *peer

	// Owned by the reader.
	pending *batch
	seen    uint64    // hash of the last message's head
	same    *repeated // the head that messages repeat
}

// maxRepeated is the longest head of a message whose meaning a link keeps, in bytes.
const maxRepeated = 1 << 10

// repeated is all of a message but its body, and what that means.
type repeated struct {
	head       []byte
	system     message.System
	properties []message.Property
}

var _ amqp.ReceiverEvents = (*telemetry)(nil)

// span is a range of deliveries that the peer waits for.
type span struct{ first, last uint32 }

// batch is telemetry on its way to the backend. Its messages point into the read
// buffer.
type batch struct {
	link     *amqp.Receiver
	messages []message.Message
	props    []message.Property
	spans    []span
	bytes    int

	outer, inner amqp.View
}

var batches = sync.Pool{New: func() any { return new(batch) }}

// release gives the batch back to the pool.
func (b *batch) release() {
	if cap(b.messages) > 2*batchMessages || cap(b.props) > 16*batchMessages ||
		cap(b.outer.Data) > batchMessages || cap(b.inner.ApplicationProperties) > batchMessages || cap(b.outer.ApplicationProperties) > batchMessages {
		return // something unusual; not worth keeping
	}
	clear(b.messages)
	clear(b.props)
	*b = batch{messages: b.messages[:0], props: b.props[:0], spans: b.spans[:0], outer: b.outer, inner: b.inner}
	batches.Put(b)
}

// Delivered implements amqp.ReceiverEvents: it adds a transfer to the batch and sends
// the batch off when it is full.
func (t *telemetry) Delivered(r *amqp.Receiver, d amqp.Delivery) {
	b := t.pending
	if b == nil {
		b = batches.Get().(*batch)
		b.link = r
		t.pending = b
		t.p.c.dirty = append(t.p.c.dirty, t)
	}
	if err := t.add(b, &d); err != nil {
		if !d.Settled {
			r.Settle(d.ID, amqp.State{Outcome: amqp.Rejected, Error: ErrorOf(err)})
		}
		t.p.c.srv.refuse(t.p.c.remote, "AMQP telemetry refused", "device", t.p.id.Device, "module", t.p.id.Module, "err", err)
		return
	}
	if !d.Settled {
		if n := len(b.spans); n > 0 && b.spans[n-1].last+1 == d.ID {
			b.spans[n-1].last = d.ID
		} else {
			b.spans = append(b.spans, span{d.ID, d.ID})
		}
	}
	b.bytes += len(d.Payload) + perMessage
	if len(b.messages) >= batchMessages || b.bytes >= batchBytes {
		t.flush()
	}
}

// add decodes a transfer. When it fails, nothing of it stays.
func (t *telemetry) add(b *batch, d *amqp.Delivery) (err error) {
	messages, props := len(b.messages), len(b.props)
	defer func() {
		if err != nil {
			b.messages, b.props = b.messages[:messages], b.props[:props]
		}
	}()
	if d.Format != amqp.BatchFormat {
		return t.read(b, d.Payload)
	}
	if err := b.outer.Decode(d.Payload); err != nil {
		return fault.Wrap(err, fault.ArgumentInvalid, "the batch cannot be read")
	}
	switch {
	case b.outer.HasValue || b.outer.Sequences > 0:
		return fault.New(fault.ArgumentInvalid, "the body of a batch must be data")
	case len(b.outer.Data) > maxInner:
		return fault.New(fault.MessageTooLarge, "the batch has %d messages, the most is %d", len(b.outer.Data), maxInner)
	}
	for _, inner := range b.outer.Data {
		if err := t.read(b, inner); err != nil {
			return err
		}
	}
	return nil
}

// read adds one message to the batch.
func (t *telemetry) read(b *batch, payload []byte) (err error) {
	b.messages = append(b.messages, message.Message{})
	out := &b.messages[len(b.messages)-1]
	if !t.repeats(payload, out) {
		if err := b.inner.Decode(payload); err != nil {
			return fault.Wrap(err, fault.ArgumentInvalid, "the message cannot be read")
		}
		if b.props, err = readMessage(&b.inner, out, b.props); err != nil {
			return err
		}
		t.remember(payload[:b.inner.Head])
	}
	if n := out.Size(); n > message.MaxTelemetry {
		return fault.New(fault.MessageTooLarge, "the message has %d bytes, the most is %d", n, message.MaxTelemetry)
	}
	return nil
}

// repeats reads a message that differs in its body only from those before it.
func (t *telemetry) repeats(payload []byte, out *message.Message) bool {
	same := t.same
	if same == nil || !bytes.HasPrefix(payload, same.head) {
		return false
	}
	body, ok := amqp.SoleData(payload[len(same.head):])
	if ok {
		*out = message.Message{Body: body, System: same.system, Properties: same.properties}
	}
	return ok
}

// heads is of the process, which is all a comparison of hashes needs.
var heads = maphash.MakeSeed()

// remember keeps the head of a message that comes a second time in a row. It is a new
// one each time, since messages of the batch may point into the old.
func (t *telemetry) remember(head []byte) {
	h := maphash.Bytes(heads, head)
	if h != t.seen || len(head) > maxRepeated {
		t.seen = h
		return
	}
	kept := &repeated{head: bytes.Clone(head)}
	var view amqp.View
	var m message.Message
	if view.Decode(kept.head) != nil || ReadMessage(&view, &m) != nil {
		return // a head that is whole by itself only with its body
	}
	kept.system, kept.properties = m.System, m.Properties
	t.same = kept
}

// flush gives the batch to the backend. Dispositions follow when it is durable.
func (t *telemetry) flush() {
	b := t.pending
	if b == nil {
		return
	}
	t.pending = nil
	if len(b.messages) == 0 {
		b.settle(amqp.State{Outcome: amqp.Accepted}) // batches of nothing
		b.release()
		return
	}
	p := t.p
	p.c.underway.add(b.bytes)
	r := &receipt{t: t, link: b.link, bytes: b.bytes}
	r.spans = append(r.few[:0], b.spans...)
	p.c.srv.cfg.Backend.Publish(p.who.Load(), b.messages, r.done)
	b.release()
}

func (b *batch) settle(s amqp.State) {
	for _, span := range b.spans {
		b.link.SettleRange(span.first, span.last, s)
	}
}

// receipt is what is left of a batch until the backend has answered for it.
type receipt struct {
	t     *telemetry
	link  *amqp.Receiver
	bytes int
	spans []span
	few   [2]span
}

func (r *receipt) done(err error) {
	state := amqp.State{Outcome: amqp.Accepted}
	c := r.t.p.c
	if err != nil {
		told, tracking := tracked(err)
		state = amqp.State{Outcome: amqp.Rejected, Error: told}
		c.srv.refuse(c.remote, "AMQP telemetry refused", "device", r.t.p.id.Device, "module", r.t.p.id.Module, "tracking", tracking, "err", err)
	}
	for _, s := range r.spans {
		r.link.SettleRange(s.first, s.last, state) // fails when nobody waits any more
	}
	c.underway.done(r.bytes)
}

// Detached implements amqp.ReceiverEvents.
func (t *telemetry) Detached(r *amqp.Receiver, _ error) { t.p.disown(r) }
