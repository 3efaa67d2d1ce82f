package inbox

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
)

// readRetry is the pause after the database could not be read.
const readRetry = time.Second

// Line brings the messages of one device to one connection of it. Its methods may
// be called from many goroutines.
type Line struct {
	x       *Inbox
	q       *queue
	deliver func([]head.Delivery)
	ctx     context.Context // ends with the line
	cancel  context.CancelFunc

	// Under the inbox's lock.
	open    bool
	closed  bool
	pumping bool // a goroutine delivers
	idle    sync.Cond
	out     map[uint64]*entry // deliveries not settled, by token
	bytes   int               // their size
}

// Attach makes a line to a device, shut at first. deliver is called with messages in
// order, by one goroutine at a time and with no lock held; it must not block, and
// not call Close.
func (x *Inbox) Attach(of ident.ID, deliver func([]head.Delivery)) *Line {
	l := &Line{x: x, deliver: deliver}
	l.ctx, l.cancel = context.WithCancel(x.ctx)
	l.idle.L = &x.mu
	x.mu.Lock()
	defer x.mu.Unlock()
	l.q = x.queue(of)
	l.q.lines = append(l.q.lines, l)
	return l
}

// Open starts deliveries, of what waits and of what comes.
func (l *Line) Open() {
	l.x.mu.Lock()
	defer l.x.mu.Unlock()
	l.open = !l.closed
	l.q.kick()
}

// Shut ends deliveries; those not settled stay so until settled or until their lock
// ends. Deliveries that are on their way come all the same.
func (l *Line) Shut() {
	l.x.mu.Lock()
	defer l.x.mu.Unlock()
	l.open = false
}

// Settle says what became of a delivery. A token whose lock has ended is ignored.
// Settle does not wait for the disk: what the disk does not know when the hub dies
// is delivered again.
func (l *Line) Settle(token uint64, o head.Outcome) {
	x := l.x
	x.mu.Lock()
	defer x.mu.Unlock()
	e := l.out[token]
	if e == nil {
		return
	}
	switch o {
	case head.Completed:
		x.leave(e, Success)
	case head.Rejected:
		x.leave(e, Rejected)
	default:
		if e.deliveries++; e.deliveries >= x.cfg.MaxDeliveries {
			x.leave(e, DeliveryCountExceeded)
		} else {
			l.q.unlock(e)
			x.change(e)
		}
	}
	l.q.kick()
}

// Close ends the line: no delivery comes after it has returned, and what is not
// settled is unlocked at once. A second Close does nothing.
func (l *Line) Close() {
	l.cancel()
	x := l.x
	x.mu.Lock()
	defer x.mu.Unlock()
	if !l.closed {
		l.open, l.closed = false, true
		for _, e := range l.out {
			l.q.unlock(e)
		}
		l.q.remove(l)
	}
	for l.pumping {
		l.idle.Wait()
	}
}

// remove takes a line out of the queue and lets the others have its share.
func (q *queue) remove(l *Line) {
	for i, other := range q.lines {
		if other == l {
			q.lines = append(q.lines[:i:i], q.lines[i+1:]...)
			break
		}
	}
	for _, e := range q.entries {
		if e.last == l {
			e.last = nil
		}
	}
	q.kick()
	q.dropIfIdle()
}

// room says whether the line can take another delivery. The caller holds the
// inbox's lock, as for all below unless they say otherwise.
func (l *Line) room() bool {
	return l.open && len(l.out) < l.x.cfg.Window && (len(l.out) == 0 || l.bytes < l.x.cfg.WindowBytes)
}

// pump delivers for as long as there is something to. It takes the lock itself.
func (l *Line) pump() {
	var batch []head.Delivery
	messages := make([]message.Message, 0, l.x.cfg.Window) // as many as are ever taken, for batch points into it
	for {
		l.x.mu.Lock()
		taken := l.take(time.Now())
		if len(taken) == 0 {
			l.pumping = false
			l.idle.Broadcast()
			l.x.mu.Unlock()
			return
		}
		l.x.mu.Unlock()
		contents, err := l.read(taken)
		if err != nil {
			l.giveBack(taken)
			if l.ctx.Err() == nil {
				l.x.log.Error("messages for a device cannot be read, trying again", "device", l.q.id.Device, "err", err)
			}
			select {
			case <-time.After(readRetry):
			case <-l.ctx.Done():
			}
			continue
		}
		batch, messages = l.prepare(taken, contents, batch[:0], messages[:0])
		if len(batch) > 0 {
			l.deliver(batch)
		}
		clear(batch)
		clear(messages)
	}
}

// taking is an entry as it was taken: by the time it is read, it may be free again.
type taking struct {
	e         *entry
	sequence  int64
	token     uint64
	count     int
	duplicate bool
}

// take locks the next messages, in order, as far as the window has room.
func (l *Line) take(now time.Time) (taken []taking) {
	if l.q.waiting == 0 || l.x.closing {
		return nil
	}
	for _, e := range l.q.entries {
		if !l.room() {
			break
		}
		if e.state != waiting || !e.expires.After(now) {
			continue
		}
		l.q.release(e)
		l.x.token++
		e.state, e.line, e.token, e.until = locked, l, l.x.token, now.Add(l.x.cfg.Lock)
		if l.out == nil {
			l.out = map[uint64]*entry{}
		}
		l.out[e.token] = e
		l.bytes += e.size
		l.x.date(e)
		taken = append(taken, taking{e, e.sequence, e.token, e.deliveries, e.last == l})
	}
	return taken
}

// read gives the stored forms by sequence number. The caller holds no lock.
func (l *Line) read(taken []taking) (map[int64][]byte, error) {
	rows, err := l.x.db.Read().QueryContext(l.ctx,
		"SELECT sequence, content FROM inbox WHERE device = $1 AND module = $2 AND sequence >= $3 AND sequence <= $4",
		l.q.id.Device, l.q.id.Module, taken[0].sequence, taken[len(taken)-1].sequence)
	if err != nil {
		return nil, fmt.Errorf("read messages of %s: %w", l.q.id, err)
	}
	defer rows.Close()
	contents := make(map[int64][]byte, len(taken))
	for rows.Next() {
		var sequence int64
		var content []byte
		if err := rows.Scan(&sequence, &content); err != nil {
			return nil, fmt.Errorf("read message of %s: %w", l.q.id, err)
		}
		contents[sequence] = content
	}
	return contents, rows.Err()
}

// giveBack unlocks what was taken and not delivered. It takes the lock itself.
func (l *Line) giveBack(taken []taking) {
	l.x.mu.Lock()
	defer l.x.mu.Unlock()
	for _, t := range taken {
		if l.out[t.token] == t.e {
			l.q.unlock(t.e)
		}
	}
}

// prepare makes deliveries of what is still locked. It takes the lock itself.
func (l *Line) prepare(taken []taking, contents map[int64][]byte, batch []head.Delivery, messages []message.Message) ([]head.Delivery, []message.Message) {
	l.x.mu.Lock()
	defer l.x.mu.Unlock()
	for _, t := range taken {
		if l.out[t.token] != t.e {
			continue // it expired, was purged, or the line is closed
		}
		content, found := contents[t.sequence]
		if !found { // the device was deleted, Forget is about to be called
			l.q.retain(func(e *entry) bool { return e != t.e })
			continue
		}
		messages = append(messages, message.Message{})
		m := &messages[len(messages)-1]
		if err := m.Decode(content); err != nil {
			l.x.log.Error("a stored message cannot be read and is dropped", "device", l.q.id.Device, "sequence", t.sequence, "err", err)
			l.x.leave(t.e, Rejected)
			continue
		}
		s := &m.System
		s.Sequence, s.DeliveryCount, s.LockToken = uint64(t.sequence), uint8(min(t.count, 255)), uuid.NewString()
		t.e.last = l
		batch = append(batch, head.Delivery{Token: t.token, Message: m, Duplicate: t.duplicate})
	}
	return batch, messages
}
