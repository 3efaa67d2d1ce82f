package amqphead

import (
	"reflect"
	"strings"
	"testing"

	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

func TestAddresses(t *testing.T) {
	odd := ident.ID{Device: "a+b%#:$c", Module: "$edgeHub"}
	for _, c := range []struct {
		address string
		at      place
		id      ident.ID
	}{
		{"/devices/dev/messages/events", events, dev},
		{"devices/dev/messages/events/", events, dev},
		{"amqps://hub.example.com/devices/dev/messages/events", events, dev},
		{"amqps://hub.example.com:5671/Devices/dev/Messages/DEVICEBOUND", deviceBound, dev},
		{"/devices/dev/messages/deviceBound", deviceBound, dev},
		{"/devices/dev/methods/devicebound", methodCalls, dev},
		{"/devices/dev/twin", twinTalk, dev},
		{"/devices/dev/modules/mod/twin", twinTalk, mod},
		{"/devices/dev/modules/mod/messages/events", events, mod},
		{"/devices/a+b%25%23:$c/modules/%24edgeHub/twin", twinTalk, odd},
		{"/devices/a+b%#:$c/modules/$edgeHub/twin", twinTalk, odd},
		{"/devices/DEV/twin", twinTalk, ident.ID{Device: "DEV"}},
		{"/devices/modules/twin", twinTalk, ident.ID{Device: "modules"}},
		{"", nowhere, ident.ID{}},
		{"/", nowhere, ident.ID{}},
		{"/devices/dev", nowhere, ident.ID{}},
		{"/devices//twin", nowhere, ident.ID{}},
		{"/devices/dev/modules//twin", nowhere, ident.ID{}},
		{"/devices/a%2Fb/twin", nowhere, ident.ID{}},
		{"/devices/dev/twin/more", nowhere, ident.ID{}},
		{"/devices/" + strings.Repeat("x", 129) + "/twin", nowhere, ident.ID{}},
		{"/messages/devicebound", nowhere, ident.ID{}},
		{"$cbs", nowhere, ident.ID{}},
		{"amqps://hub", nowhere, ident.ID{}},
	} {
		at, id := parseAddress(pathOf(c.address))
		if at != c.at || id != c.id {
			t.Errorf("%s: %v %v", c.address, at, id)
		}
	}
	for _, address := range []string{"$cbs", "/$cbs", "amqps://hub/$CBS"} {
		if !isCBS(pathOf(address)) {
			t.Errorf("%s is not $cbs", address)
		}
	}
}

func TestScopes(t *testing.T) {
	for resource, want := range map[string]string{
		"hub/devices/Dev": "devices/dev", "hub%2Fdevices%2Fdev": "devices/dev", "hub%2Fdevices%2Fa%2523b": "devices/a#b",
		"hub/devices/dev/modules/Mod": "devices/dev/modules/mod", "hub/devices/dev/messages/events": "devices/dev",
		"hub/devices/dev/modules/mod/messages/events": "devices/dev/modules/mod", "amqps://hub/devices/dev/": "devices/dev",
		"hub": "", "hub/devices": "devices", "sb://hub/entity/ConsumerGroups/$Default": "entity/consumergroups/$default", "https://hub": "",
	} {
		if got := scopeOf(resource); got != want {
			t.Errorf("%s has the scope %q, want %q", resource, got, want)
		}
	}
}

func TestIdentitiesOf(t *testing.T) {
	for _, c := range []struct {
		resource, name string
		want           []ident.ID
	}{
		{"hub%2Fdevices%2Fdev", "hub%2Fdevices%2Fdev", []ident.ID{dev}},
		{"hub/devices/dev/modules/mod", "hub/devices/dev", []ident.ID{mod, dev}},
		{"hub%2fdevices%2fdev", "hub/devices/DEV", []ident.ID{dev, {Device: "DEV"}}},
		{"hub%2Fdevices%2Fa%2523b", "", []ident.ID{{Device: "a%23b"}, {Device: "a#b"}}},
		{"hub/devices/a%41", "", []ident.ID{{Device: "a%41"}, {Device: "aA"}}},
		{"hub", "hub", nil},
		{"hub/messages/events", "sb://hub/x", nil},
	} {
		got := identitiesOf(c.resource, c.name)
		if len(got) != len(c.want) {
			t.Errorf("%s, %s: %v", c.resource, c.name, got)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s, %s: %v", c.resource, c.name, got)
			}
		}
	}
}

// FuzzTexts feeds what peers write in places where we read text.
func FuzzTexts(f *testing.F) {
	for _, s := range []string{"amqps://h/devices/d/modules/m/messages/events", "/devices/a%2/twin", "$cbs", "h%2Fdevices%2Fd%252F", "d/modules/m@sas.hub", "p@sas.root.hub", "://", "a@"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if at, id := parseAddress(pathOf(s)); at != nowhere && id.Check() != nil {
			t.Errorf("%q gives %v", s, id)
		}
		for _, id := range identitiesOf(s, s) {
			if id.Check() != nil {
				t.Errorf("%q gives %v", s, id)
			}
		}
		if scope := scopeOf(s); strings.HasPrefix(scope, "/") || len(scope) > 3*len(s) {
			t.Errorf("%q has the scope %q", s, scope)
		}
		if n, err := parseLogin(s); err == nil && n.id.IsZero() == (n.policy == "") {
			t.Errorf("%q is %+v", s, n)
		}
	})
}

// FuzzMessages feeds what peers send to everything that reads a message.
func FuzzMessages(f *testing.F) {
	for _, m := range []amqp.Message{
		{Properties: amqp.Properties{MessageID: uint64(1)}, ApplicationProperties: amqp.Map{{Key: "operation", Value: "put-token"}, {Key: "name", Value: "x"}}, Value: "t", HasValue: true},
		{Properties: amqp.Properties{CorrelationID: amqp.UUID{1}}, Annotations: amqp.Map{{Key: amqp.Symbol("operation"), Value: "PATCH"}, {Key: amqp.Symbol("resource"), Value: "/properties/reported"}}, Data: [][]byte{[]byte("{}")}},
		{Properties: amqp.Properties{CorrelationID: []byte("0123456789abcdef")}, ApplicationProperties: amqp.Map{{Key: "IoThub-status", Value: int32(200)}}, Data: [][]byte{[]byte("1")}},
		{Annotations: amqp.Map{{Key: amqp.Symbol("dt-subject"), Value: "c"}}, ApplicationProperties: amqp.Map{{Key: "n", Value: 1.5}}, Data: [][]byte{{1}, {2}}},
	} {
		b, err := m.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint32(0))
		f.Add(amqp.AppendData(nil, b), amqp.BatchFormat)
	}
	f.Fuzz(func(t *testing.T, payload []byte, format uint32) {
		readRequest(payload)
		if q, err := readTwinRequest(payload); err == nil && q.op == twinPatch && q.body == nil {
			q.body = []byte{}
		}
		var m amqp.Message
		if m.Decode(payload) == nil {
			uuidOf(m.Properties.CorrelationID)
			resultOf(&m)
		}
		var b batch
		var link telemetry
		if err := link.add(&b, &amqp.Delivery{Payload: payload, Format: format}); err != nil {
			if len(b.messages) != 0 {
				t.Error("part of a refused transfer is kept")
			}
			return
		}
		for range 2 { // the second time by heart, maybe
			var again batch
			if err := link.add(&again, &amqp.Delivery{Payload: payload, Format: format}); err != nil || !reflect.DeepEqual(again.messages, b.messages) && len(b.messages) > 0 {
				t.Errorf("%+v, then %+v (%v)", b.messages, again.messages, err)
			}
		}
		for i := range b.messages {
			if b.messages[i].Size() > message.MaxTelemetry {
				t.Error("a message is too large")
			}
			for _, p := range b.messages[i].Properties {
				if p.Name == "" || reserved(p.Name) {
					t.Errorf("property %q", p.Name)
				}
			}
		}
	})
}
