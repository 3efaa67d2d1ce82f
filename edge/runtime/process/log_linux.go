package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// cutAlign is a multiple of the block size of all file systems.
	cutAlign = 64 << 10

	// hugeLog is when the file is made short again although its head takes no
	// space: file systems have an end somewhere.
	hugeLog = 1 << 40

	// longestLine bounds the search for the beginning of a line.
	longestLine = 64 << 10
)

// output is what one module writes. The module's processes hold the file open for
// appending; we free the space of its head, so that offsets stay and nothing that is
// being written gets lost.
type output struct {
	keep int64
	log  *slog.Logger

	troubled bool // the last look went wrong; only who looks uses it

	mu      sync.Mutex
	file    *os.File
	marks   marks
	start   int64         // what is before it is gone
	size    int64         // when last looked
	cut     int64         // bytes by which the file was shortened, see shorten
	noPunch bool          // the file system cannot free the head
	grew    chan struct{} // closed and replaced when there is more
	closed  bool
}

// openOutput opens or makes the output at path; path+".times" are its marks.
func openOutput(path string, keep int64, log *slog.Logger) (*output, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open module's log: %w", err)
	}
	o := &output{keep: keep, log: log, file: f, grew: make(chan struct{})}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open module's log: %w", err)
	}
	o.size = info.Size()
	if o.start, err = firstData(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("find beginning of module's log: %w", err)
	}
	if o.marks, err = openMarks(path + ".times"); err != nil {
		f.Close()
		return nil, err
	}
	// What came while we were away came before now.
	if err := o.marks.note(time.Now(), o.size); err != nil {
		return nil, errors.Join(err, o.close())
	}
	return o, nil
}

// firstData is where the file's data begins after the space freed earlier.
func firstData(f *os.File) (int64, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var at int64
	var seek error
	if err := conn.Control(func(fd uintptr) { at, seek = unix.Seek(int(fd), 0, unix.SEEK_DATA) }); err != nil {
		return 0, err
	}
	switch {
	case errors.Is(seek, unix.EINVAL), errors.Is(seek, unix.ENXIO), errors.Is(seek, unix.EOPNOTSUPP):
		return 0, nil // it does not know holes, or the file is empty
	case seek != nil:
		return 0, seek
	}
	return at, nil
}

// look takes notice of what was written since the last time.
func (o *output) look() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil
	}
	info, err := o.file.Stat()
	if err != nil {
		return fmt.Errorf("look at module's log: %w", err)
	}
	now, size := time.Now(), info.Size()
	if size < o.size { // somebody emptied it
		o.start, o.marks.last = 0, mark{}
		if err := o.marks.reset(nil); err != nil {
			return err
		}
	}
	o.size = size
	if err := o.marks.note(now, size); err != nil {
		return err
	}
	close(o.grew)
	o.grew = make(chan struct{})
	if size-o.start > o.keep+o.keep/4+cutAlign || size > hugeLog {
		return o.trim()
	}
	return nil
}

// trim gives back the space of what need not be kept. The caller holds o.mu.
func (o *output) trim() error {
	at := (o.size - o.keep) / cutAlign * cutAlign
	if at <= o.start {
		return nil
	}
	if o.noPunch || o.size > hugeLog {
		return o.shorten(at)
	}
	conn, err := o.file.SyscallConn()
	if err != nil {
		return err
	}
	var punched error
	err = conn.Control(func(fd uintptr) {
		punched = unix.Fallocate(int(fd), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, o.start, at-o.start)
	})
	if err != nil {
		return err
	}
	switch {
	case errors.Is(punched, unix.EOPNOTSUPP), errors.Is(punched, unix.ENOSYS):
		o.log.Warn("file system cannot free the head of a file; what a module writes while its log is shortened is lost")
		o.noPunch = true
		return o.shorten(at)
	case punched != nil:
		return fmt.Errorf("free head of module's log: %w", punched)
	}
	o.start = at
	return o.marks.drop(at)
}

// shorten moves what is after at to the beginning of the file. The caller holds o.mu.
func (o *output) shorten(at int64) error {
	tail := make([]byte, o.size-at)
	n, err := o.file.ReadAt(tail, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("shorten module's log: %w", err)
	}
	// From a line's beginning on, which is not to be seen any more afterwards.
	skip := bytes.IndexByte(tail[:min(n, longestLine)], '\n') + 1
	tail, at = tail[skip:n], at+int64(skip)
	if err := o.file.Truncate(0); err != nil {
		return fmt.Errorf("shorten module's log: %w", err)
	}
	if _, err := o.file.Write(tail); err != nil {
		return fmt.Errorf("shorten module's log: %w", err)
	}
	o.start, o.size, o.cut = 0, int64(len(tail)), o.cut+at
	return o.marks.shift(at)
}

// from is the offset at which an answer to a query begins. The caller holds o.mu.
func (o *output) from(tail int, since time.Time) (int64, error) {
	at := o.start
	if !since.IsZero() {
		at = max(at, o.marks.before(since))
	}
	var err error
	if at > 0 {
		if at, err = o.lineStart(at); err != nil {
			return 0, err
		}
	}
	if tail > 0 {
		last, err := o.lastLines(tail)
		if err != nil {
			return 0, err
		}
		at = max(at, last)
	}
	return at, nil
}

// lineStart is the beginning of the line that at is in, or of the next one when that
// beginning is gone.
func (o *output) lineStart(at int64) (int64, error) {
	buf := make([]byte, longestLine)
	if at > o.start {
		low := max(o.start, at-longestLine)
		n, err := o.file.ReadAt(buf[:at-low], low)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("read module's log: %w", err)
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			return low + int64(i) + 1, nil
		}
		if low > 0 {
			return at, nil // an endless line
		}
		return 0, nil
	}
	n, err := o.file.ReadAt(buf, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("read module's log: %w", err)
	}
	return at + int64(bytes.IndexByte(buf[:n], '\n')) + 1, nil
}

// lastLines is where the last n lines begin; the last of them may be unfinished.
func (o *output) lastLines(n int) (int64, error) {
	buf := make([]byte, longestLine)
	for high := o.size; high > o.start; {
		low := max(o.start, high-int64(len(buf)))
		got, err := o.file.ReadAt(buf[:high-low], low)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("read module's log: %w", err)
		}
		part := buf[:got]
		if high == o.size && got > 0 && part[got-1] == '\n' {
			part = part[:got-1] // it ends the last line and begins none
		}
		for {
			i := bytes.LastIndexByte(part, '\n')
			if i < 0 {
				break
			}
			if n--; n == 0 {
				return low + int64(i) + 1, nil
			}
			part = part[:i]
		}
		high = low
	}
	return o.start, nil
}

// close ends the readers and gives back the files.
func (o *output) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil
	}
	o.closed = true
	close(o.grew)
	return errors.Join(o.file.Close(), o.marks.close())
}
