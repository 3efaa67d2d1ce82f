package amqphead

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	azure "github.com/Azure/go-amqp"
	"github.com/google/uuid"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
)

func TestTelemetry(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	c := r.connect(dev)
	s := c.sender("/devices/dev/messages/events", nil)
	m := azure.NewMessage([]byte("hello"))
	m.Properties = &azure.MessageProperties{MessageID: "m1", ContentType: ptr("application/json"), UserID: []byte("u")}
	m.ApplicationProperties = map[string]any{"level": "high", "iothub-outputname": "out", "n": int32(5), "iothub-connection-device-id": "forged"}
	m.Annotations = azure.Annotations{"dt-subject": "thermostat"}
	if err := s.Send(soon(t), m, nil); err != nil {
		t.Fatal(err)
	}
	got := r.b.Messages(t, 1)[0]
	want := message.System{MessageID: "m1", ContentType: "application/json", UserID: "u", Output: "out", Component: "thermostat"}
	if string(got.Body) != "hello" || got.System != want || got.From != dev || len(got.Properties) != 2 {
		t.Errorf("%+v", got)
	}
	if s.MaxMessageSize() != maxMessage {
		t.Errorf("max-message-size %d", s.MaxMessageSize())
	}
	err := s.Send(soon(t), azure.NewMessage(make([]byte, 300<<10)), nil)
	if e, ok := errors.AsType[*azure.Error](err); !ok || e.Condition != "amqp:link:message-size-exceeded" {
		t.Errorf("a large message: %v", err)
	}
}

func ptr[T any](v T) *T { return &v }

func TestToDevice(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	c := r.connect(dev)
	in := c.receiver("amqps://"+host+"/devices/dev/messages/deviceBound", nil)
	a := r.b.AwaitOpen(t, dev, head.ToDevice)
	lock := uuid.New()
	var batch []head.Delivery
	for i := range 3 {
		batch = append(batch, head.Delivery{Token: uint64(i + 1), Message: &message.Message{
			Body:       fmt.Append(nil, "c2d ", i),
			System:     message.System{MessageID: "m", Sequence: uint64(i + 7), DeliveryCount: 2, LockToken: lock.String(), Ack: "full", Enqueued: time.UnixMilli(5)},
			Properties: []message.Property{{Name: "k", Value: "v"}},
		}})
	}
	a.Device.Deliver(head.ToDevice, batch)
	for i := range 3 {
		m := c.receive(in)
		if string(m.GetData()) != fmt.Sprint("c2d ", i) || len(m.DeliveryTag) != 16 || m.DeliveryTag[0] != lock[3] ||
			m.Annotations["x-opt-lock-token"] != lock.String() || m.Annotations["iothub-deliverycount"] != uint8(2) ||
			m.Annotations["x-opt-sequence-number"] != uint64(i+7) || *m.Properties.To != "/devices/dev/messages/devicebound" ||
			m.ApplicationProperties["iothub-ack"] != "full" || m.ApplicationProperties["k"] != "v" {
			t.Fatalf("%+v", m)
		}
		switch i {
		case 0:
			in.AcceptMessage(soon(t), m)
		case 1:
			in.RejectMessage(soon(t), m, nil)
		case 2:
			in.ReleaseMessage(soon(t), m)
		}
	}
	got := a.Settled(t, 3)
	for i, want := range []head.Outcome{head.Completed, head.Rejected, head.Abandoned} {
		if got[i] != (headtest.Settlement{Flow: head.ToDevice, Token: uint64(i + 1), Outcome: want}) {
			t.Errorf("%+v", got[i])
		}
	}
}

func TestTwin(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	c := r.connect(dev)
	props := map[string]any{"com.microsoft:channel-correlation-id": "twin:1"}
	out := c.sender("/devices/dev/twin", &azure.SenderOptions{Properties: props})
	in := c.receiver("/devices/dev/twin", &azure.ReceiverOptions{Properties: props})
	ask := func(id any, operation, resource, body string) *azure.Message {
		t.Helper()
		m := azure.NewMessage([]byte(body))
		m.Properties = &azure.MessageProperties{CorrelationID: id}
		m.Annotations = azure.Annotations{"operation": operation, "version": nil}
		if resource != "" {
			m.Annotations["resource"] = resource
		}
		if err := out.Send(soon(t), m, nil); err != nil {
			t.Fatal(err)
		}
		a := c.receive(in)
		in.AcceptMessage(soon(t), a)
		if a.Properties == nil || a.Properties.CorrelationID != id {
			t.Fatalf("answer to %v: %+v", id, a.Properties)
		}
		return a
	}
	if a := ask("g1", "GET", "", ""); a.Annotations["status"] != int32(200) || len(a.GetData()) == 0 {
		t.Errorf("%+v", a)
	}
	id := azure.UUID(uuid.New())
	if a := ask(id, "PATCH", "/properties/reported", `{"a":1}`); a.Annotations["status"] != int32(204) || a.Annotations["version"] != int64(2) {
		t.Errorf("%+v", a)
	}
	if a := ask(uint64(7), "PUT", "/notifications/twin/properties/desired", ""); a.Annotations["status"] != int32(200) {
		t.Errorf("%+v", a)
	}
	r.b.Desire(t, dev, `{"x":1}`)
	n := c.receive(in)
	in.AcceptMessage(soon(t), n)
	if n.Properties != nil || n.Annotations["version"] != int64(2) || n.Annotations["status"] != nil || string(n.GetData()) != `{"x":1,"$version":2}` {
		t.Errorf("%+v %s", n, n.GetData())
	}
	a := ask("bad", "PATCH", "/properties/reported", `{"$x":1}`)
	var problem struct{ ErrorCode int }
	if json.Unmarshal(a.GetData(), &problem); a.Annotations["status"] != int32(400) || problem.ErrorCode != 400004 {
		t.Errorf("%+v %s", a, a.GetData())
	}
	if a := ask("d", "DELETE", "/notifications/twin/properties/desired", ""); a.Annotations["status"] != int32(200) {
		t.Errorf("%+v", a)
	}
	if r.b.Attached(t, dev).IsOpen(head.Desired) {
		t.Error("desired properties are still told")
	}
}

func TestMethods(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	c := r.connect(dev)
	in := c.receiver("/devices/dev/methods/deviceBound", nil)
	out := c.sender("/devices/dev/methods/deviceBound", nil)
	a := r.b.AwaitOpen(t, dev, head.Methods)
	for _, form := range []func(azure.UUID) any{
		func(id azure.UUID) any { return id },
		func(id azure.UUID) any { return id.String() },
	} {
		done := make(chan error, 1)
		var reply method.Reply
		go func() {
			var err error
			reply, err = a.Device.Invoke(soon(t), &method.Call{Name: "reboot"})
			done <- err
		}()
		m := c.receive(in)
		in.AcceptMessage(soon(t), m)
		id, ok := m.Properties.CorrelationID.(azure.UUID)
		if !ok || m.ApplicationProperties["IoThub-methodname"] != "reboot" || string(m.GetData()) != "null" {
			t.Fatalf("%+v", m)
		}
		answer := azure.NewMessage([]byte(`{"ok":true}`))
		answer.Properties = &azure.MessageProperties{CorrelationID: form(id)}
		answer.ApplicationProperties = map[string]any{"IoThub-status": int32(201)}
		if err := out.Send(soon(t), answer, nil); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil || reply.Status != 201 || string(reply.Payload) != `{"ok":true}` {
			t.Errorf("%+v, %v", reply, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Device.Invoke(ctx, &method.Call{Name: "slow"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestModuleInputs(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	c := r.connect(mod)
	in := c.receiver("/devices/dev/modules/mod/messages/events", nil)
	a := r.b.AwaitOpen(t, mod, head.Inputs)
	a.Device.Deliver(head.Inputs, []head.Delivery{{Token: 9, Message: &message.Message{
		Body: []byte("x"), System: message.System{Input: "in1", ConnectionDevice: "dev", ConnectionModule: "other"},
	}}})
	m := c.receive(in)
	if m.Annotations["x-opt-input-name"] != "in1" || m.Annotations["iothub-connection-module-id"] != "other" || len(m.DeliveryTag) != 16 {
		t.Errorf("%+v", m)
	}
	in.AcceptMessage(soon(t), m)
	if got := a.Settled(t, 1)[0]; got != (headtest.Settlement{Flow: head.Inputs, Token: 9, Outcome: head.Completed}) {
		t.Errorf("%+v", got)
	}
}
