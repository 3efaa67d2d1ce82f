// Package queue is the edge broker's store-and-forward: one durable log for all
// messages, and for each endpoint and priority a place in it. Memory does not grow
// with the backlog, and an endpoint that is slow or gone holds up nobody else.
package queue

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/storage/log"
)

// LowestPriority is the highest number a priority may have; 0 is served first.
const LowestPriority = 9

// Errors of a queue and its endpoints that no peer sees.
var (
	ErrClosed  = errors.New("queue is closed")
	ErrRemoved = errors.New("endpoint was removed from the queue")
)

// Policy is what to do with a message that finds the queue full.
type Policy uint8

// The policies.
const (
	Refuse     Policy = iota // refuse new messages with fault.QuotaExceeded
	DropOldest               // drop the oldest messages, by whole segments
)

// Options of a queue. The zero value is good.
type Options struct {
	// MaxBytes bounds the log from the oldest message that somebody still waits
	// for to the newest, in bytes, less the segments between them that nobody
	// needs; 0 is no bound. A segment is a sixteenth of it at most. Files take
	// that much more, and a little more for a moment.
	MaxBytes int64
	// MaxAge bounds the life of every message, whatever its time to live; 0 is
	// no bound.
	MaxAge time.Duration
	Policy Policy

	TailBytes int          // newest bytes kept in memory; 0 is log's default
	FS        log.FS       // nil is the disk
	Log       *slog.Logger // nil is silence
}

// Target is one endpoint that a message is for.
type Target struct {
	Endpoint *Endpoint
	Priority uint8         // 0 is served first; above LowestPriority counts as that
	TTL      time.Duration // 0 is no end, save Options.MaxAge
}

// Queue is an open queue. Its methods may be called from many goroutines.
type Queue struct {
	dir    string
	o      Options
	log    *log.Log
	naming sync.Mutex // endpoints come and go one at a time
	names  names      // durable
	slots  slots      // of the checkpoint

	floor   atomic.Int64 // at or below every lane's floor
	freed   atomic.Int64 // bytes above floor that were freed
	refused atomic.Int64

	mu        sync.Mutex // after the log's lock, where both are held
	endpoints []*Endpoint
	counted   log.Offset // the lanes know of all records below
	segments  []segment  // oldest first; the last one is written to
	closed    bool

	appender Appender  // under the log's lock
	answers  sync.Pool // of *answer

	checkpointing sync.Mutex
	dirty         chan struct{} // something changed since the last checkpoint
	kick          chan struct{} // do maintenance now
	quit          chan struct{}
	joined        sync.WaitGroup
}

// Open opens the queue in dir, which is made if need be.
func Open(dir string, o Options) (*Queue, error) {
	if o.FS == nil {
		o.FS = log.Disk
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	q := &Queue{dir: dir, o: o, dirty: make(chan struct{}, 1), kick: make(chan struct{}, 1), quit: make(chan struct{})}
	q.answers.New = q.newAnswer
	if err := q.load(); err != nil {
		return nil, fmt.Errorf("open queue %s: %w", dir, err)
	}
	q.joined.Go(q.maintain)
	return q, nil
}

func (q *Queue) load() error {
	if err := q.o.FS.MkdirAll(q.dir); err != nil {
		return err
	}
	if err := q.loadNames(); err != nil {
		return err
	}
	segmentBytes := int64(16 << 20)
	if q.o.MaxBytes > 0 {
		segmentBytes = min(segmentBytes, max(q.o.MaxBytes/16, 16<<10))
	}
	l, err := log.Open(q.dir, log.Options{
		SegmentBytes: segmentBytes,
		TailBytes:    q.o.TailBytes,
		OnCommit:     q.account,
		OnSeal:       q.seal,
		FS:           q.o.FS,
		Log:          q.o.Log,
	})
	if err != nil {
		return err
	}
	q.log = l
	if err := q.restore(); err != nil {
		return errors.Join(err, l.Close())
	}
	return nil
}

// Close makes durable what was appended and where every endpoint stands. Waiting
// Fetch calls end with ErrClosed.
func (q *Queue) Close() error {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return nil
	}
	q.closed = true
	for _, e := range q.endpoints {
		if e != nil {
			close(e.gone)
		}
	}
	q.mu.Unlock()
	close(q.quit)
	q.joined.Wait()
	err := q.log.Close()
	return errors.Join(err, q.checkpoint(), q.slots.close())
}

// Appender takes the messages of one Append. It is valid during that call only.
type Appender struct {
	b   *log.Batch
	now time.Time
}

// Add appends a message for targets, in the form that encode appends to its
// argument; encode must keep what is there already. A message without targets is
// dropped.
func (a *Appender) Add(targets []Target, encode func(dst []byte) []byte) {
	if len(targets) == 0 {
		return
	}
	a.b.Record(func(dst []byte) []byte { return encode(appendRecord(dst, a.now, targets)) })
}

// Append adds messages and returns without waiting for the disk, as log.Append
// does and with the same rules: done comes in the order of the calls, from another
// goroutine, and must neither block nor append. Its error is a fault: QuotaExceeded
// when the queue is full and its policy is Refuse, Unavailable when the messages
// could not be stored. Either way none of the batch is kept.
func (q *Queue) Append(batch func(a *Appender), done func(error)) {
	r := q.answers.Get().(*answer)
	r.done = done
	q.log.Append(func(b *log.Batch) {
		if r.full = q.full(b.Next()); r.full {
			return // an empty batch: its done comes in its turn
		}
		a := &q.appender
		a.b, a.now = b, time.Now()
		batch(a)
	}, r.give)
}

// answer waits for a batch to become durable; answers are reused.
type answer struct {
	full bool
	done func(error)
	give func(log.Offset, error)
}

func (q *Queue) newAnswer() any {
	r := &answer{}
	r.give = func(_ log.Offset, err error) {
		full, done := r.full, r.done
		r.full, r.done = false, nil
		q.answers.Put(r)
		switch {
		case err != nil:
			done(fault.Wrap(err, fault.Unavailable, "the message could not be stored; send it again later"))
		case full:
			q.refused.Add(1)
			done(fault.New(fault.QuotaExceeded, "the message store is full (limit %d bytes); send again when messages have been delivered", q.o.MaxBytes))
		default:
			done(nil)
		}
	}
	return r
}

// full says whether to refuse a batch that would begin at next.
func (q *Queue) full(next log.Offset) bool {
	over := func() bool { return q.o.MaxBytes > 0 && q.used(next) >= q.o.MaxBytes }
	if !over() {
		return false
	}
	if q.enforce(time.Now(), next) {
		q.wake(q.kick) // to free the disk
	}
	return q.o.Policy == Refuse && over()
}

// used is how much of a log that ends at end counts for the bound.
func (q *Queue) used(end log.Offset) int64 { return int64(end) - q.floor.Load() - q.freed.Load() }

// lower works out the offset below which nobody waits for anything.
func (q *Queue) lower() log.Offset {
	low := q.counted
	for _, e := range q.endpoints {
		if e == nil {
			continue
		}
		for _, l := range e.lanes {
			low = min(low, l.floor())
		}
	}
	var freed int64
	for i := range max(0, len(q.segments)-1) {
		freed += max(0, int64(q.segments[i+1].base-max(q.segments[i].end, low)))
	}
	q.floor.Store(int64(low))
	q.freed.Store(freed)
	return low
}

func (q *Queue) wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Stats are counts of a queue or an endpoint. The last three count since Open.
type Stats struct {
	Len     int64 // messages somebody waits for, unsettled ones included
	Bytes   int64 // their size; of a queue, that of its files
	Expired int64 // dropped because their time to live ended
	Dropped int64 // dropped by the policy DropOldest, or lost by a damaged disk
	Refused int64 // batches refused by the policy Refuse
}

// Stats counts what the queue holds. A message for two endpoints counts twice.
func (q *Queue) Stats() Stats {
	s := Stats{Bytes: q.log.Size(), Refused: q.refused.Load()}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range q.endpoints {
		if e != nil {
			of := e.stats()
			s.Len += of.Len
			s.Expired += of.Expired
			s.Dropped += of.Dropped
		}
	}
	return s
}

// segment is what the queue knows of a segment of the log.
type segment struct {
	base, end log.Offset // end is maxOffset while it is written to
	lanes     []share    // by key, when sealed
	last      time.Time  // when its newest message was enqueued
	expiry    time.Time  // when the last of its messages with a time to live ends
	forever   bool       // it has messages without one
}

const maxOffset = log.Offset(math.MaxInt64)

// share is how much of a segment is for one lane.
type share struct {
	key key
	tally
}

type tally struct{ n, bytes int64 }

func (t *tally) add(bytes int) { t.n++; t.bytes += int64(bytes) }

func (s *segment) of(k key) tally {
	if i, found := slices.BinarySearchFunc(s.lanes, k, func(s share, k key) int { return cmp.Compare(s.key, k) }); found {
		return s.lanes[i].tally
	}
	return tally{}
}

// find is the index of the last segment that begins at or before at, -1 if none does.
func (q *Queue) find(at log.Offset) int {
	i, found := slices.BinarySearchFunc(q.segments, at, func(s segment, at log.Offset) int { return cmp.Compare(s.base, at) })
	if found {
		return i
	}
	return i - 1
}
