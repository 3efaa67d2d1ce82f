package amqphead

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/method"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

const (
	// maxCalls bounds the direct methods that a device has not answered.
	maxCalls = 100
	// controlWindow is the credit for links whose messages are requests or answers.
	controlWindow = 100
)

// Names of properties (device-protocol 6.10).
const (
	propMethod = "IoThub-methodname"
	propStatus = "IoThub-status"
)

// methodLinks are the links of an identity for direct methods, and the calls under way.
type methodLinks struct {
	box outbox
	pair[*amqp.Sender, *amqp.Receiver]

	number atomic.Uint64 // of the last call

	mu    sync.Mutex
	calls map[amqp.UUID]chan result
	over  bool
}

// pair is two links that belong together. It is guarded by peer.mu.
type pair[Out, In link] struct {
	out     Out
	in      In
	hasOut  bool
	hasIn   bool
	outPair string
	inPair  string
}

type result struct {
	reply method.Reply
	err   error
}

// acceptMethods takes a link for direct methods in.
func (p *peer) acceptMethods(in *amqp.Incoming) {
	m := &p.methods
	if in.Role == amqp.RoleReceiver {
		r, ok := p.receive(in, controlWindow, amqp.ReceiverFuncs{OnDelivered: p.methodAnswer, OnDetached: func(r *amqp.Receiver, _ error) {
			p.mu.Lock()
			m.lostIn(r)
			p.mu.Unlock()
			p.disown(r)
		}})
		if ok {
			p.mu.Lock()
			old := m.setIn(r, pairOf(in))
			p.mu.Unlock()
			replace(old)
		}
		return
	}
	s, ok := p.send(in, replies{&m.box, func(s *amqp.Sender) {
		m.box.detach(s, false)
		p.mu.Lock()
		current := m.lostOut(s)
		p.mu.Unlock()
		if current {
			p.want(head.Methods, false)
		}
		p.disown(s)
	}})
	if !ok {
		return
	}
	p.mu.Lock()
	old := m.setOut(s, pairOf(in))
	p.mu.Unlock()
	replace(old)
	m.box.attach(s)
	p.want(head.Methods, true)
}

// setOut makes l the link to the peer and gives those that it ends.
func (x *pair[Out, In]) setOut(l Out, text string) (old []link) {
	if x.hasOut {
		old = append(old, x.out)
	}
	if x.hasIn && text != "" && x.inPair != "" && x.inPair != text {
		old = append(old, x.in)
	}
	x.out, x.hasOut, x.outPair = l, true, text
	return old
}

// setIn makes l the link from the peer and gives those that it ends.
func (x *pair[Out, In]) setIn(l In, text string) (old []link) {
	if x.hasIn {
		old = append(old, x.in)
	}
	if x.hasOut && text != "" && x.outPair != "" && x.outPair != text {
		old = append(old, x.out)
	}
	x.in, x.hasIn, x.inPair = l, true, text
	return old
}

func (x *pair[Out, In]) lostOut(l Out) (current bool) {
	if current = x.hasOut && link(x.out) == link(l); current {
		x.hasOut = false
	}
	return current
}

func (x *pair[Out, In]) lostIn(l In) {
	if x.hasIn && link(x.in) == link(l) {
		x.hasIn = false
	}
}

func replace(old []link) {
	for _, l := range old {
		l.Detach(errReplaced)
	}
}

// begin registers a call.
func (m *methodLinks) begin(id amqp.UUID) (answered chan result, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.over:
		return nil, errClosed
	case len(m.calls) >= maxCalls:
		return nil, fault.New(fault.TooManyInflight, "the device has %d direct methods to answer already", maxCalls)
	case m.calls == nil:
		m.calls = map[amqp.UUID]chan result{}
	}
	answered = make(chan result, 1)
	m.calls[id] = answered
	return answered, nil
}

// take takes a call out; it is nil when the call is not under way.
func (m *methodLinks) take(id amqp.UUID) chan result {
	m.mu.Lock()
	defer m.mu.Unlock()
	answered := m.calls[id]
	delete(m.calls, id)
	return answered
}

// stop fails all calls: the identity has left.
func (m *methodLinks) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over = true
	for id, answered := range m.calls {
		answered <- result{err: errClosed}
		delete(m.calls, id)
	}
}

// null is sent for a call without payload: Node parses whatever comes, and C wants a
// data section.
var null = []byte("null")

// Invoke implements head.Device.
func (p *peer) Invoke(ctx context.Context, c *method.Call) (method.Reply, error) {
	if len(c.Name) > method.MaxName {
		return method.Reply{}, fault.New(fault.ArgumentInvalid, "methodName has %d characters, the most is %d", len(c.Name), method.MaxName)
	}
	id := newUUID()
	m := amqp.Message{
		Properties:            amqp.Properties{CorrelationID: id},
		ApplicationProperties: amqp.Map{{Key: propMethod, Value: c.Name}},
		Data:                  [][]byte{c.Payload},
	}
	if len(c.Payload) == 0 {
		m.Data[0] = null
	}
	b, err := m.Append(nil)
	if err != nil {
		return method.Reply{}, fault.Wrap(err, fault.ArgumentInvalid, "the method cannot be told over AMQP")
	}
	answered, err := p.methods.begin(id)
	if err != nil {
		return method.Reply{}, err
	}
	defer p.methods.take(id)
	number := p.methods.number.Add(1)
	if !p.methods.box.put(parcel{payload: b, same: number}) {
		return method.Reply{}, fault.New(fault.DeviceNotOnline, "device %s listens for no direct methods", p.id)
	}
	select {
	case r := <-answered:
		return r.reply, r.err
	case <-ctx.Done():
		p.methods.box.drop(number) // if it is still here
		return method.Reply{}, fault.Wrap(ctx.Err(), fault.GatewayTimeout, "device %s did not answer method %s in time", p.id, c.Name)
	}
}

// methodAnswer takes an answer of the peer.
func (p *peer) methodAnswer(r *amqp.Receiver, d amqp.Delivery) {
	state := amqp.State{Outcome: amqp.Accepted}
	var m amqp.Message
	if err := m.Decode(d.Payload); err != nil {
		state = amqp.State{Outcome: amqp.Rejected, Error: ErrorOf(fault.Wrap(err, fault.ArgumentInvalid, "the answer cannot be read"))}
	} else if id, ok := uuidOf(m.Properties.CorrelationID); ok {
		if answered := p.methods.take(id); answered != nil {
			answered <- resultOf(&m)
		}
	}
	if !d.Settled {
		r.Settle(d.ID, state)
	}
}

// resultOf judges an answer; an empty payload means null.
func resultOf(m *amqp.Message) result {
	status, ok := m.ApplicationProperties.Integer(propStatus)
	if !ok {
		if text, isText := m.ApplicationProperties.Text(propStatus); isText {
			n, err := strconv.ParseInt(text, 10, 32)
			status, ok = n, err == nil
		}
	}
	payload := m.Body()
	if text, isText := m.Value.(string); isText {
		payload = []byte(text)
	}
	switch {
	case !ok || int64(int32(status)) != status:
		return result{err: fault.New(fault.BadGateway, "the device answered without a status")}
	case len(payload) > method.MaxPayload:
		return result{err: fault.New(fault.BadGateway, "the device answered with %d bytes, the most is %d", len(payload), method.MaxPayload)}
	case len(payload) > 0 && !json.Valid(payload):
		return result{err: fault.New(fault.BadGateway, "the device answered with something that is not JSON")}
	}
	return result{reply: method.Reply{Status: int(status), Payload: slices.Clone(payload)}}
}
