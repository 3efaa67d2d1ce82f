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

// ReadMessage makes a message of what a client sent. It may point into what in points
// into. The error is fault.ArgumentInvalid.
func ReadMessage(in *amqp.Message, out *message.Message) error {
	_, err := readMessage(in, out, nil)
	return err
}

// readMessage makes a message of telemetry. Its strings are its own or point into
// what in points into. Properties are appended to props, whose grown form is returned.
func readMessage(in *amqp.Message, out *message.Message, props []message.Property) ([]message.Property, error) {
	*out = message.Message{}
	switch {
	case len(in.Data) > 0:
		out.Body = in.Body()
	case in.HasValue:
		switch v := in.Value.(type) {
		case nil:
		case string:
			out.Body = []byte(v)
		case []byte:
			out.Body = v
		default:
			return props, fault.New(fault.ArgumentInvalid, "the body must be data, not a value of type %T", v)
		}
	case len(in.Sequences) > 0:
		return props, fault.New(fault.ArgumentInvalid, "the body must be data, not a sequence")
	}
	s, p := &out.System, &in.Properties
	s.MessageID, s.CorrelationID = textOf(p.MessageID), textOf(p.CorrelationID)
	s.UserID, s.To = string(p.UserID), p.To
	s.ContentType, s.ContentEncoding = string(p.ContentType), string(p.ContentEncoding)
	s.Expiry = p.AbsoluteExpiryTime
	for _, e := range in.Annotations {
		name, _ := nameOf(e.Key)
		switch name {
		case noteInterface:
			s.InterfaceID = textOf(e.Value)
		case noteComponent:
			s.Component = textOf(e.Value)
		}
	}
	from := len(props)
	for _, e := range in.ApplicationProperties {
		name, ok := nameOf(e.Key)
		if ok && name != "" {
			if to := systemProperty(s, name); to != nil {
				*to = textOf(e.Value)
			} else if !reserved(name) {
				props = append(props, message.Property{Name: name, Value: textOf(e.Value)})
			}
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

func nameOf(key any) (string, bool) {
	switch k := key.(type) {
	case string:
		return k, true
	case amqp.Symbol:
		return string(k), true
	}
	return "", false
}

// textOf is a value as text: SDKs send strings, others what their language offers.
// Values without an obvious text become empty.
func textOf(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case amqp.Symbol:
		return string(v)
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
