package mqtthead

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

func toDevice(id string) *message.Message {
	return &message.Message{Body: []byte("body " + id), System: message.System{MessageID: id}}
}

// deliver sends messages with tokens counted from first.
func deliver(a *headtest.Attachment, f head.Flow, first uint64, ms ...*message.Message) {
	var batch []head.Delivery
	for i, m := range ms {
		batch = append(batch, head.Delivery{Token: first + uint64(i), Message: m})
	}
	a.Device.Deliver(f, batch)
}

func TestToDevice(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p, _ := r.connect(dev)
	p.subscribe(1, "devices/dev/messages/devicebound/#")
	a := r.b.AwaitOpen(t, dev, head.ToDevice)
	m := toDevice("m1")
	m.System.To = "/devices/dev/messages/deviceBound"
	m.System.Ack = "full"
	m.Properties = []message.Property{{Name: "a b", Value: "c/d"}}
	a.Device.Deliver(head.ToDevice, []head.Delivery{{Token: 1, Message: m}, {Token: 2, Message: toDevice("m2"), Duplicate: true}})
	one := p.publish("devices/dev/messages/devicebound/%24.mid=m1&%24.to=%2Fdevices%2Fdev%2Fmessages%2FdeviceBound&iothub-ack=full&a%20b=c%2Fd", "body m1")
	two := p.publish("devices/dev/messages/devicebound/%24.mid=m2&%24.to=%2Fdevices%2Fdev%2Fmessages%2Fdevicebound", "body m2")
	if one.QoS != 1 || one.Dup || two.QoS != 1 || !two.Dup || one.ID == two.ID {
		t.Errorf("flags of %+v and %+v", one, two)
	}
	p.send(puback(two.ID), puback(999), puback(one.ID), puback(one.ID))
	if got := fmt.Sprint(a.Settled(t, 2)); got != "[{0 2 0} {0 1 0}]" {
		t.Errorf("settled %v", got)
	}
	p.wantQuiet()
	if got := len(a.Settled(t, 2)); got != 2 {
		t.Errorf("%d settlements, want 2: unknown and repeated PUBACKs count for nothing", got)
	}
}

func TestToDeviceAtQoS0(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p, _ := r.connect(dev)
	p.subscribe(0, "devices/dev/messages/devicebound/#")
	a := r.b.AwaitOpen(t, dev, head.ToDevice)
	deliver(a, head.ToDevice, 1, toDevice("a"), toDevice("b"))
	if got := fmt.Sprint(a.Settled(t, 2)); got != "[{0 1 0} {0 2 0}]" {
		t.Errorf("settled %v", got)
	}
	for _, id := range []string{"a", "b"} {
		if got := p.publish("devices/dev/messages/devicebound/%24.mid="+id+"&%24.to=%2Fdevices%2Fdev%2Fmessages%2Fdevicebound", "body "+id); got.QoS != 0 {
			t.Errorf("QoS %d, want 0", got.QoS)
		}
	}
}

// A delivery that crosses an UNSUBSCRIBE is not lost: only an acknowledgement
// completes it.
func TestDeliveryCrossesUnsubscribe(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p, _ := r.connect(dev)
	p.subscribe(1, "devices/dev/messages/devicebound/#")
	a := r.b.AwaitOpen(t, dev, head.ToDevice)
	p.send((&mqtt.Unsubscribe{ID: 9, Filters: []string{"devices/dev/messages/devicebound/#"}}).Append(nil, mqtt.V311))
	p.next(mqtt.TypeUnsuback)
	deliver(a, head.ToDevice, 1, toDevice("late"))
	late := p.publish("devices/dev/messages/devicebound/%24.mid=late&%24.to=%2Fdevices%2Fdev%2Fmessages%2Fdevicebound", "body late")
	if late.QoS != 1 {
		t.Errorf("it came at QoS %d and counts as received", late.QoS)
	}
	p.send(puback(late.ID))
	a.Settled(t, 1)
}

func TestTopicTooLong(t *testing.T) {
	for _, qos := range []byte{0, 1} {
		r := serve(t, &headtest.Backend{})
		p, _ := r.connect(dev)
		p.subscribe(qos, "devices/dev/messages/devicebound/#")
		a := r.b.AwaitOpen(t, dev, head.ToDevice)
		m := toDevice("m")
		m.Properties = []message.Property{{Name: "a", Value: strings.Repeat(" ", 30_000)}}
		deliver(a, head.ToDevice, 7, m)
		if got := fmt.Sprint(a.Settled(t, 1)); got != "[{0 7 1}]" {
			t.Errorf("settled %v, want it rejected", got)
		}
		r.awaitLog("WARN", "device=dev", "do not fit")
		p.wantQuiet()
	}
}

func TestInputs(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p, _ := r.connect(mod)
	p.subscribe(1, "devices/dev/modules/mod/inputs/#", "devices/dev/modules/mod/messages/devicebound/#")
	a := r.b.AwaitOpen(t, mod, head.Inputs)
	if a.IsOpen(head.ToDevice) {
		t.Error("a module has no cloud-to-device flow")
	}
	m := toDevice("m")
	m.System.Input = "input1"
	m.System.ConnectionDevice, m.System.ConnectionModule = "dev", "other"
	deliver(a, head.Inputs, 3, m)
	got := p.publish("devices/dev/modules/mod/inputs/input1/%24.mid=m&%24.cdid=dev&%24.cmid=other", "body m")
	p.send(puback(got.ID))
	if got := fmt.Sprint(a.Settled(t, 1)); got != "[{1 3 0}]" {
		t.Errorf("settled %v", got)
	}
}

// TestManyUnsettled lets one delivery stay while ids go round.
func TestManyUnsettled(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p, _ := r.connect(dev)
	p.subscribe(1, "devices/dev/messages/devicebound/#")
	a := r.b.AwaitOpen(t, dev, head.ToDevice)
	deliver(a, head.ToDevice, 0, toDevice("stuck"))
	stuck := p.publish("devices/dev/messages/devicebound/%24.mid=stuck&%24.to=%2Fdevices%2Fdev%2Fmessages%2Fdevicebound")
	const rounds, width = 2300, 30 // more than 65,535
	ms := make([]*message.Message, width)
	for i := range ms {
		ms[i] = toDevice("m")
	}
	for round := range rounds {
		deliver(a, head.ToDevice, uint64(1+round*width), ms...)
		var acks []byte
		for range ms {
			got := p.publish("devices/dev/messages/devicebound/%24.mid=m&%24.to=%2Fdevices%2Fdev%2Fmessages%2Fdevicebound")
			if got.ID == stuck.ID || got.ID == 0 {
				t.Fatalf("packet id %d is in use", got.ID)
			}
			acks = append(acks, puback(got.ID)...)
		}
		p.send(acks)
	}
	settled := a.Settled(t, rounds*width)
	for i, s := range settled {
		if s.Token != uint64(i+1) {
			t.Fatalf("settlement %d is of token %d", i, s.Token)
		}
	}
}

// TestNobodyAcknowledges: a backend without bounds must not stall in silence.
func TestNobodyAcknowledges(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p, _ := r.connect(dev)
	p.subscribe(1, "devices/dev/messages/devicebound/#")
	a := r.b.AwaitOpen(t, dev, head.ToDevice)
	ms := make([]*message.Message, maxUnacknowledged+1)
	for i := range ms {
		ms[i] = &message.Message{}
	}
	go deliver(a, head.ToDevice, 0, ms...)
	r.b.AwaitGone(t, dev)
	r.awaitLog("WARN", "device=dev", "too many deliveries")
}

func TestTwinGet(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	r.b.Desire(t, dev, `{"date":"2026-11-24T10:00:00Z","n":1.50}`)
	p, _ := r.connect(dev)
	p.subscribe(0, "$iothub/twin/res/#")
	p.send(pub(0, 0, "$iothub/twin/GET/?$rid=3F-a%24", " "))
	got := p.publish("$iothub/twin/res/200/?$rid=3F-a%24",
		`{"desired":{"date":"2026-11-24T10:00:00Z","n":1.50,"$version":2},"reported":{"$version":1}}`)
	if got.QoS != 0 {
		t.Errorf("QoS %d, want that of the subscription", got.QoS)
	}
	p.subscribe(1, "$iothub/twin/res/#")
	p.send(pub(1, 4, "$iothub/twin/GET/?$rid=2", ""))
	p.wantPubacks(4)
	if got = p.publish("$iothub/twin/res/200/?$rid=2"); got.QoS != 1 || got.ID == 0 {
		t.Errorf("answer %+v, want QoS 1", got)
	}
	p.send(puback(got.ID))
	p.wantQuiet()
}

func TestTwinReport(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p, _ := r.connect(dev)
	p.subscribe(0, "$iothub/twin/res/#")
	const patch = "$iothub/twin/PATCH/properties/reported/"
	p.send(pub(0, 0, patch+"?$rid=1", `{"a":1}`))
	p.publish("$iothub/twin/res/204/?$rid=1&$version=2", "")
	p.send(pub(0, 0, patch+"?$rid=2&$version=2", `{"a":2}`))
	p.publish("$iothub/twin/res/204/?$rid=2&$version=3", "")
	p.send(pub(0, 0, patch, `{"b":1}`)) // no rid: applied, no answer
	p.send(pub(0, 0, patch+"?$rid=3", `{"a":null}`))
	p.publish("$iothub/twin/res/204/?$rid=3&$version=5", "")

	for _, test := range []struct {
		query, body  string
		status, code int
	}{
		{"?$rid=x&$version=2", `{"a":2}`, 412, 412001},
		{"?$rid=x&$version=two", `{"a":2}`, 400, 400004},
		{"?$rid=x", `{"a":`, 400, 0},
		{"?$rid=x", `[1]`, 400, 0},
		{"?$rid=x", `{"$a":1,"b":2}`, 400, 0},
		{"?$rid=x", ``, 400, 0},
	} {
		p.send(pub(0, 0, patch+test.query, test.body))
		got := p.publish(fmt.Sprintf("$iothub/twin/res/%d/?$rid=x", test.status))
		var body struct {
			ErrorCode                         int
			TrackingID, Message, TimestampUTC string
		}
		if err := json.Unmarshal(got.Payload, &body); err != nil {
			t.Fatalf("%s %s: %v in %q", test.query, test.body, err, got.Payload)
		}
		if body.ErrorCode/1000 != test.status || test.code != 0 && body.ErrorCode != test.code ||
			body.Message == "" || len(body.TimestampUTC) != len(message.TimeFormat) || !strings.Contains(body.TrackingID, "-G:0-TimeStamp:") {
			t.Errorf("%s %s: answered %s", test.query, test.body, got.Payload)
		}
		r.awaitLog("WARN", "twin request refused", body.TrackingID)
	}
}

// While telemetry waits for the disk, what is to be acknowledged behind it counts
// against the window as well: a client cannot have the server remember ever more.
func TestAcknowledgementsAreBounded(t *testing.T) {
	for _, topic := range []string{"$iothub/twin/GET/?$rid=1", "$iothub/methods/res/200/?$rid=1"} {
		r := serve(t, &headtest.Backend{Hold: true}, func(c *Config) { c.Window = 8 })
		p, _ := r.connect(dev)
		p.send(pub(1, 1, events, "held"))
		a := r.b.Attached(t, dev).Device.(*session)
		a.acks.await(t, 1)
		var all []byte
		for id := range uint16(20) {
			all = append(all, pub(1, id+2, topic, " ")...)
		}
		p.send(mqtt.AppendEmpty(all, mqtt.TypePingreq))
		a.acks.await(t, 8)
		r.b.Release(1, nil)
		p.wantPubacks(1, 2, 3, 4, 5, 6, 7, 8) // before which the rest is not read
		for range 13 + 1 {
			if _, err := p.r.Next(); err != nil {
				t.Fatal(err)
			}
		}
		p.wantQuiet()
	}
}

// await waits until n messages are under way.
func (a *acks) await(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		a.mu.Lock()
		have := a.messages
		a.mu.Unlock()
		switch {
		case have >= n:
			return
		case time.Now().After(deadline):
			t.Fatalf("%d messages are under way, want %d", have, n)
		}
	}
}

func TestTwinRequestsAreBounded(t *testing.T) {
	proceed := make(chan bool)
	r := serve(t, &headtest.Backend{BeforeReport: func() { <-proceed }})
	p, _ := r.connect(dev)
	p.subscribe(0, "$iothub/twin/res/#")
	var wire []byte
	for i := range 2 * maxRequests {
		wire = append(wire, pub(0, 0, fmt.Sprintf("$iothub/twin/PATCH/properties/reported/?$rid=%d", i), `{"a":1}`)...)
	}
	p.send(wire)
	// At least all but the queue and the one being worked on are refused at once.
	for range maxRequests - 1 {
		f := p.next(mqtt.TypePublish)
		if !bytes.Contains(f.Body, []byte("res/429/")) {
			t.Fatalf("got %q, want status 429", f.Body)
		}
	}
	close(proceed)
	p.next(mqtt.TypePublish)
}

func TestDesired(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p, _ := r.connect(dev)
	r.b.Desire(t, dev, `{"early":1}`) // not subscribed: never sent
	p.subscribe(1, "$iothub/twin/PATCH/properties/desired/#")
	r.b.AwaitOpen(t, dev, head.Desired)
	r.b.Desire(t, dev, `{"early":null,"b":{"c":2}}`)
	got := p.publish("$iothub/twin/PATCH/properties/desired/?$version=3", `{"early":null,"b":{"c":2},"$version":3}`)
	p.send(puback(got.ID), (&mqtt.Unsubscribe{ID: 9, Filters: []string{"$iothub/twin/PATCH/properties/desired/#", "never/heard/of"}}).Append(nil, mqtt.V311))
	p.next(mqtt.TypeUnsuback)
	if r.b.Attached(t, dev).IsOpen(head.Desired) {
		t.Error("flow is open after UNSUBSCRIBE")
	}
	p.send((&mqtt.Unsubscribe{ID: 10, Filters: []string{"never/heard/of"}}).Append(nil, mqtt.V311))
	p.next(mqtt.TypeUnsuback)
}

type reply struct {
	method.Reply
	err error
}

func invoke(ctx context.Context, d head.Device, name, payload string) chan reply {
	out := make(chan reply, 1)
	go func() {
		r, err := d.Invoke(ctx, &method.Call{Name: name, Payload: json.RawMessage(payload)})
		out <- reply{r, err}
	}()
	return out
}

func TestMethods(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p, _ := r.connect(dev)
	d := r.b.Attached(t, dev).Device
	if got := <-invoke(t.Context(), d, "reboot", ""); !fault.Is(got.err, fault.DeviceNotOnline) {
		t.Errorf("without subscription: %v, want DeviceNotOnline", got.err)
	}
	p.subscribe(1, "$iothub/methods/POST/#")
	r.b.AwaitOpen(t, dev, head.Methods)

	answer := invoke(t.Context(), d, "reboot", `{"in":5}`)
	if got := p.publish("$iothub/methods/POST/reboot/?$rid=1", `{"in":5}`); got.QoS != 0 {
		t.Errorf("QoS %d, want 0", got.QoS)
	}
	p.send(pub(1, 3, "$iothub/methods/res/200/?$rid=1", `{"ok":true}`))
	if got := <-answer; got.err != nil || got.Status != 200 || string(got.Payload) != `{"ok":true}` {
		t.Errorf("answer %+v", got)
	}
	p.wantPubacks(3)
	p.send(pub(1, 4, "$iothub/methods/res/200/?$rid=1", "late")) // ignored, but acknowledged
	p.wantPubacks(4)

	answer = invoke(t.Context(), d, "a*b", "")
	p.publish("$iothub/methods/POST/a*b/?$rid=2", "null") // never empty
	p.send(pub(0, 0, "$iothub/methods/res/-3/?$rid=2", ""))
	if got := <-answer; got.err != nil || got.Status != -3 || len(got.Payload) != 0 {
		t.Errorf("answer %+v", got)
	}
	for i, bad := range []string{"ok/?$rid=3|{}", "200/?$rid=4|{nonsense"} {
		topic, payload, _ := strings.Cut(bad, "|")
		answer = invoke(t.Context(), d, "m", "1")
		p.publish(fmt.Sprintf("$iothub/methods/POST/m/?$rid=%d", i+3), "1")
		p.send(pub(0, 0, "$iothub/methods/res/"+topic, payload))
		if got := <-answer; !fault.Is(got.err, fault.BadGateway) {
			t.Errorf("%s: %v, want BadGateway", bad, got.err)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	answer = invoke(ctx, d, "slow", "1")
	p.publish("$iothub/methods/POST/slow/?$rid=5")
	cancel()
	if got := <-answer; !fault.Is(got.err, fault.GatewayTimeout) || !errors.Is(got.err, context.Canceled) {
		t.Errorf("given up: %v, want GatewayTimeout", got.err)
	}
	answer = invoke(t.Context(), d, "lost", "1")
	p.publish("$iothub/methods/POST/lost/?$rid=6")
	p.Close()
	if got := <-answer; !fault.Is(got.err, fault.ConnectionClosed) {
		t.Errorf("connection ended: %v, want ConnectionClosed", got.err)
	}
}

func TestMethodByName(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p, _ := r.connect(dev)
	p.subscribe(0, "$iothub/methods/POST/reboot/#")
	d := r.b.AwaitOpen(t, dev, head.Methods).Device
	if got := <-invoke(t.Context(), d, "other", ""); !fault.Is(got.err, fault.DeviceNotOnline) {
		t.Errorf("other method: %v, want DeviceNotOnline", got.err)
	}
	answer := invoke(t.Context(), d, "reboot", "")
	p.publish("$iothub/methods/POST/reboot/?$rid=1", "null")
	p.send(pub(0, 0, "$iothub/methods/res/200/?$rid=1", ""))
	if got := <-answer; got.err != nil {
		t.Error(got.err)
	}
}

// TestPipelining sends everything at once, before CONNACK.
func TestPipelining(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p := r.dial()
	p.send(connectPacket(dev),
		(&mqtt.Subscribe{ID: 1, Filters: []mqtt.Subscription{{Filter: "$iothub/twin/res/#", QoS: 2}, {Filter: "$iothub/x/#", QoS: 0}}}).Append(nil, mqtt.V311),
		pub(1, 2, events, "x"),
		pub(0, 0, "$iothub/twin/GET/?$rid=1", ""),
		(&mqtt.Unsubscribe{ID: 3, Filters: []string{"never"}}).Append(nil, mqtt.V311))
	if got := p.connack().Code; got != mqtt.Accepted {
		t.Fatalf("CONNACK %d", got)
	}
	var ack mqtt.Suback
	if err := ack.Decode(p.next(mqtt.TypeSuback)); err != nil || !bytes.Equal(ack.Codes, []byte{1, 0}) {
		t.Fatalf("SUBACK %+v, %v, want codes 1, 0", ack, err)
	}
	seen := map[mqtt.Type]int{}
	for range 3 {
		f, err := p.r.Next()
		if err != nil {
			t.Fatal(err)
		}
		seen[f.Type]++
	}
	if seen[mqtt.TypePuback] != 1 || seen[mqtt.TypePublish] != 1 || seen[mqtt.TypeUnsuback] != 1 {
		t.Errorf("answers %v", seen)
	}
}

func TestSubscriptionsAreBounded(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p, _ := r.connect(dev)
	for i := range maxSubscriptions {
		p.subscribe(0, fmt.Sprintf("$iothub/x%d/#", i))
	}
	p.subscribe(1, "$iothub/x0/#") // again is no more
	p.send((&mqtt.Subscribe{ID: 1, Filters: []mqtt.Subscription{{Filter: "$iothub/y"}}}).Append(nil, mqtt.V311))
	p.wantClosed()
	r.awaitLog("WARN", "subscriptions")
}

// All of a session's filters are written at each change of one.
func TestFiltersAreBounded(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p, _ := r.connect(dev, keep)
	p.subscribe(1, "$iothub/methods/POST/"+strings.Repeat("m", method.MaxName)+"/#")
	s := mqtt.Subscribe{ID: 1, Filters: []mqtt.Subscription{{Filter: "$iothub/" + strings.Repeat("x", 2000)}}}
	p.send(s.Append(nil, mqtt.V311))
	p.wantClosed()
	r.awaitLog("WARN", "device=dev", "filter")
}

func TestBackendCloses(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p, _ := r.connect(dev)
	r.b.Attached(t, dev).Device.Close(fault.New(fault.DeviceNotFound, "the identity was deleted"))
	p.wantClosed()
	r.awaitLog("WARN", "device=dev", "deleted")
}
