package service

import (
	"bytes"
	"net"
	"sync/atomic"
	"testing"

	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// One consumer reads a partition from its start, in the same process over TCP.
func BenchmarkConsumer(b *testing.B) {
	r := newRig(b, nil)
	d := r.device(0)
	body := bytes.Repeat([]byte("x"), 128)
	batch := make([]message.Message, 100)
	for i := range batch {
		batch[i] = message.Message{Body: body, Properties: []message.Property{{Name: "level", Value: "high"}}, System: message.System{
			MessageID: "some-message-id", ConnectionDevice: d, Source: message.Telemetry, Generation: "638000000000000000",
			AuthMethod: `{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}`}}
	}
	done := make(chan error, 1)
	for n := 0; n < b.N; n += len(batch) {
		last := n+len(batch) >= b.N
		r.stream.Append(d, batch, func(err error) {
			if err != nil || last {
				done <- err
			}
		})
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	nc, err := net.Dial("tcp", r.at)
	if err != nil {
		b.Fatal(err)
	}
	c, err := amqp.Connect(b.Context(), nc, amqp.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { c.Close(nil); <-c.Done() }()
	s, err := c.Begin(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	var got atomic.Int64
	all := make(chan struct{})
	b.ResetTimer()
	_, err = s.Receiver(b.Context(), amqp.Attaching{Source: &amqp.Source{Address: first + "0"}, SenderSettleMode: amqp.SendSettled},
		amqp.Receiving{Window: 2000}, amqp.ReceiverFuncs{OnDelivered: func(*amqp.Receiver, amqp.Delivery) {
			if got.Add(1) == int64(b.N) {
				close(all)
			}
		}})
	if err != nil {
		b.Fatal(err)
	}
	<-all
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
