package inbox

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/hub/registry"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
)

// BenchmarkThrough measures messages of 256 bytes that are sent, delivered and
// completed, with 64 senders to a device each.
func BenchmarkThrough(b *testing.B) {
	db, x, err := openAt(b.Context(), filepath.Join(b.TempDir(), "hub.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	defer x.Close()
	reg, err := registry.New(b.Context(), registry.Config{DB: db, Sealer: plain{}})
	if err != nil {
		b.Fatal(err)
	}
	const devices = 64
	var completed sync.WaitGroup
	completed.Add(b.N)
	for i := range devices {
		id := ident.ID{Device: fmt.Sprint("dev-", i)}
		if _, err := reg.Create(b.Context(), registry.Spec{ID: id}); err != nil {
			b.Fatal(err)
		}
		var l *Line
		l = x.Attach(id, func(batch []head.Delivery) {
			for _, d := range batch {
				l.Settle(d.Token, head.Completed)
				completed.Done()
			}
		})
		l.Open()
		defer l.Close()
	}
	body := make([]byte, 256)
	b.ReportAllocs()
	b.ResetTimer()
	var senders sync.WaitGroup
	for i := range devices {
		senders.Go(func() {
			id := ident.ID{Device: fmt.Sprint("dev-", i)}
			for n := i; n < b.N; n += devices {
				if err := x.Send(b.Context(), id, &message.Message{Body: body}); err != nil {
					b.Error(err)
					completed.Done()
				}
			}
		})
	}
	senders.Wait()
	completed.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}
