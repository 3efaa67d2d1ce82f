//go:build unix

package workload

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// makePrivate makes sure that a folder is ours and nobody else may enter it. It may
// lie where others can make folders too.
func makePrivate(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if info.Mode().Type() != fs.ModeDir || !ok || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s is not a folder of ours", dir)
	}
	return os.Chmod(dir, 0o700)
}
