//go:build linux

package process

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/selvedge-io/selvedge/edge/runtime"
)

func openLog(t *testing.T, path string, keep int64) *output {
	t.Helper()
	o, err := openOutput(path, keep, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.close() })
	return o
}

// module opens the file as a module's standard output is open.
func moduleFile(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func write(t *testing.T, f *os.File, text string) {
	t.Helper()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func ask(t *testing.T, o *output, q runtime.LogQuery) string {
	t.Helper()
	r, err := o.read(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(iotest.HalfReader(r))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	o := openLog(t, path, 1<<20)
	f := moduleFile(t, path)
	if got := ask(t, o, runtime.LogQuery{Tail: 3}); got != "" {
		t.Errorf("empty log gives %q", got)
	}
	write(t, f, "a\nb\n\nc")
	for n, want := range map[int]string{1: "c", 2: "\nc", 3: "b\n\nc", 4: "a\nb\n\nc", 5: "a\nb\n\nc", 0: "a\nb\n\nc"} {
		if got := ask(t, o, runtime.LogQuery{Tail: n}); got != want {
			t.Errorf("tail %d gives %q, want %q", n, got, want)
		}
	}
	write(t, f, "\n")
	if got := ask(t, o, runtime.LogQuery{Tail: 1}); got != "c\n" {
		t.Errorf("tail 1 gives %q", got)
	}
	long := strings.Repeat("x", 3*longestLine)
	write(t, f, long+"\n"+long+"\n")
	if got := ask(t, o, runtime.LogQuery{Tail: 2}); got != long+"\n"+long+"\n" {
		t.Errorf("two long lines give %d bytes", len(got))
	}
}

func TestSince(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	o := openLog(t, path, 1<<20)
	f := moduleFile(t, path)
	base := time.Now().Add(-time.Hour)
	for i := range 10 { // a line each minute
		write(t, f, fmt.Sprintf("line %d\n", i))
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		o.mu.Lock()
		if i == 0 {
			o.marks.last = mark{base.Add(-time.Minute), 0}
		}
		err = o.marks.note(base.Add(time.Duration(i)*time.Minute), info.Size())
		o.size = info.Size()
		o.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
	}
	check := func(o *output) {
		t.Helper()
		for minute, first := range map[int]int{-120: 0, 0: 1, 5: 6, 8: 9, 60: 10} {
			got := ask(t, o, runtime.LogQuery{Since: base.Add(time.Duration(minute)*time.Minute + time.Second)})
			if first == 10 && got != "" || first < 10 && !strings.HasPrefix(got, fmt.Sprintf("line %d\n", first)) {
				t.Errorf("since minute %d gives %q, want line %d first", minute, got, first)
			}
		}
	}
	check(o)
	if got := ask(t, o, runtime.LogQuery{Since: base, Tail: 1}); got != "line 9\n" {
		t.Errorf("the last line since then is %q", got)
	}
	if err := o.close(); err != nil {
		t.Fatal(err)
	}
	check(openLog(t, path, 1<<20)) // times outlive us
	if err := os.WriteFile(path+".times", []byte("no marks at all, and no multiple of 16"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, openLog(t, path, 1<<20), runtime.LogQuery{Since: base}); !strings.HasPrefix(got, "line 0\n") {
		t.Errorf("without times it gives %q", got)
	}
}

func TestMarksWhenTheClockIsSetBack(t *testing.T) {
	m, err := openMarks(filepath.Join(t.TempDir(), "times"))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for i := range 10 {
		if err := m.note(now.Add(time.Duration(i)*time.Hour), int64(i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		if err := m.note(now.Add(2*time.Hour+time.Duration(i)*time.Minute), int64(10+i)); err != nil {
			t.Fatal(err)
		}
	}
	for since, most := range map[time.Duration]int64{0: 0, time.Hour: 1, 2*time.Hour + 2*time.Minute: 12, 24 * time.Hour: 14} {
		if off := m.before(now.Add(since)); off != most {
			t.Errorf("since %v begins at %d, want %d", since, off, most)
		}
	}
	for i := range maxMarks + 10 {
		if err := m.note(now.Add(time.Duration(100+i)*time.Hour), int64(100+i)); err != nil {
			t.Fatal(err)
		}
	}
	if len(m.all) > maxMarks || m.before(now.Add(1000*time.Hour)) < 990 {
		t.Errorf("%d marks, the one of hour 1000 is %d", len(m.all), m.before(now.Add(1000*time.Hour)))
	}
	if err := m.close(); err != nil {
		t.Fatal(err)
	}
}

// used is how much space a file takes on disk.
func used(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

func TestLogIsKeptShort(t *testing.T) {
	for _, noPunch := range []bool{false, true} {
		t.Run(fmt.Sprintf("noPunch=%t", noPunch), func(t *testing.T) {
			const keep = 256 << 10
			path := filepath.Join(t.TempDir(), "log")
			o := openLog(t, path, keep)
			o.noPunch = noPunch
			f := moduleFile(t, path)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			follow, err := o.read(ctx, runtime.LogQuery{Follow: true})
			if err != nil {
				t.Fatal(err)
			}
			followed := make(chan string, 1)
			go func() {
				b, _ := io.ReadAll(follow)
				followed <- string(b)
			}()
			caughtUp := func() {
				t.Helper()
				if err := o.look(); err != nil {
					t.Fatal(err)
				}
				until(t, "follower", func() bool {
					o.mu.Lock()
					defer o.mu.Unlock()
					return follow.(*reader).pos-o.cut == o.size
				})
			}
			var all bytes.Buffer
			for i := range 4000 {
				line := fmt.Sprintf("%06d %s\n", i, strings.Repeat("x", 500))
				all.WriteString(line)
				write(t, f, line)
				if i%20 == 0 {
					caughtUp()
				}
			}
			caughtUp()
			got := ask(t, o, runtime.LogQuery{})
			if len(got) < keep || len(got) > keep*5/4+2*cutAlign || !strings.HasSuffix(all.String(), got) {
				t.Errorf("kept %d bytes that begin with %.20q", len(got), got)
			}
			if _, err := fmt.Sscanf(got, "%06d ", new(int)); err != nil || got[6] != ' ' {
				t.Errorf("it begins within a line: %.20q", got)
			}
			if space := used(t, path); space > keep*2 {
				t.Errorf("log takes %d bytes on disk", space)
			}
			if err := o.close(); err != nil {
				t.Fatal(err)
			}
			if b := <-followed; b != all.String() {
				t.Errorf("follower got %d bytes of %d", len(b), all.Len())
			}
			// After a restart it is known what is gone.
			again := openLog(t, path, keep)
			if got2 := ask(t, again, runtime.LogQuery{}); got2 != got {
				t.Errorf("after a restart it gives %d bytes that begin with %.20q", len(got2), got2)
			}
			if got := ask(t, again, runtime.LogQuery{Tail: 1}); !strings.HasPrefix(got, "003999 ") {
				t.Errorf("last line: %.20q", got)
			}
		})
	}
}

func TestSlowFollowerSkipsWhatIsGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	o := openLog(t, path, 128<<10)
	f := moduleFile(t, path)
	write(t, f, "first\n")
	r, err := o.read(t.Context(), runtime.LogQuery{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 100 {
		write(t, f, strings.Repeat("y", 9999)+"\n")
	}
	if err := o.look(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	if n, err := r.Read(b); err != nil || n == 0 || strings.Trim(string(b[:n]), "y\n") != "" {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestSomebodyEmptiesTheLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	o := openLog(t, path, 1<<20)
	f := moduleFile(t, path)
	write(t, f, "before\n")
	r, err := o.read(t.Context(), runtime.LogQuery{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b := make([]byte, 100)
	if n, err := r.Read(b); err != nil || string(b[:n]) != "before\n" {
		t.Fatal(n, err)
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	write(t, f, "new\n")
	if got := ask(t, o, runtime.LogQuery{}); got != "new\n" {
		t.Errorf("log gives %q", got)
	}
	if n, err := r.Read(b); err != nil || string(b[:n]) != "new\n" {
		t.Errorf("follower got %q, %v", b[:n], err)
	}
}

func TestFollow(t *testing.T) {
	d := open(t, t.TempDir())
	start(t, d, script("m", "echo one; while [ ! -e go ]; do sleep 0.02; done; echo two; exec sleep 60"))
	until(t, "first line", func() bool { return text(t, d, "m", runtime.LogQuery{}) == "one\n" })
	ctx, cancel := context.WithCancel(t.Context())
	r, err := d.Logs(ctx, "m", runtime.LogQuery{Follow: true, Tail: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b := make([]byte, 100)
	for _, want := range []string{"one\n", "two\n"} {
		if n, err := r.Read(b); err != nil || string(b[:n]) != want {
			t.Fatalf("got %q, %v, want %q", b[:n], err, want)
		}
		if err := os.WriteFile(filepath.Join(d.cfg.Dir, "m", workFolder, "go"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if n, err := r.Read(b); n != 0 || err != io.EOF {
		t.Errorf("after the context: %d, %v", n, err)
	}
	r, err = d.Logs(t.Context(), "m", runtime.LogQuery{Follow: true, Since: time.Now().Add(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(10*time.Millisecond, func() { r.Close() })
	if n, err := r.Read(b); n != 0 || err == nil {
		t.Errorf("closed: %d, %v", n, err)
	}
}

func FuzzMarks(f *testing.F) {
	f.Add([]byte{})
	f.Add(appendMark(appendMark(nil, mark{time.Now(), 1}), mark{time.Now().Add(time.Hour), 5}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := marks{all: decodeMarks(raw)}
		if len(m.all) > len(raw)/markSize {
			t.Fatal("more marks than there are")
		}
		for i, k := range m.all {
			if k.off < 0 || i > 0 && k.off < m.all[i-1].off {
				t.Fatalf("mark %d is out of order", i)
			}
			if off := m.before(k.at); off < k.off {
				t.Fatalf("mark %d is not found: %d", i, off)
			}
		}
	})
}
