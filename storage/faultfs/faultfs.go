// Package faultfs is a file system for tests of storage: it fails when told to,
// and it can lose power, which takes with it what was not synced.
package faultfs

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"

	"github.com/selvedge-io/selvedge/storage/log"
)

// Errors to give from FS.Fail. Any other error works as well.
var (
	ErrFull  = errors.New("no space left on device")
	ErrTorn  = errors.New("input/output error") // of a write: half of it is done
	ErrPower = errors.New("power is lost")
)

// Op is an operation that may fail.
type Op string

// The operations.
const (
	Open     Op = "open"
	Read     Op = "read"
	Create   Op = "create"
	Write    Op = "write"
	Sync     Op = "sync"
	Truncate Op = "truncate"
	Allocate Op = "allocate"
	Remove   Op = "remove"
	Rename   Op = "rename"
	SyncDir  Op = "syncdir"
)

// sector is what a disk writes wholly or not at all, in bytes.
const sector = 512

// FS is the disk with faults. The zero value has none.
type FS struct {
	// Fail is asked before every operation, one at a time; nil lets it happen.
	Fail func(op Op, name string) error

	mu    sync.Mutex
	dead  bool
	undo  []write          // not synced, oldest first
	sizes map[string]int64 // of files whose size is not synced: the synced one
	made  []string         // names whose directory is not synced
	count map[Op]int
}

var _ log.FS = (*FS)(nil)

// write is what a write replaced.
type write struct {
	name string
	off  int64
	old  []byte
}

// Count is how often an operation was asked for.
func (f *FS) Count(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count[op]
}

// begin asks whether an operation may happen. The caller holds f.mu until it has.
func (f *FS) begin(op Op, name string) error {
	if f.count == nil {
		f.count, f.sizes = map[Op]int{}, map[string]int64{}
	}
	f.count[op]++
	if f.dead {
		return ErrPower
	}
	if f.Fail != nil {
		return f.Fail(op, name)
	}
	return nil
}

// CutPower makes everything fail from now on and takes back, by chance, sectors,
// sizes and names that were not synced. The directory then holds what a machine
// finds when it starts again; open it with another FS.
func (f *FS) CutPower(chance *rand.Rand) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return nil
	}
	f.dead = true
	var errs []error
	for _, w := range slices.Backward(f.undo) {
		errs = append(errs, w.revert(chance))
	}
	for name, size := range f.sizes {
		if chance.IntN(2) == 0 {
			errs = append(errs, shrink(name, size))
		}
	}
	for _, name := range f.made {
		if chance.IntN(2) == 0 {
			errs = append(errs, log.Disk.Remove(name))
		}
	}
	return errors.Join(errs...)
}

func (w write) revert(chance *rand.Rand) error {
	file, err := log.Disk.Edit(w.name)
	if err != nil {
		return ignoreMissing(err)
	}
	defer file.Close()
	for at := w.off; at < w.off+int64(len(w.old)); {
		end := min(at/sector*sector+sector, w.off+int64(len(w.old)))
		if chance.IntN(2) == 0 {
			if _, err := file.WriteAt(w.old[at-w.off:end-w.off], at); err != nil {
				return err
			}
		}
		at = end
	}
	return nil
}

func shrink(name string, size int64) error {
	file, err := log.Disk.Edit(name)
	if err != nil {
		return ignoreMissing(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || info.Size() <= size {
		return err
	}
	return file.Truncate(size)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// MkdirAll is never asked to fail.
func (f *FS) MkdirAll(dir string) error { return log.Disk.MkdirAll(dir) }

// ReadDir is never asked to fail.
func (f *FS) ReadDir(dir string) ([]fs.DirEntry, error) { return log.Disk.ReadDir(dir) }

// Open opens for reading.
func (f *FS) Open(name string) (log.File, error) { return f.open(Open, name, log.Disk.Open) }

// Edit opens for reading and writing.
func (f *FS) Edit(name string) (log.File, error) { return f.open(Open, name, log.Disk.Edit) }

// Create makes a file.
func (f *FS) Create(name string) (log.File, error) { return f.open(Create, name, log.Disk.Create) }

func (f *FS) open(op Op, name string, open func(string) (log.File, error)) (log.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin(op, name); err != nil {
		return nil, err
	}
	opened, err := open(name)
	if err != nil {
		return nil, err
	}
	if op == Create {
		f.made = append(f.made, name)
		f.sizes[name] = 0
	}
	return &file{File: opened, fs: f, name: name}, nil
}

// Remove removes a file at once and for good: a name that comes back after a power
// cut is no worse than one that was never removed.
func (f *FS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin(Remove, name); err != nil {
		return err
	}
	f.forget(name)
	return log.Disk.Remove(name)
}

func (f *FS) forget(name string) {
	f.undo = slices.DeleteFunc(f.undo, func(w write) bool { return w.name == name })
	f.made = slices.DeleteFunc(f.made, func(n string) bool { return n == name })
	delete(f.sizes, name)
}

// Rename renames at once and for good.
func (f *FS) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin(Rename, from); err != nil {
		return err
	}
	f.forget(to)
	for i := range f.undo {
		if f.undo[i].name == from {
			f.undo[i].name = to
		}
	}
	if size, ok := f.sizes[from]; ok {
		delete(f.sizes, from)
		f.sizes[to] = size
	}
	f.made = slices.DeleteFunc(f.made, func(n string) bool { return n == from })
	return log.Disk.Rename(from, to)
}

// SyncDir makes names durable.
func (f *FS) SyncDir(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin(SyncDir, dir); err != nil {
		return err
	}
	f.made = slices.DeleteFunc(f.made, func(n string) bool { return filepath.Dir(n) == filepath.Clean(dir) })
	return nil
}

type file struct {
	log.File
	fs   *FS
	name string
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.begin(Read, f.name); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	err := f.fs.begin(Write, f.name)
	switch {
	case errors.Is(err, ErrTorn):
		p = p[:len(p)/2]
	case err != nil:
		return 0, err
	}
	if sizeErr := f.size(); sizeErr != nil {
		return 0, sizeErr
	}
	old := make([]byte, len(p))
	_, _ = f.File.ReadAt(old, off) // zeroes beyond the end
	f.fs.undo = append(f.fs.undo, write{f.name, off, old})
	n, writeErr := f.File.WriteAt(p, off)
	return n, errors.Join(err, writeErr)
}

// size notes the size that a power cut may bring back.
func (f *file) size() error {
	if _, known := f.fs.sizes[f.name]; known {
		return nil
	}
	info, err := f.File.Stat()
	if err != nil {
		return err
	}
	f.fs.sizes[f.name] = info.Size()
	return nil
}

func (f *file) Allocate(off, n int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := errors.Join(f.fs.begin(Allocate, f.name), f.size()); err != nil {
		return err
	}
	return f.File.Allocate(off, n)
}

func (f *file) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.begin(Truncate, f.name); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

// Sync makes the file durable, as far as CutPower is concerned; no real disk has
// to wait for it.
func (f *file) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.begin(Sync, f.name); err != nil {
		return err
	}
	f.fs.undo = slices.DeleteFunc(f.fs.undo, func(w write) bool { return w.name == f.name })
	delete(f.fs.sizes, f.name)
	return nil
}
