package kv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"

	"github.com/selvedge-io/selvedge/storage/log"
)

// The file is magic (8), then records:
//
//	length of what follows the checksum (4) · CRC-32C of length and that (4)
//	· 1 put, 2 delete · length of the key (uvarint) · key · value
//
// Fixed numbers are little endian.
const (
	magic        = "SVKV\x00\x00\x00\x01" // the last byte is the version
	headerSize   = int64(len(magic))
	recordHeader = 8
	maxRecord    = 1 + binary.MaxVarintLen32 + MaxKey + MaxValue

	opPut    = 1
	opDelete = 2

	fileName  = "store.kv"
	draftName = "store.kv.new"
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	order      = binary.LittleEndian

	errRecord = errors.New("record is cut off or fails its checksum")
)

func appendRecord(b []byte, key string, value []byte) []byte {
	start := len(b)
	op := byte(opPut)
	if value == nil {
		op = opDelete
	}
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, op)
	b = binary.AppendUvarint(b, uint64(len(key)))
	b = append(append(b, key...), value...)
	order.PutUint32(b[start:], uint32(len(b)-start-recordHeader))
	order.PutUint32(b[start+4:], checksum(b[start:]))
	return b
}

func recordSize(key string, value []byte) int64 {
	var b [binary.MaxVarintLen64]byte
	return int64(recordHeader + 1 + binary.PutUvarint(b[:], uint64(len(key))) + len(key) + len(value))
}

func checksum(rec []byte) uint32 {
	return crc32.Update(crc32.Checksum(rec[:4], castagnoli), castagnoli, rec[recordHeader:])
}

// parseRecord reads the record at the start of b; value is nil for a deletion.
func parseRecord(b []byte) (key string, value []byte, size int, err error) {
	if len(b) < recordHeader {
		return "", nil, 0, errRecord
	}
	length := int64(order.Uint32(b))
	if length > maxRecord || length > int64(len(b)-recordHeader) {
		return "", nil, 0, errRecord
	}
	size = recordHeader + int(length)
	b = b[:size]
	if checksum(b) != order.Uint32(b[4:]) || length == 0 {
		return "", nil, 0, errRecord
	}
	op, body := b[recordHeader], b[recordHeader+1:]
	n, width := binary.Uvarint(body)
	if width <= 0 || n > uint64(len(body)-width) || op != opPut && op != opDelete {
		return "", nil, 0, errRecord
	}
	key, value = string(body[width:width+int(n)]), body[width+int(n):]
	if op == opDelete {
		return key, nil, size, nil
	}
	return key, append([]byte{}, value...), size, nil
}

// file is the store on disk.
type file struct {
	fs   log.FS
	dir  string
	log  *slog.Logger
	f    log.File
	size int64
	// broken: the file may hold what was refused, after a failed write or sync,
	// so nothing may be added to it.
	broken bool
	buf    []byte
}

func (f *file) path(name string) string { return filepath.Join(f.dir, name) }

// open reads the file, calls visit for each record, and cuts off a torn tail.
func (f *file) open(visit func(key string, value []byte)) error {
	if err := f.fs.MkdirAll(f.dir); err != nil {
		return err
	}
	_ = f.fs.Remove(f.path(draftName)) // left from a crash, if at all
	opened, err := f.fs.Edit(f.path(fileName))
	if errors.Is(err, fs.ErrNotExist) {
		return f.rewrite(func(func(string, []byte)) {})
	}
	if err != nil {
		return err
	}
	f.f = opened
	b, err := io.ReadAll(io.NewSectionReader(opened, 0, 1<<40))
	if err != nil {
		return errors.Join(err, opened.Close())
	}
	if int64(len(b)) < headerSize || string(b[:headerSize]) != magic {
		return errors.Join(fmt.Errorf("%s is not a store of this version", fileName), opened.Close())
	}
	f.size = headerSize
	for f.size < int64(len(b)) {
		key, value, size, err := parseRecord(b[f.size:])
		if err != nil {
			return f.cut(int64(len(b)), err)
		}
		visit(key, value)
		f.size += int64(size)
	}
	return nil
}

func (f *file) cut(from int64, cause error) error {
	f.log.Warn("torn tail of the store cut off", "dir", f.dir, "bytes", from-f.size, "err", cause)
	if err := errors.Join(f.f.Truncate(f.size), f.f.Sync()); err != nil {
		return errors.Join(fmt.Errorf("cut the torn tail: %w", err), f.f.Close())
	}
	return nil
}

// append makes records durable at the end of the file.
func (f *file) append(b []byte) error {
	f.buf = b[:0]
	if cap(b) > 1<<20 {
		f.buf = nil // do not keep the largest batch ever for good
	}
	_, err := f.f.WriteAt(b, f.size)
	if err == nil {
		err = f.f.Sync()
	}
	if err != nil {
		f.broken = true
		if f.f.Truncate(f.size) == nil {
			_ = f.f.Sync() // in vain or not, the next write makes a new file
		}
		return err
	}
	f.size += int64(len(b))
	return nil
}

// rewrite replaces the file by one that holds just all.
func (f *file) rewrite(all func(visit func(key string, value []byte))) error {
	_ = f.fs.Remove(f.path(draftName))
	draft, err := f.fs.Create(f.path(draftName))
	if err != nil {
		return err
	}
	size := int64(0)
	b := append(f.buf[:0], magic...)
	flush := func() {
		if err == nil {
			_, err = draft.WriteAt(b, size)
		}
		size += int64(len(b))
		b = b[:0]
	}
	all(func(key string, value []byte) {
		if b = appendRecord(b, key, value); len(b) > 256<<10 {
			flush()
		}
	})
	flush()
	if err == nil {
		err = draft.Sync()
	}
	if err == nil {
		err = f.fs.Rename(f.path(draftName), f.path(fileName))
	}
	if err != nil {
		return errors.Join(err, draft.Close(), f.fs.Remove(f.path(draftName)))
	}
	if f.f != nil {
		_ = f.f.Close() // nothing in it is needed
	}
	f.f, f.size, f.broken = draft, size, false
	if err := f.fs.SyncDir(f.dir); err != nil {
		f.broken = true // the name may go back to the old file
		return err
	}
	return nil
}

func (f *file) close() error { return f.f.Close() }
