package process

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// lookPause is how long after one look the next one may come: a module that writes
// much costs little.
const lookPause = 50 * time.Millisecond

// spotter learns from the kernel which outputs were written to.
type spotter struct {
	file *os.File // inotify
	done chan struct{}

	mu   sync.Mutex
	seen map[int32]*output
}

func openSpotter() (*spotter, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch the logs of modules: %w", err)
	}
	return &spotter{file: os.NewFile(uintptr(fd), "inotify"), done: make(chan struct{}), seen: map[int32]*output{}}, nil
}

// add begins to watch an output at path, and gives what ends it.
func (s *spotter) add(path string, o *output) (remove func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var wd int
	err = s.control(func(fd int) (err error) {
		wd, err = unix.InotifyAddWatch(fd, path, unix.IN_MODIFY)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("watch module's log: %w", err)
	}
	s.seen[int32(wd)] = o
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.seen, int32(wd))
		// It is gone already when the file is.
		_ = s.control(func(fd int) error { _, err := unix.InotifyRmWatch(fd, uint32(wd)); return err })
	}, nil
}

func (s *spotter) control(f func(fd int) error) error {
	conn, err := s.file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := conn.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// run calls look for outputs that were written to, until close.
func (s *spotter) run(look func(*output)) error {
	buf := make([]byte, 16<<10)
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		n, err := s.file.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watch the logs of modules: %w", err)
		}
		for _, o := range s.named(buf[:n]) {
			look(o)
		}
		pause.Reset(lookPause)
		select {
		case <-pause.C:
		case <-s.done:
			return nil
		}
	}
}

// named lists the outputs that events name, each once; all of them when the kernel
// has lost events.
func (s *spotter) named(events []byte) map[int32]*output {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[int32]*output{}
	for len(events) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(events))
		mask := binary.NativeEndian.Uint32(events[4:])
		name := int(binary.NativeEndian.Uint32(events[12:]))
		events = events[min(len(events), unix.SizeofInotifyEvent+name):]
		if o, ok := s.seen[wd]; ok {
			found[wd] = o
		}
		if mask&unix.IN_Q_OVERFLOW != 0 {
			for wd, o := range s.seen {
				found[wd] = o
			}
		}
	}
	return found
}

func (s *spotter) close() error {
	close(s.done)
	return s.file.Close()
}
