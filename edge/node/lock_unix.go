//go:build unix

package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lock makes this the one process that works in dir, until release or the process's
// end, however that comes.
func lock(dir string) (release func(), err error) {
	name := filepath.Join(dir, "edge.lock")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("the data directory %s is in use by another edge: stop that one, or pass another --data", dir)
	} else if err != nil {
		err = fmt.Errorf("lock the data directory: %w", os.NewSyscallError("flock", err))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
