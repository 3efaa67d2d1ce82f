package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// errLocked is what flock meets when another process holds the lock.
var errLocked = errors.New("locked by another process")

// lockDir makes the data directory and locks it for this process until the file
// that it gives is closed, or the process ends in whatever way.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := flock(f); err != nil {
		holder := make([]byte, 32)
		n, _ := f.ReadAt(holder, 0) // only makes the message better
		f.Close()
		if !errors.Is(err, errLocked) {
			return nil, fmt.Errorf("lock data directory %s: %w", dir, err)
		}
		return nil, fmt.Errorf("the data directory %s is in use by another hub%s; stop that one or name another directory",
			dir, process(string(holder[:n])))
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	}
	return f, nil
}

func process(pid string) string {
	if _, err := strconv.Atoi(strings.TrimSpace(pid)); err != nil {
		return ""
	}
	return " (process " + strings.TrimSpace(pid) + ")"
}
