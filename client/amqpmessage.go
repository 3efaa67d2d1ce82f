package client

import (
	"strconv"
	"time"

	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// Names of system properties outside the properties section (device-protocol 4.2).
const (
	creationTimeProperty = "iothub-creation-time-utc"
	schemaProperty       = "iothub-message-schema"
	operationProperty    = "iothub-operation"
	ackProperty          = "iothub-ack"
	outputProperty       = "iothub-outputname"

	interfaceAnnotation     = "iothub-interface-id"
	componentAnnotation     = "dt-subject"
	inputAnnotation         = "x-opt-input-name"
	deviceAnnotation        = "iothub-connection-device-id"
	moduleAnnotation        = "iothub-connection-module-id"
	enqueuedAnnotation      = "iothub-enqueuedtime"
	sequenceAnnotation      = "x-opt-sequence-number"
	deliveryCountAnnotation = "iothub-deliverycount"
	lockTokenAnnotation     = "x-opt-lock-token"
)

// telemetry encodes messages of ours, one after the other in the same memory.
type telemetry struct{ amqp.Builder }

// encode gives m as an AMQP message, valid until the next call. It leaves out who sent
// m, which the server knows.
func (t *telemetry) encode(m *message.Message) ([]byte, error) {
	s := &m.System
	t.Reset()
	t.Annotations()
	t.add(interfaceAnnotation, s.InterfaceID)
	t.add(componentAnnotation, s.Component)
	t.End()
	p := amqp.Properties{
		To: s.To, AbsoluteExpiryTime: s.Expiry,
		ContentType: amqp.Symbol(s.ContentType), ContentEncoding: amqp.Symbol(s.ContentEncoding),
	}
	if s.MessageID != "" {
		p.MessageID = s.MessageID
	}
	if s.CorrelationID != "" {
		p.CorrelationID = s.CorrelationID
	}
	if s.UserID != "" {
		p.UserID = []byte(s.UserID)
	}
	t.Properties(&p)
	t.ApplicationProperties()
	created := s.CreationTime
	if at, ok := message.ParseTime(created); ok {
		created = at.Format(message.TimeFormat)
	}
	t.add(creationTimeProperty, created)
	t.add(schemaProperty, s.Schema)
	t.add(operationProperty, s.Operation)
	t.add(ackProperty, s.Ack)
	t.add(outputProperty, s.Output)
	for i := range m.Properties {
		if q := &m.Properties[i]; q.Name != "" {
			t.Text(q.Name, q.Value)
		}
	}
	t.End()
	t.Data(m.Body)
	return t.Bytes()
}

func (t *telemetry) add(name, value string) {
	if value != "" {
		t.Text(name, value)
	}
}

// messageOf is a message from the server as ours; it shares nothing with in's bytes.
func messageOf(in *amqp.Message) message.Message {
	m := message.Message{Body: append([]byte(nil), in.Body()...)}
	s, p, notes := &m.System, &in.Properties, in.Annotations
	s.MessageID, s.CorrelationID = idText(p.MessageID), idText(p.CorrelationID)
	s.UserID, s.To = string(p.UserID), p.To
	s.ContentType, s.ContentEncoding = string(p.ContentType), string(p.ContentEncoding)
	s.Expiry = p.AbsoluteExpiryTime
	s.Input, _ = notes.Text(inputAnnotation)
	s.ConnectionDevice, _ = notes.Text(deviceAnnotation)
	s.ConnectionModule, _ = notes.Text(moduleAnnotation)
	s.InterfaceID, _ = notes.Text(interfaceAnnotation)
	s.Component, _ = notes.Text(componentAnnotation)
	s.LockToken, _ = notes.Text(lockTokenAnnotation)
	s.Enqueued, _ = notes.Get(enqueuedAnnotation).(time.Time)
	if n, ok := notes.Integer(sequenceAnnotation); ok && n > 0 {
		s.Sequence = uint64(n)
	}
	if n, ok := notes.Integer(deliveryCountAnnotation); ok {
		s.DeliveryCount = uint8(min(max(n, 0), 255))
	}
	for _, e := range in.ApplicationProperties {
		name, isName := e.Key.(string)
		value, isText := e.Value.(string)
		if !isName || !isText {
			continue // SDKs drop other values too (device-protocol 4.1)
		}
		switch name {
		case creationTimeProperty:
			s.CreationTime = value
		case schemaProperty:
			s.Schema = value
		case operationProperty:
			s.Operation = value
		case ackProperty:
			s.Ack = value
		case outputProperty:
			s.Output = value
		default:
			m.Properties = append(m.Properties, message.Property{Name: name, Value: value})
		}
	}
	return m
}

// idText is a message id as text.
func idText(id any) string {
	switch id := id.(type) {
	case string:
		return id
	case amqp.UUID:
		return id.String()
	case []byte:
		return string(id)
	case uint64:
		return strconv.FormatUint(id, 10)
	}
	return ""
}
