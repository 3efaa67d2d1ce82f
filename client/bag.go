package client

import (
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/trust/sas"
)

// timeFormat is the one form of time all peers parse (device-protocol 5.8.4).
const timeFormat = "2006-01-02T15:04:05.0000000Z"

// appendTelemetryBag adds the property bag of a message to the cloud or, with an
// output, to a broker's routes (device-protocol 4.2 and 5.8): system properties first.
// Who sent it is left out, since the server knows that from the connection.
func appendTelemetryBag(dst []byte, m *message.Message) []byte {
	s := &m.System
	w := bagWriter{dst: dst}
	w.add("%24.mid", s.MessageID)
	if !s.Expiry.IsZero() {
		w.add("%24.exp", s.Expiry.UTC().Format(timeFormat))
	}
	w.add("%24.to", s.To)
	w.add("%24.cid", s.CorrelationID)
	w.add("%24.uid", s.UserID)
	w.add("%24.ct", s.ContentType)
	w.add("%24.ce", s.ContentEncoding)
	w.add("%24.ctime", canonicalTime(s.CreationTime))
	w.add("%24.schema", s.Schema)
	w.add("%24.on", s.Output)
	w.add("%24.ifid", s.InterfaceID)
	w.add("%24.sub", s.Component)
	w.add("iothub-operation", s.Operation)
	w.add("iothub-ack", s.Ack)
	for _, p := range m.Properties {
		if p.Name != "" {
			w.next()
			w.dst = append(appendEscaped(w.dst, p.Name), '=')
			w.dst = appendEscaped(w.dst, p.Value)
		}
	}
	return w.dst
}

// bagWriter joins pairs by '&'. Names given to add are encoded already.
type bagWriter struct {
	dst []byte
	any bool
}

func (w *bagWriter) add(name, value string) {
	if value != "" {
		w.next()
		w.dst = append(append(w.dst, name...), '=')
		w.dst = appendEscaped(w.dst, value)
	}
}

func (w *bagWriter) next() {
	if w.any {
		w.dst = append(w.dst, '&')
	}
	w.any = true
}

// canonicalTime is s in the one form that every server reads, or s itself when it is
// no time.
func canonicalTime(s string) string {
	if s == "" {
		return ""
	}
	if t, ok := parseTime(s); ok {
		return t.Format(timeFormat)
	}
	return s
}

// parseTime reads the forms of ISO 8601 in use; without a zone it is UTC.
func parseTime(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}

// parseBag reads what follows devicebound/ or the input's name in a topic.
func parseBag(bag string, m *message.Message) {
	bag = strings.TrimSuffix(strings.TrimPrefix(bag, "?"), "/")
	for bag != "" {
		var pair string
		pair, bag, _ = strings.Cut(bag, "&")
		name, value, _ := strings.Cut(pair, "=")
		name, value = sas.Unescape(name), sas.Unescape(value)
		if name != "" && !setSystem(&m.System, name, value) {
			m.Properties = append(m.Properties, message.Property{Name: name, Value: value})
		}
	}
}

// setSystem takes names that are system properties.
func setSystem(s *message.System, name, value string) bool {
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
	case "$.ctime":
		s.CreationTime = value
	case "$.schema":
		s.Schema = value
	case "$.on":
		s.Output = value
	case "$.ifid":
		s.InterfaceID = value
	case "$.sub":
		s.Component = value
	case "$.cdid":
		s.ConnectionDevice = value
	case "$.cmid":
		s.ConnectionModule = value
	case "iothub-operation":
		s.Operation = value
	case "iothub-ack":
		s.Ack = value
	default:
		return false
	}
	return true
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
