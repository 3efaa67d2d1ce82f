package mqtthead

import (
	"fmt"
	"hash/maphash"
	"sync"

	"github.com/selvedge-io/selvedge/model/bag"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

// Bounds of one batch for the backend.
const (
	batchMessages = 128
	batchBytes    = 256 << 10
)

// maxCachedTopic is the longest topic whose parsed form a connection keeps.
const maxCachedTopic = 1 << 10

// cachedTopic is the telemetry topic a connection repeats, with what it means.
type cachedTopic struct {
	topic string
	bag   bag.Bag
}

// batch is telemetry on its way to the backend. Its messages point into the read
// buffer and into its bags.
type batch struct {
	messages []message.Message
	ids      []uint16  // of those at QoS 1
	bags     []bag.Bag // for topics that are not cached
	used     int       // bags in use
	bytes    int
	most     int // messages that may be in it
}

var batches = sync.Pool{New: func() any { return new(batch) }}

// release gives the batch back to the pool. A nil batch is none.
func (b *batch) release() {
	if b == nil {
		return
	}
	clear(b.messages)
	b.messages, b.ids, b.used, b.bytes = b.messages[:0], b.ids[:0], 0, 0
	batches.Put(b)
}

// nextBag is a bag to parse into, good until release.
func (b *batch) nextBag() *bag.Bag {
	if b.used == len(b.bags) {
		// Bags in use are pointed to by value only, so growing moves nothing.
		b.bags = append(b.bags, bag.Bag{})
	}
	g := &b.bags[b.used]
	b.used++
	g.Trim()
	return g
}

// published takes a PUBLISH of any kind.
func (s *session) published(f mqtt.Frame) error {
	var p mqtt.Publish
	if err := p.Decode(f); err != nil {
		return err
	}
	if p.QoS == 2 {
		return violated("publish to %.200q at QoS 2, which is not supported", p.Topic)
	}
	if s.topic != nil && p.Topic == s.topic.topic {
		return s.telemetry(&p, &s.topic.bag)
	}
	kind, rest := classify(p.Topic, s.id)
	switch kind {
	case telemetry:
		if s.pending == nil {
			s.pending = batches.Get().(*batch)
		}
		g := s.pending.nextBag()
		g.Parse(rest, bag.FromDevice)
		return s.telemetry(&p, g)
	case foreign:
		return violated("publish to %.200q is not allowed", p.Topic)
	}
	s.flush()
	if p.QoS == 1 && s.acks.wait(s.srv.cfg.Window, s.srv.cfg.WindowBytes) == 0 {
		return s.cause()
	}
	if kind == methodAnswer {
		s.methods.answer(rest, p.Payload)
		if p.QoS == 1 {
			s.acks.done(s.acks.add([]uint16{p.ID}, 1, 0), s.w)
		}
		return nil
	}
	return s.twinRequest(kind, rest, &p)
}

// telemetry adds a message to the batch and sends the batch off when it is full.
func (s *session) telemetry(p *mqtt.Publish, g *bag.Bag) error {
	b := s.pending
	if b == nil {
		b = batches.Get().(*batch)
		s.pending = b
	}
	if len(b.messages) == 0 {
		if b.most = s.acks.wait(s.srv.cfg.Window, s.srv.cfg.WindowBytes); b.most == 0 {
			return s.cause()
		}
		b.most = min(b.most, batchMessages)
	}
	m := message.Message{Body: p.Payload, System: g.System, Properties: g.Properties}
	if p.Retain || p.Dup {
		m.Properties = withFlags(m.Properties, p)
	}
	size := m.Size()
	if size > message.MaxTelemetry {
		return fault.New(fault.MessageTooLarge, "telemetry message has %d bytes, the most is %d", size, message.MaxTelemetry)
	}
	b.messages = append(b.messages, m)
	b.bytes += len(p.Topic) + len(p.Payload)
	if p.QoS == 1 {
		b.ids = append(b.ids, p.ID)
	}
	if s.topic == nil || g != &s.topic.bag {
		s.remember(p.Topic)
	}
	if len(b.messages) >= b.most || b.bytes >= batchBytes {
		s.flush()
	}
	return nil
}

// withFlags adds what RETAIN and DUP become, without touching ps.
func withFlags(ps []message.Property, p *mqtt.Publish) []message.Property {
	out := make([]message.Property, len(ps), len(ps)+2)
	copy(out, ps)
	if p.Retain {
		out = append(out, message.Property{Name: "mqtt-retain", Value: "true"})
	}
	if p.Dup {
		out = append(out, message.Property{Name: "mqtt-dup", Value: "true"})
	}
	return out
}

// topicSeed is of the process, which is all a comparison of hashes needs.
var topicSeed = maphash.MakeSeed()

// remember caches the parsed form of a topic that comes a second time in a row. It
// is a new one each time, since messages of the batch may point into the old.
func (s *session) remember(topic string) {
	h := maphash.String(topicSeed, topic)
	if h != s.seen || len(topic) > maxCachedTopic {
		s.seen = h
		return
	}
	kept := &cachedTopic{topic: string([]byte(topic))}
	_, rest := classify(kept.topic, s.id)
	kept.bag.Parse(rest, bag.FromDevice)
	s.topic = kept
}

// flush gives the batch to the backend. PUBACKs follow when it is durable.
func (s *session) flush() {
	b := s.pending
	if b == nil {
		return
	}
	s.pending = nil
	defer b.release()
	if len(b.messages) == 0 || s.cause() != nil {
		return
	}
	n := s.acks.add(b.ids, len(b.messages), b.bytes)
	s.srv.cfg.Backend.Publish(s.who, b.messages, func(err error) {
		if err != nil {
			// MQTT has no other way to refuse (device-protocol 5.11).
			s.end(fmt.Errorf("telemetry refused: %w", err))
			return
		}
		s.acks.done(n, s.w)
	})
}
