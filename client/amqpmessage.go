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

// telemetry makes AMQP messages of ours, one after the other in the same memory.
type telemetry struct {
	m    amqp.Message
	data [1][]byte
}

// append encodes m, leaving out who sent it, which the server knows.
func (t *telemetry) append(dst []byte, m *message.Message) ([]byte, error) {
	s := &m.System
	t.data[0] = m.Body
	t.m = amqp.Message{
		Annotations:           t.m.Annotations[:0],
		ApplicationProperties: t.m.ApplicationProperties[:0],
		Data:                  t.data[:],
		Properties: amqp.Properties{
			UserID: []byte(s.UserID), To: s.To,
			ContentType: amqp.Symbol(s.ContentType), ContentEncoding: amqp.Symbol(s.ContentEncoding),
			AbsoluteExpiryTime: s.Expiry,
		},
	}
	if s.MessageID != "" {
		t.m.Properties.MessageID = s.MessageID
	}
	if s.CorrelationID != "" {
		t.m.Properties.CorrelationID = s.CorrelationID
	}
	t.note(interfaceAnnotation, s.InterfaceID)
	t.note(componentAnnotation, s.Component)
	created := s.CreationTime
	if at, ok := message.ParseTime(created); ok && created != "" {
		created = at.Format(message.TimeFormat)
	}
	t.add(creationTimeProperty, created)
	t.add(schemaProperty, s.Schema)
	t.add(operationProperty, s.Operation)
	t.add(ackProperty, s.Ack)
	t.add(outputProperty, s.Output)
	for _, p := range m.Properties {
		if p.Name != "" {
			t.m.ApplicationProperties = append(t.m.ApplicationProperties, amqp.Entry{Key: p.Name, Value: p.Value})
		}
	}
	return t.m.Append(dst)
}

func (t *telemetry) note(name amqp.Symbol, value string) {
	if value != "" {
		t.m.Annotations = append(t.m.Annotations, amqp.Entry{Key: name, Value: value})
	}
}

func (t *telemetry) add(name, value string) {
	if value != "" {
		t.m.ApplicationProperties = append(t.m.ApplicationProperties, amqp.Entry{Key: name, Value: value})
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
