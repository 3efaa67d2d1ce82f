//go:build !unix

package node

import (
	"fmt"
	"os"
	"path/filepath"
)

// lock makes this the one process that works in dir: the file cannot be removed while
// somebody has it open, and goes when that process ends.
func lock(dir string) (release func(), err error) {
	name := filepath.Join(dir, "edge.lock")
	if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("the data directory %s is in use by another edge: stop that one, or pass another --data: %w", dir, err)
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	return func() { f.Close() }, nil
}
