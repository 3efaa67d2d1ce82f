// Package message is the one message type of Selvedge: a head makes it once from
// what the device sent, the queue keeps it once, and every reader sees the same.
package message

import "time"

// Limits (device-protocol 4.4 and 9.1), in bytes.
const (
	MaxTelemetry = 256 << 10 // body, properties' names and values
	MaxToDevice  = 64 << 10  // cloud-to-device
)

// Sources of messages (iothub-message-source).
const (
	Telemetry  = "Telemetry"
	TwinChange = "twinChangeEvents"
)

// Property is one application property. Order is kept; names may repeat only if
// the sender repeated them.
type Property struct {
	Name  string
	Value string
}

// Message is a telemetry, cloud-to-device or module message.
//
// A Message handed to a function is valid during the call only, unless the
// function says otherwise: its body and strings may point into a read buffer.
// Clone makes one that lasts.
type Message struct {
	Body       []byte
	System     System
	Properties []Property
}

// System holds the system properties. An empty string or zero means absent.
// Names on the wire are in device-protocol 4.2 and 4.3.
type System struct {
	// Set by the sender.
	MessageID       string
	CorrelationID   string
	UserID          string
	To              string
	ContentType     string
	ContentEncoding string
	CreationTime    string // as sent
	Expiry          time.Time
	Schema          string // iothub-message-schema
	Operation       string
	Ack             string // none, positive, negative, full
	Output          string // the module's output the message left by
	InterfaceID     string // security messages
	Component       string // PnP component, dt-subject

	// Set by whoever accepts or delivers the message.
	Input            string // the module's input it arrives at
	ConnectionDevice string
	ConnectionModule string
	Generation       string // connection-auth-generation-id
	AuthMethod       string // JSON text
	ModelID          string // dt-dataschema
	Source           string // iothub-message-source
	Enqueued         time.Time
	Sequence         uint64
	DeliveryCount    uint8
	LockToken        string // GUID text
}

// Size is what counts against MaxTelemetry and MaxToDevice: body, values of the
// sender's system properties, names and values of application properties.
func (m *Message) Size() int {
	s := &m.System
	n := len(m.Body) + len(s.MessageID) + len(s.CorrelationID) + len(s.UserID) + len(s.To) +
		len(s.ContentType) + len(s.ContentEncoding) + len(s.CreationTime) + len(s.Schema) +
		len(s.Operation) + len(s.Ack) + len(s.Output) + len(s.InterfaceID) + len(s.Component)
	for _, p := range m.Properties {
		n += len(p.Name) + len(p.Value)
	}
	return n
}

// Get is the value of the first application property of that exact name.
func (m *Message) Get(name string) (string, bool) {
	for _, p := range m.Properties {
		if p.Name == name {
			return p.Value, true
		}
	}
	return "", false
}
