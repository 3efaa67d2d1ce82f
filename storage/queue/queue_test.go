package queue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
)

func openQueue(t testing.TB, dir string, o Options) *Queue {
	t.Helper()
	q, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	return q
}

func endpoint(t testing.TB, q *Queue, name string) *Endpoint {
	t.Helper()
	e, err := q.Endpoint(name)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func text(s string) func([]byte) []byte {
	return func(dst []byte) []byte { return append(dst, s...) }
}

// send appends one batch for the targets and waits for it.
func send(q *Queue, targets []Target, messages ...string) error {
	c := make(chan error, 1)
	q.Append(func(a *Appender) {
		for _, m := range messages {
			a.Add(targets, text(m))
		}
	}, func(err error) { c <- err })
	return <-c
}

func mustSend(t testing.TB, q *Queue, e *Endpoint, priority uint8, messages ...string) {
	t.Helper()
	if err := send(q, []Target{{Endpoint: e, Priority: priority}}, messages...); err != nil {
		t.Fatal(err)
	}
}

// fetch gives up to n messages as text, redelivered ones with a star.
func fetch(t testing.TB, e *Endpoint, n int) (texts []string, tokens []uint64) {
	t.Helper()
	for len(texts) < n && offerable(e) > 0 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		items, err := e.Fetch(ctx, n-len(texts), 1<<20)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range items {
			s := string(i.Payload)
			if i.Redelivered {
				s += "*"
			}
			texts = append(texts, s)
			tokens = append(tokens, i.Token)
		}
	}
	return texts, tokens
}

// offerable is the number of messages a Fetch could give now.
func offerable(e *Endpoint) (n int64) {
	e.q.mu.Lock()
	defer e.q.mu.Unlock()
	for _, l := range e.lanes {
		n += l.unread.n
		for _, h := range l.held[l.head:] {
			if h.state == waiting {
				n++
			}
		}
	}
	return n
}

func want(t testing.TB, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("fetched %d: %.500q, want %d: %.500q", len(got), got, len(want), want)
	}
}

func numbered(from, to int) []string {
	var s []string
	for i := from; i < to; i++ {
		s = append(s, fmt.Sprintf("message %06d", i))
	}
	return s
}

func TestPriorityFirstThenOrder(t *testing.T) {
	q := openQueue(t, t.TempDir(), Options{})
	e := endpoint(t, q, "up")
	other := endpoint(t, q, "other")
	mustSend(t, q, e, 9, "low 1", "low 2")
	mustSend(t, q, other, 0, "not yours")
	mustSend(t, q, e, 0, "high 1")
	mustSend(t, q, e, 5, "middle")
	mustSend(t, q, e, 0, "high 2")
	if e.Len() != 5 || e.Bytes() != int64(len("low 1low 2high 1middlehigh 2")) {
		t.Errorf("Len() = %d, Bytes() = %d", e.Len(), e.Bytes())
	}
	got, tokens := fetch(t, e, 3)
	want(t, got, "high 1", "high 2", "middle")
	mustSend(t, q, e, 0, "high 3")
	e.Settle(tokens...)
	got, tokens = fetch(t, e, 10)
	want(t, got, "high 3", "low 1", "low 2")
	e.Settle(tokens...)
	if e.Len() != 0 || e.Bytes() != 0 || other.Len() != 1 {
		t.Errorf("Len() = %d and %d, Bytes() = %d", e.Len(), other.Len(), e.Bytes())
	}
}

func TestOneMessageForMany(t *testing.T) {
	q := openQueue(t, t.TempDir(), Options{})
	a, b := endpoint(t, q, "a"), endpoint(t, q, "b")
	err := send(q, []Target{{a, 3, 0}, {b, 1, 0}, {a, 3, 0}, {a, 4, 0}}, "x", "y")
	if err != nil {
		t.Fatal(err)
	}
	got, _ := fetch(t, a, 10)
	want(t, got, "x", "y", "x", "y") // once for each priority
	got, _ = fetch(t, b, 10)
	want(t, got, "x", "y")
	if err := send(q, nil, "nobody's"); err != nil {
		t.Errorf("a message for nobody: %v", err)
	}
}

func TestSettledInAnyOrderAndReleased(t *testing.T) {
	q := openQueue(t, t.TempDir(), Options{})
	e := endpoint(t, q, "up")
	mustSend(t, q, e, 0, numbered(0, 10)...)
	_, tokens := fetch(t, e, 6)
	e.Settle(tokens[4], tokens[1], tokens[1], tokens[2], 12345)
	mustSend(t, q, e, 0, "late")
	e.Release()
	got, tokens := fetch(t, e, 2)
	want(t, got, "message 000000*", "message 000003*")
	e.Settle(tokens[1])
	e.Release()
	got, tokens = fetch(t, e, 100)
	want(t, got, "message 000000*", "message 000005*", "message 000006", "message 000007", "message 000008", "message 000009", "late")
	e.Settle(tokens...)
	if e.Len() != 0 {
		t.Errorf("Len() = %d", e.Len())
	}
}

func TestPlaceOutlivesClose(t *testing.T) {
	dir := t.TempDir()
	q := openQueue(t, dir, Options{})
	e := endpoint(t, q, "up")
	endpoint(t, q, "idle")
	mustSend(t, q, e, 1, numbered(0, 10)...)
	mustSend(t, q, e, 0, "urgent")
	_, tokens := fetch(t, e, 6)
	e.Settle(tokens[0], tokens[1], tokens[3])
	for range 3 {
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		q = openQueue(t, dir, Options{})
		if names := q.Names(); !slices.Equal(names, []string{"up", "idle"}) {
			t.Errorf("endpoints %q", names)
		}
	}
	e = endpoint(t, q, "up")
	if e.Len() != 8 {
		t.Errorf("Len() = %d, want 8", e.Len())
	}
	mustSend(t, q, e, 1, "late")
	got, _ := fetch(t, e, 100)
	want(t, got, "message 000001*", "message 000003*", "message 000004*",
		"message 000005", "message 000006", "message 000007", "message 000008", "message 000009", "late")
}

// copyDir is what a crash leaves, as long as nobody writes.
func copyDir(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir() + "/copy"
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestCrashLosesNothing(t *testing.T) {
	dir := t.TempDir()
	small := Options{MaxBytes: 1 << 20}
	q := openQueue(t, dir, small) // segments of 64 KiB
	a, b := endpoint(t, q, "a"), endpoint(t, q, "b")
	var all, ofB []string
	for i := range 3000 {
		m := fmt.Sprintf("message %06d, long enough to fill some segments with a few of them", i)
		to := []Target{{Endpoint: a, Priority: 2}}
		if all = append(all, m); i%100 == 0 {
			to = append(to, Target{Endpoint: b})
			ofB = append(ofB, m)
		}
		if err := send(q, to, m); err != nil {
			t.Fatal(err)
		}
		if i == 1500 { // part was delivered and is in a checkpoint
			_, tokens := fetch(t, a, 700)
			a.Settle(tokens...)
			if err := q.tidy(time.Now()); err != nil {
				t.Fatal(err)
			}
		}
	}
	crashed := copyDir(t, dir)
	for round := range 2 { // the second time without the notes beside the segments
		q = openQueue(t, crashed, small)
		a, b = endpoint(t, q, "a"), endpoint(t, q, "b")
		if a.Len() != 2300 || b.Len() != int64(len(ofB)) {
			t.Fatalf("round %d: Len() = %d and %d", round, a.Len(), b.Len())
		}
		gotB, _ := fetch(t, b, len(ofB)+1)
		want(t, gotB, ofB...)
		gotA, _ := fetch(t, a, len(all))
		want(t, gotA, all[700:]...)
		q.mu.Lock()
		q.closed = true // as if killed: no checkpoint
		q.mu.Unlock()
		close(q.quit)
		q.joined.Wait()
		q.log.Close()
		names, _ := os.ReadDir(crashed)
		for _, n := range names {
			if len(n.Name()) > 4 && n.Name()[len(n.Name())-4:] == ".idx" {
				os.Remove(crashed + "/" + n.Name())
			}
		}
	}
}

func TestLostCheckpointDeliversAll(t *testing.T) {
	dir := t.TempDir()
	q := openQueue(t, dir, Options{})
	e := endpoint(t, q, "up")
	mustSend(t, q, e, 0, numbered(0, 5)...)
	_, tokens := fetch(t, e, 2)
	e.Settle(tokens...)
	q.Close()
	for _, name := range []string{"checkpoint.0", "checkpoint.1"} {
		os.WriteFile(dir+"/"+name, []byte("garbage"), 0o600)
	}
	q = openQueue(t, dir, Options{})
	got, _ := fetch(t, endpoint(t, q, "up"), 10)
	want(t, got, numbered(0, 5)...)
}

func TestRemovedEndpointHoldsNothing(t *testing.T) {
	dir := t.TempDir()
	q := openQueue(t, dir, Options{MaxBytes: 1 << 20})
	gone, stays := endpoint(t, q, "gone"), endpoint(t, q, "stays")
	fetching := make(chan error)
	go func() {
		_, err := gone.Fetch(context.Background(), 1, 1)
		fetching <- err
	}()
	if err := q.Remove("gone"); err != nil {
		t.Fatal(err)
	}
	if err := <-fetching; !errors.Is(err, ErrRemoved) {
		t.Errorf("Fetch of a removed endpoint: %v", err)
	}
	if err := send(q, []Target{{Endpoint: gone}, {Endpoint: stays}}, "x"); err != nil {
		t.Fatal(err)
	}
	q.Close()
	q = openQueue(t, dir, Options{MaxBytes: 1 << 20})
	if back := endpoint(t, q, "gone"); back.Len() != 0 || back.id == gone.id {
		t.Errorf("the new endpoint of that name has %d messages and id %d", back.Len(), back.id)
	}
	if n := endpoint(t, q, "stays").Len(); n != 1 {
		t.Errorf("the other has %d", n)
	}
	if err := q.Remove("unknown"); err != nil {
		t.Error(err)
	}
}

func TestQuotaRefuses(t *testing.T) {
	q := openQueue(t, t.TempDir(), Options{MaxBytes: 200_000})
	e := endpoint(t, q, "up")
	body := string(make([]byte, 1000))
	var order []error
	n := 0
	for {
		err := send(q, []Target{{Endpoint: e}}, body)
		if order = append(order, err); err != nil {
			break
		}
		n++
	}
	if !fault.Is(order[len(order)-1], fault.QuotaExceeded) || n < 190 || n > 200 {
		t.Fatalf("after %d messages: %v", n, order[len(order)-1])
	}
	_, tokens := fetch(t, e, n/2)
	e.Settle(tokens...)
	for range n/2 - 1 {
		mustSend(t, q, e, 0, body)
	}
	waitFor(t, func() bool { return q.log.Size() < 250_000 })
	if q.Stats().Refused != 1 {
		t.Errorf("%+v", q.Stats())
	}
}

func waitFor(t testing.TB, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); {
		if time.Now().After(end) {
			t.Fatal("waited in vain")
		}
		time.Sleep(time.Millisecond)
	}
}

// TestStuckEndpointFillsNothing: messages that one endpoint does not take must not make
// the store full of what others have had long since.
func TestStuckEndpointFillsNothing(t *testing.T) {
	for name, policy := range map[string]Policy{"refuse": Refuse, "drop oldest": DropOldest} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			o := Options{MaxBytes: 1 << 20, Policy: policy}
			q := openQueue(t, dir, o)
			sent := 0
			run := func(q *Queue, n int) {
				t.Helper()
				live := endpoint(t, q, "live")
				for range n {
					text := fmt.Sprintf("%01000d", sent)
					mustSend(t, q, live, 0, text)
					got, tokens := fetch(t, live, 1)
					want(t, got, text)
					live.Settle(tokens...)
					sent++
				}
			}
			stuck := endpoint(t, q, "stuck")
			mustSend(t, q, stuck, 3, "first")
			mustSend(t, q, stuck, 0, "under way")
			_, tokens := fetch(t, stuck, 1)
			run(q, 2500)
			mustSend(t, q, stuck, 3, "second")
			run(q, 1500)
			if err := q.tidy(time.Now()); err != nil {
				t.Fatal(err)
			}
			if n := q.log.Size(); n > 400<<10 {
				t.Errorf("%d bytes on disk", n)
			}
			if s := q.Stats(); s.Len != 3 || s.Dropped+s.Refused > 0 {
				t.Errorf("%+v", s)
			}
			crashed := openQueue(t, copyDir(t, dir), o)
			q.Close()
			for _, q := range []*Queue{openQueue(t, dir, o), crashed} {
				run(q, 1500)
				stuck := endpoint(t, q, "stuck")
				got, _ := fetch(t, stuck, 3)
				want(t, got, "under way*", "first", "second")
				stuck.Settle(tokens...)
				stuck.Release()
				got, rest := fetch(t, stuck, 3)
				want(t, got, "first*", "second*")
				stuck.Settle(rest...)
				run(q, 10)
				if err := q.tidy(time.Now()); err != nil {
					t.Fatal(err)
				}
				if n, s := q.log.Size(), q.Stats(); n > 100<<10 || s.Len != 0 || s.Dropped+s.Refused > 0 {
					t.Errorf("%d bytes on disk, %+v", n, s)
				}
			}
		})
	}
}

func TestQuotaDropsOldest(t *testing.T) {
	q := openQueue(t, t.TempDir(), Options{MaxBytes: 300_000, Policy: DropOldest})
	e := endpoint(t, q, "offline")
	half := endpoint(t, q, "half")
	const n = 2000
	for i := range n {
		err := send(q, []Target{{Endpoint: e}, {Endpoint: half, Priority: uint8(i % 2)}}, fmt.Sprintf("%04d%01000d", i, 0))
		if err != nil {
			t.Fatal(err)
		}
		if i == 100 {
			fetch(t, half, 30)
		}
	}
	q.wake(q.kick)
	waitFor(t, func() bool { return q.log.Size() < 330_000 })
	for _, e := range []*Endpoint{e, half} {
		s := e.Stats()
		if s.Len+s.Dropped != n || s.Len < 200 {
			t.Errorf("%s: %+v", e.Name(), s)
		}
		_, tokens := fetch(t, e, n)
		if int64(len(tokens)) != s.Len || e.Stats().Dropped != s.Dropped {
			t.Errorf("%s: fetched %d, then %+v", e.Name(), len(tokens), e.Stats())
		}
		e.Settle(tokens...)
		if e.Len() != 0 {
			t.Errorf("%s: %d left", e.Name(), e.Len())
		}
	}
}

func TestDiskIsFreed(t *testing.T) {
	dir := t.TempDir()
	q := openQueue(t, dir, Options{MaxBytes: 1 << 20})
	e, idle := endpoint(t, q, "up"), endpoint(t, q, "idle")
	mustSend(t, q, idle, 0, "once")
	for range 20 {
		for i := range 100 {
			mustSend(t, q, e, 0, fmt.Sprintf("%01000d", i))
		}
		if idle.Len() > 0 {
			_, tokens := fetch(t, idle, 1)
			idle.Settle(tokens...)
		}
		_, tokens := fetch(t, e, 100)
		e.Settle(tokens...)
	}
	q.wake(q.kick)
	waitFor(t, func() bool { return q.log.Size() <= 70_000 })
}

func TestConsumersKeepUpWithManySenders(t *testing.T) {
	const senders, each = 8, 400
	q := openQueue(t, t.TempDir(), Options{TailBytes: 1})
	e, slow := endpoint(t, q, "fast"), endpoint(t, q, "slow")
	var sending sync.WaitGroup
	for s := range senders {
		sending.Go(func() {
			for i := range each {
				q.Append(func(a *Appender) {
					a.Add([]Target{{Endpoint: e, Priority: uint8(s % 3)}, {Endpoint: slow}}, text(fmt.Sprintf("%d:%d", s, i)))
				}, func(err error) {
					if err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
	var last [senders]int
	for n := 0; n < senders*each; {
		items, err := e.Fetch(t.Context(), 64, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range items {
			var s, i int
			fmt.Sscanf(string(it.Payload), "%d:%d", &s, &i)
			if i != last[s] {
				t.Fatalf("sender %d: got %d, want %d", s, i, last[s])
			}
			last[s]++
			e.Settle(it.Token)
		}
		n += len(items)
	}
	sending.Wait()
	if got, _ := fetch(t, slow, senders*each); len(got) != senders*each {
		t.Errorf("the slow one got %d", len(got))
	}
}

func TestFetchLimits(t *testing.T) {
	q := openQueue(t, t.TempDir(), Options{})
	e := endpoint(t, q, "up")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Fetch(ctx, 1, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("Fetch with nothing there and an ended context: %v", err)
	}
	mustSend(t, q, e, 0, "12345", "67890", "123456")
	for _, n := range []int{1, 2} { // the first alone may be longer than allowed
		items, err := e.Fetch(t.Context(), 10, n*5-1+(n-1)*7)
		if err != nil || len(items) != n {
			t.Errorf("fetched %d, %v, want %d", len(items), err, n)
		}
	}
	q.Close()
	if _, err := e.Fetch(t.Context(), 1, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("Fetch after Close: %v", err)
	}
	if err := send(q, []Target{{Endpoint: e}}, "x"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Append after Close: %v", err)
	}
}
