package keys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// SaveNew makes a file, for a secret with mode 0600. It appears whole and durable or
// not at all; one that is there already stays, and the error is fs.ErrExist.
func SaveNew(name string, content []byte, mode fs.FileMode) error {
	draft, err := writeDraft(name, content, mode)
	if err != nil {
		return err
	}
	defer os.Remove(draft)
	err = os.Link(draft, name) // unlike a rename, it replaces nothing
	if err != nil && !errors.Is(err, fs.ErrExist) {
		if _, statErr := os.Lstat(name); !errors.Is(statErr, fs.ErrNotExist) {
			return err
		}
		err = os.Rename(draft, name) // a file system without links
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

// writeDraft writes a file beside name and syncs it.
func writeDraft(name string, content []byte, mode fs.FileMode) (draft string, err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		os.Remove(f.Name())
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	return f.Name(), nil
}

func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced there, NTFS journals names
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
