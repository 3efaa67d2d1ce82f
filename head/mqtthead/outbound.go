package mqtthead

import (
	"strconv"
	"sync"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/model/bag"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

// maxControl bounds the publishes at QoS 1 that are no deliveries and that the
// client has not acknowledged: beyond, they go out at QoS 0.
const maxControl = 256

// maxKeptTopic is the largest buffer for topics that a connection keeps.
const maxKeptTopic = 4 << 10

// maxUnacknowledged keeps half of the packet ids free, so that finding one is quick.
const maxUnacknowledged = 1 << 15

// outgoing is a publish the client has to acknowledge.
type outgoing struct {
	id    uint16
	used  bool
	flow  head.Flow // head.Flows when it is no delivery
	token uint64
}

// outbound hands out packet ids and knows what each is for.
type outbound struct {
	mu      sync.Mutex
	slots   []outgoing // the id's place is its low bits; length a power of two
	last    uint16
	used    int
	control int // of used, those that are no deliveries
	topic   []byte
}

// take gives a free packet id; zero when there is none.
func (o *outbound) take(flow head.Flow, token uint64) uint16 {
	if flow == head.Flows && o.control >= maxControl || o.used >= maxUnacknowledged {
		return 0
	}
	if 2*o.used >= len(o.slots) {
		o.grow()
	}
	for {
		if o.last++; o.last == 0 {
			o.last = 1
		}
		slot := &o.slots[int(o.last)&(len(o.slots)-1)]
		if slot.used {
			continue
		}
		*slot = outgoing{o.last, true, flow, token}
		o.used++
		if flow == head.Flows {
			o.control++
		}
		return o.last
	}
}

// grow doubles the ring. Ids that differed in their low bits still do.
func (o *outbound) grow() {
	old := o.slots
	o.slots = make([]outgoing, max(16, 2*len(old)))
	for _, out := range old {
		if out.used {
			o.slots[int(out.id)&(len(o.slots)-1)] = out
		}
	}
}

// settle frees an id; ok is false when it is not in use.
func (o *outbound) settle(id uint16) (out outgoing, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.slots) == 0 {
		return outgoing{}, false
	}
	slot := &o.slots[int(id)&(len(o.slots)-1)]
	if !slot.used || slot.id != id {
		return outgoing{}, false
	}
	out = *slot
	slot.used = false
	if o.used--; out.flow == head.Flows {
		o.control--
	}
	return out, true
}

// Deliver implements head.Device: it encodes into the write buffer.
func (s *session) Deliver(f head.Flow, batch []head.Delivery) {
	kind := flowOf[f]
	qos := byte(1)
	if s.grants.Load().qos[kind] == 1 { // not when it has just unsubscribed: QoS 0 settles
		qos = 0
	}
	o := &s.out
	o.mu.Lock()
	defer o.mu.Unlock()
	var written *[]uint64 // at QoS 0 they are complete then: there will be no PUBACK
	var then func()
	if qos == 0 {
		tokens := make([]uint64, 0, len(batch))
		written = &tokens
		then = func() { s.settleAll(f, tokens, head.Completed) }
	}
	var rejected []uint64
	exhausted := false
	encode := func(dst []byte) []byte {
		for i := range batch {
			d := &batch[i]
			o.topic = s.appendTopic(o.topic[:0], f, d)
			p := mqtt.Publish{Payload: d.Message.Body, QoS: qos}
			switch {
			case len(o.topic) > mqtt.MaxString:
				rejected = append(rejected, d.Token)
				continue
			case qos == 0:
				*written = append(*written, d.Token)
			default:
				if p.ID = o.take(f, d.Token); p.ID == 0 {
					exhausted = true
					return dst
				}
				p.Dup = d.Duplicate
			}
			dst = p.AppendWithTopic(dst, o.topic, mqtt.V311)
		}
		return dst
	}
	// A broken connection gives its deliveries back when it is detached.
	_ = s.w.AppendThen(encode, then)
	if exhausted { // what was not sent comes back when the connection ends
		s.end(errNoIDs)
	}
	if cap(o.topic) > maxKeptTopic {
		o.topic = nil
	}
	if len(rejected) > 0 {
		s.rejectAll(f, rejected)
	}
}

// rejectAll settles deliveries that MQTT cannot carry.
func (s *session) rejectAll(f head.Flow, tokens []uint64) {
	s.srv.cfg.Log.Warn("properties of message do not fit into an MQTT topic", append(s.names(), "messages", len(tokens))...)
	_ = s.w.AppendThen(func(dst []byte) []byte { return dst }, func() { s.settleAll(f, tokens, head.Rejected) })
}

// settleAll settles in the flusher's goroutine, where no lock of ours is held.
func (s *session) settleAll(f head.Flow, tokens []uint64, o head.Outcome) {
	for _, token := range tokens {
		s.att.Settle(f, token, o)
	}
}

// appendTopic adds the topic of a delivery.
func (s *session) appendTopic(dst []byte, f head.Flow, d *head.Delivery) []byte {
	dst = appendOwn(dst, s.id)
	if f == head.Inputs {
		dst = append(dst, "inputs/"...)
		dst = append(dst, d.Message.System.Input...)
		dst = append(dst, '/')
		return bag.AppendInput(dst, s.id, d.Message)
	}
	dst = append(dst, "messages/devicebound/"...)
	return bag.AppendToDevice(dst, s.id, d.Message)
}

// appendOwn adds devices/{d}/ or devices/{d}/modules/{m}/; ids stand raw.
func appendOwn(dst []byte, id ident.ID) []byte {
	dst = append(dst, "devices/"...)
	dst = append(dst, id.Device...)
	if id.Module != "" {
		dst = append(dst, "/modules/"...)
		dst = append(dst, id.Module...)
	}
	return append(dst, '/')
}

// Desired implements head.Device.
func (s *session) Desired(version int64, patch []byte) {
	topic := strconv.AppendInt(append(make([]byte, 0, 64), desiredPush+"?$version="...), version, 10)
	s.push(grantDesired, topic, patch)
}

// push sends what is no delivery at the QoS granted, if it is subscribed to.
func (s *session) push(kind grantKind, topic, payload []byte) {
	granted := s.grants.Load().qos[kind]
	if granted == 0 {
		return
	}
	if s.w.Buffered() > maxBuffered {
		s.end(errSlow)
		return
	}
	if len(topic) > mqtt.MaxString {
		return // request ids are bounded, so this is no answer
	}
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	p := mqtt.Publish{Payload: payload}
	if granted > 1 {
		if p.ID = s.out.take(head.Flows, 0); p.ID != 0 {
			p.QoS = 1
		}
	}
	// An error here is that of the connection, which its reader will see.
	_ = s.w.Append(func(dst []byte) []byte { return p.AppendWithTopic(dst, topic, mqtt.V311) })
}
