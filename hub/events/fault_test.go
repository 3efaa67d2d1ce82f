package events

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/storage/faultfs"
)

// A full disk refuses events with a fault that hides nothing from the log, and
// numbers neither come twice nor go back, then or after a restart.
func TestFullDisk(t *testing.T) {
	var full atomic.Bool
	files := &faultfs.FS{Fail: func(op faultfs.Op, _ string) error {
		if full.Load() && op == faultfs.Write {
			return faultfs.ErrFull
		}
		return nil
	}}
	dir := t.TempDir()
	s := open(t, Config{Dir: dir, Partitions: 1, FS: files})
	want := 0
	for round := range 6 {
		full.Store(round%2 == 1)
		err := try(s, "d", fmt.Sprint(round))
		if full.Load() != (err != nil) {
			t.Fatalf("round %d: %v", round, err)
		}
		if err == nil {
			want++
		} else if !fault.Is(err, fault.Unavailable) || !errors.Is(err, faultfs.ErrFull) {
			t.Errorf("round %d: %v", round, err)
		}
	}
	full.Store(false)
	for range 2 {
		checkNumbers(t, s, 0)
		if got := rest(t, reader(t, s, 0, Start())); len(got) != want {
			t.Errorf("read %q, want %d", got, want)
		}
		s.Close()
		s = open(t, Config{Dir: dir})
		put(t, s, "d", "more")
		want++
	}
}

// checkNumbers reads a partition and finds that numbers and offsets grow.
func checkNumbers(t *testing.T, s *Stream, partition int) (bodies map[string]bool) {
	t.Helper()
	r := reader(t, s, partition, Start())
	bodies = map[string]bool{}
	sequence, offset := int64(-1), int64(-1)
	for {
		events, err := r.Poll()
		if err != nil {
			t.Fatal(err)
		}
		if len(events) == 0 {
			break
		}
		for _, e := range events {
			if e.Sequence <= sequence || e.Offset <= offset {
				t.Fatalf("event %d at %d after %d at %d", e.Sequence, e.Offset, sequence, offset)
			}
			sequence, offset = e.Sequence, e.Offset
			if name, _, _ := strings.Cut(string(e.Message.Body), " "); bodies[name] {
				t.Fatalf("%s came twice", name)
			} else {
				bodies[name] = true
			}
		}
	}
	if i, err := s.Info(partition); err != nil || i.Last < sequence || len(bodies) > 0 && (i.Last != sequence || i.LastOffset != offset) {
		t.Fatalf("info %+v, %v; the last event is %d at %d", i, err, sequence, offset)
	}
	return bodies
}

// Power is lost at any moment, again and again: at the first start, while events
// come, while segments are sealed.
func TestPowerCuts(t *testing.T) {
	chance := rand.New(rand.NewPCG(3, 4))
	dir := filepath.Join(t.TempDir(), "events")
	acked := map[string]bool{}
	highest := [2]int64{-1, -1} // number that was seen
	for round := range 40 {
		ops := 0
		cut := chance.IntN(10 + round*20)
		files := &faultfs.FS{Fail: func(faultfs.Op, string) error {
			if ops++; ops > cut {
				return faultfs.ErrPower
			}
			return nil
		}}
		s, err := Open(Config{Dir: dir, Partitions: 2, FS: files})
		if err != nil {
			if !errors.Is(err, faultfs.ErrPower) {
				t.Fatalf("round %d: %v", round, err)
			}
		} else {
			publish(t, s, round, acked)
			s.Close()
		}
		if err := files.CutPower(chance); err != nil {
			t.Fatal(err)
		}

		s = open(t, Config{Dir: dir, Partitions: 2})
		held := map[string]bool{}
		for p := range 2 {
			for name := range checkNumbers(t, s, p) {
				held[name] = true
			}
			i, _ := s.Info(p)
			if i.Last < highest[p] {
				t.Fatalf("round %d: the last number of partition %d is %d, was %d", round, p, i.Last, highest[p])
			}
			highest[p] = i.Last
		}
		for name := range acked {
			if !held[name] {
				t.Fatalf("round %d: %s was acknowledged and is lost", round, name)
			}
		}
		s.Close()
	}
	if len(acked) < 1000 {
		t.Errorf("only %d events", len(acked))
	}
}

// publish sends from four devices until that fails, and notes what was acknowledged.
func publish(t *testing.T, s *Stream, round int, acked map[string]bool) {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	for d := range 4 {
		all.Go(func() {
			for i := range 100 {
				name := fmt.Sprintf("%d/%d/%d", round, d, i)
				if try(s, fmt.Sprint("dev", d), name+" "+strings.Repeat("x", i*97%5000)) != nil {
					return
				}
				mu.Lock()
				acked[name] = true
				mu.Unlock()
			}
		})
	}
	all.Wait()
}

// The note of the end is lost in any way: the stream opens and numbers go on.
func TestNoteFails(t *testing.T) {
	var broken atomic.Bool
	files := &faultfs.FS{Fail: func(op faultfs.Op, name string) error {
		if broken.Load() && strings.Contains(name, noteName) {
			return faultfs.ErrTorn
		}
		return nil
	}}
	dir := t.TempDir()
	s := open(t, Config{Dir: dir, Partitions: 1, FS: files})
	broken.Store(true)
	segment := []string{strings.Repeat("x", 6<<20), strings.Repeat("x", 6<<20), strings.Repeat("x", 6<<20)}
	put(t, s, "d", segment...)
	put(t, s, "d", "y")
	if i, _ := s.Info(0); i.Last != 3 {
		t.Errorf("info %+v", i)
	}
	s.Close()
	s = open(t, Config{Dir: dir, FS: files})
	put(t, s, "d", "z")
	if i, _ := s.Info(0); i.Last != 4 {
		t.Errorf("info %+v", i)
	}
}
