package inbox

import (
	"container/heap"
	"slices"
	"time"

	"github.com/selvedge-io/selvedge/model/ident"
)

// queue is what waits for one device and who may take it. The inbox's lock guards
// it.
type queue struct {
	x       *Inbox
	id      ident.ID
	entries []*entry // by sequence number
	waiting int      // those in state waiting
	lines   []*Line  // newest last
}

// entry is what memory knows of a message.
type entry struct {
	q          *queue
	sequence   int64
	expires    time.Time
	size       int // bytes of the stored form
	deliveries int // that were abandoned
	ack        ack

	state state
	until time.Time // end of the lock
	line  *Line     // that it is locked by
	token uint64    // of the delivery
	last  *Line     // that it was delivered on before
	place int       // among the dates; -1 when it has none

	changed bool   // it is in Inbox.changes
	status  Status // why it is leaving
	waiter  *waiter
}

type state uint8

const (
	waiting state = iota
	locked        // delivered and not settled
	leaving       // for good, as soon as that is written
)

// ack says of which ends the sender wants to hear.
type ack uint8

const (
	ackPositive ack = 1 << iota
	ackNegative
)

func parseAck(s string) ack {
	switch s {
	case "positive":
		return ackPositive
	case "negative":
		return ackNegative
	case "full":
		return ackPositive | ackNegative
	}
	return 0
}

// queue gives the queue of a device, made if need be. The caller holds x.mu.
func (x *Inbox) queue(id ident.ID) *queue {
	q := x.queues[id]
	if q == nil {
		q = &queue{x: x, id: id}
		x.queues[id] = q
	}
	return q
}

// add takes a new message up, which is the last of its queue. The caller holds x.mu.
func (x *Inbox) add(id ident.ID, e *entry) *queue {
	q := x.queue(id)
	e.q = q
	q.entries = append(q.entries, e)
	q.waiting++
	e.place = -1
	x.date(e)
	return q
}

// retain drops the entries for which keep says no, without writing anything.
func (q *queue) retain(keep func(*entry) bool) {
	q.entries = slices.DeleteFunc(q.entries, func(e *entry) bool {
		if keep(e) {
			return false
		}
		q.release(e)
		e.state = leaving
		q.x.date(e)
		return true
	})
	q.dropIfIdle()
}

// dropIfIdle forgets a queue that neither holds nor serves anything.
func (q *queue) dropIfIdle() {
	if len(q.entries) == 0 && len(q.lines) == 0 && q.x.queues[q.id] == q {
		delete(q.x.queues, q.id)
	}
}

// release takes e from the line that has it, or from those that wait; the caller
// gives it its next state and date.
func (q *queue) release(e *entry) {
	switch e.state {
	case waiting:
		q.waiting--
	case locked:
		l := e.line
		delete(l.out, e.token)
		l.bytes -= e.size
		e.line = nil
	}
}

// unlock puts a delivered message back in its place.
func (q *queue) unlock(e *entry) {
	q.release(e)
	e.state = waiting
	q.waiting++
	q.x.date(e)
}

// kick has the newest line that can deliver do so, if there is something.
func (q *queue) kick() {
	if q.waiting == 0 || q.x.closing {
		return
	}
	for _, l := range slices.Backward(q.lines) {
		if !l.room() {
			continue
		}
		if !l.pumping { // else it sees for itself
			l.pumping = true
			q.x.joined.Go(l.pump)
		}
		return
	}
}

// due is when something is to be done about e; ok is false when never.
func (e *entry) due() (at time.Time, ok bool) {
	switch {
	case e.state == leaving:
		return at, false
	case e.state == locked && e.until.Before(e.expires):
		return e.until, true
	}
	return e.expires, true
}

// dates orders entries by when something is to be done about them.
type dates []*entry

func (d dates) Len() int { return len(d) }
func (d dates) Less(i, j int) bool {
	a, _ := d[i].due()
	b, _ := d[j].due()
	return a.Before(b)
}
func (d dates) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].place, d[j].place = i, j
}
func (d *dates) Push(e any) {
	e.(*entry).place = len(*d)
	*d = append(*d, e.(*entry))
}
func (d *dates) Pop() any {
	n := len(*d) - 1
	e := (*d)[n]
	(*d)[n] = nil
	*d = (*d)[:n]
	e.place = -1
	return e
}

// date puts e where its state wants it among the dates. The caller holds x.mu.
func (x *Inbox) date(e *entry) {
	_, ok := e.due()
	switch {
	case ok && e.place < 0:
		heap.Push(&x.dates, e)
	case ok:
		heap.Fix(&x.dates, e.place)
	case e.place >= 0:
		heap.Remove(&x.dates, e.place)
	}
	if e.place == 0 {
		select {
		case x.rouse <- struct{}{}:
		default:
		}
	}
}

// never is how long the timer waits when there is nothing to wait for; a new date
// wakes it.
const never = 24 * time.Hour

// keepDates expires messages and locks.
func (x *Inbox) keepDates() {
	timer := time.NewTimer(never)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-x.rouse:
		case <-x.ctx.Done():
			return
		}
		timer.Reset(x.meetDates(time.Now()))
	}
}

// meetDates does what is due and says in how long to look again.
func (x *Inbox) meetDates(now time.Time) time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	for len(x.dates) > 0 {
		e := x.dates[0]
		at, _ := e.due()
		if at.After(now) {
			return min(at.Sub(now), never)
		}
		if !e.expires.After(now) {
			x.leave(e, Expired)
		} else {
			e.q.unlock(e)
		}
		e.q.kick() // an expired one has left room in a window
	}
	return never
}
