//go:build unix

package server

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// flock takes the lock of f without waiting; it goes when f is closed.
func flock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errLocked
	}
	return err
}
