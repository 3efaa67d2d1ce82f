package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/selvedge-io/selvedge/edge/runtime"
)

// Files in a module's folder.
const (
	recordFile = "module.json"
	logFile    = "output.log"
	workFolder = "work"
	tempFolder = "tmp"
)

// record is what is on disk of a module: enough to find its process again, nothing
// secret.
type record struct {
	Name     string    `json:"name"`
	Version  string    `json:"version"`
	Running  bool      `json:"running"`
	PID      int       `json:"pid,omitempty"`
	Start    uint64    `json:"startTicks,omitempty"` // of the process, since boot
	Boot     string    `json:"boot,omitempty"`
	Started  time.Time `json:"started"`
	Exited   time.Time `json:"exited,omitzero"`
	ExitCode int       `json:"exitCode"`
}

func (r record) state() runtime.State {
	return runtime.State{Name: r.Name, Version: r.Version, Running: r.Running, ExitCode: r.ExitCode,
		Started: r.Started, Exited: r.Exited, PID: r.PID}
}

// ended is the record after the end of the process.
func (r record) ended(code int, at time.Time) record {
	r.Running, r.PID, r.Start, r.Boot = false, 0, 0, ""
	r.ExitCode, r.Exited = code, at
	return r
}

// readRecord reads the record in a folder; fs.ErrNotExist says that there is none.
func readRecord(dir string) (record, error) {
	raw, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		return record{}, fmt.Errorf("read %s: %w", filepath.Join(dir, recordFile), err)
	}
	if r.Name == "" || folderName(r.Name) != filepath.Base(dir) {
		return record{}, fmt.Errorf("read %s: it is of module %q, not of this folder", filepath.Join(dir, recordFile), r.Name)
	}
	return r, nil
}

// write replaces the record in a folder, whole or not at all.
func (r record) write(dir string) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write record of module: %w", err)
	}
	temp := filepath.Join(dir, recordFile+".new")
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write record of module: %w", err)
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(temp, filepath.Join(dir, recordFile))
	}
	if err == nil {
		err = syncFolder(dir)
	}
	if err != nil {
		return fmt.Errorf("write record of module: %w", err)
	}
	return nil
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
