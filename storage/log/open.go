package log

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Open opens the log in dir, which is made if need be. It checks the last segment
// and cuts off what a crash left half written; earlier segments are checked when
// they are read. Files of other kinds are left alone.
func Open(dir string, o Options) (*Log, error) {
	l := &Log{dir: dir, o: o.withDefaults(), quit: make(chan struct{})}
	l.work.L, l.room.L = &l.mu, &l.mu
	l.batch.l = l
	if err := l.load(); err != nil {
		return nil, fmt.Errorf("open log %s: %w", dir, err)
	}
	l.joined.Go(l.commit)
	if l.o.MaxAge > 0 {
		l.joined.Go(l.age)
	}
	return l, nil
}

func (l *Log) load() error {
	if err := l.o.FS.MkdirAll(l.dir); err != nil {
		return err
	}
	bases, err := l.list()
	if err != nil {
		return err
	}
	var last *segment
	for _, base := range bases {
		s, err := l.inspect(base)
		if err != nil {
			return err
		}
		l.durable = base // even if it is not usable, offsets go on from there
		if last != nil && last.End > base {
			last.End = base // the room reserved in it was not given back
		}
		if s != nil {
			l.segments = append(l.segments, s)
			l.salt, last = s.salt, s
		}
	}
	if last != nil {
		if err := l.recover(last); err != nil {
			return err
		}
	}
	if l.salt == 0 {
		var b [4]byte
		rand.Read(b[:]) // never fails
		l.salt = order.Uint32(b[:]) | 1
	}
	l.appended = l.durable
	return nil
}

// list gives the bases of the segment files, in order.
func (l *Log) list() ([]Offset, error) {
	entries, err := l.o.FS.ReadDir(l.dir)
	if err != nil {
		return nil, err
	}
	var bases []Offset
	for _, e := range entries {
		if base, ok := parseName(e.Name(), extension); ok && e.Type().IsRegular() {
			bases = append(bases, base)
		} else if strings.HasSuffix(e.Name(), extension) || e.IsDir() {
			l.o.Log.Warn("stray file in the log's directory is ignored", "dir", l.dir, "file", e.Name())
		}
	}
	slices.Sort(bases)
	return bases, nil
}

// inspect reads the header of a segment file. Without a valid one the file holds
// nothing that could be read: when that is because a crash came right after it was
// made it is removed, else it is put aside. Both give nil.
func (l *Log) inspect(base Offset) (*segment, error) {
	name := l.path(base, extension)
	f, err := l.o.FS.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var b [headerSize]byte
	n, err := f.ReadAt(b[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read header of segment %s: %w", name, err)
	}
	salt, err := parseHeader(b[:n], base)
	if err == nil {
		s := &segment{salt: salt, created: info.ModTime()}
		s.Segment = Segment{Base: base, End: base + Offset(info.Size()-headerSize), Modified: info.ModTime()}
		return s, nil
	}
	empty, err := zeroes(f, headerSize, info.Size())
	if err != nil {
		return nil, fmt.Errorf("read segment %s: %w", name, err)
	}
	if empty {
		l.o.Log.Warn("half-made segment removed", "segment", name, "bytes", info.Size())
		return nil, errors.Join(l.o.FS.Remove(name), l.o.FS.SyncDir(l.dir))
	}
	l.o.Log.Error("segment without a valid header put aside, its records are lost", "segment", name, "bytes", info.Size())
	return nil, errors.Join(l.o.FS.Rename(name, l.path(base, damaged)), l.o.FS.SyncDir(l.dir))
}

// zeroes says whether f holds nothing but zeroes from from to to. What cannot be read
// is an error, since it may be anything.
func zeroes(f File, from, to int64) (bool, error) {
	buf := make([]byte, 64<<10)
	for from < to {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), to-from)], from)
		for _, c := range buf[:n] {
			if c != 0 {
				return false, nil
			}
		}
		if from += int64(n); err != nil && !errors.Is(err, io.EOF) {
			return false, err
		} else if err != nil {
			break
		}
	}
	return true, nil
}

// recover finds the end of the last segment and cuts off what is behind it. The
// segment becomes the active one, unless a later one was lost.
func (l *Log) recover(s *segment) error {
	name := l.path(s.Base, extension)
	f, err := l.o.FS.Edit(name)
	if err != nil {
		return err
	}
	sc := scanner{file: f, segment: s, buf: make([]byte, readSize)}
	at, end := s.Base, s.End
	for {
		rec, ok := sc.next(at, end)
		if !ok {
			break
		}
		at = rec.Next
	}
	if sc.err != nil && !errors.Is(sc.err, io.EOF) && !errors.Is(sc.err, errRecord) && !errors.Is(sc.err, errShort) {
		return errors.Join(sc.err, f.Close()) // the disk does not say where the end is
	}
	if at < end {
		rest, err := zeroes(f, s.position(at), s.position(end))
		if err != nil {
			return errors.Join(fmt.Errorf("read segment %s: %w", name, err), f.Close())
		}
		if !rest {
			l.o.Log.Warn("torn tail cut off", "segment", filepath.Base(name), "offset", at, "bytes", int64(end-at), "err", sc.err)
		}
		if err := errors.Join(f.Truncate(s.position(at)), f.Sync()); err != nil {
			return errors.Join(fmt.Errorf("cut the torn tail of %s: %w", name, err), f.Close())
		}
	}
	s.End = at
	if l.durable > s.Base && l.durable > s.End {
		return f.Close()
	}
	s.file = f
	s.allocated = s.position(at)
	l.active, l.durable = s, s.End
	return nil
}

// age applies the age bound while nothing is appended.
func (l *Log) age() {
	tick := time.NewTicker(max(min(l.o.MaxAge/8, time.Minute), time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			l.retain(now)
		case <-l.quit:
			return
		}
	}
}
