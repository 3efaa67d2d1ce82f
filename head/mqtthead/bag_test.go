package mqtthead

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/model/message"
)

func props(pairs ...string) (out []message.Property) {
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, message.Property{Name: pairs[i], Value: pairs[i+1]})
	}
	return out
}

func TestParseBag(t *testing.T) {
	expiry := time.Date(2026, 11, 24, 10, 0, 0, 500_000_000, time.UTC)
	for _, test := range []struct {
		name, in string
		system   message.System
		props    []message.Property
	}{
		{name: "empty"},
		{name: "slash", in: "/"},
		{name: "trailing slash", in: "a=b/", props: props("a", "b")},
		{name: "leading question mark", in: "?a=b", props: props("a", "b")},
		{name: "Node", in: "%24.mid=1&%24.ct=application%2Fjson&%24.ce=utf-8&alert=true/",
			system: message.System{MessageID: "1", ContentType: "application/json", ContentEncoding: "utf-8"}, props: props("alert", "true")},
		{name: "raw names", in: "a=b&$.mid=1&$.cid=2&$.on=out", system: message.System{MessageID: "1", CorrelationID: "2", Output: "out"}, props: props("a", "b")},
		{name: "all system", in: "$.uid=u&$.to=%2Ft&$.exp=2026-11-24T10:00:00.5000000Z&$.ctime=2026-11-24T10%3A00%3A00&$.schema=s&$.ifid=i&$.sub=c&iothub-operation=d2c&iothub-ack=full",
			system: message.System{UserID: "u", To: "/t", Expiry: expiry, CreationTime: "2026-11-24T10:00:00", Schema: "s",
				InterfaceID: "i", Component: "c", Operation: "d2c", Ack: "full"}},
		{name: "zones", in: "$.exp=2026-11-24T11%3A00%3A00.5%2B01%3A00", system: message.System{Expiry: expiry}},
		{name: "no zone", in: "$.exp=2026-11-24T10:00:00.500", system: message.System{Expiry: expiry}},
		{name: "bad expiry", in: "$.exp=0"},
		{name: "plus is plus", in: "a+b=c+d", props: props("a+b", "c+d")},
		{name: "unencoded", in: "a=x y=z;50%&b=\u00fc", props: props("a", "x y=z;50%", "b", "\u00fc")},
		{name: "null and empty", in: "a&b=", props: props("a", "", "b", "")},
		{name: "last wins", in: "a=1&b=2&a=3", props: props("a", "3", "b", "2")},
		{name: "no name", in: "=x&&a=b&", props: props("a", "b")},
		{name: "unknown system name", in: "%24.foo=1&$.diagid=2", props: props("$.foo", "1", "$.diagid", "2")},
		{name: "forged", in: "$.cdid=other&$.cmid=m&iothub-connection-device-id=other&iothub-enqueuedtime=1&a=b", props: props("a", "b")},
		{name: "case matters", in: "A=1&a=2", props: props("A", "1", "a", "2")},
	} {
		t.Run(test.name, func(t *testing.T) {
			var b bag
			b.parse("x=leftover&y=%20") // what was there must not show
			b.parse(test.in)
			if !reflect.DeepEqual(b.system, test.system) {
				t.Errorf("system %+v, want %+v", b.system, test.system)
			}
			if fmt.Sprint(b.properties) != fmt.Sprint(test.props) {
				t.Errorf("properties %q, want %q", b.properties, test.props)
			}
		})
	}
}

func TestAppendBags(t *testing.T) {
	when := time.Date(2026, 11, 24, 10, 0, 0, 500, time.UTC)
	full := message.Message{System: message.System{
		MessageID: "m 1", CorrelationID: "c", UserID: "u", To: "/devices/dev/messages/deviceBound", ContentType: "a/b", ContentEncoding: "utf-8",
		CreationTime: "2026-11-24T11:00:00+01:00", Expiry: when, Ack: "full", Operation: "op", Schema: "s",
		ConnectionDevice: "d+1", ConnectionModule: "m1", InterfaceID: "i", Component: "comp",
	}, Properties: props("a b", "1+1=2/3", "none", "", "", "dropped")}
	for _, test := range []struct {
		name string
		got  []byte
		want string
	}{
		{"full C2D", appendToDeviceBag(nil, dev, &full), "%24.mid=m%201&%24.exp=2026-11-24T10%3A00%3A00.0000005Z&%24.to=%2Fdevices%2Fdev%2Fmessages%2FdeviceBound" +
			"&%24.cid=c&%24.uid=u&%24.ct=a%2Fb&%24.ce=utf-8&%24.ctime=2026-11-24T10%3A00%3A00.0000000Z&iothub-ack=full&iothub-operation=op&a%20b=1%2B1%3D2%2F3&none="},
		{"bare C2D", appendToDeviceBag(nil, dev, &message.Message{}), "%24.to=%2Fdevices%2Fdev%2Fmessages%2Fdevicebound"},
		{"bad values", appendToDeviceBag(nil, dev, &message.Message{System: message.System{Ack: "maybe", CreationTime: "noon"}}),
			"%24.to=%2Fdevices%2Fdev%2Fmessages%2Fdevicebound"},
		{"full input", appendInputBag(nil, mod, &full), "%24.mid=m%201&%24.cid=c&%24.uid=u&%24.ct=a%2Fb&%24.ce=utf-8&%24.ctime=2026-11-24T10%3A00%3A00.0000000Z" +
			"&%24.schema=s&%24.ifid=i&%24.sub=comp&%24.cdid=d%2B1&%24.cmid=m1&iothub-operation=op&a%20b=1%2B1%3D2%2F3&none="},
		{"bare input", appendInputBag(nil, mod, &message.Message{}), "%24.cdid=dev"},
	} {
		if string(test.got) != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.name, test.got, test.want)
		}
	}
}

// TestBagTorture sends every legal name and value there and back.
func TestBagTorture(t *testing.T) {
	const legal = "ABCXYZabcxyz0189!#$%&'*+-^_`|~"
	m := message.Message{}
	for i := range 100 {
		m.Properties = append(m.Properties, message.Property{Name: fmt.Sprintf("%s%d", legal, i), Value: legal + "()<>@,;:\\\"[]?={} \t/\u00fc\u4e16" + strings.Repeat("%41", i%3)})
	}
	var b bag
	b.parse(string(appendToDeviceBag(nil, dev, &m)))
	if !reflect.DeepEqual(b.properties, m.Properties) {
		t.Errorf("properties changed:\n got %q\nwant %q", b.properties, m.Properties)
	}
}

func FuzzBag(f *testing.F) {
	f.Add("%24.mid=1&$.ct=a%2Fb&a=b&c/")
	f.Add("?=&&a&a=%&%4=1")
	f.Add(strings.Repeat("a&b=1&%63=%64&", 20))
	f.Fuzz(func(t *testing.T, in string) {
		var b, again bag
		b.parse(in)
		seen := map[string]bool{}
		for _, p := range b.properties {
			if p.Name == "" || seen[p.Name] {
				t.Fatalf("name %q is empty or there twice", p.Name)
			}
			seen[p.Name] = true
		}
		m := message.Message{System: b.system, Properties: b.properties}
		again.parse(string(appendToDeviceBag(nil, dev, &m)))
		if !reflect.DeepEqual(again.properties, b.properties) && len(b.properties)+len(again.properties) > 0 {
			t.Fatalf("%q became %q", b.properties, again.properties)
		}
	})
}

func BenchmarkParseBag(b *testing.B) {
	b.ReportAllocs()
	var g bag
	for b.Loop() {
		g.parse("%24.mid=0b5a1f&%24.ct=application%2Fjson&%24.ce=utf-8&temperatureAlert=true&site=east")
	}
}
