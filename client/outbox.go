package client

import (
	"sync"

	"github.com/selvedge-io/selvedge/model/bag"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

const (
	// Packet ids from 1 up to here are for telemetry, in turn, so that an id says
	// how many were acknowledged; those above are for subscriptions.
	telemetryIDs   = 0x7fff
	firstControlID = 0x8000
	maxWindow      = 16 << 10

	// Bounds of what is encoded at once.
	chunkMessages = 256
	chunkBytes    = 256 << 10
)

// outbox is the telemetry under way on an MQTT connection.
type outbox struct {
	m *mqttConn

	sending sync.Mutex // held by a Publish, so that batches do not mix

	mu       sync.Mutex
	room     sync.Cond // less is under way, or the connection is over
	parcels  []parcel  // not done, oldest first
	next     uint64    // number of the next message
	oldest   uint64    // number of the oldest message that is not acknowledged
	acked    []bool    // by number modulo its length, for those acknowledged early
	bytes    int
	refused  error // nothing is sent any more, and why
	ended    error // the connection is over
	settling bool  // someone calls the done functions
	topic    []byte
}

// parcel is a batch under way.
type parcel struct {
	end   uint64 // number after that of its last message
	bytes int
	err   error // it was never sent
	done  func(error)
}

func (o *outbox) init(m *mqttConn) {
	o.m = m
	o.room.L = &o.mu
	n := 2 * chunkMessages
	for n < m.c.cfg.Window+chunkMessages {
		n *= 2
	}
	o.acked = make([]bool, n)
}

// publish implements protocol, at QoS 1.
func (m *mqttConn) publish(batch []message.Message, done func(error)) {
	o := &m.out
	o.sending.Lock()
	defer o.sending.Unlock()
	refused := checkAll(batch, checkMQTT)
	p := parcel{done: done}
	o.mu.Lock()
	if o.refused == nil {
		o.refused = refused
	}
	for len(batch) > 0 && o.refused == nil && o.ended == nil {
		n, bytes := chunk(batch)
		if o.full(n) {
			o.room.Wait()
			continue
		}
		if err := o.write(batch[:n]); err != nil {
			break // the connection is over, which will fail the parcel
		}
		batch = batch[n:]
		o.bytes += bytes
		p.bytes += bytes
	}
	if len(batch) > 0 {
		p.err = o.refused
	}
	p.end = o.next
	if len(batch) > 0 {
		p.end++ // never acknowledged
	}
	o.parcels = append(o.parcels, p)
	o.mu.Unlock()
	o.settle()
}

// checkMQTT says whether a message fits into a packet that a server takes.
func checkMQTT(m *message.Message) error {
	if err := checkSize(m); err != nil {
		return err
	}
	if 3*(m.Size()-len(m.Body))+32*len(m.Properties) < mqtt.MaxString/2 {
		return nil
	}
	if n := len(bag.AppendTelemetry(nil, m)) + 2*len("devices/") + 2*128 + 32; n > mqtt.MaxString {
		return fault.New(fault.MessageTooLarge, "properties of message take %d bytes of an MQTT topic, the most is %d", n, mqtt.MaxString)
	}
	return nil
}

// chunk says how much of batch to encode at once.
func chunk(batch []message.Message) (n, bytes int) {
	for n < len(batch) && n < chunkMessages && (n == 0 || bytes < chunkBytes) {
		bytes += batch[n].Size()
		n++
	}
	return n, bytes
}

// full says whether n more messages have to wait. It never is when nothing is under
// way. The caller holds o.mu.
func (o *outbox) full(n int) bool {
	under := int(o.next - o.oldest)
	return under > 0 && (under+n > o.m.c.cfg.Window || o.bytes >= o.m.c.cfg.WindowBytes)
}

// write encodes messages into the write buffer. The caller holds o.mu.
func (o *outbox) write(batch []message.Message) error {
	err := o.m.w.Append(func(dst []byte) []byte {
		for i := range batch {
			m := &batch[i]
			o.topic = appendTelemetryTopic(o.topic[:0], o.m.c.id, m)
			p := mqtt.Publish{Payload: m.Body, QoS: 1, ID: uint16(o.next%telemetryIDs) + 1}
			o.acked[o.next%uint64(len(o.acked))] = false
			o.next++
			dst = p.AppendWithTopic(dst, o.topic, mqtt.V311)
		}
		return dst
	})
	if cap(o.topic) > 4<<10 {
		o.topic = nil
	}
	return err
}

// acknowledged takes a PUBACK. Unknown ids are ignored.
func (o *outbox) acknowledged(id uint16) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if id == 0 || id > telemetryIDs {
		return
	}
	ahead := (uint64(id-1) + telemetryIDs - o.oldest%telemetryIDs) % telemetryIDs
	number := o.oldest + ahead
	if number >= o.next {
		return
	}
	o.acked[number%uint64(len(o.acked))] = true
	for o.oldest < o.next && o.acked[o.oldest%uint64(len(o.acked))] {
		o.oldest++
	}
	o.room.Signal() // only the Publish that holds sending waits
}

// settle calls the done functions of what is done, in order: one goroutine at a time,
// which also sees what others change meanwhile.
func (o *outbox) settle() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.settling {
		return
	}
	o.settling = true
	for len(o.parcels) > 0 {
		p := o.parcels[0]
		err := p.err
		switch {
		case p.end <= o.oldest || err != nil:
		case o.ended != nil:
			err = o.ended
		default:
			o.settling = false
			return
		}
		o.parcels[0] = parcel{}
		if o.parcels = o.parcels[1:]; len(o.parcels) == 0 {
			o.parcels = nil
		}
		o.bytes -= p.bytes
		o.room.Signal()
		o.mu.Unlock()
		p.done(err)
		if p.err != nil {
			o.m.c.end(err) // all before it is acknowledged, nothing after it was sent
		}
		o.mu.Lock()
	}
	o.settling = false
}

// refuse lets nothing more be sent; what follows fails with err when all before it is
// acknowledged.
func (o *outbox) refuse(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.refused == nil {
		o.refused = err
	}
	o.room.Broadcast()
}

// stop fails all that is under way and all that will come.
func (o *outbox) stop(err error) {
	o.mu.Lock()
	o.ended = err
	o.room.Broadcast()
	o.mu.Unlock()
	o.settle()
}
