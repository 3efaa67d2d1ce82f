package inbox

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/hub/registry"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
)

// Close returns only when no delivery is under way, and none follows.
func TestCloseWaits(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, r *rig) {
		entered, leave := make(chan struct{}), make(chan struct{})
		n := 0
		l := r.Attach(dev, func([]head.Delivery) {
			n++
			entered <- struct{}{}
			<-leave
		})
		l.Open()
		r.sendAll("a")
		<-entered
		closed := false
		go func() {
			l.Close()
			closed = true
		}()
		synctest.Wait()
		if closed {
			t.Error("closed while a delivery is under way")
		}
		r.sendAll("b")
		next := r.open()
		next.want("a", "b")
		close(leave)
		synctest.Wait()
		if !closed || n != 1 {
			t.Errorf("closed: %v, deliveries: %d", closed, n)
		}
	})
}

// Devices come and go, complete, abandon and keep silent, while messages come: in
// the end each was completed, and for each connection new ones came in order.
func TestTurmoil(t *testing.T) {
	db, x, err := openAt(t.Context(), filepath.Join(t.TempDir(), "hub.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	defer x.Close()
	reg, err := registry.New(t.Context(), registry.Config{DB: db, Sealer: plain{}})
	if err != nil {
		t.Fatal(err)
	}
	const devices, messages = 4, 150
	var all sync.WaitGroup
	for d := range devices {
		id := ident.ID{Device: fmt.Sprint("dev-", d)}
		if _, err := reg.Create(t.Context(), registry.Spec{ID: id}); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			for i := range messages {
				if err := x.Send(t.Context(), id, &message.Message{Body: fmt.Append(nil, i)}); err != nil {
					t.Error(err)
				}
			}
		})
		all.Go(func() { connectOften(t, x, id, messages, rand.New(rand.NewPCG(5, uint64(d)))) })
	}
	all.Wait()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		var n int
		if err := db.Read().QueryRow("SELECT COUNT(*) FROM inbox").Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d messages are left", n)
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.queues) != 0 || len(x.dates) != 0 || len(x.changes) != 0 {
		t.Errorf("%d queues, %d dates and %d changes are remembered", len(x.queues), len(x.dates), len(x.changes))
	}
}

// connectOften connects a device again and again until it has completed all.
func connectOften(t *testing.T, x *Inbox, id ident.ID, messages int, chance *rand.Rand) {
	completed := map[string]bool{}
	abandoned := map[string]int{}
	for len(completed) < messages {
		type delivery struct {
			token uint64
			body  string
		}
		came := make(chan delivery, 1000)
		last := -1
		l := x.Attach(id, func(batch []head.Delivery) {
			for _, d := range batch {
				var n int
				if _, err := fmt.Sscan(string(d.Message.Body), &n); err != nil {
					t.Error(err)
				}
				if !d.Duplicate {
					if n <= last {
						t.Errorf("%s: %d came after %d", id, n, last)
					}
					last = n
				}
				came <- delivery{d.Token, string(d.Message.Body)}
			}
		})
		l.Open()
		for life := chance.IntN(40); life > 0 && len(completed) < messages; life-- {
			var d delivery
			select {
			case d = <-came:
			case <-time.After(50 * time.Millisecond): // all that is left keeps silent
				life = 1
				continue
			}
			switch what := chance.IntN(10); {
			case what == 0 && abandoned[d.body] < 5:
				abandoned[d.body]++
				l.Settle(d.token, head.Abandoned)
			case what == 1: // silent
			default:
				completed[d.body] = true
				l.Settle(d.token, head.Completed)
			}
		}
		l.Close()
	}
}
