package events

import (
	"cmp"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/storage/log"
)

// partition is one log of events.
type partition struct {
	index int
	log   *log.Log
	now   func() time.Time
	o     log.Options
	note  string    // name of the file that end is noted in
	calls sync.Pool // of *call

	// Under the log's lock.
	next   int64 // sequence number of the next event
	millis int64 // enqueued time of the last one

	mu       sync.Mutex
	segments []head          // of the segments with durable events, oldest first
	last     mark            // the newest durable event
	watchers []chan struct{} // told of each commit
}

// head is the first event of a segment.
type head struct {
	base     log.Offset
	sequence int64
	millis   int64
}

// mark is what is known of the end of the durable events. It is noted on disk when
// a segment is sealed, because retention may take every event and the numbers must
// go on all the same.
type mark struct {
	Next     int64      `json:"nextSequence"`
	Offset   log.Offset `json:"lastOffset"` // of the last event; -1 when there was none
	Millis   int64      `json:"lastTime"`
	Boundary log.Offset `json:"boundary"` // where the event after it begins
}

const noteName = "end.json"

func openPartition(index int, dir string, o log.Options, now func() time.Time) (*partition, error) {
	p := &partition{index: index, now: now, o: o, note: filepath.Join(dir, noteName), last: mark{Offset: -1}}
	p.calls.New = func() any { return newCall(p) }
	o.OnCommit = p.committed
	o.OnSeal = p.sealed
	l, err := log.Open(dir, o)
	if err != nil {
		return nil, err
	}
	p.log = l
	if err := p.recover(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return p, nil
}

// recover finds the heads of the segments and the last event.
func (p *partition) recover() error {
	if _, err := readNote(p.o.FS, p.note, &p.last); err != nil {
		// The arithmetic below does without.
		p.o.Log.Warn("note of the end of a partition is not readable", "partition", p.index, "err", err)
		p.last = mark{Offset: -1}
	}
	r := p.log.NewReader(log.Oldest)
	defer r.Close()
	segments := p.log.Segments()
	for _, s := range segments {
		if s.Base >= s.End {
			continue
		}
		r.Resume(s.Base)
		recs, err := r.Poll()
		if err != nil {
			return err
		}
		if len(recs) == 0 || recs[0].Offset >= s.End {
			continue // damaged at its head; readers come to it from the one before
		}
		if sequence, millis, err := parseHead(recs[0].Payload); err == nil {
			p.segments = append(p.segments, head{s.Base, sequence, millis})
		}
	}
	if len(p.segments) > 0 {
		if err := p.recoverEnd(r, p.segments[len(p.segments)-1].base); err != nil {
			return err
		}
	}
	// Behind the last event known there may have been others that are damaged or
	// forgotten: skipping a number for each byte keeps theirs from coming again.
	p.next = p.last.Next + max(0, int64(p.log.End()-p.last.Boundary))
	p.millis = p.last.Millis
	return nil
}

// recoverEnd reads from a segment's base to the end of the log.
func (p *partition) recoverEnd(r *log.Reader, base log.Offset) error {
	r.Resume(base)
	for {
		recs, err := r.Poll()
		if err != nil || len(recs) == 0 {
			return err
		}
		for _, rec := range recs {
			p.remember(rec)
		}
	}
}

// remember takes a durable record for the last one.
func (p *partition) remember(rec log.Record) {
	sequence, millis, err := parseHead(rec.Payload)
	if err != nil || sequence < p.last.Next {
		return
	}
	p.last = mark{Next: sequence + 1, Offset: rec.Offset, Millis: millis, Boundary: rec.Next}
}

// committed is called for each durable batch.
func (p *partition) committed(segment log.Offset, records []log.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.segments); n == 0 || p.segments[n-1].base != segment {
		if sequence, millis, err := parseHead(records[0].Payload); err == nil {
			p.trim()
			p.segments = append(p.segments, head{segment, sequence, millis})
		}
	}
	p.remember(records[len(records)-1])
	for _, wake := range p.watchers {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

// trim forgets heads of segments that were deleted. The caller holds p.mu.
func (p *partition) trim() {
	oldest := p.log.Oldest()
	p.segments = slices.DeleteFunc(p.segments, func(h head) bool { return h.base < oldest })
}

// sealed notes the end on disk before its segment can be deleted.
func (p *partition) sealed(_, _ log.Offset) {
	p.mu.Lock()
	last := p.last
	p.mu.Unlock()
	if err := writeNote(p.o.FS, p.note, last); err != nil {
		p.o.Log.Warn("end of a partition not noted", "partition", p.index, "err", err)
	}
}

func (p *partition) info() Info {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trim()
	i := Info{Last: p.last.Next - 1, LastOffset: int64(p.last.Offset), Begin: p.last.Next, Empty: len(p.segments) == 0}
	if p.last.Offset >= 0 {
		i.LastTime = time.UnixMilli(p.last.Millis).UTC()
	}
	if !i.Empty {
		i.Begin = p.segments[0].sequence
	}
	return i
}

// before gives a place from which no event is missed that has the key or a later
// one, given what to compare it with.
func (p *partition) before(key int64, of func(head) int64) log.Offset {
	p.mu.Lock()
	defer p.mu.Unlock()
	i, _ := slices.BinarySearchFunc(p.segments, key, func(h head, key int64) int { return cmp.Compare(of(h), key) })
	if i == 0 {
		return log.Oldest
	}
	return p.segments[i-1].base
}

// watch has a signal sent to wake, which has room for one, after each commit.
func (p *partition) watch(wake chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watchers = append(p.watchers, wake)
}

func (p *partition) unwatch(wake chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watchers = slices.DeleteFunc(p.watchers, func(w chan struct{}) bool { return w == wake })
}

// call is one Append under way. Its functions are made once, so that an Append
// costs no memory.
type call struct {
	p       *partition
	batch   []message.Message
	current *message.Message
	done    func(error)

	build  func(*log.Batch)
	encode func(dst []byte) []byte
	finish func(log.Offset, error)
}

func newCall(p *partition) *call {
	c := &call{p: p}
	c.build, c.encode, c.finish = c.doBuild, c.doEncode, c.doFinish
	return c
}

func (p *partition) append(batch []message.Message, done func(error)) {
	c := p.calls.Get().(*call)
	c.batch, c.done = batch, done
	p.log.Append(c.build, c.finish)
}

// doBuild numbers and encodes the batch, under the log's lock.
func (c *call) doBuild(b *log.Batch) {
	if len(c.batch) > 0 {
		c.p.millis = max(c.p.millis, c.p.now().UnixMilli())
	}
	for i := range c.batch {
		c.current = &c.batch[i]
		b.Record(c.encode)
		c.p.next++
	}
	c.batch, c.current = nil, nil // they are the caller's again
}

func (c *call) doEncode(dst []byte) []byte {
	return c.current.Append(appendHead(dst, c.p.next, c.p.millis))
}

func (c *call) doFinish(_ log.Offset, err error) {
	done := c.done
	c.batch, c.done = nil, nil
	c.p.calls.Put(c)
	switch {
	case errors.Is(err, log.ErrClosed):
		err = fault.Wrap(err, fault.Unavailable, "the hub is stopping")
	case err != nil:
		err = fault.Wrap(err, fault.Unavailable, "the event stream cannot be written just now")
	}
	done(err)
}
