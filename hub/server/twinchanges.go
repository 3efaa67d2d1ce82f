package server

import (
	"time"

	"github.com/google/uuid"

	"github.com/selvedge-io/selvedge/hub/twins"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
)

// twinChanges tells connected devices of their desired properties and, when wanted,
// the event stream of all changes. It implements twins.Listener.
type twinChanges struct {
	b       *backend
	hubName string // empty: no events
}

var _ twins.Listener = (*twinChanges)(nil)

// Desired implements twins.Listener.
func (t *twinChanges) Desired(id ident.ID, version int64, patch []byte) {
	if a := t.b.connection(id); a != nil {
		a.desired(version, patch)
	}
}

// Changed implements twins.Listener: it makes the event of device-protocol 9.4.4.
// The change itself is safe already; an event that is lost with the power is not
// made again.
func (t *twinChanges) Changed(e twins.Event) {
	if t.hubName == "" {
		return
	}
	properties := []message.Property{
		{Name: "hubName", Value: t.hubName},
		{Name: "deviceId", Value: e.ID.Device},
		{Name: "operationTimestamp", Value: e.At.UTC().Format(time.RFC3339Nano)},
		{Name: "iothub-message-schema", Value: "twinChangeNotification"},
		{Name: "opType", Value: e.Op},
	}
	if e.ID.IsModule() {
		properties = append(properties, message.Property{Name: "moduleId", Value: e.ID.Module})
	}
	m := message.Message{Body: e.Body, Properties: properties, System: message.System{
		CorrelationID: uuid.NewString(), UserID: t.hubName,
		ContentType: "application/json", ContentEncoding: "utf-8",
		ConnectionDevice: e.ID.Device, ConnectionModule: e.ID.Module,
		Source: message.TwinChange, Enqueued: e.At,
	}}
	t.b.events.Append(e.ID.Device, []message.Message{m}, func(err error) {
		if err != nil {
			t.b.log.Warn("change of twin is not in the event stream", "device", e.ID.Device, "module", e.ID.Module, "err", err)
		}
	})
}
