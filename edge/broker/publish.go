package broker

import (
	"sync/atomic"
	"time"

	"github.com/selvedge-io/selvedge/lang/route"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/twin"
	"github.com/selvedge-io/selvedge/storage/queue"
)

type counts struct{ received, unrouted atomic.Int64 }

// Counts are numbers of messages since the start.
type Counts struct {
	Received int64 // from modules
	Unrouted int64 // of them those that no route wanted; they are acknowledged and gone
}

// Counts gives the numbers so far.
func (b *Broker) Counts() Counts {
	return Counts{Received: b.counts.received.Load(), Unrouted: b.counts.unrouted.Load()}
}

// publication is the working space of one Publish, used again by later ones.
type publication struct {
	messages []message.Message // as they are kept
	targets  []queue.Target    // of all messages
	ends     []int             // where in targets those of each message end
	routes   []*route.Route

	current *message.Message
	encode  func(dst []byte) []byte
	build   func(a *queue.Appender)
}

func newPublication() *publication {
	p := &publication{}
	p.encode = func(dst []byte) []byte { return p.current.Append(dst) }
	p.build = p.add
	return p
}

// add hands the messages to the queue.
func (p *publication) add(a *queue.Appender) {
	start := 0
	for i, end := range p.ends {
		p.current = &p.messages[i]
		a.Add(p.targets[start:end], p.encode)
		start = end
	}
}

// reset lets go of what points into the caller's buffers.
func (p *publication) reset() {
	clear(p.messages)
	clear(p.targets)
	clear(p.routes[:cap(p.routes)])
	p.messages, p.targets, p.ends, p.routes, p.current = p.messages[:0], p.targets[:0], p.ends[:0], p.routes[:0], nil
}

// Publish implements head.Backend. A message that no route wants is acknowledged too,
// in its turn.
func (b *Broker) Publish(from *ident.Principal, batch []message.Message, done func(error)) {
	p := b.scratch.Get().(*publication)
	if err := b.plan(p, from, batch); err != nil {
		p.ends = p.ends[:0]
		b.cfg.Queue.Append(p.build, func(error) { done(err) }) // empty: the refusal comes in its turn
	} else {
		b.cfg.Queue.Append(p.build, done)
	}
	p.reset()
	b.scratch.Put(p)
}

// plan stamps the messages and finds where they go.
func (b *Broker) plan(p *publication, from *ident.Principal, batch []message.Message) error {
	select {
	case <-b.configured:
	default:
		return fault.New(fault.Unavailable, "the edge broker has no routes yet; send the message again later")
	}
	r := b.table.Load()
	now := time.Now()
	var outbox *queue.Endpoint
	for i := range batch {
		if n := batch[i].Size(); n > message.MaxTelemetry {
			return fault.New(fault.MessageTooLarge, "the message has %d bytes, the most is %d", n, message.MaxTelemetry)
		}
		p.messages = append(p.messages, batch[i])
		m := &p.messages[i]
		s := &m.System
		s.ConnectionDevice, s.ConnectionModule = from.ID.Device, from.ID.Module
		s.Generation, s.AuthMethod = from.Generation, from.Method
		if from.ModelID != "" {
			s.ModelID = from.ModelID
		}
		s.Source, s.Enqueued = message.Telemetry, now
		s.Input, s.Sequence, s.DeliveryCount, s.LockToken = "", 0, 0, ""
		before := len(p.targets)
		var err error
		if outbox, err = b.target(p, r, route.Source{Module: from.ID.Module, Output: s.Output}, from.ID, outbox); err != nil {
			return err
		}
		if len(p.targets) == before {
			b.counts.unrouted.Add(1)
		}
	}
	b.counts.received.Add(int64(len(batch)))
	return nil
}

// target routes the last message of p. outbox is the sender's, once it was needed.
func (b *Broker) target(p *publication, r *routing, src route.Source, sender ident.ID, outbox *queue.Endpoint) (*queue.Endpoint, error) {
	p.routes = r.table.Match(p.routes[:0], src, &p.messages[len(p.messages)-1])
	for _, hit := range p.routes {
		to := r.inputs[hit.Index]
		if to == nil {
			if outbox == nil {
				var err error
				if outbox, err = b.cfg.Parent.Outbox(sender); err != nil {
					return nil, fault.Wrap(err, fault.Unavailable, "the message could not be stored; send it again later")
				}
			}
			to = outbox
		}
		ttl := r.ttl
		if hit.TTL > 0 {
			ttl = hit.TTL
		}
		p.targets = append(p.targets, queue.Target{Endpoint: to, Priority: min(hit.Priority, queue.LowestPriority), TTL: ttl})
	}
	p.ends = append(p.ends, len(p.targets))
	return outbox, nil
}

// twinChanged routes a change of reported properties to whoever wants such (edge-runtime
// 4.1.1). It is a courtesy: the change itself is safe already.
func (b *Broker) twinChanged(patch *twin.Object) {
	r := b.table.Load()
	p := b.scratch.Get().(*publication)
	defer func() {
		p.reset()
		b.scratch.Put(p)
	}()
	p.messages = append(p.messages, message.Message{
		Body: patch.AppendJSON(nil),
		System: message.System{
			ContentType: "application/json", ContentEncoding: "utf-8", Schema: "twinChangeNotification",
			ConnectionDevice: b.self.Device, ConnectionModule: b.self.Module,
			Source: message.TwinChange, Enqueued: time.Now(),
		},
	})
	if _, err := b.target(p, r, route.Source{TwinChange: true}, b.self, nil); err != nil {
		b.log.Warn("change of reported properties is not routed", "err", err)
		return
	}
	if len(p.targets) == 0 {
		return
	}
	b.cfg.Queue.Append(p.build, func(err error) {
		if err != nil {
			b.log.Warn("change of reported properties is not routed", "err", err)
		}
	})
}
