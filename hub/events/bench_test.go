package events

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/model/message"
)

// stamped is a message as the hub's backend hands it over.
func stamped(device string, size int) message.Message {
	return message.Message{
		Body:       make([]byte, size),
		Properties: []message.Property{{Name: "kind", Value: "bench"}},
		System: message.System{MessageID: "0123456789abcdef", ConnectionDevice: device, Generation: "638400000000000000",
			AuthMethod: `{"scope":"device","type":"sas","issuer":"iothub"}`, Source: message.Telemetry, Enqueued: time.Now()},
	}
}

// BenchmarkAppend measures ten publishers of 256 bytes with up to 100 messages
// under way each, in batches.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{1, 10} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			s := open(b, Config{Dir: b.TempDir(), MaxBytes: 256 << 20})
			const publishers, window = 10, 100
			b.ReportAllocs()
			b.ResetTimer()
			var all sync.WaitGroup
			for p := range publishers {
				all.Go(func() {
					device := fmt.Sprint("device-", p)
					batch := make([]message.Message, size)
					for i := range batch {
						batch[i] = stamped(device, 256)
					}
					room := make(chan struct{}, window/size)
					done := func(err error) {
						if err != nil {
							b.Error(err)
						}
						<-room
					}
					for i := p * size; i < b.N; i += publishers * size {
						room <- struct{}{}
						s.Append(device, batch, done)
					}
					for range cap(room) {
						room <- struct{}{}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkEncode measures what an event costs before the disk.
func BenchmarkEncode(b *testing.B) {
	s := open(b, Config{Dir: b.TempDir(), Partitions: 1, MaxBytes: 64 << 20})
	batch := make([]message.Message, 64)
	for i := range batch {
		batch[i] = stamped("device", 256)
	}
	c := s.partitions[0].calls.Get().(*call)
	dst := make([]byte, 0, 1<<20)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		c.current = &batch[i%len(batch)]
		dst = c.encode(dst[:0])
	}
}

// BenchmarkRead measures one reader, from memory or from disk.
func BenchmarkRead(b *testing.B) {
	for name, tail := range map[string]int{"memory": 64 << 20, "disk": 1} {
		b.Run(name, func(b *testing.B) {
			s := open(b, Config{Dir: b.TempDir(), Partitions: 1, TailBytes: tail})
			fill(b, s, 1, 20_000)
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; {
				r, err := s.Reader(0, Start())
				if err != nil {
					b.Fatal(err)
				}
				for n < b.N {
					events, err := r.Poll()
					if err != nil {
						b.Fatal(err)
					}
					if n += len(events); len(events) == 0 {
						break
					}
				}
				r.Close()
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

func fill(b *testing.B, s *Stream, devices, each int) {
	b.Helper()
	var done sync.WaitGroup
	for d := range devices {
		device := fmt.Sprint("device-", d)
		batch := make([]message.Message, 100)
		for i := range batch {
			batch[i] = stamped(device, 256)
			batch[i].Body = []byte(fmt.Sprintf(`{"machine":{"temperature":%d.5},"pad":"%0200d"}`, i, i))
		}
		for range each / len(batch) {
			done.Add(1)
			s.Append(device, batch, func(err error) {
				if err != nil {
					b.Error(err)
				}
				done.Done()
			})
		}
	}
	done.Wait()
}

// BenchmarkFollow measures lines of JSON, of all partitions in the order of time.
func BenchmarkFollow(b *testing.B) {
	s := open(b, Config{Dir: b.TempDir(), TailBytes: 64 << 20})
	fill(b, s, 10, 2000)
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += 20_000 {
		steps, err := s.Follow(context.Background(), Query{Since: time.Unix(1, 0), Count: min(20_000, b.N-n)})
		if err != nil {
			b.Fatal(err)
		}
		for _, err := range steps {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
