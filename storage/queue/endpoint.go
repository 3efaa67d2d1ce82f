package queue

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/selvedge-io/selvedge/storage/log"
)

// Endpoint is one receiver of messages. Its place in the queue outlives the
// process; its name is known again after a restart.
type Endpoint struct {
	q    *Queue
	id   uint64
	name string

	lanes   []*lane // by priority; under q.mu
	expired int64   // under q.mu
	dropped int64   // under q.mu

	turn chan struct{} // held by the Fetch under way
	wake chan struct{} // there may be something to fetch
	gone chan struct{} // closed when the endpoint is removed or the queue closed

	items []Item // of the last Fetch
}

// Item is a message on its way to an endpoint.
type Item struct {
	Token       uint64 // for Settle
	Payload     []byte // must not be changed
	Enqueued    time.Time
	Redelivered bool // it was fetched before and released, or not settled before a restart
}

// Endpoint gives the endpoint of that name; the first use creates it durably.
func (q *Queue) Endpoint(name string) (*Endpoint, error) {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return nil, ErrClosed
	}
	q.mu.Unlock()
	q.naming.Lock()
	defer q.naming.Unlock()
	id, err := q.names.add(name)
	if err != nil {
		return nil, fmt.Errorf("create endpoint %s: %w", name, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.enter(id, name), nil
}

// enter makes the endpoint known, once.
func (q *Queue) enter(id uint64, name string) *Endpoint {
	for uint64(len(q.endpoints)) <= id {
		q.endpoints = append(q.endpoints, nil)
	}
	if q.endpoints[id] == nil {
		q.endpoints[id] = &Endpoint{q: q, id: id, name: name,
			turn: make(chan struct{}, 1), wake: make(chan struct{}, 1), gone: make(chan struct{})}
	}
	return q.endpoints[id]
}

// Remove forgets an endpoint and what waits for it. Its Fetch ends with ErrRemoved.
// Removing an unknown one does nothing.
func (q *Queue) Remove(name string) error {
	q.naming.Lock()
	defer q.naming.Unlock()
	id, found, err := q.names.remove(name)
	if err != nil {
		return fmt.Errorf("remove endpoint %s: %w", name, err)
	}
	if !found {
		return nil
	}
	q.mu.Lock()
	if e := q.endpoints[id]; e != nil && !q.closed {
		q.endpoints[id] = nil
		close(e.gone)
	}
	q.mu.Unlock()
	q.wake(q.kick)
	return nil
}

// Names lists the endpoints, removed ones excepted, in no order.
func (q *Queue) Names() []string {
	var all []string
	for _, e := range q.Endpoints() {
		all = append(all, e.name)
	}
	return all
}

// Endpoints gives all that there are, removed ones excepted, in no order.
func (q *Queue) Endpoints() []*Endpoint {
	q.mu.Lock()
	defer q.mu.Unlock()
	var all []*Endpoint
	for _, e := range q.endpoints {
		if e != nil {
			all = append(all, e)
		}
	}
	return all
}

// Name is what the endpoint was created as.
func (e *Endpoint) Name() string { return e.name }

// lane gives the lane of a priority, made on first use. The caller holds q.mu.
func (e *Endpoint) lane(priority uint8) *lane {
	i, found := slices.BinarySearchFunc(e.lanes, priority, func(l *lane, p uint8) int { return cmp.Compare(l.key.priority(), p) })
	if !found {
		l := &lane{e: e, key: makeKey(e.id, priority)}
		e.lanes = slices.Insert(slices.Clone(e.lanes), i, l) // Fetch reads the old slice
	}
	return e.lanes[i]
}

// Fetch waits for at least one message and gives up to most of them, of maxBytes
// together unless the first alone is longer: highest priority first, in order
// within a priority, released ones before new ones. Messages whose time is over are
// skipped and counted. The slice is valid until the next Fetch, payloads for as
// long as they are referenced. One Fetch runs at a time, others wait for it.
//
// It fails when ctx ends, with ErrRemoved or ErrClosed, or when the disk cannot be
// read.
func (e *Endpoint) Fetch(ctx context.Context, most, maxBytes int) ([]Item, error) {
	select {
	case e.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-e.turn }()
	for {
		if err := e.usable(); err != nil {
			return nil, err
		}
		clear(e.items)
		e.items = e.items[:0]
		if err := e.collect(max(most, 1), maxBytes); err != nil {
			return nil, fmt.Errorf("fetch for %s: %w", e.name, err)
		}
		if len(e.items) > 0 {
			return e.items, nil
		}
		select {
		case <-e.wake:
		case <-e.gone:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (e *Endpoint) usable() error {
	select {
	case <-e.gone:
	default:
		return nil
	}
	e.q.mu.Lock()
	defer e.q.mu.Unlock()
	if e.q.closed {
		return ErrClosed
	}
	return ErrRemoved
}

// Settle ends messages, fetched ones, for good. Unknown tokens are ignored.
func (e *Endpoint) Settle(tokens ...uint64) {
	q := e.q
	q.mu.Lock()
	for _, token := range tokens {
		if l := e.has(uint8(token & 15)); l != nil {
			l.settle(log.Offset(token >> 4))
		}
	}
	q.mu.Unlock()
	q.wake(q.dirty)
}

func (e *Endpoint) has(priority uint8) *lane {
	for _, l := range e.lanes {
		if l.key.priority() == priority {
			return l
		}
	}
	return nil
}

// Release puts fetched messages that are not settled back in their places; the
// next Fetch gives them again, marked Redelivered.
func (e *Endpoint) Release() {
	e.q.mu.Lock()
	for _, l := range e.lanes {
		l.release()
	}
	e.q.mu.Unlock()
	e.q.wake(e.wake)
}

// Stats counts what the endpoint waits for.
func (e *Endpoint) Stats() Stats {
	e.q.mu.Lock()
	defer e.q.mu.Unlock()
	return e.stats()
}

func (e *Endpoint) stats() Stats {
	s := Stats{Expired: e.expired, Dropped: e.dropped}
	for _, l := range e.lanes {
		s.Len += l.unread.n + l.heldNow.n
		s.Bytes += l.unread.bytes + l.heldNow.bytes
	}
	return s
}

// Len is the number of messages that wait for the endpoint, unsettled ones
// included. Expired ones count until they are met.
func (e *Endpoint) Len() int64 { return e.Stats().Len }

// Bytes is their size.
func (e *Endpoint) Bytes() int64 { return e.Stats().Bytes }

// Oldest is when the oldest of them was enqueued; ok is false when there is none.
// It may read the disk.
func (e *Endpoint) Oldest() (oldest time.Time, ok bool) {
	e.q.mu.Lock()
	lanes := e.lanes
	e.q.mu.Unlock()
	for _, l := range lanes {
		if t, found := l.oldest(); found && (!ok || t.Before(oldest)) {
			oldest, ok = t, true
		}
	}
	return oldest, ok
}
