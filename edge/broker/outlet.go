package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/storage/queue"
)

// readRetry is the pause after the disk could not be read.
const readRetry = time.Second

// outlet brings the messages of one input to its module: in order, with a bounded
// number unacknowledged. What is not acknowledged when it stops goes back into the
// queue.
type outlet struct {
	s     *session
	index int
	input string
	from  *queue.Endpoint

	mu     sync.Mutex
	window []flight           // by count modulo its length
	sent   uint64             // count of the next delivery
	out    int                // deliveries not settled
	bytes  int                // their size
	again  bool               // some were abandoned: release, and offer all again
	rouse  context.CancelFunc // ends a Fetch under way, for that
	calls  chan struct{}      // something was settled

	cancel context.CancelFunc
	done   chan struct{}
}

// flight is a delivery under way.
type flight struct {
	count uint64
	token uint64 // of the queue
	bytes int
	live  bool
}

// indexBits of a token name the outlet; the rest counts its deliveries.
const indexBits = 16

func joinToken(index int, count uint64) uint64 { return count<<indexBits | uint64(index) }

func splitToken(token uint64) (index int, count uint64) {
	return int(token & (1<<indexBits - 1)), token >> indexBits
}

// newOutlet makes an outlet that counts its deliveries from first on: a token of an
// outlet that had the index before must mean nothing here.
func newOutlet(s *session, index int, input string, from *queue.Endpoint, first uint64) *outlet {
	return &outlet{
		s: s, index: index, input: input, from: from, sent: first,
		window: make([]flight, s.b.cfg.Window),
		calls:  make(chan struct{}, 1),
		done:   make(chan struct{}),
	}
}

func (o *outlet) start() {
	ctx, cancel := context.WithCancel(context.Background())
	o.cancel = cancel
	go func() {
		defer close(o.done)
		o.run(ctx)
	}()
}

// stop ends the outlet; when it has returned, no delivery of it follows and the
// unsettled ones are back in the queue.
func (o *outlet) stop() {
	o.cancel()
	<-o.done
	o.mu.Lock()
	for i := range o.window {
		o.window[i].live = false
	}
	o.mu.Unlock()
	o.from.Release()
}

func (o *outlet) run(ctx context.Context) {
	var batch []head.Delivery
	var messages []message.Message
	fetching := ctx
	for {
		if fetching == ctx || fetching.Err() != nil {
			fetching = o.rousable(ctx)
		}
		most, room, ok := o.room(ctx)
		if !ok {
			return
		}
		items, err := o.from.Fetch(fetching, most, room)
		if err != nil {
			if fetching.Err() != nil && ctx.Err() == nil {
				continue
			}
			if ctx.Err() != nil || errors.Is(err, queue.ErrRemoved) || errors.Is(err, queue.ErrClosed) {
				return
			}
			o.s.b.log.Error("messages cannot be read, trying again", "module", o.s.who.ID.Module, "endpoint", o.from.Name(), "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(readRetry):
			}
			continue
		}
		batch, messages = o.prepare(items, batch[:0], messages)
		if len(batch) > 0 {
			o.s.device.Deliver(head.Inputs, batch)
		}
		clear(batch)
	}
}

// rousable gives a context for Fetch that settle can end.
func (o *outlet) rousable(ctx context.Context) context.Context {
	fetching, rouse := context.WithCancel(ctx)
	o.mu.Lock()
	o.rouse = rouse
	o.mu.Unlock()
	return fetching
}

// room waits until the window has space worth a fetch, and says how much.
func (o *outlet) room(ctx context.Context) (most, bytes int, ok bool) {
	limit := len(o.window)
	enough := 1
	for ctx.Err() == nil {
		o.mu.Lock()
		if o.again {
			o.restart()
		}
		most, bytes = limit-o.out, o.s.b.cfg.WindowBytes-o.bytes
		o.mu.Unlock()
		if most >= enough && bytes > 0 {
			return most, bytes, true
		}
		enough = max(1, limit/4) // once full, refill by handfuls rather than one by one
		select {
		case <-o.calls:
		case <-ctx.Done():
		}
	}
	return 0, 0, false
}

// restart puts everything unsettled back, to be offered again in order. The caller
// holds o.mu.
func (o *outlet) restart() {
	for i := range o.window {
		o.window[i].live = false
	}
	o.again, o.out, o.bytes = false, 0, 0
	o.from.Release()
}

// prepare makes deliveries of items and notes them as under way.
func (o *outlet) prepare(items []queue.Item, batch []head.Delivery, messages []message.Message) ([]head.Delivery, []message.Message) {
	for len(messages) < len(items) {
		messages = append(messages, message.Message{})
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.again {
		return batch, messages // these come after what was abandoned, and go back with it
	}
	for i, item := range items {
		m := &messages[i]
		if err := m.Decode(item.Payload); err != nil {
			o.s.b.log.Error("a stored message cannot be read and is dropped", "endpoint", o.from.Name(), "err", err)
			o.from.Settle(item.Token)
			continue
		}
		m.System.Input = o.input
		// There is a free place: at most as many as the window holds are under
		// way, but an early one may still be while later ones are settled.
		for o.window[o.sent%uint64(len(o.window))].live {
			o.sent++
		}
		o.window[o.sent%uint64(len(o.window))] = flight{count: o.sent, token: item.Token, bytes: len(item.Payload), live: true}
		o.out++
		o.bytes += len(item.Payload)
		batch = append(batch, head.Delivery{Token: joinToken(o.index, o.sent), Message: m, Duplicate: item.Redelivered})
		o.sent++
	}
	return batch, messages
}

func (o *outlet) settle(count uint64, outcome head.Outcome) {
	o.mu.Lock()
	f := &o.window[count%uint64(len(o.window))]
	if !f.live || f.count != count {
		o.mu.Unlock()
		return
	}
	token := f.token
	if outcome == head.Abandoned {
		o.again = true
		o.rouse()
	} else {
		f.live = false
		o.out--
		o.bytes -= f.bytes
	}
	o.mu.Unlock()
	if outcome != head.Abandoned {
		o.from.Settle(token)
	}
	select {
	case o.calls <- struct{}{}:
	default:
	}
}
