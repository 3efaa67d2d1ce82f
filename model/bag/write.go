package bag

import (
	"cmp"
	"time"

	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/percent"
)

// AppendTelemetry adds the bag of a message to the cloud or, with an output, to a
// broker's routes: system properties first. Who sent it is left out, since the server
// knows that from the connection.
func AppendTelemetry(dst []byte, m *message.Message) []byte {
	s := &m.System
	w := writer{dst: dst}
	w.add("$.mid", s.MessageID)
	w.time("$.exp", s.Expiry)
	w.add("$.to", s.To)
	w.add("$.cid", s.CorrelationID)
	w.add("$.uid", s.UserID)
	w.add("$.ct", s.ContentType)
	w.add("$.ce", s.ContentEncoding)
	if t, ok := message.ParseTime(s.CreationTime); ok {
		w.time("$.ctime", t)
	} else {
		w.add("$.ctime", s.CreationTime)
	}
	w.add("$.schema", s.Schema)
	w.add("$.on", s.Output)
	w.add("$.ifid", s.InterfaceID)
	w.add("$.sub", s.Component)
	w.add("iothub-operation", s.Operation)
	w.add("iothub-ack", s.Ack)
	w.properties(m.Properties)
	return w.dst
}

// AppendToDevice adds the bag of a cloud-to-device message, in the order of the
// Hub: system properties first, always with one (device-protocol 5.8.3).
func AppendToDevice(dst []byte, id ident.ID, m *message.Message) []byte {
	s := &m.System
	w := writer{dst: dst}
	w.add("$.mid", s.MessageID)
	w.time("$.exp", s.Expiry)
	if s.To != "" {
		w.add("$.to", s.To)
	} else {
		w.add("$.to", "/"+id.Resource()+"/messages/devicebound")
	}
	w.add("$.cid", s.CorrelationID)
	w.add("$.uid", s.UserID)
	w.add("$.ct", s.ContentType)
	w.add("$.ce", s.ContentEncoding)
	w.creation(s.CreationTime)
	switch s.Ack {
	case "none", "positive", "negative", "full": // .NET throws on others
		w.add("iothub-ack", s.Ack)
	}
	w.add("iothub-operation", s.Operation)
	w.properties(m.Properties)
	return w.dst
}

// AppendInput adds the bag of a message to a module's input. The sender is always in
// it, since .NET needs one system property.
func AppendInput(dst []byte, id ident.ID, m *message.Message) []byte {
	s := &m.System
	w := writer{dst: dst}
	w.add("$.mid", s.MessageID)
	w.add("$.cid", s.CorrelationID)
	w.add("$.uid", s.UserID)
	w.add("$.ct", s.ContentType)
	w.add("$.ce", s.ContentEncoding)
	w.creation(s.CreationTime)
	w.add("$.schema", s.Schema)
	w.add("$.ifid", s.InterfaceID)
	w.add("$.sub", s.Component)
	w.add("$.cdid", cmp.Or(s.ConnectionDevice, id.Device))
	w.add("$.cmid", s.ConnectionModule)
	w.add("iothub-operation", s.Operation)
	w.properties(m.Properties)
	return w.dst
}

// writer joins pairs by '&', all percent-encoded.
type writer struct {
	dst  []byte
	pair bool // one was written
}

func (w *writer) name(name string) {
	if w.pair {
		w.dst = append(w.dst, '&')
	}
	w.pair = true
	w.dst = percent.AppendEscaped(w.dst, name)
	w.dst = append(w.dst, '=') // also before nothing: Python refuses a bare name
}

func (w *writer) add(name, value string) {
	if value != "" {
		w.name(name)
		w.dst = percent.AppendEscaped(w.dst, value)
	}
}

func (w *writer) time(name string, t time.Time) {
	if t.IsZero() {
		return
	}
	var text [len(message.TimeFormat)]byte
	w.name(name)
	for _, c := range t.UTC().AppendFormat(text[:0], message.TimeFormat) {
		if c == ':' {
			w.dst = append(w.dst, "%3A"...)
		} else {
			w.dst = append(w.dst, c)
		}
	}
}

// creation writes the creation time in the one form .NET reads, or not at all.
func (w *writer) creation(s string) {
	if t, ok := message.ParseTime(s); ok {
		w.time("$.ctime", t)
	}
}

func (w *writer) properties(ps []message.Property) {
	for _, p := range ps {
		if p.Name != "" {
			w.name(p.Name)
			w.dst = percent.AppendEscaped(w.dst, p.Value)
		}
	}
}
