package log

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// FS is what the log asks of a file system; tests put failing ones in its place.
type FS interface {
	MkdirAll(dir string) error
	Open(name string) (File, error)   // for reading
	Create(name string) (File, error) // for reading and writing; must not exist
	Edit(name string) (File, error)   // for reading and writing; must exist
	Remove(name string) error
	Rename(from, to string) error
	ReadDir(dir string) ([]fs.DirEntry, error)
	// SyncDir makes created, renamed and removed names of dir durable.
	SyncDir(dir string) error
}

// File is one open file.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Stat() (fs.FileInfo, error)
	Truncate(size int64) error
	// Sync makes the content and the size durable.
	Sync() error
	// Allocate reserves and zeroes the bytes from off on and grows the file over
	// them, so that later syncs need not write the file's size. It is a help
	// only: an error changes nothing.
	Allocate(off, n int64) error
}

// Disk is the file system of the machine. Files are readable by the owner only.
var Disk FS = disk{}

type disk struct{}

func (disk) MkdirAll(dir string) error { return os.MkdirAll(dir, 0o700) }

func (disk) Open(name string) (File, error) { return open(name, os.O_RDONLY) }

func (disk) Create(name string) (File, error) {
	return open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

func (disk) Edit(name string) (File, error) { return open(name, os.O_RDWR) }

func (disk) Remove(name string) error { return os.Remove(name) }

func (disk) Rename(from, to string) error { return os.Rename(from, to) }

func (disk) ReadDir(dir string) ([]fs.DirEntry, error) { return os.ReadDir(dir) }

func (disk) SyncDir(dir string) error { return syncDir(filepath.Clean(dir)) }

func open(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

type diskFile struct{ *os.File }

func (f diskFile) Sync() error { return dataSync(f.File) }

func (f diskFile) Allocate(off, n int64) error { return allocate(f.File, off, n) }
