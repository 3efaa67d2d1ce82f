package log

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

// allocateStep is by how much a segment's file grows ahead of its records.
const allocateStep = 1 << 20

// commit writes what has been appended, for as long as the log is open. While one
// sync runs the next batch gathers; nothing ever waits for a batch to fill.
func (l *Log) commit() {
	for {
		l.mu.Lock()
		for len(l.waiting) == 0 && !l.closing {
			l.work.Wait()
		}
		if len(l.waiting) == 0 {
			l.mu.Unlock()
			return
		}
		from, to := l.durable, l.appended
		l.write = l.write[:0]
		for _, c := range l.chunks {
			if c.end() > from {
				l.write = append(l.write, c.data[max(0, from-c.base):])
			}
		}
		done := l.waiting
		l.waiting, l.spare = l.spare[:0], nil
		l.mu.Unlock()

		err := l.store(from, to)
		l.report(err)
		if err != nil {
			done = l.abandon(from, done)
		} else if from < to {
			l.publish(from, to)
		}
		for i, d := range done {
			d.done(d.first, err)
			done[i] = pending{}
		}
		l.mu.Lock()
		l.spare = done
		l.mu.Unlock()
		clear(l.write)
		if err == nil && l.active != nil && l.full(l.active) {
			l.roll()
		}
	}
}

// report logs when writing begins and ceases to fail, once each.
func (l *Log) report(err error) {
	switch {
	case err != nil && !l.failed:
		l.o.Log.Error("log cannot be written", "dir", l.dir, "err", err)
	case err == nil && l.failed:
		l.o.Log.Info("log can be written again", "dir", l.dir)
	}
	l.failed = err != nil
}

// store makes l.write durable as the bytes from from to to. When it fails the
// active segment is given up, since after a failed sync nobody knows what of it
// the disk holds.
func (l *Log) store(from, to Offset) error {
	if from == to {
		return nil
	}
	if l.active == nil {
		if err := l.create(from); err != nil {
			return err
		}
	}
	s := l.active
	end := s.position(to)
	if end > s.allocated {
		grow := (end - s.allocated + allocateStep - 1) / allocateStep * allocateStep
		if s.file.Allocate(s.allocated, grow) == nil {
			s.allocated += grow
		}
	}
	at := s.position(from)
	for _, p := range l.write {
		if _, err := s.file.WriteAt(p, at); err != nil {
			return l.fail(s, err)
		}
		at += int64(len(p))
	}
	if err := s.file.Sync(); err != nil {
		return l.fail(s, err)
	}
	s.allocated = max(s.allocated, end)
	return nil
}

// fail gives up the active segment after an error, keeping its durable part.
func (l *Log) fail(s *segment, cause error) error {
	cause = fmt.Errorf("write segment %s: %w", fileName(s.Base, extension), cause)
	l.active = nil
	if s.End > s.Base {
		cause = errors.Join(cause, s.close())
		l.sealed(s)
		return cause
	}
	l.mu.Lock()
	l.segments = l.segments[:len(l.segments)-1]
	l.mu.Unlock()
	return errors.Join(cause, s.file.Close(), l.o.FS.Remove(l.path(s.Base, extension)))
}

// abandon forgets everything that is not durable and gives the done functions of
// it: those of the failed batch and those that came meanwhile, because a sender's
// later message must not be kept when its earlier one is lost.
func (l *Log) abandon(from Offset, done []pending) []pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	done = append(done, l.waiting...)
	clear(l.waiting)
	l.waiting = l.waiting[:0]
	to := l.appended
	l.rollback(from)
	if c := l.lastChunk(); c != nil {
		c.data = c.data[:len(c.data):len(c.data)] // what comes now stands elsewhere
	}
	l.durable, l.appended = to, to
	l.room.Broadcast()
	return done
}

// publish shows a durable batch to readers.
func (l *Log) publish(from, to Offset) {
	s := l.active
	l.mu.Lock()
	l.durable = to
	s.End = to
	s.Modified = time.Now()
	for len(l.chunks) > 1 && l.chunks[0].end() <= to && l.tail-int64(len(l.chunks[0].data)) > int64(l.o.TailBytes) {
		l.tail -= int64(len(l.chunks[0].data))
		l.chunks = slices.Delete(l.chunks, 0, 1)
	}
	l.room.Broadcast()
	l.mu.Unlock()
	if l.o.OnCommit != nil {
		l.o.OnCommit(s.Base, l.records(from))
	}
	l.mu.Lock()
	l.wakeReaders()
	l.mu.Unlock()
}

// records are those of l.write, the first of which stands at at.
func (l *Log) records(at Offset) []Record {
	clear(l.seen)
	l.seen = l.seen[:0]
	for _, p := range l.write {
		l.seen, _ = appendTrusted(l.seen, p, at, len(p))
		at += Offset(len(p))
	}
	return l.seen
}

// appendTrusted adds the records in b, up to about limit bytes, without checking
// their sums: they never left this memory. It gives the offset after the last.
func appendTrusted(to []Record, b []byte, at Offset, limit int) ([]Record, Offset) {
	for n := 0; n < limit && n < len(b); {
		size := recordHeader + int(order.Uint32(b[n:])-1)
		to = append(to, Record{Offset: at, Next: at + Offset(size), Payload: b[n+recordHeader : n+size : n+size]})
		at += Offset(size)
		n += size
	}
	return to, at
}

func (l *Log) wakeReaders() {
	for i, r := range l.readers {
		select {
		case r.wake <- struct{}{}:
		default:
		}
		l.readers[i] = nil
	}
	l.readers = l.readers[:0]
}

// full says whether s has had its share. With an age bound it also has a share of
// time, so that old records do not live on in a segment that hardly grows.
func (l *Log) full(s *segment) bool {
	return int64(s.End-s.Base) >= l.o.SegmentBytes ||
		l.o.MaxAge > 0 && time.Since(s.created) > l.o.MaxAge/8
}

// roll seals the active segment and makes the next one, outside of anyone's wait.
func (l *Log) roll() {
	s := l.active
	l.active = nil
	if err := s.close(); err != nil { // its records are durable already
		l.o.Log.Warn("segment not sealed cleanly", "dir", l.dir, "segment", s.Base, "err", err)
	}
	l.sealed(s)
	if err := l.create(s.End); err != nil { // the next commit tries again
		l.o.Log.Warn("next segment not made", "dir", l.dir, "err", err)
	}
	l.retain(time.Now())
}

func (l *Log) sealed(s *segment) {
	if l.o.OnSeal != nil {
		l.o.OnSeal(s.Base, s.End)
	}
}

func (l *Log) path(base Offset, ext string) string {
	return filepath.Join(l.dir, fileName(base, ext))
}

// create makes the active segment. Its name is durable when create returns; its
// header is with the first sync.
func (l *Log) create(base Offset) error {
	name := l.path(base, extension)
	f, err := l.o.FS.Create(name)
	if err != nil {
		return fmt.Errorf("create segment: %w", err)
	}
	s := &segment{Segment: Segment{Base: base, End: base, Modified: time.Now()}, salt: l.salt, file: f, created: time.Now()}
	if f.Allocate(0, allocateStep) == nil {
		s.allocated = allocateStep
	}
	_, err = f.WriteAt(appendHeader(nil, base, l.salt), 0)
	if err == nil {
		err = l.o.FS.SyncDir(l.dir)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("create segment %s: %w", name, err), f.Close(), l.o.FS.Remove(name))
	}
	l.mu.Lock()
	l.segments = append(l.segments, s)
	l.mu.Unlock()
	l.active = s
	return nil
}
