package mqtthead

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

const events = "devices/dev/messages/events/"

func TestTelemetry(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p, _ := r.connect(dev)
	flags := mqtt.Publish{Topic: events + "a=b", Payload: []byte("5"), QoS: 1, ID: 5, Dup: true, Retain: true}
	p.send(
		pub(0, 0, "devices/dev/messages/events", "0"),
		pub(1, 1, events+"%24.mid=m&%24.ct=application%2Fjson&a=b/", "1"),
		pub(1, 2, events+"%24.mid=m&%24.ct=application%2Fjson&a=b/", "2"),
		pub(1, 3, events+"%24.mid=m&%24.ct=application%2Fjson&a=b/", "3"),
		pub(1, 4, events+"a=c", ""),
		flags.Append(nil, mqtt.V311),
		pub(1, 6, events+"a=b", "6"),
	)
	p.wantPubacks(1, 2, 3, 4, 5, 6)
	got := r.b.Messages(t, 7)
	for i, want := range []struct{ body, mid, props string }{
		{"0", "", "[]"}, {"1", "m", "[{a b}]"}, {"2", "m", "[{a b}]"}, {"3", "m", "[{a b}]"}, {"", "", "[{a c}]"},
		{"5", "", "[{a b} {mqtt-retain true} {mqtt-dup true}]"}, {"6", "", "[{a b}]"},
	} {
		m := got[i]
		if string(m.Body) != want.body || m.System.MessageID != want.mid || fmt.Sprint(m.Properties) != want.props || m.From != dev {
			t.Errorf("message %d: %q mid %q %v, want %+v", i, m.Body, m.System.MessageID, m.Properties, want)
		}
	}
}

// TestTopicCache drives topics through the cache in all orders.
func TestTopicCache(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p, _ := r.connect(mod)
	var wire []byte
	var want []string
	for i := range 3000 {
		v := "abcd"[i*i/7%4 : i*i/7%4+1]
		wire = append(wire, pub(1, uint16(i+1), "devices/dev/modules/mod/messages/events/%24.on=o%20"+v+"&k%20="+v, "x")...)
		want = append(want, v)
	}
	go p.Write(wire)
	for i := range 3000 {
		p.wantPubacks(uint16(i + 1))
	}
	for i, m := range r.b.Messages(t, 3000) {
		if v, _ := m.Get("k "); v != want[i] || m.System.Output != "o "+want[i] || m.From != mod {
			t.Fatalf("message %d has k=%q output %q, want %q", i, v, m.System.Output, want[i])
		}
	}
}

func TestBatches(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p, _ := r.connect(dev)
	var wire []byte
	for i := range 1000 {
		wire = append(wire, pub(1, uint16(i+1), events, "x")...)
	}
	p.send(wire)
	for i := range 1000 {
		p.wantPubacks(uint16(i + 1))
	}
	batches := r.b.Batches()
	if len(batches) > 200 {
		t.Errorf("%d batches for 1000 messages sent at once", len(batches))
	}
	for _, n := range batches {
		if n > batchMessages {
			t.Errorf("a batch of %d messages, the most is %d", n, batchMessages)
		}
	}
}

// TestPubackOrder holds telemetry back: what comes after it waits too, and nothing
// overtakes.
func TestPubackOrder(t *testing.T) {
	r := serve(t, &headtest.Backend{Hold: true})
	p, _ := r.connect(dev)
	p.send(
		pub(1, 10, events, "a"),
		pub(1, 9, "$iothub/twin/GET/?$rid=1", " "),
		pub(1, 8, events, "b"),
		pub(1, 7, "$iothub/methods/res/200/?$rid=nobody", "{}"),
		pub(1, 6, "$iothub/twin/PATCH/properties/reported/?$rid=2", `{"a":1}`),
		pub(1, 5, events, "c"),
	)
	r.b.Messages(t, 3)
	p.wantQuiet()
	r.b.Release(1, nil)
	p.wantPubacks(10, 9)
	p.wantQuiet()
	r.b.Release(2, nil)
	p.wantPubacks(8, 7, 6, 5)
}

// TestReportsAreDurableFirst: the PUBACK of a patch is a promise too.
func TestReportsAreDurableFirst(t *testing.T) {
	reached, proceed := make(chan bool), make(chan bool)
	r := serve(t, &headtest.Backend{BeforeReport: func() { reached <- true; <-proceed }})
	p, _ := r.connect(dev)
	p.send(pub(1, 1, "$iothub/twin/PATCH/properties/reported/", `{"a":1}`), pub(1, 2, events, "x"))
	<-reached
	r.b.Messages(t, 1) // telemetry itself does not wait
	p.wantQuiet()
	close(proceed)
	p.wantPubacks(1, 2)
}

func TestBackPressure(t *testing.T) {
	r := serve(t, &headtest.Backend{Hold: true}, func(c *Config) { c.Window = 16 })
	p, _ := r.connect(dev)
	var wire []byte
	for i := range 40 {
		wire = append(wire, pub(1, uint16(i+1), events, "x")...)
	}
	p.send(wire)
	for batches, acked := 0, 0; acked < 40; {
		want := min(acked+16, 40)
		if got := len(r.b.Messages(t, want)); got != want {
			t.Fatalf("%d messages reached the backend with %d acknowledged, want %d", got, acked, want)
		}
		r.b.Release(1, nil)
		for range r.b.Batches()[batches] {
			acked++
			p.wantPubacks(uint16(acked))
		}
		batches++
	}
}

func TestLargeMessages(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p, _ := r.connect(dev)
	for i, size := range []int{255 << 10, 256 << 10, 100 << 10, 256<<10 - 3} {
		p.send(pub(1, uint16(i+1), events, string(make([]byte, size))))
		p.wantPubacks(uint16(i + 1))
	}
	long := events + "a=" + strings.Repeat("%20", 20_000)
	p.send(pub(1, 9, long, string(make([]byte, 200<<10))))
	p.wantPubacks(9)
}

// TestCloses holds the server to all it must not accept (device-protocol 5.15).
func TestCloses(t *testing.T) {
	subscribe := func(filter string) []byte {
		return (&mqtt.Subscribe{ID: 1, Filters: []mqtt.Subscription{{Filter: filter}}}).Append(nil, mqtt.V311)
	}
	for _, test := range []struct {
		name string
		b    []byte
		line string
	}{
		{"QoS 2", pub(2, 1, events, "x"), "QoS 2"},
		{"unknown topic", pub(0, 0, "home/kitchen", "x"), "home/kitchen"},
		{"other device", pub(0, 0, "devices/other/messages/events/", "x"), "devices/other"},
		{"own module", pub(0, 0, "devices/dev/modules/mod/messages/events/", "x"), "not allowed"},
		{"twin without rid", pub(0, 0, "$iothub/twin/GET/", ""), "malformed twin topic"},
		{"malformed twin topic", pub(0, 0, "$iothub/twin/GET/x", ""), "malformed twin topic"},
		{"endless rid", pub(0, 0, "$iothub/twin/GET/?$rid="+strings.Repeat("x", 65_500), ""), "malformed twin topic"},
		{"unknown twin topic", pub(0, 0, "$iothub/twin/PUT/?$rid=1", ""), "not allowed"},
		{"message too large", pub(1, 1, events, string(make([]byte, 300<<10))), "most is 262144"},
		{"properties too large", pub(1, 1, events+"a=b", string(make([]byte, 256<<10-1))), "most is 262144"},
		{"packet too large", pub(1, 1, events, string(make([]byte, 400<<10))), "larger than allowed"},
		{"foreign filter", subscribe("devices/other/messages/devicebound/#"), "not allowed"},
		{"all", subscribe("#"), "not allowed"},
		{"second CONNECT", connectPacket(dev), "second CONNECT"},
		{"PUBREL", []byte{0x62, 2, 0, 1}, "PUBREL"},
		{"CONNACK", []byte{0x20, 2, 0, 0}, "CONNACK"},
		{"malformed", []byte{0x82, 2, 0, 1}, "no filter"},
		{"bad UTF-8", []byte{0x30, 3, 0, 1, 0xff}, "UTF-8"},
		{"endless length", []byte{0x30, 0xff, 0xff, 0xff, 0xff, 1}, "malformed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := serve(t, &headtest.Backend{})
			p, _ := r.connect(dev)
			p.send(pub(1, 1, events, "before"))
			p.wantPubacks(1)
			p.Write(test.b) // may fail: the server need not read it all
			p.wantClosed()
			r.b.AwaitGone(t, dev)
			r.awaitLog("WARN", "device=dev", test.line)
			if got := len(r.b.Messages(t, 0)); got != 1 {
				t.Errorf("%d messages were accepted, want 1", got)
			}
		})
	}
}

func TestRefusedTelemetryCloses(t *testing.T) {
	r := serve(t, &headtest.Backend{Refuse: func(batch []message.Message) error {
		if string(batch[len(batch)-1].Body) == "bad" {
			return fault.New(fault.QuotaExceeded, "no more today")
		}
		return nil
	}})
	p, _ := r.connect(dev)
	p.send(pub(1, 1, events, "good"))
	p.wantPubacks(1)
	p.send(pub(1, 2, events, "bad"))
	p.wantClosed()
	r.awaitLog("WARN", "device=dev", "no more today")
}

func TestTelemetryBeforeDisconnectCounts(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p := r.dial()
	p.send(connectPacket(dev), pub(0, 0, events, "x"), mqtt.AppendEmpty(nil, mqtt.TypeDisconnect))
	p.connack()
	p.wantClosed()
	r.b.Messages(t, 1)
}

// BenchmarkPublish is publish to PUBACK over loopback with a window of 64.
func BenchmarkPublish(b *testing.B) {
	r := serve(b, &headtest.Backend{Discard: true})
	p, _ := r.connect(dev)
	p.SetDeadline(noDeadline)
	one := pub(1, 1, events+"%24.ct=application%2Fjson", strings.Repeat("x", 256))
	const window = 64
	burst := []byte(strings.Repeat(string(one), window))
	b.SetBytes(int64(len(one)))
	b.ReportAllocs()
	b.ResetTimer()
	sent, acked := 0, 0
	for acked < b.N {
		if n := min(window, b.N-sent); sent-acked < window/2 && n > 0 {
			if _, err := p.Write(burst[:n*len(one)]); err != nil {
				b.Fatal(err)
			}
			sent += n
		}
		p.puback()
		acked++
		for p.r.Buffered() {
			p.puback()
			acked++
		}
	}
}

// BenchmarkPublishOne waits for each PUBACK.
func BenchmarkPublishOne(b *testing.B) {
	r := serve(b, &headtest.Backend{Discard: true})
	p, _ := r.connect(dev)
	p.SetDeadline(noDeadline)
	one := pub(1, 1, events, strings.Repeat("x", 256))
	b.ReportAllocs()
	for b.Loop() {
		p.send(one)
		p.puback()
	}
}

// BenchmarkDeliver is delivery to settlement over loopback, 64 at a time.
func BenchmarkDeliver(b *testing.B) {
	settled := make(chan struct{}, 64)
	r := serve(b, &headtest.Backend{OnSettle: func(s headtest.Settlement) {
		if s.Token == 63 {
			settled <- struct{}{}
		}
	}})
	p, _ := r.connect(mod)
	p.SetDeadline(noDeadline)
	p.subscribe(1, "devices/dev/modules/mod/#")
	a := r.b.AwaitOpen(b, mod, head.Inputs)
	m := message.Message{Body: make([]byte, 256), System: message.System{Input: "in", ConnectionDevice: "dev", ConnectionModule: "m"}}
	batch := make([]head.Delivery, 64)
	for i := range batch {
		batch[i] = head.Delivery{Token: uint64(i), Message: &m}
	}
	acks := make([]byte, 0, 4*len(batch))
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += len(batch) {
		a.Device.Deliver(head.Inputs, batch)
		acks = acks[:0]
		for range batch {
			var got mqtt.Publish
			f, err := p.r.Next()
			if err == nil {
				err = got.Decode(f)
			}
			if err != nil {
				b.Fatal(err)
			}
			acks = (&mqtt.Ack{Type: mqtt.TypePuback, ID: got.ID}).Append(acks, mqtt.V311)
		}
		p.send(acks)
		<-settled
	}
}

// BenchmarkIdle measures what a connection costs that has one subscription and
// nothing to say, its client's socket included.
func BenchmarkIdle(b *testing.B) {
	r := serve(b, &headtest.Backend{}, func(c *Config) { c.Log = nil })
	const n = 1000
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		peers := make([]*peer, n)
		for i := range peers {
			id := ident.ID{Device: fmt.Sprintf("dev%d", i)}
			peers[i], _ = r.connect(id)
			peers[i].subscribe(1, "devices/"+id.Device+"/messages/devicebound/#")
			peers[i].r = nil
		}
		runtime.GC()
		runtime.GC() // the second shrinks stacks further and empties pools
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapInuse+after.StackInuse-before.HeapInuse-before.StackInuse)/n, "B/conn")
		for _, p := range peers {
			p.Close()
		}
	}
}

var noDeadline time.Time
