package log_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/selvedge-io/selvedge/storage/faultfs"
	"github.com/selvedge-io/selvedge/storage/log"
)

func open(t testing.TB, dir string, o log.Options) *log.Log {
	t.Helper()
	l, err := log.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func put(l *log.Log, payload string) error {
	c := make(chan error, 1)
	l.Append(func(b *log.Batch) { b.Add([]byte(payload)) }, func(_ log.Offset, err error) { c <- err })
	return <-c
}

func readAll(t testing.TB, l *log.Log) (all []string) {
	t.Helper()
	r := l.NewReader(log.Oldest)
	defer r.Close()
	for {
		recs, err := r.Poll()
		if err != nil {
			t.Fatal(err)
		}
		if len(recs) == 0 {
			return all
		}
		for _, rec := range recs {
			all = append(all, string(rec.Payload))
		}
	}
}

func isSegment(name string) bool { return filepath.Ext(name) == ".log" }

// Each operation fails once, at its nth time; appends of that moment fail, all
// others are kept, now and after a restart.
func TestOneFault(t *testing.T) {
	for _, op := range []faultfs.Op{faultfs.Write, faultfs.Sync, faultfs.Create, faultfs.SyncDir, faultfs.Allocate, faultfs.Truncate} {
		for _, fault := range []error{faultfs.ErrFull, faultfs.ErrTorn} {
			for nth := 1; nth <= 12; nth++ {
				t.Run(fmt.Sprint(op, nth, fault), func(t *testing.T) {
					dir := t.TempDir()
					n := 0
					fs := &faultfs.FS{Fail: func(o faultfs.Op, name string) error {
						if o == op && (isSegment(name) || o == faultfs.SyncDir) {
							if n++; n == nth {
								return fault
							}
						}
						return nil
					}}
					l := open(t, dir, log.Options{FS: fs, SegmentBytes: 100, TailBytes: 1})
					var kept []string
					failed := 0
					for i := range 20 {
						p := fmt.Sprintf("record %02d", i)
						if err := put(l, p); err == nil {
							kept = append(kept, p)
						} else if failed++; !errors.Is(err, fault) {
							t.Errorf("the error hides its cause: %v", err)
						}
					}
					if failed > 1 {
						t.Errorf("%d appends failed", failed)
					}
					if got := readAll(t, l); !slices.Equal(got, kept) {
						t.Fatalf("read %q, want %q", got, kept)
					}
					end := l.End()
					l.Close()
					l = open(t, dir, log.Options{})
					if got := readAll(t, l); !slices.Equal(got, kept) {
						t.Fatalf("after a restart read %q, want %q", got, kept)
					}
					if l.End() > end {
						t.Errorf("End() = %d after a restart, was %d", l.End(), end)
					}
				})
			}
		}
	}
}

// A full disk refuses everything for a while; what comes with the first failed
// batch, or while its failure is told, fails too, and order is kept.
func TestFullDisk(t *testing.T) {
	var full atomic.Bool
	fs := &faultfs.FS{Fail: func(op faultfs.Op, name string) error {
		if full.Load() && (op == faultfs.Write || op == faultfs.Create || op == faultfs.Allocate) {
			return faultfs.ErrFull
		}
		return nil
	}}
	dir := t.TempDir()
	l := open(t, dir, log.Options{FS: fs, SegmentBytes: 1000, PendingBytes: 500})
	var mu sync.Mutex
	var kept []string
	for round := range 6 {
		full.Store(round%2 == 1)
		var writing sync.WaitGroup
		for w := range 4 {
			writing.Go(func() {
				for i := range 50 {
					p := fmt.Sprintf("%d/%d/%d", round, w, i)
					err := put(l, p)
					if (err != nil) != full.Load() {
						t.Errorf("%s: %v", p, err)
					}
					if err == nil {
						mu.Lock()
						kept = append(kept, p)
						mu.Unlock()
					}
				}
			})
		}
		writing.Wait()
	}
	slices.Sort(kept)
	for range 2 {
		got := readAll(t, l)
		slices.Sort(got)
		if !slices.Equal(got, kept) {
			t.Fatalf("read %d, want %d", len(got), len(kept))
		}
		l.Close()
		l = open(t, dir, log.Options{})
	}
}

// A sender's later message is never kept when an earlier one that was under way
// with it is lost.
func TestFailureTakesWhatIsBehind(t *testing.T) {
	gate, entered := make(chan struct{}), make(chan struct{})
	var once sync.Once
	fs := &faultfs.FS{Fail: func(op faultfs.Op, name string) error {
		var err error
		if op == faultfs.Sync && isSegment(name) {
			once.Do(func() {
				close(entered)
				<-gate
				err = faultfs.ErrTorn
			})
		}
		return err
	}}
	l := open(t, t.TempDir(), log.Options{FS: fs})
	results := make(chan string, 3)
	add := func(p string) {
		l.Append(func(b *log.Batch) { b.Add([]byte(p)) }, func(_ log.Offset, err error) {
			results <- fmt.Sprint(p, err != nil)
		})
	}
	add("a")
	<-entered
	add("b")
	close(gate)
	if a, b := <-results, <-results; a != "atrue" || b != "btrue" {
		t.Errorf("results %s, %s", a, b)
	}
	add("c")
	if c := <-results; c != "cfalse" {
		t.Errorf("result %s", c)
	}
	if got := readAll(t, l); !slices.Equal(got, []string{"c"}) {
		t.Errorf("read %q", got)
	}
}

// Power is lost at any moment, again and again, on the same directory; sectors,
// sizes and names that were not synced go or stay by chance.
func TestPowerCuts(t *testing.T) {
	chance := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	acked := map[string]bool{}
	for round := range 60 {
		fs := &faultfs.FS{}
		l, err := log.Open(dir, log.Options{FS: fs, SegmentBytes: 3000})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		seen := map[string]bool{}
		last := map[string]int{}
		for _, p := range readAll(t, l) {
			var r, w, i int
			fmt.Sscanf(p, "%d/%d/%d", &r, &w, &i)
			sender := fmt.Sprint(r, "/", w)
			if seen[p] || i < last[sender] {
				t.Fatalf("round %d: %s came twice or out of order", round, p[:10])
			}
			seen[p], last[sender] = true, i
		}
		for p := range acked {
			if !seen[p] {
				t.Fatalf("round %d: %.20s was acknowledged and is lost", round, p)
			}
		}
		var mu sync.Mutex
		var writing sync.WaitGroup
		cut := chance.IntN(60)
		for w := range 3 {
			writing.Go(func() {
				for i := range 40 {
					p := fmt.Sprintf("%d/%d/%d %s", round, w, i, strings.Repeat("x", i*i%700))
					if put(l, p) != nil {
						return
					}
					mu.Lock()
					acked[p] = true
					n := len(acked)
					mu.Unlock()
					if n%60 == cut {
						mu.Lock()
						err := fs.CutPower(chance)
						mu.Unlock()
						if err != nil {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		writing.Wait()
		if err := fs.CutPower(chance); err != nil {
			t.Error(err)
		}
		l.Close()
	}
}

// A disk that cannot be read when the log is opened is no reason to take what it
// holds for a torn tail: the log does not open, and nothing is lost.
func TestUnreadableAtOpen(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, log.Options{SegmentBytes: 100})
	var kept []string
	for i := range 9 {
		kept = append(kept, fmt.Sprintf("record %02d", i))
		if err := put(l, kept[i]); err != nil {
			t.Fatal(err)
		}
	}
	l.Close()
	broken := errors.New("input/output error")
	for nth := 1; ; nth++ {
		n := 0
		fs := &faultfs.FS{Fail: func(op faultfs.Op, name string) error {
			if op == faultfs.Read && isSegment(name) {
				if n++; n == nth {
					return broken
				}
			}
			return nil
		}}
		l, err := log.Open(dir, log.Options{FS: fs, SegmentBytes: 100})
		if n < nth {
			if err != nil {
				t.Fatal(err)
			}
			l.Close()
			break
		}
		if !errors.Is(err, broken) {
			t.Errorf("read %d failed and the log opened: %v", nth, err)
		}
		if err == nil {
			l.Close()
		}
	}
	l = open(t, dir, log.Options{})
	if got := readAll(t, l); !slices.Equal(got, kept) {
		t.Errorf("afterwards read %q, want %q", got, kept)
	}
}
