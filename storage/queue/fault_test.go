package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/storage/faultfs"
)

func TestExpiredAreSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := openQueue(t, t.TempDir(), Options{MaxAge: 24 * time.Hour})
		e := endpoint(t, q, "up")
		start := time.Now()
		for _, ttl := range []time.Duration{time.Minute, 0, time.Hour, 90 * time.Second} {
			if err := send(q, []Target{{Endpoint: e, TTL: ttl}}, ttl.String()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if oldest, ok := e.Oldest(); !ok || !oldest.Equal(start) {
			t.Errorf("Oldest() = %v, %v, want %v", oldest, ok, start)
		}
		time.Sleep(80 * time.Second)
		got, _ := fetch(t, e, 3)
		want(t, got, "0s", "1h0m0s", "1m30s")
		if oldest, ok := e.Oldest(); !ok || !oldest.Equal(start.Add(time.Second)) {
			t.Errorf("Oldest() = %v, %v", oldest, ok)
		}
		e.Release()
		time.Sleep(10 * time.Minute)
		got, tokens := fetch(t, e, 2)
		want(t, got, "0s*", "1h0m0s*")
		mustSend(t, q, e, 0, "new")
		got, last := fetch(t, e, 1)
		want(t, got, "new") // behind the third, whose time was over
		e.Settle(append(tokens, last...)...)
		if s := e.Stats(); s.Len != 0 || s.Expired != 2 || s.Dropped != 0 {
			t.Errorf("%+v", s)
		}
		if _, ok := e.Oldest(); ok {
			t.Error("Oldest() of an empty endpoint")
		}
		mustSend(t, q, e, 0, "too old one day")
		time.Sleep(25 * time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if items, err := e.Fetch(ctx, 1, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("fetched %v, %v", items, err)
		}
		if s := q.Stats(); s.Len != 0 || s.Expired != 3 {
			t.Errorf("%+v", s)
		}
		q.Close()
	})
}

// What nobody fetches before its time is over does not hold the disk, not even if
// the bound of age was set only later.
func TestExpiredSegmentsAreFreed(t *testing.T) {
	for name, c := range map[string]struct {
		ttl, maxAge time.Duration
	}{
		"time to live": {ttl: time.Hour},
		"age":          {maxAge: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				q := openQueue(t, dir, Options{MaxBytes: 1 << 20})
				e := endpoint(t, q, "offline")
				const n = 500
				for i := range n {
					if err := send(q, []Target{{Endpoint: e, TTL: c.ttl}}, fmt.Sprintf("%01000d", i)); err != nil {
						t.Fatal(err)
					}
				}
				q.Close()
				q = openQueue(t, dir, Options{MaxBytes: 1 << 20, MaxAge: c.maxAge})
				e = endpoint(t, q, "offline")
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				s := e.Stats()
				if s.Len+s.Expired != n || s.Len > 80 || q.log.Size() > 80_000 {
					t.Errorf("%+v, %d bytes on disk", s, q.log.Size())
				}
				q.Close()
			})
		})
	}
}

// Every acknowledged message comes out after any number of power cuts, in order
// for each sender; a second time only after a cut.
func TestPowerCuts(t *testing.T) {
	chance := rand.New(rand.NewPCG(5, 6))
	dir := t.TempDir()
	acked, late, got := map[string]bool{}, map[string]bool{}, map[string]int{}
	const rounds = 40
	for round := range rounds {
		fs := &faultfs.FS{}
		q, err := Open(dir, Options{FS: fs, MaxBytes: 1 << 19, TailBytes: 1 + round%2<<20})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		e, slow := endpoint(t, q, "up"), endpoint(t, q, "slow") // which takes nothing until the end
		var mu sync.Mutex
		ctx, stop := context.WithCancel(t.Context())
		var consuming, sending sync.WaitGroup
		consuming.Go(func() {
			last := map[string]int{}
			for {
				items, err := e.Fetch(ctx, 5, 1<<20)
				if err != nil {
					return
				}
				for _, it := range items {
					id, _, _ := strings.Cut(string(it.Payload), " ")
					var r, w, i int
					fmt.Sscanf(id, "%d/%d/%d", &r, &w, &i)
					sender := fmt.Sprint(r, "/", w)
					if before, ok := last[sender]; ok && i <= before {
						t.Errorf("round %d: %s came after %d", round, id, before)
					}
					last[sender] = i
					mu.Lock()
					got[id]++
					mu.Unlock()
					e.Settle(it.Token)
				}
			}
		})
		for w := range 3 {
			sending.Go(func() {
				for i := range 30 {
					id := fmt.Sprintf("%d/%d/%d", round, w, i)
					to := []Target{{Endpoint: e, Priority: uint8(w)}}
					forSlow := i == 20 && round%10 == 0
					if forSlow {
						to = append(to, Target{Endpoint: slow, Priority: uint8(w)})
					}
					if send(q, to, id+" "+strings.Repeat("x", i*30)) != nil {
						return
					}
					mu.Lock()
					acked[id], late[id] = true, forSlow
					mu.Unlock()
				}
			})
		}
		if round == rounds-1 { // at last all goes well
			sending.Wait()
			waitFor(t, func() bool { return e.Len() == 0 })
			stop()
			consuming.Wait()
			texts, _ := fetch(t, slow, 1000)
			for _, text := range texts {
				id, _, _ := strings.Cut(strings.TrimSuffix(text, "*"), " ")
				delete(late, id)
			}
			if err := q.Close(); err != nil {
				t.Error(err)
			}
			break
		}
		moment := chance.IntN(25)
		waitFor(t, func() bool { return fs.Count(faultfs.Sync) > moment })
		switch round % 3 {
		case 0:
			if err := q.tidy(time.Now()); err != nil {
				t.Error(err)
			}
		case 1:
			q.wake(q.kick) // may be under way when power goes
		}
		if err := fs.CutPower(chance); err != nil {
			t.Error(err)
		}
		stop()
		sending.Wait()
		consuming.Wait()
		q.Close()
	}
	for id := range acked {
		if got[id] == 0 {
			t.Errorf("%s was acknowledged and never came out", id)
		}
	}
	for id, is := range late {
		if is {
			t.Errorf("%s was acknowledged and never came out for the slow endpoint", id)
		}
	}
}

// With the disk full, messages are refused as Unavailable, those that are there
// come out, and their room is used again.
func TestFullDisk(t *testing.T) {
	var full atomic.Bool
	fs := &faultfs.FS{Fail: func(op faultfs.Op, name string) error {
		if full.Load() && (op == faultfs.Write || op == faultfs.Create || op == faultfs.Allocate) {
			return faultfs.ErrFull
		}
		return nil
	}}
	dir := t.TempDir()
	q := openQueue(t, dir, Options{FS: fs, MaxBytes: 1 << 20, TailBytes: 1})
	e := endpoint(t, q, "up")
	all := numbered(0, 3000)
	mustSend(t, q, e, 0, all...)
	full.Store(true)
	if err := send(q, []Target{{Endpoint: e}}, "refused"); !fault.Is(err, fault.Unavailable) || !errors.Is(err, faultfs.ErrFull) {
		t.Errorf("append on a full disk: %v", err)
	}
	if _, err := q.Endpoint("new"); !errors.Is(err, faultfs.ErrFull) {
		t.Errorf("new endpoint on a full disk: %v", err)
	}
	got, tokens := fetch(t, e, 5000)
	want(t, got, all...)
	e.Settle(tokens...)
	q.wake(q.kick)
	waitFor(t, func() bool { return len(q.log.Segments()) <= 1 })
	full.Store(false)
	mustSend(t, q, e, 0, "again")
	q.Close()
	q = openQueue(t, dir, Options{})
	got, _ = fetch(t, endpoint(t, q, "up"), 5000)
	want(t, got, "again")
}

func TestUnreadableNames(t *testing.T) {
	dir := t.TempDir()
	q := openQueue(t, dir, Options{})
	endpoint(t, q, "up")
	q.Close()
	name := filepath.Join(dir, "endpoints.json")
	if err := replaceFile(q.o.FS, name, []byte("{")); err != nil {
		t.Fatal(err)
	}
	if q, err := Open(dir, Options{}); err == nil {
		q.Close()
		t.Error("a queue that forgot its endpoints was opened")
	}
}

// Everything at once, for the race detector.
func TestTurmoil(t *testing.T) {
	q := openQueue(t, t.TempDir(), Options{FS: &faultfs.FS{}, MaxBytes: 300_000, Policy: DropOldest, TailBytes: 1})
	ctx, stop := context.WithCancel(t.Context())
	names := []string{"a", "b", "c"}
	var working, sending sync.WaitGroup
	for n, name := range names {
		e := endpoint(t, q, name)
		working.Go(func() {
			for i := 0; ; i++ {
				items, err := e.Fetch(ctx, 10, 1<<20)
				if err != nil {
					return
				}
				for _, it := range items[n*len(items)/4:] {
					e.Settle(it.Token)
				}
				if i%5 == 0 {
					e.Release()
				}
				e.Oldest()
			}
		})
	}
	working.Go(func() {
		for ctx.Err() == nil {
			e, err := q.Endpoint("fleeting")
			if err != nil {
				t.Error(err)
				return
			}
			if err := send(q, []Target{{Endpoint: e}}, "x"); err != nil {
				t.Error(err)
			}
			if err := q.Remove("fleeting"); err != nil {
				t.Error(err)
			}
			q.Stats()
			q.wake(q.kick)
		}
	})
	for s := range 3 {
		sending.Go(func() {
			for i := range 1000 {
				var to []Target
				for n, name := range names {
					if (i+s)%(n+1) == 0 {
						to = append(to, Target{Endpoint: endpoint(t, q, name), Priority: uint8(i % 4), TTL: time.Duration(i%3) * time.Millisecond})
					}
				}
				if err := send(q, to, fmt.Sprintf("%0500d", i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	sending.Wait()
	stop()
	working.Wait()
	for _, name := range names {
		e := endpoint(t, q, name)
		e.Release()
		waitFor(t, func() bool {
			mustSend(t, q, e, 9, "so that Fetch returns")
			items, err := e.Fetch(t.Context(), 100, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			for _, it := range items {
				e.Settle(it.Token)
			}
			return e.Len() == 0
		})
	}
}

func FuzzRecord(f *testing.F) {
	e := &Endpoint{id: 300}
	f.Add(append(appendRecord(nil, time.UnixMicro(1), []Target{{e, 1, time.Hour}, {e, 9, 0}}), "payload"...))
	f.Add([]byte{recordVersion, 0, 255, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil {
			return
		}
		n := 0
		r.each(func(key, time.Duration) { n++ })
		if n > len(b) || len(r.payload) > len(b) {
			t.Errorf("%d targets, %d bytes of payload out of %d", n, len(r.payload), len(b))
		}
	})
}
