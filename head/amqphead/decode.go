package amqphead

import (
	"strconv"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// Names of application properties and annotations (device-protocol 4.2).
const (
	propCreation  = "iothub-creation-time-utc"
	propSchema    = "iothub-message-schema"
	propOperation = "iothub-operation"
	propAck       = "iothub-ack"
	propOutput    = "iothub-outputname"
	noteInterface = "iothub-interface-id"
	noteComponent = "dt-subject"
)

// ReadMessage makes a message of what a client sent. It points into what in points
// into. The error is fault.ArgumentInvalid.
func ReadMessage(in *amqp.View, out *message.Message) error {
	_, err := readMessage(in, out, nil)
	return err
}

// readMessage is ReadMessage that appends the properties to props, whose grown form is
// returned.
func readMessage(in *amqp.View, out *message.Message, props []message.Property) ([]message.Property, error) {
	*out = message.Message{}
	switch {
	case len(in.Data) > 0:
		out.Body = in.Body()
	case in.HasValue:
		switch v := in.Value.Any().(type) {
		case nil:
		case string:
			out.Body = []byte(v)
		case []byte:
			out.Body = v
		default:
			return props, fault.New(fault.ArgumentInvalid, "the body must be data, not a value of type %T", v)
		}
	case in.Sequences > 0:
		return props, fault.New(fault.ArgumentInvalid, "the body must be data, not a sequence")
	}
	s, p := &out.System, &in.Properties
	s.MessageID, s.CorrelationID = textOf(p.MessageID), textOf(p.CorrelationID)
	s.UserID, s.To = string(p.UserID), p.To
	s.ContentType, s.ContentEncoding = p.ContentType, p.ContentEncoding
	s.Expiry = p.AbsoluteExpiryTime
	for i := range in.Annotations {
		switch e := &in.Annotations[i]; e.Key {
		case noteInterface:
			s.InterfaceID = textOf(e.Value)
		case noteComponent:
			s.Component = textOf(e.Value)
		}
	}
	from := len(props)
	for i := range in.ApplicationProperties {
		e := &in.ApplicationProperties[i]
		if to := systemProperty(s, e.Key); to != nil {
			*to = textOf(e.Value)
		} else if e.Key != "" && !reserved(e.Key) {
			props = append(props, message.Property{Name: e.Key, Value: textOf(e.Value)})
		}
	}
	out.Properties = props[from:len(props):len(props)]
	return props, nil
}

// systemProperty is where an application property belongs that is a system property in
// truth.
func systemProperty(s *message.System, name string) *string {
	if len(name) < len(propAck) || name[0] != 'i' && name[0] != 'd' {
		return nil
	}
	switch name {
	case propCreation:
		return &s.CreationTime
	case propSchema:
		return &s.Schema
	case propOperation:
		return &s.Operation
	case propAck:
		return &s.Ack
	case propOutput:
		return &s.Output
	case noteInterface:
		return &s.InterfaceID
	case noteComponent:
		return &s.Component
	}
	return nil
}

// reserved names only the service may set, so nobody can forge them.
func reserved(name string) bool {
	switch name {
	case "iothub-connection-device-id", "iothub-connection-module-id", "iothub-connection-auth-method",
		"iothub-connection-auth-generation-id", "iothub-enqueuedtime", "iothub-message-source":
		return true
	}
	return false
}

// textOf is a value as text: SDKs send strings, others what their language offers.
// Values without an obvious text become empty.
func textOf(r amqp.Raw) string {
	if text, ok := r.Text(); ok {
		return text
	}
	switch v := r.Any().(type) {
	case amqp.UUID:
		return v.String()
	case []byte:
		return string(v)
	case bool:
		return strconv.FormatBool(v)
	case int8:
		return strconv.FormatInt(int64(v), 10)
	case int16:
		return strconv.FormatInt(int64(v), 10)
	case int32:
		return strconv.FormatInt(int64(v), 10)
	case int64:
		return strconv.FormatInt(v, 10)
	case uint8:
		return strconv.FormatUint(uint64(v), 10)
	case uint16:
		return strconv.FormatUint(uint64(v), 10)
	case uint32:
		return strconv.FormatUint(uint64(v), 10)
	case uint64:
		return strconv.FormatUint(v, 10)
	case float32:
		return strconv.FormatFloat(float64(v), 'g', -1, 32)
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	case time.Time:
		return v.UTC().Format(message.TimeFormat)
	case amqp.Char:
		return string(rune(v))
	}
	return ""
}
