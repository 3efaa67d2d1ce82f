package consumer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/selvedge-io/selvedge/hub/events"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// readEvent reads an event from its form on the wire (service-protocol 10.4). It keeps
// nothing of payload.
func readEvent(payload []byte) (*events.Event, error) {
	var m amqp.Message
	if err := m.Decode(bytes.Clone(payload)); err != nil {
		return nil, err
	}
	text := func(name string) string {
		v, _ := m.Annotations.Text(name)
		return v
	}
	moment := func(name string) time.Time {
		v, _ := m.Annotations.Get(name).(time.Time)
		return v
	}
	e := &events.Event{Enqueued: moment("x-opt-enqueued-time")}
	var err error
	if e.Offset, err = strconv.ParseInt(text("x-opt-offset"), 10, 64); err != nil {
		return nil, fmt.Errorf("its offset: %w", err)
	}
	var ok bool
	if e.Sequence, ok = m.Annotations.Integer("x-opt-sequence-number"); !ok {
		return nil, errors.New("it has no sequence number")
	}
	p := &m.Properties
	e.Message = message.Message{Body: m.Body(), System: message.System{
		MessageID: plain(p.MessageID), CorrelationID: plain(p.CorrelationID), UserID: string(p.UserID), To: p.To,
		ContentType: string(p.ContentType), ContentEncoding: string(p.ContentEncoding), Expiry: p.AbsoluteExpiryTime,
		CreationTime: text("iothub-creation-time-utc"), Operation: text("iothub-operation"), Output: text("iothub-outputname"),
		InterfaceID: text("iothub-interface-id"), Component: text("dt-subject"), ModelID: text("dt-dataschema"),
		ConnectionDevice: text("iothub-connection-device-id"), ConnectionModule: text("iothub-connection-module-id"),
		Generation: text("iothub-connection-auth-generation-id"), AuthMethod: text("iothub-connection-auth-method"),
		Source: text("iothub-message-source"), Enqueued: moment("iothub-enqueuedtime"),
	}}
	for _, entry := range m.ApplicationProperties {
		name, value := plain(entry.Key), plain(entry.Value)
		if name == "iothub-message-schema" {
			e.Message.System.Schema = value
		} else {
			e.Message.Properties = append(e.Message.Properties, message.Property{Name: name, Value: value})
		}
	}
	return e, nil
}

func plain(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case []byte:
		return string(v)
	default:
		return fmt.Sprint(v)
	}
}

// toFault makes a fault of what the hub says about a link: its text is JSON, with the
// Hub's code in it (device-protocol 6.6.4). Other errors stay as they are.
func toFault(err error) error {
	e, ok := errors.AsType[*amqp.Error](err)
	if !ok {
		return err
	}
	var said struct {
		ErrorCode int    `json:"errorCode"`
		Message   string `json:"message"`
	}
	if json.Unmarshal([]byte(e.Description), &said) == nil && said.ErrorCode != 0 {
		return fault.New(fault.Code(said.ErrorCode), "%s", said.Message)
	}
	switch e.Condition {
	case amqp.ErrUnauthorized:
		return fault.New(fault.UnauthorizedAccess, "%s", e.Description)
	case amqp.ErrResourceLimit:
		return fault.New(fault.QuotaExceeded, "%s", e.Description)
	case amqp.ErrStolen:
		return fault.New(fault.TakenOver, "%s", e.Description)
	case amqp.ErrConnectionForced, amqp.ErrDetachForced:
		return fault.New(fault.Unavailable, "%s", e.Description)
	}
	return err
}
