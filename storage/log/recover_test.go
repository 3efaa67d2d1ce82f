package log

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// segmentOf is the file of a log's one segment, and where each record ends in it.
func segmentOf(t testing.TB, payloads ...string) (file []byte, ends []int) {
	t.Helper()
	dir := t.TempDir()
	l := openLog(t, dir, Options{})
	ends = []int{headerSize}
	for _, p := range payloads {
		mustPut(t, l, p)
		ends = append(ends, headerSize+int(l.End()))
	}
	l.Close()
	file, err := os.ReadFile(filepath.Join(dir, fileName(0, extension)))
	if err != nil {
		t.Fatal(err)
	}
	return file, ends
}

func writeSegment(t testing.TB, base Offset, parts ...[]byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, fileName(base, extension)), slices.Concat(parts...), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// usable checks that a log takes and keeps records behind what it has.
func usable(t testing.TB, dir string, want []string) {
	t.Helper()
	l := openLog(t, dir, Options{FS: hasty{Disk}})
	same(t, readAll(t, l, Oldest), want)
	mustPut(t, l, "behind")
	want = append(slices.Clone(want), "behind")
	same(t, readAll(t, l, Oldest), want)
	l.Close()
	l = openLog(t, dir, Options{FS: hasty{Disk}})
	same(t, readAll(t, l, Oldest), want)
	l.Close()
}

// hasty is a disk that does not wait for syncs, for tests with very many logs.
type hasty struct{ FS }

func (h hasty) Create(name string) (File, error) { return notSynced(h.FS.Create(name)) }
func (h hasty) Edit(name string) (File, error)   { return notSynced(h.FS.Edit(name)) }
func (hasty) SyncDir(string) error               { return nil }

type hastyFile struct{ File }

func (hastyFile) Sync() error { return nil }

func notSynced(f File, err error) (File, error) { return hastyFile{f}, err }

var few = []string{"first", "", "third record", strings.Repeat("x", 50), "last"}

func TestCutAtEveryByte(t *testing.T) {
	file, ends := segmentOf(t, few...)
	for n := range len(file) + 1 {
		whole := max(0, slices.IndexFunc(append(slices.Clone(ends), 1<<30), func(end int) bool { return end > n })-1)
		for _, tail := range []string{"", "\x00\x00\x00\x00\x00\x00\x00\x00\x00", "rubbish where records should be"} {
			if n < headerSize && tail != "" {
				continue
			}
			usable(t, writeSegment(t, 0, file[:n], []byte(tail)), few[:whole])
		}
	}
}

func TestFlipAtEveryByte(t *testing.T) {
	file, ends := segmentOf(t, few...)
	for n := headerSize; n < len(file); n++ {
		bad := bytes.Clone(file)
		bad[n] ^= 0x40
		whole := slices.IndexFunc(ends, func(end int) bool { return end > n }) - 1
		usable(t, writeSegment(t, 0, bad), few[:whole])
	}
}

func TestBadHeaders(t *testing.T) {
	file, _ := segmentOf(t, few...)
	for n := range headerSize {
		bad := bytes.Clone(file)
		bad[n] ^= 1
		dir := writeSegment(t, 0, bad)
		usable(t, dir, nil)
		if _, err := os.Stat(filepath.Join(dir, fileName(0, damaged))); err != nil {
			t.Errorf("the segment was not put aside: %v", err)
		}
	}
	for _, half := range [][]byte{nil, file[:10], make([]byte, 5000), append(bytes.Clone(file[:23]), make([]byte, 100)...)} {
		dir := writeSegment(t, 700, half)
		l := openLog(t, dir, Options{})
		if l.End() != 700 {
			t.Errorf("End() = %d, offsets must go on from the half-made segment", l.End())
		}
		l.Close()
		usable(t, dir, nil)
	}
}

func TestHalfMadeSegmentBehindTornOne(t *testing.T) {
	file, ends := segmentOf(t, few...)
	dir := writeSegment(t, 0, file[:ends[3]+4], make([]byte, 1000))
	os.WriteFile(filepath.Join(dir, fileName(Offset(ends[3]-headerSize), extension)), make([]byte, 100), 0o600)
	usable(t, dir, few[:3])
}

func TestReportsWhatItCut(t *testing.T) {
	file, ends := segmentOf(t, few...)
	var told bytes.Buffer
	l := openLog(t, writeSegment(t, 0, file[:len(file)-2]), Options{Log: slog.New(slog.NewTextHandler(&told, nil))})
	if want := fmt.Sprintf("bytes=%d", ends[5]-ends[4]-2); !strings.Contains(told.String(), want) {
		t.Errorf("log says %q, not %s", told.String(), want)
	}
	told.Reset()
	l.Close()
	openLog(t, l.dir, Options{Log: slog.New(slog.NewTextHandler(&told, nil))})
	if told.Len() > 0 {
		t.Errorf("opening a sound log says %q", told.String())
	}
}

func TestStrayFiles(t *testing.T) {
	file, _ := segmentOf(t, few...)
	dir := writeSegment(t, 0, file)
	for _, name := range []string{"x.log", "123.log", "notes", "-0000000000000000001.log", "99999999999999999999.log"} {
		os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600)
	}
	os.Mkdir(filepath.Join(dir, fileName(5, extension)), 0o700)
	usable(t, dir, few)
}

func TestDamagedSealedSegment(t *testing.T) {
	for name, tail := range map[string]int{"disk": 1, "memory": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := openLog(t, dir, Options{SegmentBytes: 200})
			all := numbered(0, 60)
			for _, p := range all {
				mustPut(t, l, p)
			}
			l.Close()
			segments := l.Segments()
			bad := segments[2]
			path := filepath.Join(dir, fileName(bad.Base, extension))
			b, _ := os.ReadFile(path)
			size := recordHeader + len(all[0])
			b[headerSize+2*size+recordHeader] ^= 1 // its third record
			os.WriteFile(path, b, 0o600)

			l = openLog(t, dir, Options{SegmentBytes: 200, TailBytes: tail})
			first := int(bad.Base)/size + 2
			next := int(bad.End) / size
			same(t, readAll(t, l, Oldest), slices.Concat(all[:first], all[next:]))
			r := l.NewReader(bad.Base)
			for {
				if recs, err := r.Poll(); err != nil || len(recs) == 0 {
					break
				}
			}
			if r.Skipped() != int64((next-first)*size) {
				t.Errorf("Skipped() = %d", r.Skipped())
			}
		})
	}
}

func TestMissingSegment(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, Options{SegmentBytes: 200})
	all := numbered(0, 60)
	for _, p := range all {
		mustPut(t, l, p)
	}
	l.Close()
	gone := l.Segments()[1]
	os.Remove(filepath.Join(dir, fileName(gone.Base, extension)))
	size := Offset(recordHeader + len(all[0]))
	usable(t, dir, slices.Concat(all[:gone.Base/size], all[gone.End/size:]))
}

func TestRetentionBySize(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, Options{SegmentBytes: 1000, MaxBytes: 5000, TailBytes: 1})
	r := l.NewReader(Oldest)
	all := numbered(0, 1000)
	for _, p := range all {
		mustPut(t, l, p)
	}
	if size := l.Size(); size > 6000 || size < 4000 {
		t.Errorf("Size() = %d", size)
	}
	size := Offset(recordHeader + len(all[0]))
	oldest := l.Oldest()
	same(t, readAll(t, l, Oldest), all[oldest/size:])
	same(t, readAll(t, l, 0), all[oldest/size:])
	recs, err := r.Poll()
	if err != nil || recs[0].Offset != oldest {
		t.Errorf("reader of deleted data goes on at %v, %v", recs[0].Offset, err)
	}
	stuck := l.NewReader(0)
	stuck.Poll()
	if stuck.Skipped() != int64(oldest) {
		t.Errorf("Skipped() = %d, want %d", stuck.Skipped(), oldest)
	}
	files, _ := os.ReadDir(dir)
	if len(files) != len(l.Segments()) {
		t.Errorf("%d files for %d segments", len(files), len(l.Segments()))
	}
	l.TrimTo(l.End())
	if n := len(l.Segments()); n != 1 {
		t.Errorf("%d segments left after trimming to the end", n)
	}
	left := readAll(t, l, Oldest)
	l.Close()
	usable(t, dir, left)
}

func TestRetentionByAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openLog(t, t.TempDir(), Options{MaxAge: time.Hour, TailBytes: 1})
		mustPut(t, l, "old")
		time.Sleep(20 * time.Minute) // more than a segment's share of time
		mustPut(t, l, "less old")
		time.Sleep(20 * time.Minute)
		mustPut(t, l, "new")
		same(t, readAll(t, l, Oldest), []string{"old", "less old", "new"})
		time.Sleep(45 * time.Minute)
		synctest.Wait()
		same(t, readAll(t, l, Oldest), []string{"new"})
		l.Close()
	})
}

// A reader that falls behind the tail goes over to the disk and back.
func TestReaderFallsBehindAndCatchesUp(t *testing.T) {
	l := openLog(t, t.TempDir(), Options{TailBytes: chunkSize, SegmentBytes: 3 * chunkSize})
	r := l.NewReader(Oldest)
	body := strings.Repeat("x", 3000)
	read := 0
	take := func(n int) {
		for n > 0 {
			recs, err := r.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, rec := range recs {
				if got, want := string(rec.Payload[:8]), fmt.Sprintf("%08d", read); got != want {
					t.Fatalf("read %s, want %s", got, want)
				}
				read++
			}
			n -= len(recs)
		}
	}
	written := 0
	for _, burst := range []int{1, 10, 1000, 1, 2000, 300} {
		var batch []string
		for range burst {
			batch = append(batch, fmt.Sprintf("%08d%s", written, body))
			written++
		}
		mustPut(t, l, batch...)
		take(burst / 2)
	}
	take(written - read)
}

func FuzzOpen(f *testing.F) {
	file, ends := segmentOf(f, few...)
	f.Add(file)
	f.Add(file[:ends[3]+5])
	f.Add(append(bytes.Clone(file[:ends[2]]), make([]byte, 100)...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, header := range [][]byte{nil, file[:headerSize]} {
			dir := writeSegment(t, 0, header, b)
			l := openLog(t, dir, Options{FS: hasty{Disk}})
			held := readAll(t, l, Oldest)
			l.Close()
			usable(t, dir, held)
			// The same as a sealed segment, which is read without being checked before.
			dir = writeSegment(t, 0, header, b)
			next := appendHeader(nil, 1<<20, 7)
			os.WriteFile(filepath.Join(dir, fileName(1<<20, extension)), next, 0o600)
			l = openLog(t, dir, Options{FS: hasty{Disk}})
			r := l.NewReader(Offset(len(b) / 2))
			for recs, err := r.Poll(); err == nil && len(recs) > 0; recs, err = r.Poll() {
			}
			same(t, readAll(t, l, Oldest), held)
			r.Close()
			l.Close()
		}
	})
}
