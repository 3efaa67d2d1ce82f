package log

import (
	"fmt"
	"sync"
	"testing"
)

// BenchmarkAppend measures producers that each wait for their record to be durable.
func BenchmarkAppend(b *testing.B) {
	payload := make([]byte, 256)
	for _, producers := range []int{1, 10, 256} {
		b.Run(fmt.Sprintf("p=%d", producers), func(b *testing.B) {
			l := openLog(b, b.TempDir(), Options{MaxBytes: 64 << 20})
			b.ReportAllocs()
			b.SetBytes(int64(len(payload)))
			b.ResetTimer()
			var all sync.WaitGroup
			for p := range producers {
				all.Go(func() {
					acked := make(chan error, 1)
					build := func(b *Batch) { b.Add(payload) }
					done := func(_ Offset, err error) { acked <- err }
					for i := p; i < b.N; i += producers {
						l.Append(build, done)
						if err := <-acked; err != nil {
							b.Error(err)
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// BenchmarkWindow measures ten producers with 100 records under way each.
func BenchmarkWindow(b *testing.B) {
	payload := make([]byte, 256)
	l := openLog(b, b.TempDir(), Options{MaxBytes: 64 << 20})
	b.ReportAllocs()
	b.ResetTimer()
	var all sync.WaitGroup
	const producers = 10
	for p := range producers {
		all.Go(func() {
			window := make(chan struct{}, 100)
			build := func(b *Batch) { b.Add(payload) }
			done := func(Offset, error) { <-window }
			for i := p; i < b.N; i += producers {
				window <- struct{}{}
				l.Append(build, done)
			}
			for range cap(window) {
				window <- struct{}{}
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkRead(b *testing.B) {
	for name, tail := range map[string]int{"memory": 8 << 20, "disk": 1} {
		b.Run(name, func(b *testing.B) {
			l := openLog(b, b.TempDir(), Options{TailBytes: tail})
			const n = 16_000
			l.Append(func(b *Batch) {
				for range n {
					b.Add(make([]byte, 256))
				}
			}, func(Offset, error) {})
			mustPut(b, l, string(make([]byte, chunkSize)))
			r := l.NewReader(Oldest)
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; {
				recs, err := r.Poll()
				if err != nil {
					b.Fatal(err)
				}
				if i += len(recs); len(recs) == 0 {
					r.Seek(Oldest)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
