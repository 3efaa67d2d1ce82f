package amqphead

import (
	"bytes"
	"context"
	"strings"
	"sync"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/head/problem"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// Bounds of twin requests that wait, per identity.
const (
	maxRequests     = 256
	maxRequestBytes = 1 << 20
)

// twinOp is what a twin request asks for.
type twinOp uint8

const (
	twinUnknown twinOp = iota
	twinGet
	twinPatch
	twinSubscribe
	twinUnsubscribe
)

// twinRequest is a request of the peer. Nothing of it points into the read buffer.
type twinRequest struct {
	op   twinOp
	id   any // to be echoed, with its type
	what string
	body []byte
}

// twinLinks are the links of an identity for its twin, and the requests that wait for
// a worker, which lives only while there are some.
type twinLinks struct {
	box outbox
	pair[*amqp.Sender, *amqp.Receiver]

	mu    sync.Mutex
	queue []twinRequest
	bytes int
	busy  bool
	over  bool
}

// acceptTwin takes a twin link in.
func (p *peer) acceptTwin(in *amqp.Incoming) {
	t := &p.twin
	if in.Role == amqp.RoleReceiver {
		r, ok := p.receive(in, controlWindow, amqp.ReceiverFuncs{OnDelivered: p.twinRequested, OnDetached: func(r *amqp.Receiver, _ error) {
			p.mu.Lock()
			t.lostIn(r)
			p.mu.Unlock()
			p.disown(r)
		}})
		if ok {
			p.mu.Lock()
			old := t.setIn(r, pairOf(in))
			p.mu.Unlock()
			replace(old)
		}
		return
	}
	s, ok := p.send(in, replies{&t.box, func(s *amqp.Sender) {
		t.box.detach(s, false)
		p.mu.Lock()
		current := t.lostOut(s)
		p.mu.Unlock()
		if current { // the peer asks anew on its next link
			p.want(head.Desired, false)
		}
		p.disown(s)
	}})
	if !ok {
		return
	}
	p.mu.Lock()
	old := t.setOut(s, pairOf(in))
	p.mu.Unlock()
	replace(old)
	t.box.attach(s)
}

// Operations and resources of twin requests (device-protocol 6.9).
const (
	noteOperation   = "operation"
	noteResource    = "resource"
	resourceDesired = "/notifications/twin/properties/desired"
	resourceReport  = "/properties/reported"
)

// readTwinRequest reads a message to the twin.
func readTwinRequest(payload []byte) (q twinRequest, err error) {
	var m amqp.Message
	if err := m.Decode(payload); err != nil {
		return q, fault.Wrap(err, fault.ArgumentInvalid, "the twin request cannot be read")
	}
	if q.id = m.Properties.CorrelationID; q.id == nil {
		q.id = m.Properties.MessageID
	}
	if b, ok := q.id.([]byte); ok {
		q.id = bytes.Clone(b)
	}
	operation, _ := m.Annotations.Text(noteOperation)
	resource, _ := m.Annotations.Text(noteResource)
	q.what = operation + " " + resource
	resource = "/" + strings.Trim(resource, "/")
	switch {
	case strings.EqualFold(operation, "GET"):
		q.op = twinGet
	case strings.EqualFold(operation, "PATCH") && strings.EqualFold(resource, resourceReport):
		q.op = twinPatch
		if text, ok := m.Value.(string); ok {
			q.body = []byte(text)
		} else {
			q.body = bytes.Clone(m.Body())
		}
	case strings.EqualFold(operation, "PUT") && strings.EqualFold(resource, resourceDesired):
		q.op = twinSubscribe
	case strings.EqualFold(operation, "DELETE") && strings.EqualFold(resource, resourceDesired):
		q.op = twinUnsubscribe
	}
	return q, nil
}

// twinRequested takes a request of the peer.
func (p *peer) twinRequested(r *amqp.Receiver, d amqp.Delivery) {
	q, err := readTwinRequest(d.Payload)
	if !d.Settled {
		state := amqp.State{Outcome: amqp.Accepted}
		if err != nil {
			state = amqp.State{Outcome: amqp.Rejected, Error: ErrorOf(err)}
		}
		r.Settle(d.ID, state)
	}
	if err == nil && !p.enqueue(q) {
		p.answerFault(&q, fault.New(fault.Throttled, "too many twin requests are waiting; send fewer at a time"))
	}
}

// enqueue gives q to the worker, starting it when there is none. It is false when too
// much waits already.
func (p *peer) enqueue(q twinRequest) bool {
	t := &p.twin
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return true // and nobody waits for the answer
	}
	if len(t.queue) >= maxRequests || t.bytes > 0 && t.bytes+len(q.body) > maxRequestBytes {
		return false
	}
	t.queue = append(t.queue, q)
	t.bytes += len(q.body)
	if !t.busy {
		t.busy = true
		p.c.Go(func(context.Context) { p.workTwin() })
	}
	return true
}

// workTwin answers requests, one after the other, until none is left.
func (p *peer) workTwin() {
	t := &p.twin
	for {
		t.mu.Lock()
		if len(t.queue) == 0 || t.over {
			t.queue, t.busy = nil, false
			t.mu.Unlock()
			return
		}
		q := t.queue[0]
		t.queue = t.queue[1:]
		t.bytes -= len(q.body)
		t.mu.Unlock()
		p.answerTwin(&q)
	}
}

// stop drops what waits: the identity has left.
func (t *twinLinks) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
}

// answerTwin carries a request out and sends the result.
func (p *peer) answerTwin(q *twinRequest) {
	ctx, cancel := context.WithTimeout(p.c.ctx, backendTimeout)
	defer cancel()
	backend := p.c.srv.cfg.Backend
	switch q.op {
	case twinGet:
		twin, err := backend.Twin(ctx, p.id)
		if err != nil {
			p.answerFault(q, err)
			return
		}
		p.reply(q, 200, 0, twin)
	case twinPatch:
		// The Hub ignores a version that comes with a patch over AMQP.
		version, err := backend.Report(ctx, p.id, q.body, 0)
		if err != nil {
			p.answerFault(q, err)
			return
		}
		p.reply(q, 204, version, nil)
	case twinSubscribe, twinUnsubscribe:
		p.mu.Lock()
		p.open[head.Desired] = q.op == twinSubscribe
		p.mu.Unlock()
		p.sync() // what changes after the answer is announced
		p.reply(q, 200, 0, nil)
	default:
		p.answerFault(q, fault.New(fault.ArgumentInvalid, "the twin has no operation %.100q", q.what))
	}
}

// reply sends the answer to q. One to a request without an id would be taken for a
// change of desired properties.
func (p *peer) reply(q *twinRequest, status int, version int64, body []byte) {
	if q.id == nil {
		return
	}
	m := amqp.Message{
		Annotations: amqp.Map{{Key: amqp.Symbol("status"), Value: int32(status)}},
		Properties:  amqp.Properties{CorrelationID: q.id},
		Data:        [][]byte{body},
	}
	if version != 0 {
		m.Annotations = append(m.Annotations, amqp.Entry{Key: amqp.Symbol("version"), Value: version})
	}
	p.tell(&m)
}

// answerFault sends an error, whose body is never empty (device-protocol 6.9).
func (p *peer) answerFault(q *twinRequest, err error) {
	if p.c.ctx.Err() != nil {
		return // the connection is over and so is the request
	}
	body, tracking := problem.JSON(err)
	p.c.srv.refuse(p.c.remote, "twin request refused", "device", p.id.Device, "module", p.id.Module, "tracking", tracking, "err", err)
	p.reply(q, fault.CodeOf(err).Status(), 0, body)
}

// Desired implements head.Device.
func (p *peer) Desired(version int64, patch []byte) {
	p.tell(&amqp.Message{
		Annotations: amqp.Map{{Key: amqp.Symbol("version"), Value: version}},
		Data:        [][]byte{patch},
	})
}

// tell sends on the twin link. A peer that lets too much wait loses its links.
func (p *peer) tell(m *amqp.Message) {
	b, err := m.Append(nil)
	if err != nil {
		return // ids came from the wire, so they have a form there
	}
	if p.twin.box.put(parcel{payload: b}) {
		return
	}
	p.mu.Lock()
	attached := p.twin.hasOut
	p.mu.Unlock()
	if attached {
		p.end(fault.New(fault.QuotaExceeded, "too many messages wait for credit on the twin link"))
	}
}
