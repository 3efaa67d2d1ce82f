package log

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

func openLog(t testing.TB, dir string, o Options) *Log {
	t.Helper()
	l, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// put appends one batch and waits for it.
func put(l *Log, payloads ...string) (Offset, error) {
	type result struct {
		first Offset
		err   error
	}
	c := make(chan result, 1)
	l.Append(func(b *Batch) {
		for _, p := range payloads {
			b.Add([]byte(p))
		}
	}, func(first Offset, err error) { c <- result{first, err} })
	r := <-c
	return r.first, r.err
}

func mustPut(t testing.TB, l *Log, payloads ...string) Offset {
	t.Helper()
	first, err := put(l, payloads...)
	if err != nil {
		t.Fatal(err)
	}
	return first
}

// readAll gives the payloads from from to the end.
func readAll(t testing.TB, l *Log, from Offset) []string {
	t.Helper()
	r := l.NewReader(from)
	defer r.Close()
	var all []string
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

func same(t testing.TB, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("read %d records %.300q, want %d %.300q", len(got), got, len(want), want)
	}
}

func numbered(from, to int) []string {
	var s []string
	for i := from; i < to; i++ {
		s = append(s, fmt.Sprintf("record %06d", i))
	}
	return s
}

func TestReadsBackFromMemoryAndDisk(t *testing.T) {
	for name, o := range map[string]Options{
		"memory":   {},
		"disk":     {TailBytes: 1},
		"segments": {TailBytes: 1, SegmentBytes: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			want := append(numbered(0, 500), "", string(make([]byte, 700<<10)), "x")
			l := openLog(t, dir, o)
			for part := range slices.Chunk(want, 7) {
				mustPut(t, l, part...)
			}
			same(t, readAll(t, l, Oldest), want)
			end := l.End()
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = openLog(t, dir, o)
			if l.End() != end {
				t.Errorf("End() = %d after reopening, want %d", l.End(), end)
			}
			same(t, readAll(t, l, Oldest), want)
			if size := l.Size(); size != int64(end) {
				t.Errorf("Size() = %d, want %d", size, end)
			}
		})
	}
}

func TestReadsFromAnyOffset(t *testing.T) {
	for name, tail := range map[string]int{"memory": 1 << 20, "disk": 1} {
		t.Run(name, func(t *testing.T) {
			l := openLog(t, t.TempDir(), Options{TailBytes: tail, SegmentBytes: 300})
			big := string(make([]byte, chunkSize))
			want := append(numbered(0, 30), big) // the last leaves the tail to itself
			for _, p := range want {
				mustPut(t, l, p)
			}
			size := Offset(recordHeader + len(want[0]))
			for at := Offset(0); at < 30*size; at++ {
				i := (at + size - 1) / size
				r := l.NewReader(at)
				recs, err := r.Poll()
				if err != nil || len(recs) == 0 || string(recs[0].Payload) != want[i] || recs[0].Offset != i*size {
					t.Fatalf("from %d: %v, %v, want record %d", at, recs, err, i)
				}
				if r.Skipped() != 0 {
					t.Errorf("from %d: skipped %d", at, r.Skipped())
				}
				r.Close()
			}
			r := l.NewReader(Newest)
			if recs, err := r.Poll(); err != nil || len(recs) != 0 || r.Offset() != l.End() {
				t.Errorf("newest gives %v, %v at %d", recs, err, r.Offset())
			}
		})
	}
}

func TestReaderWaitsWithoutPolling(t *testing.T) {
	l := openLog(t, t.TempDir(), Options{})
	got := make(chan string)
	var reading sync.WaitGroup
	for range 3 {
		reading.Go(func() {
			r := l.NewReader(Newest)
			for {
				recs, err := r.Next(context.Background())
				if err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Error(err)
					}
					return
				}
				for _, rec := range recs {
					got <- string(rec.Payload)
				}
			}
		})
	}
	waitFor(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.readers) == 3
	})
	mustPut(t, l, "hello")
	for range 3 {
		if s := <-got; s != "hello" {
			t.Errorf("read %q", s)
		}
	}
	l.Close()
	reading.Wait()

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l = openLog(t, t.TempDir(), Options{})
	r := l.NewReader(Newest)
	for range 2 {
		if _, err := r.Next(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Next() with an ended context: %v", err)
		}
	}
	mustPut(t, l, "late")
	if recs, err := r.Next(t.Context()); err != nil || string(recs[0].Payload) != "late" {
		t.Errorf("Next() after giving up twice: %v, %v", recs, err)
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

func TestConcurrentAppendersKeepOrder(t *testing.T) {
	const writers, each = 8, 300
	l := openLog(t, t.TempDir(), Options{SegmentBytes: 4000, TailBytes: 10_000, PendingBytes: 2000})
	var mu sync.Mutex
	var firsts []Offset
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			next := 0
			var acks sync.WaitGroup
			for i := range each {
				acks.Add(1)
				l.Append(func(b *Batch) {
					b.Add(fmt.Appendf(nil, "%d:%d", w, i))
				}, func(first Offset, err error) {
					defer acks.Done()
					mu.Lock()
					defer mu.Unlock()
					if i != next || err != nil {
						t.Errorf("writer %d: done for %d came when %d was due: %v", w, i, next, err)
					}
					next++
					firsts = append(firsts, first)
				})
			}
			acks.Wait()
		})
	}
	r := l.NewReader(Oldest)
	var last [writers]int
	for n := 0; n < writers*each; {
		recs, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range recs {
			var w, i int
			fmt.Sscanf(string(rec.Payload), "%d:%d", &w, &i)
			if i != last[w] {
				t.Fatalf("writer %d: read %d, want %d", w, i, last[w])
			}
			last[w]++
		}
		n += len(recs)
	}
	writing.Wait()
	if !slices.IsSorted(firsts) {
		t.Error("done functions were not called in the order of the offsets")
	}
}

func TestNumbersUnderTheLock(t *testing.T) {
	l := openLog(t, t.TempDir(), Options{})
	var next int
	var writing sync.WaitGroup
	for range 4 {
		writing.Go(func() {
			for range 100 {
				l.Append(func(b *Batch) {
					at := b.Next()
					if got := b.Record(func(dst []byte) []byte { return fmt.Appendf(dst, "%d", next) }); got != at || b.Len() != 1 {
						t.Errorf("record at %d, Next said %d", got, at)
					}
					next++
				}, func(Offset, error) {})
			}
		})
	}
	writing.Wait()
	mustPut(t, l)
	for i, s := range readAll(t, l, Oldest) {
		if s != fmt.Sprint(i) {
			t.Fatalf("record %d is number %s", i, s)
		}
	}
}

func TestCommitAndSealHooks(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	sealed := map[Offset]Offset{}
	where := map[Offset]int{}
	l := openLog(t, t.TempDir(), Options{
		SegmentBytes: 200,
		OnCommit: func(segment Offset, recs []Record) {
			mu.Lock()
			defer mu.Unlock()
			for _, r := range recs {
				seen = append(seen, string(r.Payload))
			}
			where[segment] += len(recs)
		},
		OnSeal: func(base, end Offset) { mu.Lock(); sealed[base] = end; mu.Unlock() },
	})
	want := numbered(0, 100)
	for _, p := range want {
		mustPut(t, l, p)
	}
	l.Close()
	same(t, seen, want)
	size := recordHeader + len(want[0])
	segments := l.Segments()
	for i, s := range segments {
		if n := int(s.End-s.Base) / size; where[s.Base] != n {
			t.Errorf("segment %d: %d records told, has %d", s.Base, where[s.Base], n)
		}
		if i < len(segments)-1 && sealed[s.Base] != s.End {
			t.Errorf("segment %d: sealed at %d, ends at %d", s.Base, sealed[s.Base], s.End)
		}
	}
}

func TestRefusesRecordsTooLong(t *testing.T) {
	l := openLog(t, t.TempDir(), Options{})
	mustPut(t, l, "a")
	l.Append(func(b *Batch) {
		b.Add([]byte("lost with the batch"))
		b.Add(make([]byte, MaxRecord+1))
	}, func(_ Offset, err error) {
		if err == nil {
			t.Error("a record over the limit was taken")
		}
	})
	mustPut(t, l, "b")
	same(t, readAll(t, l, Oldest), []string{"a", "b"})
}

func TestClosedLog(t *testing.T) {
	l := openLog(t, t.TempDir(), Options{})
	acked := false
	l.Append(func(b *Batch) { b.Add([]byte("x")) }, func(_ Offset, err error) { acked = err == nil })
	l.Close()
	if !acked {
		t.Error("Close did not wait for the append before it")
	}
	if _, err := put(l, "y"); !errors.Is(err, ErrClosed) {
		t.Errorf("append after Close: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestSidecars(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, Options{SegmentBytes: 1})
	mustPut(t, l, "a")
	if _, ok := l.ReadSidecar(0); ok {
		t.Error("a sidecar nobody wrote was read")
	}
	for _, note := range []string{"first", "second"} {
		if err := l.WriteSidecar(0, []byte(note)); err != nil {
			t.Fatal(err)
		}
		if got, ok := l.ReadSidecar(0); !ok || string(got) != note {
			t.Errorf("read %q, %v", got, ok)
		}
	}
	name := filepath.Join(dir, fileName(0, sidecar))
	b, _ := os.ReadFile(name)
	os.WriteFile(name, bytes.ToUpper(b), 0o600)
	if _, ok := l.ReadSidecar(0); ok {
		t.Error("a damaged sidecar was read")
	}
	mustPut(t, l, "b")
	l.TrimTo(l.End())
	if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the sidecar outlived its segment: %v", err)
	}
}

// TestFreedSegmentsArePassedOver: segments may go from the middle, under the hands of
// readers too, and the log is whole again after a restart.
func TestFreedSegmentsArePassedOver(t *testing.T) {
	dir := t.TempDir()
	o := Options{TailBytes: 1, SegmentBytes: 1000}
	l := openLog(t, dir, o)
	all := numbered(0, 500)
	for part := range slices.Chunk(all, 10) {
		mustPut(t, l, part...)
	}
	if err := l.Close(); err != nil { // the newest would be read from memory
		t.Fatal(err)
	}
	l = openLog(t, dir, o)
	segments := l.Segments()
	inside := l.NewReader(segments[2].Base) // in one that goes
	defer inside.Close()
	recs, err := inside.Poll()
	if err != nil || len(recs) == 0 {
		t.Fatalf("%d records, %v", len(recs), err)
	}
	last := segments[len(segments)-1]
	var want []string
	from := l.NewReader(Oldest)
	defer from.Close()
	for {
		recs, err := from.Poll()
		if err != nil {
			t.Fatal(err)
		}
		if len(recs) == 0 {
			break
		}
		for _, rec := range recs {
			if rec.Offset < segments[1].Base || rec.Offset >= segments[6].Base && rec.Offset < segments[7].Base || rec.Offset >= last.Base {
				want = append(want, string(rec.Payload))
			}
		}
	}
	stays := func(s Segment) bool { return s.Base == segments[0].Base || s.Base == segments[6].Base }
	l.Free(func(s Segment) bool { return !stays(s) }) // all would be the active one too, which stays

	same(t, readAll(t, l, Oldest), want)
	same(t, readAll(t, l, segments[3].Base+5), readAll(t, l, segments[6].Base)) // an offset within what is gone
	for {
		recs, err := inside.Poll()
		if err != nil {
			t.Fatal(err)
		}
		if len(recs) == 0 {
			break
		}
	}
	if at := inside.Offset(); at != l.End() {
		t.Errorf("the reader inside got to %d of %d", at, l.End())
	}
	if size, most := l.Size(), int64(3*1100); size > most {
		t.Errorf("%d bytes are kept, want at most %d", size, most)
	}
	end := l.End()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openLog(t, dir, o)
	if l.End() != end {
		t.Errorf("End() = %d after reopening, want %d", l.End(), end)
	}
	same(t, readAll(t, l, Oldest), want)
	mustPut(t, l, "more")
	same(t, readAll(t, l, Oldest), append(want, "more"))
}
