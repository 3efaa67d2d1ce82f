package queue

import (
	"cmp"
	"slices"
	"time"

	"github.com/selvedge-io/selvedge/storage/log"
)

// lane is what one endpoint waits for at one priority: a place in the log, behind
// which everything is unread, and the few messages before it that were fetched and
// are not settled.
type lane struct {
	e   *Endpoint
	key key

	// Under q.mu.
	pos     log.Offset // where to read on
	unread  tally      // messages at or after pos
	passed  tally      // messages before pos in pos' segment, whatever became of them
	active  tally      // messages in the segment that is written to
	newest  log.Offset // all messages below were counted
	held    []held     // fetched, in order, from head on
	head    int
	settled int // settled ones among held[head:]
	heldNow tally

	// Of the Fetch under way.
	reader *log.Reader
	ahead  []log.Record // read, and not looked at yet
	redo   *log.Reader  // for released messages
	found  []held       // by the scan under way
}

// held is a message that was fetched.
type held struct {
	at       log.Offset
	bytes    int64
	enqueued time.Time
	state    state
}

type state uint8

const (
	offered state = iota // with the receiver
	waiting              // to be offered again
	again                // with the receiver again
	settled              // done, but something before it is not
	expired              // never offered; only while scanning
)

// floor is the offset below which the lane needs nothing. The caller holds q.mu.
func (l *lane) floor() log.Offset {
	switch {
	case l.head < len(l.held):
		return l.held[l.head].at
	case l.unread.n > 0:
		return l.pos
	default:
		return l.e.q.counted
	}
}

// arrive counts a message that became durable, once even if it names the lane
// twice. The caller holds q.mu.
func (l *lane) arrive(at log.Offset, bytes int) {
	if at < l.newest {
		return
	}
	l.newest = at + 1
	if l.unread.n == 0 {
		l.pos, l.passed = at, l.active
	}
	l.unread.add(bytes)
	l.active.add(bytes)
}

// holds is the index of the message at at in held.
func (l *lane) holds(at log.Offset) (int, bool) {
	i, found := slices.BinarySearchFunc(l.held[l.head:], at, func(h held, at log.Offset) int { return cmp.Compare(h.at, at) })
	return l.head + i, found
}

func (l *lane) settle(at log.Offset) {
	i, found := l.holds(at)
	if !found || l.held[i].state == settled {
		return
	}
	h := &l.held[i]
	h.state = settled
	l.heldNow.n--
	l.heldNow.bytes -= h.bytes
	l.settled++
	for l.head < len(l.held) && l.held[l.head].state == settled {
		l.head++
		l.settled--
	}
	switch live := len(l.held) - l.head; {
	case live == 0:
		l.held, l.head = l.held[:0], 0
	case l.settled > 64 && l.settled > live/2: // something old is stuck
		l.held = slices.DeleteFunc(l.held[l.head:], func(h held) bool { return h.state == settled })
		l.head, l.settled = 0, 0
	case l.head > 64 && l.head > live:
		l.held = append(l.held[:0], l.held[l.head:]...)
		l.head = 0
	}
}

func (l *lane) release() {
	for i := range l.held[l.head:] {
		if h := &l.held[l.head+i]; h.state == offered || h.state == again {
			h.state = waiting
		}
	}
}

// skip moves pos over segments that have nothing more for the lane. The caller
// holds q.mu.
func (l *lane) skip() {
	q := l.e.q
	for i := q.find(l.pos); i+1 < len(q.segments); i++ {
		if i >= 0 && q.segments[i].of(l.key).n > l.passed.n && l.pos < q.segments[i].end {
			return
		}
		l.pos, l.passed = q.segments[i+1].base, tally{}
	}
}

// needs says whether the lane waits for anything in a sealed segment. The caller holds
// q.mu.
func (l *lane) needs(s *segment) bool {
	i, _ := l.holds(s.base)
	for ; i < len(l.held) && l.held[i].at < s.end; i++ {
		if l.held[i].state != settled {
			return true
		}
	}
	switch {
	case l.unread.n == 0 || l.pos >= s.end:
		return false
	case l.pos > s.base:
		return s.of(l.key).n > l.passed.n
	default:
		return s.of(l.key).n > 0
	}
}

// drop forgets messages in the oldest segment, s. It gives their number. The
// caller holds q.mu.
func (l *lane) drop(s *segment) int64 {
	var gone int64
	for l.head < len(l.held) && l.held[l.head].at < s.end {
		if l.held[l.head].state != settled {
			gone++
		}
		l.settle(l.held[l.head].at)
	}
	if l.pos < s.end && l.unread.n > 0 {
		lost := s.of(l.key)
		if l.pos > s.base {
			lost.n -= l.passed.n
			lost.bytes -= l.passed.bytes
		}
		l.unread.n -= lost.n
		l.unread.bytes -= lost.bytes
		gone += lost.n
		l.pos, l.passed = s.end, tally{}
	}
	return gone
}

// collect fills e.items. The caller has the turn.
func (e *Endpoint) collect(most, maxBytes int) error {
	q := e.q
	q.mu.Lock()
	lanes := e.lanes
	q.mu.Unlock()
	f := budget{most: most, room: maxBytes, now: time.Now()}
	for _, l := range lanes {
		if err := l.repeat(&f); err != nil {
			return err
		}
		for f.want() {
			more, err := l.scan(&f)
			if err != nil {
				return err
			}
			if !more {
				break
			}
		}
		if !f.want() {
			break
		}
	}
	return nil
}

// budget is how much a Fetch has yet to collect.
type budget struct {
	most, room int
	any        bool
	now        time.Time
}

func (f *budget) want() bool { return f.most > 0 && (f.room > 0 || !f.any) }

// take says whether an item of that size still fits, and counts it.
func (f *budget) take(bytes int) bool {
	if f.most == 0 || f.any && bytes > f.room {
		f.most = 0
		return false
	}
	f.any = true
	f.most--
	f.room -= bytes
	return true
}

// scan reads a stretch of the log for new messages. more is false when there are
// none left.
func (l *lane) scan(f *budget) (more bool, err error) {
	q, e := l.e.q, l.e
	q.mu.Lock()
	if l.unread.n == 0 {
		q.mu.Unlock()
		l.ahead = nil
		return false, nil
	}
	l.skip()
	pos, limit := l.pos, q.counted
	q.mu.Unlock()

	if err := l.read(pos); err != nil {
		return false, err
	}
	start, before := len(e.items), *f
	next := l.match(f, max(pos, l.reader.Offset()), limit)

	q.mu.Lock()
	defer q.mu.Unlock()
	if l.pos != pos { // dropped under our hands
		clear(e.items[start:])
		e.items, *f = e.items[:start], before
		l.ahead = nil
		return true, nil
	}
	l.advance(next, limit)
	return true, nil
}

// read fills ahead with the records from pos on.
func (l *lane) read(pos log.Offset) error {
	for len(l.ahead) > 0 && l.ahead[0].Offset < pos {
		l.ahead = l.ahead[1:]
	}
	if len(l.ahead) > 0 && l.ahead[0].Offset == pos {
		return nil
	}
	if l.reader == nil {
		l.reader = l.e.q.log.NewReader(pos)
		l.reader.Fresh = true
	}
	if l.reader.Offset() != pos {
		l.reader.Resume(pos)
	}
	var err error
	l.ahead, err = l.reader.Poll()
	return err
}

// match looks through ahead for messages of this lane, adds them to the items and
// to found, and gives the offset it got to; end is that after all of ahead.
func (l *lane) match(f *budget, end, limit log.Offset) log.Offset {
	e := l.e
	clear(l.found)
	l.found = l.found[:0]
	for i, rec := range l.ahead {
		if rec.Offset >= limit {
			l.ahead = l.ahead[i:]
			return limit
		}
		r, err := parseRecord(rec.Payload)
		if err != nil {
			continue
		}
		ttl, mine := r.ttl(l.key)
		if !mine {
			continue
		}
		h := held{at: rec.Offset, bytes: int64(len(r.payload)), enqueued: r.enqueued}
		if end := r.expiry(ttl, e.q.o.MaxAge); !end.IsZero() && !f.now.Before(end) {
			h.state = expired
		} else if f.take(len(r.payload)) {
			e.items = append(e.items, Item{Token: l.token(rec.Offset), Payload: r.payload, Enqueued: r.enqueued})
		} else {
			l.ahead = l.ahead[i:]
			return rec.Offset
		}
		l.found = append(l.found, h)
	}
	l.ahead = nil
	return min(end, limit)
}

func (l *lane) token(at log.Offset) uint64 { return uint64(at)<<4 | uint64(l.key.priority()) }

// advance moves pos to next, over what was found; limit is how far the log was
// looked at. The caller holds q.mu.
func (l *lane) advance(next, limit log.Offset) {
	q := l.e.q
	i := q.find(l.pos)
	cross := func(to log.Offset) {
		for i+1 < len(q.segments) && to >= q.segments[i+1].base {
			i++
			l.passed = tally{}
		}
	}
	for _, h := range l.found {
		cross(h.at)
		l.passed.add(int(h.bytes))
		l.unread.n--
		l.unread.bytes -= h.bytes
		if h.state == expired {
			l.e.expired++
			continue
		}
		l.held = append(l.held, h)
		l.heldNow.add(int(h.bytes))
	}
	cross(next)
	l.pos = next
	if next >= limit && limit == q.counted && l.unread.n != 0 { // the disk lost some
		l.e.dropped += max(l.unread.n, 0)
		l.unread = tally{}
	}
	if len(l.found) > 0 {
		q.wake(q.dirty)
	}
}

// repeat offers released messages again.
func (l *lane) repeat(f *budget) error {
	q := l.e.q
	var recs []log.Record
	for f.want() {
		q.mu.Lock()
		at, any := l.firstWaiting()
		q.mu.Unlock()
		if !any {
			break
		}
		for len(recs) > 0 && recs[0].Offset < at {
			recs = recs[1:]
		}
		if len(recs) == 0 {
			if l.redo == nil {
				l.redo = q.log.NewReader(at)
				l.redo.Fresh = true
			}
			l.redo.Resume(at)
			var err error
			if recs, err = l.redo.Poll(); err != nil {
				return err
			}
		}
		if !l.offerAgain(f, at, recs) {
			return nil
		}
	}
	if l.redo != nil && f.want() {
		l.redo.Close()
		l.redo = nil
	}
	return nil
}

// firstWaiting is where the first released message stands. The caller holds q.mu.
func (l *lane) firstWaiting() (log.Offset, bool) {
	for _, h := range l.held[l.head:] {
		if h.state == waiting {
			return h.at, true
		}
	}
	return 0, false
}

// offerAgain adds the released message at at, which should be the first of recs,
// to the items. It is false when there is no room for it.
func (l *lane) offerAgain(f *budget, at log.Offset, recs []log.Record) bool {
	q, e := l.e.q, l.e
	var r record
	var ttl time.Duration
	readable := len(recs) > 0 && recs[0].Offset == at
	if readable {
		var err error
		r, err = parseRecord(recs[0].Payload)
		ttl, readable = r.ttl(l.key)
		readable = readable && err == nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	i, found := l.holds(at)
	if !found || l.held[i].state != waiting {
		return true // settled or dropped meanwhile
	}
	end := r.expiry(ttl, q.o.MaxAge)
	switch {
	case !readable:
		l.settle(at)
		e.dropped++
	case !end.IsZero() && !f.now.Before(end):
		l.settle(at)
		e.expired++
	case !f.take(len(r.payload)):
		return false
	default:
		l.held[i].state = again
		e.items = append(e.items, Item{Token: l.token(at), Payload: r.payload, Enqueued: r.enqueued, Redelivered: true})
	}
	return true
}

// oldest is when the first message that is not settled was enqueued.
func (l *lane) oldest() (time.Time, bool) {
	q := l.e.q
	q.mu.Lock()
	if l.head < len(l.held) {
		defer q.mu.Unlock()
		return l.held[l.head].enqueued, true
	}
	if l.unread.n == 0 {
		q.mu.Unlock()
		return time.Time{}, false
	}
	l.skip()
	pos, limit := l.pos, q.counted
	q.mu.Unlock()

	r := q.log.NewReader(pos)
	defer r.Close()
	for r.Resume(pos); r.Offset() < limit; {
		recs, err := r.Poll()
		if err != nil || len(recs) == 0 {
			break
		}
		for _, rec := range recs {
			parsed, err := parseRecord(rec.Payload)
			if err != nil {
				continue
			}
			if _, mine := parsed.ttl(l.key); mine {
				return parsed.enqueued, true
			}
		}
	}
	return time.Time{}, false
}
