package log

import (
	"context"
	"errors"
	"io"
)

const (
	readSize  = 64 << 10 // bytes of one read from disk
	batchSize = 64 << 10 // bytes of records in one batch, about
)

// Reader reads a log from some offset on. It is for one goroutine at a time, and
// any number of readers may read a log. A reader costs little while it waits.
type Reader struct {
	// Fresh makes every read from disk use a new buffer, so that payloads stay
	// valid for as long as they are referenced.
	Fresh bool

	l       *Log
	at      Offset
	proven  bool // a record begins at at
	skipped int64
	recs    []Record
	wake    chan struct{}
	disk    scanner
}

// NewReader makes a reader that starts at from: Oldest, Newest, or an offset. An
// offset inside a record means the next record.
func (l *Log) NewReader(from Offset) *Reader {
	r := &Reader{l: l, wake: make(chan struct{}, 1)}
	r.Seek(from)
	return r
}

// Seek moves the reader; from as for NewReader.
func (r *Reader) Seek(from Offset) {
	r.at, r.proven = from, false
	if from == Newest {
		r.at, r.proven = r.l.End(), true
	}
}

// Resume moves the reader to an offset at which a record begins or began: the
// Offset or Next of a record of this log, or an End. It is cheaper than Seek.
func (r *Reader) Resume(at Offset) { r.at, r.proven = at, true }

// Offset is where the reader stands: the offset of the next record, or the end.
func (r *Reader) Offset() Offset { return max(r.at, 0) }

// Skipped is the number of bytes the reader has jumped over since it was made
// because they were deleted, damaged, or never written.
func (r *Reader) Skipped() int64 { return r.skipped }

// Close gives back what the reader holds.
func (r *Reader) Close() { r.disk.close() }

// Next waits for records and gives the next ones in order, some 64 KiB of them or
// at least one. Records and payloads are valid until the next call of Next or
// Poll. It fails when ctx ends, with ErrClosed at the end of a closed log, or when
// the disk cannot be read.
func (r *Reader) Next(ctx context.Context) ([]Record, error) {
	for {
		recs, err := r.Poll()
		if err != nil || len(recs) > 0 {
			return recs, err
		}
		ready, err := r.await()
		if err != nil {
			return nil, err
		}
		if ready {
			continue
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// await registers the reader for a wake-up, unless there is something to read.
func (r *Reader) await() (ready bool, err error) {
	l := r.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.at < l.durable {
		return true, nil
	}
	if l.closing {
		return false, ErrClosed
	}
	for _, other := range l.readers {
		if other == r { // left from a wait that ctx ended
			return false, nil
		}
	}
	l.readers = append(l.readers, r)
	return false, nil
}

// Poll is Next without waiting: it gives no records at the end of the log.
func (r *Reader) Poll() ([]Record, error) {
	clear(r.recs)
	r.recs = r.recs[:0]
	for len(r.recs) == 0 {
		where := r.locate()
		switch {
		case where.memory != nil:
			r.disk.close()
			r.recs, r.at = appendTrusted(r.recs, where.memory, r.at, batchSize)
			r.proven = true
		case where.segment != nil:
			if err := r.readDisk(where); err != nil {
				return nil, err
			}
		default:
			return nil, nil
		}
	}
	return r.recs, nil
}

// place is where the reader's next bytes are.
type place struct {
	memory  []byte   // from the reader's offset on
	segment *segment // on disk, in
	end     Offset   // end of what may be read there
	next    Offset   // where to go on if that cannot be read
}

// locate finds the reader's next bytes, moving it over gaps.
func (r *Reader) locate() place {
	l := r.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if oldest := l.oldest(); r.at < oldest {
		if r.at >= 0 {
			r.skipped += int64(oldest - r.at)
		}
		r.at, r.proven = oldest, true
	}
	for r.at < l.durable {
		next := l.durable
		for _, c := range l.chunks {
			if c.end() <= r.at {
				continue
			}
			if c.base > r.at {
				next = min(next, c.base)
				break
			}
			if r.align(c); r.at < c.end() {
				return place{memory: c.data[r.at-c.base : min(Offset(len(c.data)), l.durable-c.base)]}
			}
		}
		i := l.find(r.at)
		if i+1 < len(l.segments) {
			next = l.segments[i+1].Base
		}
		if i >= 0 && r.at < l.segments[i].End {
			return place{segment: l.segments[i], end: l.segments[i].End, next: next}
		}
		r.skipped += int64(next - r.at) // a gap that a failed write left
		r.at, r.proven = next, true
	}
	return place{}
}

// align moves the reader, which may stand within a record of c because its offset
// came from outside, to the next record.
func (r *Reader) align(c *chunk) {
	if r.proven {
		return
	}
	at := c.base
	for at < r.at {
		at += recordHeader + Offset(order.Uint32(c.data[at-c.base:])-1)
	}
	r.at, r.proven = at, true
}

// readDisk reads a batch from where, or moves the reader on when it cannot.
func (r *Reader) readDisk(where place) error {
	if err := r.disk.open(r.l, where.segment); err != nil {
		if !r.l.has(where.segment) {
			return nil // it was deleted meanwhile
		}
		return err
	}
	if r.Fresh || r.disk.buf == nil {
		r.disk.fresh()
	}
	if !r.proven {
		if at := r.alignDisk(where); at != r.at {
			r.at = at
			r.proven = true
			return nil
		}
	}
	for n := 0; n < batchSize && r.at < where.end; {
		rec, ok := r.disk.more(r.at, where.end, len(r.recs) == 0)
		if !ok {
			break
		}
		r.recs = append(r.recs, rec)
		r.at, r.proven = rec.Next, true
		n += int(rec.Next - rec.Offset)
	}
	if len(r.recs) > 0 {
		return nil
	}
	if err := r.disk.err; err != nil && !errors.Is(err, errRecord) && !errors.Is(err, errShort) && !errors.Is(err, io.EOF) {
		return err
	}
	if !r.l.has(where.segment) {
		return nil
	}
	if !errors.Is(r.disk.err, io.EOF) {
		r.l.o.Log.Error("damaged part of the log skipped", "dir", r.l.dir, "segment", where.segment.Base,
			"offset", r.at, "bytes", int64(where.next-r.at), "err", r.disk.err)
	}
	r.skipped += int64(where.next - r.at)
	r.at, r.proven = where.next, true
	return nil
}

// alignDisk gives the offset of the first record at or after the reader's.
func (r *Reader) alignDisk(where place) Offset {
	if _, ok := r.disk.next(r.at, where.end); ok {
		return r.at
	}
	at := where.segment.Base
	for at < r.at {
		rec, ok := r.disk.next(at, where.end)
		if !ok {
			return r.at // damaged; the caller finds out
		}
		at = rec.Next
	}
	return at
}
