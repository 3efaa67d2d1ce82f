package service

import (
	"strconv"
	"time"

	"github.com/selvedge-io/selvedge/hub/events"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// eventWriter encodes events as Event Hubs has them (service-protocol 10.4). It keeps
// its memory.
type eventWriter struct {
	to     amqp.Builder
	offset []byte
	names  map[string]struct{} // of properties, where there are many
}

// manyProperties is from how many on repetitions are not looked for pair by pair.
const manyProperties = 16

// metrics are the state of a partition that some receivers want to know with each
// event.
type metrics struct {
	events.Info
	at time.Time
}

// encode gives e as an encoded message, valid until the next call.
func (w *eventWriter) encode(e *events.Event, m *metrics) ([]byte, error) {
	w.to.Reset()
	if m != nil {
		w.to.DeliveryAnnotations()
		w.to.Long("last_enqueued_sequence_number", m.Last)
		w.to.Text("last_enqueued_offset", strconv.FormatInt(m.LastOffset, 10))
		w.to.Time("last_enqueued_time_utc", m.LastTime)
		w.to.Time("runtime_info_retrieval_time_utc", m.at)
		w.to.End()
	}
	w.annotate(e)
	s := &e.Message.System
	p := amqp.Properties{
		To:                 s.To,
		ContentType:        amqp.Symbol(s.ContentType),
		ContentEncoding:    amqp.Symbol(s.ContentEncoding),
		AbsoluteExpiryTime: s.Expiry,
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
	if s.CreationTime != "" {
		p.CreationTime, _ = message.ParseTime(s.CreationTime) // annotated too, as it stands
	}
	w.to.Properties(&p)
	w.to.ApplicationProperties()
	w.some("iothub-message-schema", s.Schema)
	for i, p := range e.Message.Properties {
		if !w.repeats(e.Message.Properties[:i], p.Name) {
			w.to.Text(p.Name, p.Value)
		}
	}
	w.to.End()
	w.to.Data(e.Message.Body)
	return w.to.Bytes()
}

func (w *eventWriter) annotate(e *events.Event) {
	s := &e.Message.System
	w.to.Annotations()
	w.to.Long("x-opt-sequence-number", e.Sequence)
	w.offset = strconv.AppendInt(w.offset[:0], e.Offset, 10)
	w.to.Text("x-opt-offset", string(w.offset))
	w.to.Time("x-opt-enqueued-time", e.Enqueued)
	w.some("x-opt-partition-key", s.ConnectionDevice)
	w.some("iothub-connection-device-id", s.ConnectionDevice)
	w.some("iothub-connection-module-id", s.ConnectionModule)
	w.some("iothub-connection-auth-generation-id", s.Generation)
	w.some("iothub-connection-auth-method", s.AuthMethod)
	if !s.Enqueued.IsZero() {
		w.to.Time("iothub-enqueuedtime", s.Enqueued)
	}
	w.some("iothub-message-source", s.Source)
	w.some("dt-dataschema", s.ModelID)
	w.some("dt-subject", s.Component)
	w.some("iothub-interface-id", s.InterfaceID)
	w.some("iothub-creation-time-utc", s.CreationTime)
	w.some("iothub-operation", s.Operation)
	w.some("iothub-outputname", s.Output)
	w.to.End()
}

func (w *eventWriter) some(key, v string) {
	if v != "" {
		w.to.Text(key, v)
	}
}

// repeats says whether a property has the name of one before it: a map has a key once
// only (AMQP 1.6.23), a message may repeat itself.
func (w *eventWriter) repeats(before []message.Property, name string) bool {
	if len(before) < manyProperties {
		for i := range before {
			if before[i].Name == name {
				return true
			}
		}
		return false
	}
	if len(before) == manyProperties {
		w.names = make(map[string]struct{}, 2*manyProperties)
		for i := range before {
			w.names[before[i].Name] = struct{}{}
		}
	}
	_, seen := w.names[name]
	w.names[name] = struct{}{}
	return seen
}
