package server

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// flock takes the lock of f without waiting; it goes when f is closed. The byte
// locked lies behind the text, which others may read.
func flock(f *os.File) error {
	at := &windows.Overlapped{Offset: 1 << 20}
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, at)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return errLocked
	}
	return err
}
