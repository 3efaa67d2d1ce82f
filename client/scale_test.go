package client

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/method"
)

// TestThousandIdentities has as many as a hub takes on one connection, with a listener
// to desired properties and methods each, and one with a bad token among them.
func TestThousandIdentities(t *testing.T) {
	t.Parallel()
	const n = 999
	r := serveBy(t, AMQP, &headtest.Backend{Judge: judge})
	m, err := DialAMQP(within(t), r.config(ident.ID{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	clients := make([]*Client, n)
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for i := w; i < n; i += 8 {
				c, err := m.Dial(within(t), r.config(ident.ID{Device: fmt.Sprint("d", i)}))
				if err != nil {
					t.Errorf("identity %d: %v", i, err)
					return
				}
				clients[i] = c
				if err := c.OnDesired(within(t), func(int64, []byte) {}); err != nil {
					t.Errorf("identity %d: %v", i, err)
				}
				err = c.OnMethod(within(t), func(_ context.Context, _ *method.Call) method.Reply { return method.Reply{Status: 200} })
				if err != nil {
					t.Errorf("identity %d: %v", i, err)
				}
			}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	bad := r.config(ident.ID{Device: "bad"})
	bad.Credentials = SharedKey([]byte("wrong"), "")
	if _, err := m.Dial(within(t), bad); !fault.Is(err, fault.Unauthorized) {
		t.Errorf("Dial() = %v", err)
	}
	for i, c := range clients {
		all.Add(1)
		c.Publish(texts("a"), func(err error) {
			if err != nil {
				t.Errorf("identity %d: %v", i, err)
			}
			all.Done()
		})
	}
	all.Wait()
	r.b.Messages(t, n)
	a := r.b.AwaitOpen(t, ident.ID{Device: "d7"}, head.Methods)
	if reply, err := a.Device.Invoke(within(t), &method.Call{Name: "x"}); err != nil || reply.Status != 200 {
		t.Errorf("Invoke() = %v, %v", reply, err)
	}
}

// BenchmarkIdentity is what an identity costs that is connected and listens to desired
// properties and methods: memory and goroutines on both sides together, in one process.
func BenchmarkIdentity(b *testing.B) {
	for _, p := range []Protocol{MQTT, AMQP} {
		b.Run(p.String(), func(b *testing.B) {
			const n = 900
			for b.Loop() {
				r := serveBy(b, p, &headtest.Backend{})
				connect := func(id ident.ID) (*Client, error) { return Dial(within(b), r.config(id)) }
				if p == AMQP {
					m, err := DialAMQP(within(b), r.config(ident.ID{}))
					if err != nil {
						b.Fatal(err)
					}
					connect = func(id ident.ID) (*Client, error) { return m.Dial(within(b), r.config(id)) }
				}
				before, goroutines := heap(), runtime.NumGoroutine()
				var clients []*Client
				for i := range n {
					c, err := connect(ident.ID{Device: fmt.Sprint("d", i)})
					if err == nil {
						err = c.OnDesired(within(b), func(int64, []byte) {})
					}
					if err == nil {
						err = c.OnMethod(within(b), func(_ context.Context, _ *method.Call) method.Reply { return method.Reply{} })
					}
					if err != nil {
						b.Fatal(err)
					}
					clients = append(clients, c)
				}
				b.ReportMetric(float64(heap()-before)/n, "B/identity")
				b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/n, "goroutines/identity")
				for _, c := range clients {
					c.Close()
				}
				r.stop()
			}
		})
	}
}

// heap is the memory in use, stacks included.
func heap() int64 {
	for range 2 {
		runtime.GC()
		time.Sleep(time.Millisecond) // for finalizers and pools; nothing waits for it
	}
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc + s.StackInuse)
}
