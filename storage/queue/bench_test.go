package queue

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkThrough measures ten senders with 100 messages under way each, and one
// consumer that settles what it gets.
func BenchmarkThrough(b *testing.B) {
	for _, idle := range []int{0, 20} {
		b.Run(fmt.Sprintf("others=%d", idle), func(b *testing.B) {
			const senders = 10
			q := openQueue(b, b.TempDir(), Options{})
			e := endpoint(b, q, "up")
			for i := range idle {
				endpoint(b, q, fmt.Sprint("other", i))
			}
			body := make([]byte, 256)
			encode := func(dst []byte) []byte { return append(dst, body...) }
			b.ReportAllocs()
			b.ResetTimer()
			var all sync.WaitGroup
			for s := range senders {
				all.Go(func() {
					window := make(chan struct{}, 100)
					targets := []Target{{Endpoint: e, Priority: 5}}
					build := func(a *Appender) { a.Add(targets, encode) }
					done := func(err error) {
						if err != nil {
							b.Error(err)
						}
						<-window
					}
					for i := s; i < b.N; i += senders {
						window <- struct{}{}
						q.Append(build, done)
					}
				})
			}
			all.Go(func() { consume(b, e, b.N) })
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}

func consume(b *testing.B, e *Endpoint, n int) {
	var tokens []uint64
	for n > 0 {
		items, err := e.Fetch(context.Background(), 64, 1<<20)
		if err != nil {
			b.Error(err)
			return
		}
		tokens = tokens[:0]
		for _, i := range items {
			tokens = append(tokens, i.Token)
		}
		e.Settle(tokens...)
		n -= len(items)
	}
}

// BenchmarkRoundTrip measures one sender that waits until its message came out.
func BenchmarkRoundTrip(b *testing.B) {
	q := openQueue(b, b.TempDir(), Options{})
	e := endpoint(b, q, "up")
	targets := []Target{{Endpoint: e}}
	body := make([]byte, 256)
	b.ReportAllocs()
	for b.Loop() {
		q.Append(func(a *Appender) {
			a.Add(targets, func(dst []byte) []byte { return append(dst, body...) })
		}, func(error) {})
		consume(b, e, 1)
	}
}

// BenchmarkBacklog fills the queue, opens it again and drains it.
func BenchmarkBacklog(b *testing.B) {
	dir := b.TempDir()
	q := openQueue(b, dir, Options{TailBytes: 1 << 20})
	e := endpoint(b, q, "up")
	body := make([]byte, 256)
	var failed atomic.Int64
	for i := 0; i < b.N; i += 50 {
		q.Append(func(a *Appender) {
			for range min(50, b.N-i) {
				a.Add([]Target{{Endpoint: e}}, func(dst []byte) []byte { return append(dst, body...) })
			}
		}, func(err error) {
			if err != nil {
				failed.Add(1)
			}
		})
	}
	if err := send(q, nil); err != nil || failed.Load() > 0 {
		b.Fatal(err, failed.Load())
	}
	used := heap()
	q.Close()
	b.ResetTimer()
	q = openQueue(b, dir, Options{TailBytes: 1 << 20})
	b.ReportMetric(b.Elapsed().Seconds()*1000, "open-ms")
	consume(b, endpoint(b, q, "up"), b.N)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
	b.ReportMetric(float64(used), "heap-B")
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
