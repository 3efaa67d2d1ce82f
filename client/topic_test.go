package client

import (
	"net"
	"slices"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

func TestParseTopic(t *testing.T) {
	for _, test := range []struct {
		id   ident.ID
		in   string
		want topic
	}{
		{dev, "devices/dev/messages/devicebound/%24.to=x&a=b", topic{kind: toDevice, bag: "%24.to=x&a=b"}},
		{dev, "devices/dev/messages/deviceBound", topic{kind: toDevice}},
		{dev, "devices/dev/messages/deviceboundary", topic{}},
		{dev, "devices/DEV/messages/devicebound/", topic{}},
		{dev, "devices/dev/modules/mod/inputs/in/", topic{}},
		{mod, "devices/dev/modules/mod/inputs/in/%24.cdid=d", topic{kind: toInput, name: "in", bag: "%24.cdid=d"}},
		{mod, "devices/dev/modules/mod/inputs/in", topic{kind: toInput, name: "in"}},
		{mod, "devices/dev/messages/devicebound/", topic{}},
		{mod, "$iothub/twin/res/200/?$rid=7", topic{kind: twinAnswer, status: 200, rid: "7"}},
		{mod, "$iothub/twin/res/204/?$rid=a-b&$version=12", topic{kind: twinAnswer, status: 204, rid: "a-b", version: 12}},
		{mod, "$iothub/twin/res/ok/?$rid=7", topic{}},
		{mod, "$iothub/twin/PATCH/properties/desired/?$version=3", topic{kind: desiredChange, version: 3}},
		{mod, "$iothub/methods/POST/reset/?$rid=1&x=2", topic{kind: methodCall, name: "reset", rid: "1&x=2"}},
		{mod, "$iothub/methods/POST//?$rid=1", topic{}},
		{mod, "$iothub/methods/POST/reset", topic{}},
		{mod, "", topic{}},
	} {
		if got := parseTopic(test.in, test.id); got != test.want {
			t.Errorf("parseTopic(%q) = %+v, want %+v", test.in, got, test.want)
		}
	}
}

func TestTelemetryTopic(t *testing.T) {
	for _, test := range []struct {
		id   ident.ID
		m    message.Message
		want string
	}{
		{dev, message.Message{}, "devices/dev/messages/events/"},
		{mod, message.Message{System: message.System{Output: "out", ContentType: "application/json"}},
			"devices/dev/modules/mod/messages/events/%24.ct=application%2Fjson&%24.on=out"},
		{dev, message.Message{
			System:     message.System{MessageID: "1", CreationTime: "2026-01-02T03:04:05.678+01:00", Component: "c", ConnectionDevice: "d"},
			Properties: []message.Property{{Name: "", Value: "x"}, {Name: "a b", Value: "c+d"}, {Name: "e", Value: ""}},
		}, "devices/dev/messages/events/%24.mid=1&%24.ctime=2026-01-02T02%3A04%3A05.6780000Z&%24.sub=c&a%20b=c%2Bd&e="},
		{dev, message.Message{System: message.System{CreationTime: "yesterday"}}, "devices/dev/messages/events/%24.ctime=yesterday"},
	} {
		if got := string(appendTelemetryTopic(nil, test.id, &test.m)); got != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}

// FuzzServer lets a server send anything at all: the client neither panics nor hangs.
func FuzzServer(f *testing.F) {
	f.Add(publish("devices/dev/modules/mod/inputs/in/%24.cdid=d&%24.exp=x&a=%zz&=b&&c", "body", 1, 1))
	f.Add(publish("$iothub/twin/res/200/?$rid=1&$version=x", "{", 0, 0))
	f.Add(publish("$iothub/twin/PATCH/properties/desired/?$version=", `{"$version":1}`, 0, 0))
	f.Add(slices.Concat(publish("$iothub/methods/POST/a/?$rid=1", "", 0, 0), puback(1), puback(9)))
	f.Add([]byte{0x90, 3, 0x80, 1, 0x80, 0xd0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		near, far := net.Pipe()
		defer far.Close()
		c := newClient(Config{Host: host, ID: mod}.withDefaults())
		m := newMQTT(c, near)
		c.notify.Store(new(func(int64, []byte) {}))
		c.joined.Go(m.run)
		go func() { // the server also reads, as long as there is something
			b := make([]byte, 1<<10)
			for {
				if _, err := far.Read(b); err != nil {
					return
				}
			}
		}()
		c.Publish(texts("a b"), func(error) {})
		far.SetWriteDeadline(time.Now().Add(5 * time.Second))
		if _, err := far.Write(in); err != nil && c.Err() == nil {
			t.Errorf("the client stopped reading: %v", err)
		}
		c.Close()
	})
}

// BenchmarkAppendTelemetry is the cost of encoding one message.
func BenchmarkAppendTelemetry(b *testing.B) {
	m := message.Message{
		Body:       make([]byte, 256),
		System:     message.System{ContentType: "application/json", ContentEncoding: "utf-8", Output: "temperatureOutput"},
		Properties: []message.Property{{Name: "sequenceNumber", Value: "12345"}},
	}
	var topic, packet []byte
	b.ReportAllocs()
	for b.Loop() {
		topic = appendTelemetryTopic(topic[:0], mod, &m)
		p := mqtt.Publish{Payload: m.Body, QoS: 1, ID: 1}
		packet = p.AppendWithTopic(packet[:0], topic, mqtt.V311)
	}
}
