package log

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// TrimTo deletes segments that lie wholly below offset, never the active one.
func (l *Log) TrimTo(offset Offset) {
	l.drop(func(s *segment, _ int64) bool { return s.End <= offset })
}

// Free deletes segments wherever they lie, never the active one: readers pass over what
// was in them.
func (l *Log) Free(useless func(s Segment) bool) {
	l.files.Lock()
	defer l.files.Unlock()
	l.mu.Lock()
	var gone, kept []*segment
	for i, s := range l.segments {
		if i < len(l.segments)-1 && useless(s.Segment) {
			gone = append(gone, s)
		} else {
			kept = append(kept, s)
		}
	}
	if len(gone) > 0 {
		l.segments = kept
	}
	l.mu.Unlock()
	l.remove(gone)
}

// retain deletes segments beyond the bounds of size and age.
func (l *Log) retain(now time.Time) {
	if l.o.MaxBytes <= 0 && l.o.MaxAge <= 0 {
		return
	}
	l.drop(func(s *segment, size int64) bool {
		return l.o.MaxBytes > 0 && size > l.o.MaxBytes ||
			l.o.MaxAge > 0 && now.Sub(s.Modified) > l.o.MaxAge
	})
}

// drop deletes the oldest segments as long as useless says so, given the size of
// what is left. Readers inside them find themselves at the oldest record.
func (l *Log) drop(useless func(s *segment, size int64) bool) {
	l.files.Lock()
	defer l.files.Unlock()
	l.mu.Lock()
	size := l.size()
	n := 0
	for n < len(l.segments)-1 && useless(l.segments[n], size) {
		size -= int64(l.segments[n].End - l.segments[n].Base)
		n++
	}
	gone := append([]*segment(nil), l.segments[:n]...)
	l.segments = append(l.segments[:0], l.segments[n:]...)
	l.mu.Unlock()
	l.remove(gone)
}

// remove deletes the files of segments that are not listed any more. The caller holds
// l.files.
func (l *Log) remove(gone []*segment) {
	for _, s := range gone {
		_ = l.o.FS.Remove(l.path(s.Base, sidecar)) // most have none
		if err := l.o.FS.Remove(l.path(s.Base, extension)); err != nil {
			l.o.Log.Warn("old segment not removed", "dir", l.dir, "segment", s.Base, "err", err)
		}
	}
	if len(gone) > 0 {
		if err := l.o.FS.SyncDir(l.dir); err != nil {
			l.o.Log.Warn("removal of old segments not synced", "dir", l.dir, "err", err)
		}
	}
}

// WriteSidecar keeps a note of the owner's beside the segment that begins at base;
// it goes when the segment goes. A note is a help that can be lost: it is written
// without a sync, and a damaged one reads as none.
func (l *Log) WriteSidecar(base Offset, note []byte) error {
	name := l.path(base, sidecar)
	_ = l.o.FS.Remove(name)
	f, err := l.o.FS.Create(name)
	if err != nil {
		return fmt.Errorf("write sidecar: %w", err)
	}
	b := order.AppendUint32(nil, crc32.Checksum(note, castagnoli))
	if _, err = f.WriteAt(append(b, note...), 0); err != nil {
		err = fmt.Errorf("write sidecar %s: %w", name, err)
	}
	return errors.Join(err, f.Close())
}

// ReadSidecar gives the note of WriteSidecar; ok is false when there is none.
func (l *Log) ReadSidecar(base Offset) (note []byte, ok bool) {
	f, err := l.o.FS.Open(l.path(base, sidecar))
	if err != nil {
		return nil, false
	}
	defer f.Close()
	var b bytes.Buffer
	if _, err := io.Copy(&b, io.NewSectionReader(f, 0, MaxRecord)); err != nil || b.Len() < 4 {
		return nil, false
	}
	note = b.Bytes()[4:]
	return note, crc32.Checksum(note, castagnoli) == order.Uint32(b.Bytes())
}
