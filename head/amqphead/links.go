package amqphead

import (
	"strings"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// errReplaced ends a link that another one of its kind takes the place of.
var errReplaced = &amqp.Error{Condition: amqp.ErrStolen, Description: "another link of this kind was opened for the identity"}

// accept answers yes to a link of an identity that has proved itself.
func (p *peer) accept(w wanted) {
	in := w.in
	switch {
	case w.at == events && in.Role == amqp.RoleReceiver:
		p.receive(in, p.c.srv.cfg.Window, &telemetry{p: p})
	case w.at == events:
		p.inputs.accept(in)
	case w.at == deviceBound:
		p.toDevice.accept(in)
	case w.at == twinTalk:
		p.acceptTwin(in)
	case w.at == methodCalls:
		p.acceptMethods(in)
	}
}

// receive opens a link on which the identity sends.
func (p *peer) receive(in *amqp.Incoming, window uint32, events amqp.ReceiverEvents) (*amqp.Receiver, bool) {
	r, err := in.Receiver(amqp.Accepting{}, amqp.Receiving{Window: window}, events)
	if err != nil {
		return nil, false // it has lost interest
	}
	return r, p.take(r)
}

// send opens a link on which the identity receives.
func (p *peer) send(in *amqp.Incoming, events amqp.SenderEvents) (*amqp.Sender, bool) {
	s, err := in.Sender(amqp.Accepting{}, events)
	if err != nil {
		return nil, false
	}
	return s, p.take(s)
}

// take makes l one of the identity's links, unless that is over.
func (p *peer) take(l link) bool {
	if p.own(l) {
		return true
	}
	l.Detach(ErrorOf(fault.New(fault.Unavailable, "the identity is leaving the connection; attach again")))
	return false
}

// pairOf is what tells which twin or method links belong together (device-protocol
// 6.6.2): the text behind the first colon, or all of it.
func pairOf(in *amqp.Incoming) string {
	text, _ := in.Properties.Text("com.microsoft:channel-correlation-id")
	if _, rest, ok := strings.Cut(text, ":"); ok {
		return rest
	}
	return text
}
