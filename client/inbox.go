package client

import (
	"context"
	"sync"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
)

// Bounds of messages that wait for the handler. Servers keep to far less.
const (
	maxInbox      = 4096
	maxInboxBytes = 16 << 20
)

// inbox is what the server sent and the handler has not seen.
type inbox struct {
	mu      sync.Mutex
	queue   []delivery
	bytes   int
	handled bool          // there is a handler
	more    chan struct{} // something was queued
	retired chan struct{} // closed when the handler is to get nothing more
	left    chan struct{} // closed when the handler has returned after that
}

// delivery is one message from the server.
type delivery struct {
	id      uint32 // by which the protocol knows it
	settled bool   // it is not to be acknowledged
	m       message.Message
}

func (b *inbox) init() {
	b.more = make(chan struct{}, 1)
	b.retired, b.left = make(chan struct{}), make(chan struct{})
}

// retire gives the handler nothing more, and a channel that is closed when it has
// returned and all it took is acknowledged. What waits stays unacknowledged. It is
// called once.
func (b *inbox) retire() <-chan struct{} {
	close(b.retired)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.handled {
		b.handled = true
		close(b.left)
	}
	return b.left
}

// push queues a delivery; false means that too much waits already.
func (b *inbox) push(d delivery) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := d.m.Size()
	if len(b.queue) >= maxInbox || b.bytes > 0 && b.bytes+n > maxInboxBytes {
		return false
	}
	b.queue = append(b.queue, d)
	b.bytes += n
	select {
	case b.more <- struct{}{}:
	default:
	}
	return true
}

func (b *inbox) isRetired() bool {
	select {
	case <-b.retired:
		return true
	default:
		return false
	}
}

// take gives all that waits.
func (b *inbox) take() []delivery {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queue
	b.queue, b.bytes = nil, 0
	return q
}

// OnMessage subscribes to the messages for the identity: cloud-to-device messages of a
// device, all inputs of a module, whose name is in System.Input. handle is called for
// one message after the other, in order; it may keep the message, and its context ends
// with the connection.
//
// nil from handle acknowledges the message. With an error it stays unacknowledged,
// and what happens then is the server's: a Selvedge broker sends it again when the
// identity next connects, edgeHub after 30 s, IoT Hub when its lock of 60 s has run
// out. Servers stop sending when too many are unacknowledged, so give an error only
// for what is worth another try.
//
// There can be one handler.
func (c *Client) OnMessage(ctx context.Context, handle func(ctx context.Context, m *message.Message) error) error {
	c.in.mu.Lock()
	second := c.in.handled
	c.in.handled = true
	c.in.mu.Unlock()
	if second {
		return fault.New(fault.InvalidOperation, "there is a handler of messages already")
	}
	// What a kept session brings before the subscription waits in the inbox.
	if err := c.start(func() { c.deliver(handle) }); err != nil {
		return err
	}
	return c.via.listen(ctx, messages)
}

// deliver hands messages to the handler until the connection ends.
func (c *Client) deliver(handle func(context.Context, *message.Message) error) {
	defer close(c.in.left)
	for {
		select {
		case <-c.in.more:
		case <-c.in.retired:
			return
		case <-c.ctx.Done():
			return
		}
		for _, d := range c.in.take() {
			if c.ctx.Err() != nil || c.in.isRetired() {
				return
			}
			if err := handle(c.ctx, &d.m); err != nil {
				if c.ctx.Err() == nil {
					c.cfg.Log.Warn("message is left unacknowledged", "device", c.id.Device, "module", c.id.Module,
						"input", d.m.System.Input, "message", d.m.System.MessageID, "err", err)
				}
				continue
			}
			if !d.settled {
				c.via.acknowledge(d.id)
			}
		}
	}
}
