package bag

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
)

var (
	dev = ident.ID{Device: "dev"}
	mod = ident.ID{Device: "dev", Module: "mod"}
)

func props(pairs ...string) (out []message.Property) {
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, message.Property{Name: pairs[i], Value: pairs[i+1]})
	}
	return out
}

func TestParse(t *testing.T) {
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
			var b Bag
			b.Parse("x=leftover&y=%20", FromDevice) // what was there must not show
			b.Parse(test.in, FromDevice)
			if !reflect.DeepEqual(b.System, test.system) {
				t.Errorf("system %+v, want %+v", b.System, test.system)
			}
			if fmt.Sprint(b.Properties) != fmt.Sprint(test.props) {
				t.Errorf("properties %q, want %q", b.Properties, test.props)
			}
		})
	}
}

func TestAppend(t *testing.T) {
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
		{"full C2D", AppendToDevice(nil, dev, &full), "%24.mid=m%201&%24.exp=2026-11-24T10%3A00%3A00.0000005Z&%24.to=%2Fdevices%2Fdev%2Fmessages%2FdeviceBound" +
			"&%24.cid=c&%24.uid=u&%24.ct=a%2Fb&%24.ce=utf-8&%24.ctime=2026-11-24T10%3A00%3A00.0000000Z&iothub-ack=full&iothub-operation=op&a%20b=1%2B1%3D2%2F3&none="},
		{"bare C2D", AppendToDevice(nil, dev, &message.Message{}), "%24.to=%2Fdevices%2Fdev%2Fmessages%2Fdevicebound"},
		{"bad values", AppendToDevice(nil, dev, &message.Message{System: message.System{Ack: "maybe", CreationTime: "noon"}}),
			"%24.to=%2Fdevices%2Fdev%2Fmessages%2Fdevicebound"},
		{"full input", AppendInput(nil, mod, &full), "%24.mid=m%201&%24.cid=c&%24.uid=u&%24.ct=a%2Fb&%24.ce=utf-8&%24.ctime=2026-11-24T10%3A00%3A00.0000000Z" +
			"&%24.schema=s&%24.ifid=i&%24.sub=comp&%24.cdid=d%2B1&%24.cmid=m1&iothub-operation=op&a%20b=1%2B1%3D2%2F3&none="},
		{"bare input", AppendInput(nil, mod, &message.Message{}), "%24.cdid=dev"},
	} {
		if string(test.got) != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.name, test.got, test.want)
		}
	}
}

// TestTorture sends every legal name and value there and back.
func TestTorture(t *testing.T) {
	const legal = "ABCXYZabcxyz0189!#$%&'*+-^_`|~"
	m := message.Message{}
	for i := range 100 {
		m.Properties = append(m.Properties, message.Property{Name: fmt.Sprintf("%s%d", legal, i), Value: legal + "()<>@,;:\\\"[]?={} \t/\u00fc\u4e16" + strings.Repeat("%41", i%3)})
	}
	var b Bag
	b.Parse(string(AppendToDevice(nil, dev, &m)), FromDevice)
	if !reflect.DeepEqual(b.Properties, m.Properties) {
		t.Errorf("properties changed:\n got %q\nwant %q", b.Properties, m.Properties)
	}
}

func TestParseFromServer(t *testing.T) {
	var b Bag
	b.Parse("%24.cdid=d%2B1&%24.cmid=m&a=b", FromServer)
	if b.System.ConnectionDevice != "d+1" || b.System.ConnectionModule != "m" || len(b.Properties) != 1 {
		t.Errorf("%+v %q", b.System, b.Properties)
	}
}

func TestTelemetry(t *testing.T) {
	m := message.Message{System: message.System{MessageID: "1", To: "/t", CreationTime: "2026-11-24T11:00:00+01:00", Output: "out", InterfaceID: "i"},
		Properties: props("a/b", "c&d")}
	const want = "%24.mid=1&%24.to=%2Ft&%24.ctime=2026-11-24T10%3A00%3A00.0000000Z&%24.on=out&%24.ifid=i&a%2Fb=c%26d"
	if got := string(AppendTelemetry(nil, &m)); got != want {
		t.Errorf(" got %s\nwant %s", got, want)
	}
}

func TestTrim(t *testing.T) {
	var b Bag
	b.Parse("a=%20", FromDevice)
	kept := &b.text[0]
	if b.Trim(); &b.text[:1][0] != kept {
		t.Error("a small bag gave its memory up")
	}
	b.Parse("a="+strings.Repeat("%20", maxKeptText), FromDevice)
	if b.Trim(); b.text != nil {
		t.Error("a large bag kept its memory")
	}
}

func FuzzBag(f *testing.F) {
	f.Add("%24.mid=1&$.ct=a%2Fb&a=b&c/")
	f.Add("?=&&a&a=%&%4=1")
	f.Add(strings.Repeat("a&b=1&%63=%64&", 20))
	f.Fuzz(func(t *testing.T, in string) {
		var b, again Bag
		b.Parse(in, FromDevice)
		seen := map[string]bool{}
		for _, p := range b.Properties {
			if p.Name == "" || seen[p.Name] {
				t.Fatalf("name %q is empty or there twice", p.Name)
			}
			seen[p.Name] = true
		}
		m := message.Message{System: b.System, Properties: b.Properties}
		again.Parse(string(AppendToDevice(nil, dev, &m)), FromDevice)
		if !reflect.DeepEqual(again.Properties, b.Properties) && len(b.Properties)+len(again.Properties) > 0 {
			t.Fatalf("%q became %q", b.Properties, again.Properties)
		}
	})
}

// FuzzTelemetry checks that every message survives the way into a topic and back.
func FuzzTelemetry(f *testing.F) {
	f.Add("m-1", "application/json", "a b", "c=d&e")
	f.Add("%24.mid", "+", "$.mid", "/\x00\xff")
	f.Fuzz(func(t *testing.T, id, contentType, name, value string) {
		in := message.Message{System: message.System{MessageID: id, ContentType: contentType}, Properties: props(name, value)}
		if new(Bag).setSystem(name, value, FromServer) || name == "" {
			in.Properties = nil
		}
		text := string(AppendTelemetry(nil, &in))
		if strings.ContainsAny(text, "/+#\x00") {
			t.Errorf("bag %q holds what is no bag's", text)
		}
		var out Bag
		out.Parse(text, FromServer)
		if fmt.Sprintf("%+v", in.System) != fmt.Sprintf("%+v", out.System) || fmt.Sprintf("%q", in.Properties) != fmt.Sprintf("%q", out.Properties) {
			t.Errorf("%+v became %+v by way of %s", in, out, text)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	var g Bag
	for b.Loop() {
		g.Parse("%24.mid=0b5a1f&%24.ct=application%2Fjson&%24.ce=utf-8&temperatureAlert=true&site=east", FromDevice)
	}
}
