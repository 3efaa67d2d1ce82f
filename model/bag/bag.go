// Package bag reads and writes property bags: the properties of a message in an MQTT
// topic, as name=value pairs, percent-encoded and joined by & (device-protocol 4.2
// and 5.8).
package bag

import (
	"strings"
	"unsafe"

	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/percent"
)

// manyProperties is from when on names are looked up in a map, so that a bag full
// of tiny names costs no square of them.
const manyProperties = 32

// Limits of what a Bag that is used again keeps.
const (
	maxKeptText       = 4 << 10
	maxKeptProperties = 4 * manyProperties
)

// Origin is who wrote a bag.
type Origin uint8

// The origins. Of what only a server may say, such as who sent the message, nothing
// is taken from a device.
const (
	FromDevice Origin = iota
	FromServer
)

// Bag is a parsed property bag. Its strings point into the topic it was parsed from
// and into memory of its own, which the next Parse uses again.
type Bag struct {
	System     message.System
	Properties []message.Property
	text       []byte // what percent-decoding made
}

// Parse reads a bag over what b held; b keeps its memory. Any text is a bag: what is
// no escape stands for itself, and of names that repeat the last one wins.
func (b *Bag) Parse(s string, from Origin) {
	b.System = message.System{}
	b.Properties = b.Properties[:0]
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
		if name == "" || b.setSystem(name, value, from) {
			continue
		}
		if index == nil && len(b.Properties) == manyProperties {
			index = make(map[string]int, 2*manyProperties)
			for i, p := range b.Properties {
				index[p.Name] = i
			}
		}
		if i := b.find(name, index); i >= 0 {
			b.Properties[i].Value = value
			continue
		}
		if index != nil {
			index[name] = len(b.Properties)
		}
		b.Properties = append(b.Properties, message.Property{Name: name, Value: value})
	}
}

// Trim gives up memory that an unusually large bag left behind.
func (b *Bag) Trim() {
	if cap(b.text) > maxKeptText || cap(b.Properties) > maxKeptProperties {
		*b = Bag{}
	}
}

func (b *Bag) find(name string, index map[string]int) int {
	if index != nil {
		if i, ok := index[name]; ok {
			return i
		}
		return -1
	}
	for i := range b.Properties {
		if b.Properties[i].Name == name {
			return i
		}
	}
	return -1
}

// decode undoes percent-encoding, in b.text when there is any.
func (b *Bag) decode(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	from := len(b.text)
	b.text = percent.AppendUnescaped(b.text, s)
	n := len(b.text) - from
	return unsafe.String(unsafe.SliceData(b.text[from:]), n)
}

// setSystem takes names that are system properties (device-protocol 4.2). Of a device,
// names that only the service may set are taken and dropped, so nobody can forge them.
func (b *Bag) setSystem(name, value string, from Origin) bool {
	s := &b.System
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
		s.Expiry, _ = message.ParseTime(value)
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
	case "$.cdid", "iothub-connection-device-id":
		if from == FromServer {
			s.ConnectionDevice = value
		}
	case "$.cmid", "iothub-connection-module-id":
		if from == FromServer {
			s.ConnectionModule = value
		}
	case "iothub-connection-auth-method", "iothub-connection-auth-generation-id", "iothub-enqueuedtime", "iothub-message-source":
	default:
		return false
	}
	return true
}
