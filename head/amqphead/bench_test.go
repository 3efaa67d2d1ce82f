package amqphead

import (
	"bytes"
	"fmt"
	"net"
	"runtime"
	"testing"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// own is a client of our own peer, proved as ids.
type own struct {
	t testing.TB
	*amqp.Conn
	s *amqp.Session
}

func (r *rig) own(ids ...ident.ID) *own {
	r.t.Helper()
	nc, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.ownOver(nc, ids...)
}

func (r *rig) ownOver(nc net.Conn, ids ...ident.ID) *own {
	r.t.Helper()
	c, err := amqp.Connect(soon(r.t), nc, amqp.Config{MaxLinks: 20_000})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close(nil); <-c.Done() })
	s, err := c.Begin(soon(r.t))
	if err != nil {
		r.t.Fatal(err)
	}
	o := &own{r.t, c, s}
	if len(ids) > 0 {
		for _, code := range o.prove(ids, tokenFor) {
			if code != 200 {
				r.t.Fatalf("a token is answered with %d", code)
			}
		}
	}
	return o
}

// prove puts a token for each and gives the status codes.
func (o *own) prove(ids []ident.ID, tokenFor func(ident.ID) string) map[ident.ID]int64 {
	o.t.Helper()
	ctx := soon(o.t)
	answers := make(chan [2]int64, len(ids))
	_, err := o.s.Receiver(ctx, amqp.Attaching{Source: &amqp.Source{Address: "$cbs"}}, amqp.Receiving{Window: 1000}, amqp.ReceiverFuncs{
		OnDelivered: func(r *amqp.Receiver, d amqp.Delivery) {
			var m amqp.Message
			if m.Decode(d.Payload) == nil {
				n, _ := m.Properties.CorrelationID.(uint64)
				code, _ := m.ApplicationProperties.Integer("status-code")
				answers <- [2]int64{int64(n), code}
			}
			r.Settle(d.ID, amqp.State{Outcome: amqp.Accepted})
		},
	})
	if err != nil {
		o.t.Fatal(err)
	}
	out, err := o.s.Sender(ctx, amqp.Attaching{Target: &amqp.Target{Address: "$cbs"}}, amqp.SenderFuncs{})
	if err != nil {
		o.t.Fatal(err)
	}
	for i, id := range ids {
		m := amqp.Message{
			Properties:            amqp.Properties{MessageID: uint64(i)},
			ApplicationProperties: amqp.Map{{Key: "operation", Value: "put-token"}, {Key: "name", Value: host + "/" + id.Resource()}},
			Value:                 tokenFor(id), HasValue: true,
		}
		b, err := m.Append(nil)
		if err == nil {
			_, err = out.SendWait(ctx, amqp.Sending{Payload: b})
		}
		if err != nil {
			o.t.Fatal(err)
		}
	}
	codes := map[ident.ID]int64{}
	for range ids {
		select {
		case a := <-answers:
			codes[ids[a[0]]] = a[1]
		case <-ctx.Done():
			o.t.Fatal("tokens are not answered")
		}
	}
	return codes
}

func (o *own) send(address string, events amqp.SenderEvents) *amqp.Sender {
	o.t.Helper()
	s, err := o.s.Sender(soon(o.t), amqp.Attaching{Target: &amqp.Target{Address: address}}, events)
	if err != nil {
		o.t.Fatal(err)
	}
	return s
}

// BenchmarkTelemetry is telemetry as BenchmarkPublish of the MQTT head has it, 64 under
// way at most. The client's share is in it.
func BenchmarkTelemetry(b *testing.B) {
	m := amqp.Message{
		Properties: amqp.Properties{ContentType: "application/json"},
		Data:       [][]byte{bytes.Repeat([]byte("x"), 256)},
	}
	b.Run("bare", func(b *testing.B) { benchmarkTelemetry(b, &m) })
	m.Properties = amqp.Properties{MessageID: "0b1c2d3e-0000-1111-2222-333344445555", To: "/devices/dev/messages/events", ContentType: "application/json", ContentEncoding: "utf-8"}
	m.ApplicationProperties = amqp.Map{{Key: "level", Value: "storage"}, {Key: "temperatureAlert", Value: "false"}}
	b.Run("full", func(b *testing.B) { benchmarkTelemetry(b, &m) })
}

func benchmarkTelemetry(b *testing.B, m *amqp.Message) {
	r := serve(b, &headtest.Backend{Discard: true})
	c := r.own(dev)
	disposed := make(chan struct{}, 64)
	s := c.send("devices/dev/messages/events", amqp.SenderFuncs{OnDisposed: func(_ *amqp.Sender, d amqp.Disposition) {
		if d.State.Outcome != amqp.Accepted {
			b.Error(d.State)
		}
		disposed <- struct{}{}
	}})
	one, err := m.Append(nil)
	if err != nil {
		b.Fatal(err)
	}
	const window = 64
	b.SetBytes(int64(len(one)))
	b.ReportAllocs()
	b.ResetTimer()
	sent, acked := 0, 0
	for acked < b.N {
		if n := min(window, b.N-sent); sent-acked < window/2 && n > 0 {
			for range min(n, window/2) {
				if _, err := s.SendWait(b.Context(), amqp.Sending{Payload: one}); err != nil {
					b.Fatal(err)
				}
				sent++
			}
		}
		<-disposed
		acked++
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
	c := r.own(mod)
	_, err := c.s.Receiver(soon(b), amqp.Attaching{Source: &amqp.Source{Address: "devices/dev/modules/mod/messages/events"}},
		amqp.Receiving{Window: 1000}, amqp.ReceiverFuncs{})
	if err != nil {
		b.Fatal(err)
	}
	a := r.b.AwaitOpen(b, mod, head.Inputs)
	m := message.Message{Body: make([]byte, 256), System: message.System{Input: "in", ConnectionDevice: "dev", ConnectionModule: "m"}}
	batch := make([]head.Delivery, 64)
	for i := range batch {
		batch[i] = head.Delivery{Token: uint64(i), Message: &m}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += len(batch) {
		a.Device.Deliver(head.Inputs, batch)
		<-settled
	}
}

// BenchmarkIdentity measures what an identity costs that shares its connection with
// others: one link each way, its client included.
func BenchmarkIdentity(b *testing.B) {
	r := serve(b, &headtest.Backend{}, func(c *Config) { c.Log = nil })
	const n = 1000
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&before)
		ids := make([]ident.ID, n)
		for i := range ids {
			ids[i] = ident.ID{Device: fmt.Sprintf("dev%d", i)}
		}
		c := r.own(ids...)
		for _, id := range ids {
			c.send(id.Resource()+"/messages/events", amqp.SenderFuncs{})
		}
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(int64(after.HeapInuse+after.StackInuse)-int64(before.HeapInuse+before.StackInuse))/n, "B/identity")
		b.ReportMetric(float64(runtime.NumGoroutine()), "goroutines")
		c.Close(nil)
		<-c.Done()
	}
}
