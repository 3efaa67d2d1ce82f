package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/selvedge-io/selvedge/storage/log"
)

// maxNote bounds what is read as a note, in bytes.
const maxNote = 4 << 10

// readNote fills v from a small JSON file; found is false when there is none.
func readNote(files log.FS, name string, v any) (found bool, err error) {
	f, err := files.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxNote))
	if err == nil {
		err = json.Unmarshal(bytes.TrimSpace(b), v)
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", name, err)
	}
	return true, nil
}

// writeNote replaces the file durably and at once.
func writeNote(files log.FS, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	fresh := name + ".new"
	if err := files.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write %s: %w", name, err)
	}
	f, err := files.Create(fresh)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if _, err = f.WriteAt(append(b, '\n'), 0); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = files.Rename(fresh, name)
	}
	if err == nil {
		err = files.SyncDir(filepath.Dir(name))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
