package client

import (
	"fmt"
	"sync"
	"testing"

	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/model/message"
)

// BenchmarkPublish sends batches over a loopback socket to the real head, whose backend
// acknowledges at once.
func BenchmarkPublish(b *testing.B) {
	for _, p := range []Protocol{MQTT, AMQP, MQTTWS, AMQPWS} {
		for _, size := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/batch=%d", p, size), func(b *testing.B) { benchmarkPublish(b, p, size) })
		}
	}
}

func benchmarkPublish(b *testing.B, p Protocol, size int) {
	r := serveBy(b, p, &headtest.Backend{Discard: true})
	c := r.dial(mod)
	batch := make([]message.Message, size)
	for i := range batch {
		batch[i] = message.Message{
			Body:       make([]byte, 256),
			System:     message.System{ContentType: "application/json", ContentEncoding: "utf-8", Output: "out"},
			Properties: []message.Property{{Name: "sequenceNumber", Value: "12345"}},
		}
	}
	var under sync.WaitGroup
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		under.Add(1)
		c.Publish(batch, func(err error) {
			if err != nil {
				b.Error(err)
			}
			under.Done()
		})
		n += size
	}
	under.Wait()
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "msg/s")
}
