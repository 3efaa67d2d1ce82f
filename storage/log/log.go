// Package log is the durable log under the edge's queue and the hub's event
// stream: records in segment files, acknowledged after a shared fsync, read by any
// number of readers, from memory as long as they keep up.
package log

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"
)

// Offset is a position in the log: the number of bytes of records before it since
// the log began. It only ever grows, over restarts too. After a failed write there
// may be offsets at which nothing stands.
type Offset int64

// Places to start reading.
const (
	Oldest Offset = -1            // the oldest record still kept
	Newest Offset = math.MaxInt64 // what becomes durable from now on
)

// ErrClosed is what a log answers after Close.
var ErrClosed = errors.New("log is closed")

// Options of a log. The zero value is good.
type Options struct {
	SegmentBytes int64         // a segment is sealed when it is this long; 0 is 16 MiB
	MaxBytes     int64         // delete the oldest segments above this; 0 is no bound
	MaxAge       time.Duration // delete segments whose last record is older; 0 is no bound
	TailBytes    int           // newest durable bytes kept in memory for readers; 0 is 4 MiB
	PendingBytes int64         // Append blocks while more than this waits for the disk; 0 is 8 MiB

	// OnCommit is called by the committer for every batch that became durable,
	// in order, before the batch's done functions; segment is the base of the
	// segment it went to. Readers may see the records just before. The records
	// are valid during the call, which must not block.
	OnCommit func(segment Offset, records []Record)
	// OnSeal is called by the committer after the last write to a segment, which
	// covers [base, end). It may call WriteSidecar.
	OnSeal func(base, end Offset)

	FS  FS           // nil is the Disk
	Log *slog.Logger // nil is silence
}

func (o Options) withDefaults() Options {
	o.SegmentBytes = cmp.Or(o.SegmentBytes, 16<<20)
	o.TailBytes = cmp.Or(o.TailBytes, 4<<20)
	o.PendingBytes = cmp.Or(o.PendingBytes, 8<<20)
	if o.FS == nil {
		o.FS = Disk
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Record is one record as read.
type Record struct {
	Offset  Offset
	Next    Offset // where to go on reading after it
	Payload []byte
}

// Segment describes one segment file.
type Segment struct {
	Base, End Offset
	Modified  time.Time // of its last record
}

// Log is an open log. Its methods may be called from many goroutines. One process
// at a time may have a directory open.
type Log struct {
	dir  string
	o    Options
	salt uint32

	mu       sync.Mutex
	work     sync.Cond  // the committer waits here
	room     sync.Cond  // appenders wait here while too much is pending
	segments []*segment // oldest first; the last one may be the active one
	chunks   []*chunk   // the tail in memory: durable bytes, then pending ones
	tail     int64      // bytes in chunks
	durable  Offset     // all before is on disk, or lost by a failed write
	appended Offset     // all before has been appended
	waiting  []pending  // done functions of what is between the two
	spare    []pending
	readers  []*Reader // those to wake at the next commit
	closing  bool
	batch    Batch

	// The committer's own.
	active *segment // nil when the next commit has to make one
	write  [][]byte
	seen   []Record
	failed bool // the last commit did

	files  sync.Mutex // serialises removal of files
	quit   chan struct{}
	joined sync.WaitGroup
}

type segment struct {
	Segment
	salt      uint32
	file      File  // when active
	allocated int64 // size of the file, reserved room included
	created   time.Time
}

// chunk is a stretch of records in memory. Bytes once written never change, so
// readers keep slices of it without a lock or a count.
type chunk struct {
	base Offset
	data []byte
}

func (c *chunk) end() Offset { return c.base + Offset(len(c.data)) }

const chunkSize = 256 << 10

type pending struct {
	first Offset
	done  func(Offset, error)
}

// Batch takes the records of one Append. It is valid during that call only.
type Batch struct {
	l       *Log
	records int
	err     error
}

// Len is the number of records added so far.
func (b *Batch) Len() int { return b.records }

// Next is the offset that the next record will get.
func (b *Batch) Next() Offset { return b.l.appended }

// Add appends one record, whose payload is the concatenation of parts, and gives
// its offset.
func (b *Batch) Add(parts ...[]byte) Offset {
	return b.Record(func(dst []byte) []byte {
		for _, p := range parts {
			dst = append(dst, p...)
		}
		return dst
	})
}

// Record appends one record, whose payload is what encode appends to dst, and
// gives its offset. encode must keep what is in dst already.
func (b *Batch) Record(encode func(dst []byte) []byte) Offset {
	l, at := b.l, b.l.appended
	c := l.lastChunk()
	if c == nil || cap(c.data)-len(c.data) < recordHeader {
		c = l.addChunk(at, 0)
	}
	if len(c.data) == 0 {
		c.base = at // it may be left from a batch that was refused
	}
	room := c.data[len(c.data):cap(c.data)]
	rec := encode(append(room[:0], make([]byte, recordHeader)...))
	if len(rec) < recordHeader || len(rec) > recordHeader+MaxRecord {
		b.err = fmt.Errorf("record of %d bytes is over the limit of %d", len(rec), MaxRecord)
		return at
	}
	if len(rec) > len(room) || &rec[0] != &room[0] { // it did not fit and moved
		c = l.addChunk(at, len(rec))
		c.data = append(c.data, rec...)
	} else {
		c.data = c.data[:len(c.data)+len(rec)]
	}
	finish(c.data[len(c.data)-len(rec):], l.salt, at)
	l.appended += Offset(len(rec))
	l.tail += int64(len(rec))
	b.records++
	return at
}

func (l *Log) lastChunk() *chunk {
	if len(l.chunks) == 0 {
		return nil
	}
	return l.chunks[len(l.chunks)-1]
}

func (l *Log) addChunk(base Offset, size int) *chunk {
	c := &chunk{base: base, data: make([]byte, 0, max(chunkSize, size))}
	if last := l.lastChunk(); last != nil && len(last.data) == 0 {
		l.chunks[len(l.chunks)-1] = c
	} else {
		l.chunks = append(l.chunks, c)
	}
	return c
}

// Append adds records and returns without waiting for the disk; build makes them,
// under the log's lock, so owners may number them there. done is called by the
// committer goroutine, in the order of the Append calls, once all records of the
// batch are durable, with the offset of the first, or with the error that lost
// them; it must not block and must not call Append. A batch without records is a
// barrier: its done comes after all earlier ones.
//
// Append blocks while more than Options.PendingBytes wait for the disk: its
// callers read connections, and that is the back-pressure they need. On a closed
// log, or with a record too long, done is called before Append returns.
func (l *Log) Append(build func(b *Batch), done func(first Offset, err error)) {
	if first, err := l.append(build, done); err != nil {
		done(first, err)
	}
}

func (l *Log) append(build func(b *Batch), done func(first Offset, err error)) (Offset, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for int64(l.appended-l.durable) > l.o.PendingBytes && !l.closing {
		l.room.Wait()
	}
	first := l.appended
	if l.closing {
		return first, ErrClosed
	}
	b := &l.batch
	b.records, b.err = 0, nil
	build(b)
	if b.err != nil {
		l.rollback(first)
		return first, b.err
	}
	if len(l.waiting) == 0 {
		l.work.Signal()
	}
	l.waiting = append(l.waiting, pending{first, done})
	return first, nil
}

// rollback forgets records from first on, none of which is durable.
func (l *Log) rollback(first Offset) {
	for c := l.lastChunk(); c != nil && c.end() > first; c = l.lastChunk() {
		keep := max(0, int(first-c.base))
		l.tail -= int64(len(c.data) - keep)
		if keep > 0 {
			c.data = c.data[:keep]
			break
		}
		l.chunks = l.chunks[:len(l.chunks)-1]
	}
	l.appended = first
}

// End is the offset after the last durable record.
func (l *Log) End() Offset {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable
}

// Oldest is the offset of the oldest record still kept, End() when there is none.
func (l *Log) Oldest() Offset {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.oldest()
}

func (l *Log) oldest() Offset {
	if len(l.segments) == 0 {
		return l.durable
	}
	return l.segments[0].Base
}

// Size is the number of bytes of records kept on disk.
func (l *Log) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size()
}

func (l *Log) size() int64 {
	var n int64
	for _, s := range l.segments {
		n += int64(s.End - s.Base)
	}
	return n
}

// Segments lists the segments, oldest first. The last may still be written to.
func (l *Log) Segments() []Segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Segment, len(l.segments))
	for i, s := range l.segments {
		out[i] = s.Segment
	}
	return out
}

// has says whether a segment was not deleted.
func (l *Log) has(s *segment) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.segments, s)
}

// find is the index of the last segment that begins at or before at, -1 if none does.
func (l *Log) find(at Offset) int {
	i, found := slices.BinarySearchFunc(l.segments, at, func(s *segment, at Offset) int {
		return cmp.Compare(s.Base, at)
	})
	if found {
		return i
	}
	return i - 1
}

// Close makes durable what has been appended, ends the readers and waits for the
// log's goroutines.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		l.joined.Wait()
		return nil
	}
	l.closing = true
	close(l.quit)
	l.work.Signal()
	l.room.Broadcast()
	l.mu.Unlock()
	l.joined.Wait()

	l.mu.Lock()
	defer l.mu.Unlock()
	l.wakeReaders()
	if l.active == nil {
		return nil
	}
	err := errors.Join(l.active.file.Sync(), l.active.close())
	l.active = nil
	if err != nil {
		return fmt.Errorf("close log %s: %w", l.dir, err)
	}
	return nil
}

// close gives back the reserved room of the active segment.
func (s *segment) close() error {
	err := errors.Join(s.file.Truncate(s.position(s.End)), s.file.Close())
	s.file = nil
	return err
}

// position is where offset at stands in the file of s.
func (s *segment) position(at Offset) int64 { return headerSize + int64(at-s.Base) }
