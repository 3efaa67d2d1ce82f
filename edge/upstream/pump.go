package upstream

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/storage/queue"
)

const (
	batchSize = 64 // messages handed to the connection at once

	// quiet is how long a pump stays on its connection with nothing to send.
	quiet = 5 * time.Second

	// A message is given up when the connection was lost this many times in a row
	// with it as the oldest under way, and it may well be too large for the hub, or
	// the hub said as often that it will not have it.
	maxLosses = 3
	// After this many messages go one by one, so that it is clear which is to blame.
	aloneAfter = 2

	maxPacket = 256 << 10 // of a publish that the hub takes, in bytes
)

// pump sends the messages of one outbox, oldest first, on its identity's connection.
type pump struct {
	p    *peer
	from *queue.Endpoint

	suspect uint64 // the oldest message under way when the connection was lost last
	losses  int    // that it was so, in a row
	alone   int    // messages yet to be sent one by one

	mu    sync.Mutex
	count int // messages under way
	bytes int
	free  []*parcel
	lost  bool          // a parcel failed on this connection
	unfit error         // what the parent has against the first that did, if it is that
	first uint64        // the oldest message of the first that did
	moved chan struct{} // a parcel ended
}

// parcel is a batch under way.
type parcel struct {
	tokens   []uint64
	messages []message.Message
	bytes    int
}

// run ends with ctx or with the outbox.
func (u *pump) run(ctx context.Context) {
	for {
		items, err := u.from.Fetch(ctx, 1, 1) // is there anything?
		if !u.fetched(ctx, err) {
			return
		}
		if len(items) == 0 {
			continue
		}
		u.from.Release()
		u.p.demand(1)
		c, err := u.p.await(ctx, false)
		if err == nil {
			u.send(ctx, c)
			u.from.Release()
		}
		u.p.demand(-1)
		if ctx.Err() != nil {
			return
		}
	}
}

// fetched says whether to go on after a Fetch.
func (u *pump) fetched(ctx context.Context, err error) bool {
	switch {
	case err == nil:
		return true
	case ctx.Err() != nil, errors.Is(err, queue.ErrRemoved), errors.Is(err, queue.ErrClosed):
		return false
	}
	u.p.l.log.Error("messages cannot be read, trying again", "endpoint", u.from.Name(), "err", err)
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Second):
		return true
	}
}

// send uses one connection until it is lost, there has been nothing to send for a
// while, or ctx ends. When it returns nothing is under way.
func (u *pump) send(ctx context.Context, c Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := make(chan struct{})
	go func() {
		defer close(watch)
		select {
		case <-c.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	for u.step(ctx, c) {
	}
	if u.failed() {
		c.Close() // what follows must not overtake what failed
	}
	u.drained()
	cancel()
	<-watch
	u.blame()
}

func (u *pump) failed() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.lost
}

// step sends one batch; false means that the connection is done with.
func (u *pump) step(ctx context.Context, c Conn) bool {
	most, room, ok := u.room(ctx)
	if !ok {
		return false
	}
	within, cancel := context.WithTimeout(ctx, quiet)
	items, err := u.from.Fetch(within, most, room)
	cancel()
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		u.mu.Lock()
		defer u.mu.Unlock()
		return u.count > 0
	}
	if !u.fetched(ctx, err) {
		return false
	}
	if pl := u.pack(items); len(pl.messages) > 0 {
		c.Publish(pl.messages, func(err error) { u.ended(pl, err) })
	}
	return true
}

// room waits until the window has space worth a fetch, and says how much.
func (u *pump) room(ctx context.Context) (most, bytes int, ok bool) {
	cfg := &u.p.l.cfg
	limit, enough := cfg.Window, 1
	if u.alone > 0 {
		limit = 1
	}
	for ctx.Err() == nil {
		u.mu.Lock()
		most, bytes = limit-u.count, cfg.WindowBytes-u.bytes
		failed := u.lost
		u.mu.Unlock()
		switch {
		case failed:
			return 0, 0, false
		case most >= enough && bytes > 0:
			return min(most, batchSize), bytes, true
		}
		enough = max(1, min(batchSize, limit/4)) // once full, refill by handfuls
		select {
		case <-u.moved:
		case <-ctx.Done():
		}
	}
	return 0, 0, false
}

// pack makes a parcel of items and notes it as under way.
func (u *pump) pack(items []queue.Item) *parcel {
	u.mu.Lock()
	defer u.mu.Unlock()
	pl := &parcel{}
	if n := len(u.free); n > 0 {
		pl, u.free = u.free[n-1], u.free[:n-1]
	}
	for _, item := range items {
		n := len(pl.messages)
		if n < cap(pl.messages) {
			pl.messages = pl.messages[:n+1] // with its slice of properties, to be used again
		} else {
			pl.messages = append(pl.messages, message.Message{})
		}
		m := &pl.messages[n]
		if err := m.Decode(item.Payload); err != nil {
			u.p.l.log.Error("a stored message cannot be read and is dropped", "endpoint", u.from.Name(), "err", err)
			u.from.Settle(item.Token)
			pl.messages = pl.messages[:n]
			continue
		}
		m.System.Output = "" // the hub knows no outputs (edge-runtime 4.3)
		if u.hopeless(item.Token, m) {
			u.from.Settle(item.Token)
			pl.messages = pl.messages[:n]
			continue
		}
		pl.tokens = append(pl.tokens, item.Token)
		pl.bytes += len(item.Payload)
	}
	if len(pl.tokens) == 0 {
		u.free = append(u.free, pl)
	}
	u.count += len(pl.tokens)
	u.bytes += pl.bytes
	u.alone = max(0, u.alone-len(pl.tokens))
	return pl
}

// hopeless says whether the hub has shown that it will never take the message.
func (u *pump) hopeless(token uint64, m *message.Message) bool {
	if token != u.suspect || u.losses < maxLosses {
		return false
	}
	size := packetSize(m)
	if size <= maxPacket && u.unfit == nil {
		return false // it is something else; keep it
	}
	u.losses = 0
	u.p.l.dropped.Add(1)
	args := []any{"device", u.p.id.Device, "module", u.p.id.Module, "bytes", size, "message", m.System.MessageID}
	if u.unfit != nil {
		u.p.l.log.Error("the hub does not take a message; the message is dropped", append(args, "err", u.unfit)...)
	} else {
		u.p.l.log.Error("the hub closes the connection on a message that is too large for it; the message is dropped", args...)
	}
	return true
}

// unfit is err when it says that there is something wrong with the message itself.
func unfit(err error) error {
	switch fault.CodeOf(err).Status() {
	case 400, 412, 413:
		if !fault.Temporary(err) {
			return err
		}
	}
	return nil
}

// packetSize is how long the message may become as a packet to the hub, where the
// properties stand percent-encoded in the topic.
func packetSize(m *message.Message) int {
	properties := m.Size() - len(m.Body)
	return len(m.Body) + 3*properties + 16*len(m.Properties) + 512
}

// ended notes that the hub took a parcel, or that it is not known to have. The calls
// come in the order of sending.
func (u *pump) ended(pl *parcel, err error) {
	if err == nil {
		u.from.Settle(pl.tokens...)
		u.p.l.sent.Add(int64(len(pl.tokens)))
		u.p.progress()
	}
	u.mu.Lock()
	u.count -= len(pl.tokens)
	u.bytes -= pl.bytes
	if err != nil && !u.lost {
		u.lost, u.first, u.unfit = true, pl.tokens[0], unfit(err)
	}
	pl.tokens, pl.messages, pl.bytes = pl.tokens[:0], pl.messages[:0], 0
	u.free = append(u.free, pl)
	u.mu.Unlock()
	select {
	case u.moved <- struct{}{}:
	default:
	}
}

// drained waits until nothing is under way. The connection ends all that is when it is
// lost or closed.
func (u *pump) drained() {
	for {
		u.mu.Lock()
		n := u.count
		u.mu.Unlock()
		if n == 0 {
			return
		}
		<-u.moved
	}
}

// blame remembers the message that the connection may have been lost for.
func (u *pump) blame() {
	u.mu.Lock()
	lost, first := u.lost, u.first
	u.lost = false
	u.mu.Unlock()
	if !lost {
		return
	}
	if first != u.suspect {
		u.suspect, u.losses = first, 0
	}
	u.losses++
	if u.losses >= aloneAfter {
		u.alone = u.p.l.cfg.Window
	}
	if u.losses == maxLosses {
		u.p.l.log.Warn("the connection is lost again and again with the same message under way",
			"device", u.p.id.Device, "module", u.p.id.Module, "losses", u.losses)
	}
}
