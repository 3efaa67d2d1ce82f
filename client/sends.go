package client

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/selvedge-io/selvedge/model/message"
)

// sends is what a Session was given to send and no server has acknowledged.
type sends struct {
	check            func(*message.Message) error
	messages, most   int // under way, and the bound
	bytes, mostBytes int
	mu               sync.Mutex
	queue            []*sending    // oldest first
	handed           int           // how many of them the connection has
	changed          chan struct{} // closed and replaced when any of this changes
	stopped          bool
}

// sending is a batch under way.
type sending struct {
	batch   []message.Message
	bytes   int
	done    func(error)
	dropped bool // nobody waits any more; it is not sent again
}

func (q *sends) init(check func(*message.Message) error, most, mostBytes int) {
	q.check, q.most, q.mostBytes, q.changed = check, most, mostBytes, make(chan struct{})
}

// note wakes all who wait. The caller holds q.mu.
func (q *sends) note() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// add queues a copy of batch as soon as there is room.
func (q *sends) add(ctx context.Context, batch []message.Message, done func(error)) (*sending, error) {
	if err := checkAll(batch, q.check); err != nil {
		return nil, err
	}
	p := &sending{batch: make([]message.Message, len(batch)), done: done}
	for i := range batch {
		p.batch[i] = batch[i].Clone()
		p.bytes += batch[i].Size()
	}
	for {
		q.mu.Lock()
		room := len(q.queue) == 0 || q.messages+len(batch) <= q.most && q.bytes+p.bytes <= q.mostBytes
		switch {
		case q.stopped:
			q.mu.Unlock()
			return nil, ErrClosed
		case room:
			q.queue = append(q.queue, p)
			q.messages += len(batch)
			q.bytes += p.bytes
			q.note()
			q.mu.Unlock()
			return p, nil
		}
		changed := q.changed
		q.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for messages to be acknowledged: %w", ctx.Err())
		}
	}
}

// next hands out the oldest batch that the connection does not have.
func (q *sends) next(ctx context.Context) (*sending, bool) {
	for {
		q.mu.Lock()
		if q.handed < len(q.queue) {
			p := q.queue[q.handed]
			q.handed++
			q.mu.Unlock()
			return p, true
		}
		changed := q.changed
		q.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, false
		}
	}
}

// ended takes p out: it is acknowledged or, with an error, refused for good. That may
// be told late, when a later connection has p again, and so more than once.
func (q *sends) ended(p *sending, err error) {
	q.mu.Lock()
	i := slices.Index(q.queue, p)
	if i >= 0 {
		if i < q.handed {
			q.handed--
		}
		q.remove(i)
	}
	q.mu.Unlock()
	if i >= 0 {
		p.done(err)
	}
}

// remove takes the n-th out. The caller holds q.mu.
func (q *sends) remove(n int) {
	p := q.queue[n]
	q.messages -= len(p.batch)
	q.bytes -= p.bytes
	q.queue = slices.Delete(q.queue, n, n+1)
	q.note()
}

// lost notes that the connection is over: what it had and did not bring about is to be
// sent again, unless nobody waits for it.
func (q *sends) lost() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.handed = 0
	for i := len(q.queue) - 1; i >= 0; i-- {
		if q.queue[i].dropped {
			q.remove(i)
		}
	}
}

// drop gives a batch up. If the connection has it, it may still arrive.
func (q *sends) drop(p *sending) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p.dropped = true
	if i := slices.Index(q.queue, p); i >= q.handed {
		q.remove(i)
	}
}

// stop fails all that waits and all that will come.
func (q *sends) stop() {
	q.mu.Lock()
	q.stopped = true
	rest := q.queue
	q.queue, q.messages, q.bytes = nil, 0, 0
	q.note()
	q.mu.Unlock()
	for _, p := range rest {
		p.done(ErrClosed)
	}
}

// feed gives batches to a connection until ctx ends.
func (s *Session) feed(ctx context.Context, c *Client) {
	for {
		p, ok := s.sends.next(ctx)
		if !ok {
			return
		}
		c.Publish(p.batch, func(err error) {
			if err == nil || isRefused(err) { // otherwise it is sent again on the next connection
				s.progress()
				s.sends.ended(p, err)
			}
		})
	}
}

// Publish queues a batch and returns when it is queued, which takes until Config's
// Window and WindowBytes have room for it. Batches are sent in the order of the calls,
// and again until a server has acknowledged them all: at least once. done is called
// once, with nil then, with ErrClosed when Run has returned, or, over AMQP, with the
// fault for which a server refuses the batch for good; it must not block.
// With an error from Publish nothing is sent and done is not called.
func (s *Session) Publish(ctx context.Context, batch []message.Message, done func(error)) error {
	_, err := s.sends.add(ctx, batch, done)
	return err
}

// Send sends a message and waits until a server has acknowledged it, across
// connections. When ctx ends before, it is not known whether the message arrives.
func (s *Session) Send(ctx context.Context, m *message.Message) error {
	acked := make(chan error, 1)
	p, err := s.sends.add(ctx, []message.Message{*m}, func(err error) { acked <- err })
	if err != nil {
		return err
	}
	select {
	case err := <-acked:
		return err
	case <-ctx.Done():
		s.sends.drop(p)
		return fmt.Errorf("send message: %w", ctx.Err())
	}
}

// SendOutput is Send by an output of the module.
func (s *Session) SendOutput(ctx context.Context, output string, m *message.Message) error {
	out := *m
	out.System.Output = output
	return s.Send(ctx, &out)
}
