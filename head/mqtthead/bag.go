package mqtthead

import (
	"strings"
	"time"
	"unsafe"

	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
)

// timeFormat is the one form of time all SDKs parse (device-protocol 5.8.4).
const timeFormat = "2006-01-02T15:04:05.0000000Z"

// manyProperties is from when on names are looked up in a map, so that a bag full
// of tiny names costs no square of them.
const manyProperties = 32

// bag is a parsed property bag. Its strings point into the topic it was parsed from
// and into text.
type bag struct {
	system     message.System
	properties []message.Property
	text       []byte // what percent-decoding made
}

// parse reads a bag (device-protocol 5.8.2) over what b held; b keeps its memory.
func (b *bag) parse(s string) {
	b.system = message.System{}
	b.properties = b.properties[:0]
	b.text = b.text[:0]
	if cap(b.text) < len(s) && strings.IndexByte(s, '%') >= 0 {
		b.text = make([]byte, 0, len(s)) // grows no more, so strings into it stay
	}
	s = strings.TrimPrefix(s, "?")
	s = strings.TrimSuffix(s, "/")
	var index map[string]int
	for s != "" {
		var pair string
		pair, s, _ = strings.Cut(s, "&")
		name, value, _ := strings.Cut(pair, "=")
		name, value = b.decode(name), b.decode(value)
		if name == "" || b.setSystem(name, value) {
			continue
		}
		if index == nil && len(b.properties) == manyProperties {
			index = make(map[string]int, 2*manyProperties)
			for i, p := range b.properties {
				index[p.Name] = i
			}
		}
		if i := b.find(name, index); i >= 0 {
			b.properties[i].Value = value // the last one wins
			continue
		}
		if index != nil {
			index[name] = len(b.properties)
		}
		b.properties = append(b.properties, message.Property{Name: name, Value: value})
	}
}

func (b *bag) find(name string, index map[string]int) int {
	if index != nil {
		if i, ok := index[name]; ok {
			return i
		}
		return -1
	}
	for i := range b.properties {
		if b.properties[i].Name == name {
			return i
		}
	}
	return -1
}

// decode undoes percent-encoding, in b.text when there is any.
func (b *bag) decode(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	from := len(b.text)
	b.text = appendUnescaped(b.text, s)
	n := len(b.text) - from
	return unsafe.String(unsafe.SliceData(b.text[from:]), n)
}

// setSystem takes names that are system properties (device-protocol 4.2). Names
// that only the service may set are taken and dropped, so nobody can forge them.
func (b *bag) setSystem(name, value string) bool {
	s := &b.system
	switch name {
	case "$.mid":
		s.MessageID = value
	case "$.cid":
		s.CorrelationID = value
	case "$.uid":
		s.UserID = value
	case "$.to":
		s.To = value
	case "$.exp":
		s.Expiry, _ = parseTime(value)
	case "$.ct":
		s.ContentType = value
	case "$.ce":
		s.ContentEncoding = value
	case "$.ctime", "iothub-creation-time-utc":
		s.CreationTime = value
	case "$.schema", "iothub-message-schema":
		s.Schema = value
	case "$.on":
		s.Output = value
	case "$.ifid", "iothub-interface-id":
		s.InterfaceID = value
	case "$.sub":
		s.Component = value
	case "iothub-operation":
		s.Operation = value
	case "iothub-ack":
		s.Ack = value
	case "$.cdid", "$.cmid",
		"iothub-connection-device-id", "iothub-connection-module-id", "iothub-connection-auth-method",
		"iothub-connection-auth-generation-id", "iothub-enqueuedtime", "iothub-message-source":
	default:
		return false
	}
	return true
}

// parseTime reads the forms of ISO 8601 that SDKs send; without a zone it is UTC.
func parseTime(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}

// writer of bags: pairs joined by '&', all percent-encoded.
type bagWriter struct {
	dst  []byte
	pair bool // one was written
}

func (w *bagWriter) name(name string) {
	if w.pair {
		w.dst = append(w.dst, '&')
	}
	w.pair = true
	w.dst = appendEscaped(w.dst, name)
	w.dst = append(w.dst, '=') // also before nothing: Python refuses a bare name
}

func (w *bagWriter) add(name, value string) {
	if value != "" {
		w.name(name)
		w.dst = appendEscaped(w.dst, value)
	}
}

func (w *bagWriter) time(name string, t time.Time) {
	if !t.IsZero() {
		var text [len(timeFormat)]byte
		w.name(name)
		for _, c := range t.UTC().AppendFormat(text[:0], timeFormat) {
			if c == ':' {
				w.dst = append(w.dst, "%3A"...)
			} else {
				w.dst = append(w.dst, c)
			}
		}
	}
}

func (w *bagWriter) properties(ps []message.Property) {
	for _, p := range ps {
		if p.Name != "" {
			w.name(p.Name)
			w.dst = appendEscaped(w.dst, p.Value)
		}
	}
}

// appendToDeviceBag adds the bag of a cloud-to-device message, in the order of the
// Hub: system properties first, always with one (device-protocol 5.8.3).
func appendToDeviceBag(dst []byte, id ident.ID, m *message.Message) []byte {
	s := &m.System
	w := bagWriter{dst: dst}
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

// appendInputBag adds the bag of a message to a module's input. The sender is
// always in it, since .NET needs one system property.
func appendInputBag(dst []byte, id ident.ID, m *message.Message) []byte {
	s := &m.System
	w := bagWriter{dst: dst}
	w.add("$.mid", s.MessageID)
	w.add("$.cid", s.CorrelationID)
	w.add("$.uid", s.UserID)
	w.add("$.ct", s.ContentType)
	w.add("$.ce", s.ContentEncoding)
	w.creation(s.CreationTime)
	w.add("$.schema", s.Schema)
	w.add("$.ifid", s.InterfaceID)
	w.add("$.sub", s.Component)
	if s.ConnectionDevice != "" {
		w.add("$.cdid", s.ConnectionDevice)
	} else {
		w.add("$.cdid", id.Device)
	}
	w.add("$.cmid", s.ConnectionModule)
	w.add("iothub-operation", s.Operation)
	w.properties(m.Properties)
	return w.dst
}

// creation writes the creation time in the one form .NET reads, or not at all.
func (w *bagWriter) creation(s string) {
	if s != "" {
		if t, ok := parseTime(s); ok {
			w.time("$.ctime", t)
		}
	}
}

const upperHex = "0123456789ABCDEF"

// appendEscaped percent-encodes all but A-Za-z0-9-_.~ with upper-case digits.
func appendEscaped(dst []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
			c == '-' || c == '_' || c == '.' || c == '~' {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return dst
}
