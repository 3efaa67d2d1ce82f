package process

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// mark says that the output had a length at a time; what is behind it came later.
type mark struct {
	at  time.Time
	off int64
}

// marks are the marks of one output, in order, and the file that holds them.
type marks struct {
	file *os.File
	all  []mark
	last mark // latest; in all once a later one has come
}

// Marks closer together than this are not kept, and not more than so many.
const (
	markEvery = time.Second
	maxMarks  = 4_000
)

// note takes a new mark.
func (m *marks) note(at time.Time, off int64) error {
	at = at.Round(0) // those in the file know no monotonic clock either
	was := m.last
	if was.off == off && !was.at.IsZero() && !at.Before(was.at) {
		return nil // the earlier one says more
	}
	m.last = mark{at, off}
	if at.Before(was.at) { // the clock was set back
		i := len(m.all)
		for i > 0 && m.all[i-1].at.After(at) {
			i--
		}
		return m.reset(m.all[:i])
	}
	return m.add(was)
}

// add keeps a mark unless it is too close to the one before.
func (m *marks) add(k mark) error {
	if k.at.IsZero() {
		return nil
	}
	if n := len(m.all); n > 0 && k.at.Sub(m.all[n-1].at) < markEvery {
		return nil
	}
	if len(m.all) == maxMarks {
		thin := m.all[:0]
		for i := 0; i < maxMarks; i += 2 {
			thin = append(thin, m.all[i])
		}
		if err := m.reset(thin); err != nil {
			return err
		}
	}
	m.all = append(m.all, k)
	return m.write(k)
}

// before is the offset of the last mark at or before t; zero when there is none.
func (m *marks) before(t time.Time) int64 {
	if !m.last.at.IsZero() && !m.last.at.After(t) {
		return m.last.off
	}
	i, _ := slices.BinarySearchFunc(m.all, t, func(k mark, t time.Time) int {
		if k.at.After(t) {
			return 1
		}
		return -1
	})
	if i == 0 {
		return 0
	}
	return m.all[i-1].off
}

// drop forgets the marks below an offset, but for the last one.
func (m *marks) drop(off int64) error {
	i := 0
	for i+1 < len(m.all) && m.all[i+1].off <= off {
		i++
	}
	return m.reset(slices.Clone(m.all[i:]))
}

// shift takes an amount from all offsets; the file got shorter by it.
func (m *marks) shift(by int64) error {
	all := m.all[:0]
	for _, k := range m.all {
		if k.off >= by {
			all = append(all, mark{k.at, k.off - by})
		}
	}
	if m.last.off -= by; m.last.off < 0 {
		m.last = mark{}
	}
	return m.reset(all)
}

// markSize is that of a mark in the file: Unix milliseconds and offset, little endian.
const markSize = 16

// openMarks reads the marks at path. They only help to find a time, so a file that
// makes no sense is read as far as it does.
func openMarks(path string) (marks, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return marks{}, fmt.Errorf("open times of module's log: %w", err)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxMarks*markSize))
	if err != nil {
		f.Close()
		return marks{}, fmt.Errorf("read times of module's log: %w", err)
	}
	m := marks{file: f, all: decodeMarks(raw)}
	if len(m.all)*markSize != len(raw) {
		if err := m.reset(m.all); err != nil {
			f.Close()
			return marks{}, err
		}
	}
	if n := len(m.all); n > 0 {
		m.last = m.all[n-1]
	}
	return m, nil
}

// decodeMarks reads marks up to the first that is incomplete or out of order.
func decodeMarks(raw []byte) []mark {
	var all []mark
	for ; len(raw) >= markSize; raw = raw[markSize:] {
		k := mark{
			at:  time.UnixMilli(int64(binary.LittleEndian.Uint64(raw))),
			off: int64(binary.LittleEndian.Uint64(raw[8:])),
		}
		if n := len(all); k.off < 0 || n > 0 && (k.off < all[n-1].off || k.at.Before(all[n-1].at)) {
			break
		}
		all = append(all, k)
	}
	return all
}

func appendMark(b []byte, k mark) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(k.at.UnixMilli()))
	return binary.LittleEndian.AppendUint64(b, uint64(k.off))
}

func (m *marks) write(k mark) error {
	if _, err := m.file.Write(appendMark(nil, k)); err != nil {
		return fmt.Errorf("write time of module's log: %w", err)
	}
	return nil
}

// reset makes all the marks, in memory and in the file.
func (m *marks) reset(all []mark) error {
	m.all = all
	b := make([]byte, 0, len(all)*markSize)
	for _, k := range all {
		b = appendMark(b, k)
	}
	if err := m.file.Truncate(0); err != nil {
		return fmt.Errorf("write times of module's log: %w", err)
	}
	if _, err := m.file.Write(b); err != nil {
		return fmt.Errorf("write times of module's log: %w", err)
	}
	return nil
}

// close keeps the latest mark too.
func (m *marks) close() error { return errors.Join(m.add(m.last), m.file.Close()) }
