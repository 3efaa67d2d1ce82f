package client

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/selvedge-io/selvedge/model/bag"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

// listen implements protocol.
func (m *mqttConn) listen(ctx context.Context, f flow) error {
	switch f {
	case twinAnswers:
		return m.subscribe(ctx, twinRes+"#", 0)
	case desiredChanges:
		return m.subscribe(ctx, desiredPush+"#", 0)
	case methodCalls:
		return m.subscribe(ctx, methodPost+"#", 0)
	default:
		return m.subscribe(ctx, messageFilter(m.c.id), 1)
	}
}

// request implements protocol, at QoS 0.
func (m *mqttConn) request(_ context.Context, op twinOp, rid string, body []byte) error {
	prefix := twinGet
	if op == patchTwin {
		prefix = twinPatch
	}
	p := mqtt.Publish{Topic: prefix + rid, Payload: body}
	if err := p.Check(); err != nil {
		return err
	}
	if err := m.w.Append(func(b []byte) []byte { return p.Append(b, mqtt.V311) }); err != nil {
		return m.c.because(err)
	}
	return nil
}

// reply implements protocol, at QoS 0: TCP brings it or the caller's time runs out.
func (m *mqttConn) reply(_ context.Context, rid any, r method.Reply) {
	p := mqtt.Publish{Topic: methodRes + strconv.Itoa(r.Status) + "/?$rid=" + rid.(string), Payload: r.Payload}
	if err := p.Check(); err != nil {
		m.c.cfg.Log.Warn("reply to a direct method cannot be sent", "device", m.c.id.Device, "module", m.c.id.Module, "err", err)
		return
	}
	// A broken connection is the reader's to find.
	_ = m.w.Append(func(b []byte) []byte { return p.Append(b, mqtt.V311) })
}

// acknowledge implements protocol: it sends the PUBACK of a publish at QoS 1.
func (m *mqttConn) acknowledge(id uint32) {
	if id != 0 {
		p := mqtt.Ack{Type: mqtt.TypePuback, ID: uint16(id)}
		// A broken connection is the reader's to find; the message comes again.
		_ = m.w.Append(func(b []byte) []byte { return p.Append(b, mqtt.V311) })
	}
}

// published takes a PUBLISH of any kind.
func (m *mqttConn) published(f mqtt.Frame) error {
	var p mqtt.Publish
	if err := p.Decode(f); err != nil {
		return err
	}
	if p.QoS == 2 {
		return fmt.Errorf("%w: a server must not send PUBLISH at QoS 2 here", mqtt.ErrMalformed)
	}
	t := parseTopic(p.Topic, m.c.id)
	if t.kind == toDevice || t.kind == toInput {
		m.bag.Parse(t.bag, bag.FromServer)
		got := message.Message{Body: p.Payload, System: m.bag.System, Properties: m.bag.Properties}
		got.System.Input = t.name
		if !m.c.in.push(delivery{uint32(p.ID), p.QoS == 0, got.Clone()}) {
			return fault.New(fault.TooManyInflight, "%s sends more messages than can wait", m.c.cfg.gateway())
		}
		return nil
	}
	m.acknowledge(uint32(p.ID))
	switch t.kind {
	case twinAnswer:
		m.c.twin.answer(t.rid, response{t.status, t.version, slices.Clone(p.Payload)})
	case desiredChange:
		m.c.desired(t.version, p.Payload)
	case methodCall:
		m.c.invoke(call{name: string([]byte(t.name)), rid: string([]byte(t.rid)), payload: slices.Clone(p.Payload)})
	default:
		m.c.cfg.Log.Debug("message on an unknown topic is ignored", "device", m.c.id.Device, "module", m.c.id.Module, "topic", p.Topic)
	}
	return nil
}
