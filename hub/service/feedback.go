package service

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

const (
	// maxRecords is how many records a batch has at most. It holds what there is: it
	// does not wait for more.
	maxRecords = 64
	// maxLeases is how many batches one receiver may have unsettled.
	maxLeases = 100
	// maxFeedbackDeliveries is how often a batch is handed out before it is given up.
	maxFeedbackDeliveries = 10
	// lifetime is how long feedback is kept, as in the inbox.
	lifetime = time.Hour
	// retryPause is how long to wait after the inbox has failed.
	retryPause = time.Second
)

// desk hands feedback to the receivers there are: each batch to one of them, to be
// settled by it before the lock is over. What is not settled stays in the inbox, so
// that it comes again after a restart.
type desk struct {
	inbox Inbox
	hub   string
	lock  time.Duration
	log   *slog.Logger
	wake  chan struct{} // there is something to do

	mu      sync.Mutex
	rouse   context.CancelFunc // ends a wait for feedback
	woken   bool
	takers  []*taker // in the order of their turns
	free    []*batch // to be handed out again
	settled []*lease // to be worked through, in order
	cursor  int64    // the newest record that was read

	consumed []*lease // to leave the inbox; of run alone
}

// taker is a receiver of feedback.
type taker struct {
	sender *amqp.Sender
	leases int
}

// lease is a batch in the hands of a taker.
type lease struct {
	*batch
	to       *taker
	id       uint32 // of the delivery; set before it is needed
	over     bool   // the batch is no longer this taker's,
	late     bool   // because it took too long
	timer    *time.Timer
	outcome  amqp.State
	answered bool // the taker does not wait for an answer
}

func newDesk(box Inbox, hub string, lock time.Duration, log *slog.Logger) *desk {
	return &desk{inbox: box, hub: hub, lock: lock, log: log, wake: make(chan struct{}, 1)}
}

// giveFeedback attaches a receiver of feedback.
func (s *Service) giveFeedback(ctx context.Context, a *attaching) {
	d, t := s.feedback, &taker{}
	d.mu.Lock() // until it is known, so that it is not gone before
	defer d.mu.Unlock()
	sender, ok := a.sender(ctx, amqp.Accepting{}, amqp.SenderFuncs{
		OnReady:    func(*amqp.Sender) { d.stir() },
		OnDisposed: func(_ *amqp.Sender, o amqp.Disposition) { d.disposed(o) },
		OnDetached: func(*amqp.Sender, error) {
			a.gone()
			d.leave(t)
		},
	})
	if !ok {
		return
	}
	t.sender = sender
	d.takers = append(d.takers, t)
	d.stirLocked()
}

// giveNotifications attaches a receiver of notifications of uploaded files. There are
// none as long as there are no uploads.
func (s *Service) giveNotifications(ctx context.Context, a *attaching) {
	a.sender(ctx, amqp.Accepting{}, amqp.SenderFuncs{OnDetached: func(*amqp.Sender, error) { a.gone() }})
}

func (d *desk) leave(t *taker) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.takers = slices.DeleteFunc(d.takers, func(other *taker) bool { return other == t })
	d.stirLocked()
}

// stir has run look again.
func (d *desk) stir() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stirLocked()
}

func (d *desk) stirLocked() {
	d.woken = true
	if d.rouse != nil {
		d.rouse()
	}
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// run hands out and settles until ctx ends.
func (d *desk) run(ctx context.Context) error {
	for {
		d.mu.Lock()
		d.woken = false
		d.mu.Unlock()
		var again <-chan time.Time
		if err := d.round(ctx); err != nil && ctx.Err() == nil {
			d.log.ErrorContext(ctx, "feedback is held up", "err", err)
			again = time.After(retryPause)
		}
		select {
		case <-d.wake:
		case <-again:
		case <-ctx.Done():
			return nil
		}
	}
}

// round works through what was settled, then hands out what there is and waits for
// more as long as somebody wants some and nothing else is to be done.
func (d *desk) round(ctx context.Context) error {
	if err := d.settle(ctx); err != nil {
		return err
	}
	for {
		b, err := d.next(ctx)
		if b == nil || err != nil {
			return err
		}
		if !d.hand(b) {
			return nil
		}
	}
}

// next gives a batch to hand out, and nil when nobody wants one or there is something
// else to do first.
func (d *desk) next(ctx context.Context) (*batch, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.mu.Lock()
	if d.woken || !slices.ContainsFunc(d.takers, (*taker).ready) {
		d.mu.Unlock()
		return nil, nil
	}
	if len(d.free) > 0 {
		b := d.free[0]
		d.free = d.free[1:]
		d.mu.Unlock()
		return b, nil
	}
	d.rouse = cancel
	after := d.cursor
	d.mu.Unlock()
	records, err := d.inbox.Feedback(ctx, after, maxRecords)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rouse = nil
	switch {
	case len(records) > 0:
		d.cursor = records[len(records)-1].ID
		return newBatch(records), nil
	case errors.Is(err, context.Canceled):
		return nil, nil
	}
	return nil, err
}

func (t *taker) ready() bool { return t.leases < maxLeases && t.sender.Credit() > 0 }

// hand gives a batch to the first taker in turn that takes it; false when none does.
func (d *desk) hand(b *batch) bool {
	now := time.Now()
	m, err := b.message(d.hub, now)
	if err != nil || now.Sub(b.records[len(b.records)-1].At) >= lifetime {
		if err != nil {
			d.log.Error("feedback is dropped", "err", err)
		}
		return true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, t := range d.takers {
		if !t.ready() {
			continue
		}
		l := &lease{batch: b, to: t}
		mode, _ := t.sender.SettleModes()
		if l.id, err = t.sender.SendMessage(m, amqp.Sending{Tag: b.tag[:], Ref: l}); err != nil {
			continue // it is not ready after all, or gone
		}
		t.leases++
		d.takers = append(slices.Delete(d.takers, i, i+1), t)
		if mode == amqp.SendSettled {
			l.outcome, l.answered = amqp.State{Outcome: amqp.Accepted}, true
			d.settled = append(d.settled, l)
			d.stirLocked()
		} else {
			l.timer = time.AfterFunc(d.lock, func() { d.expire(l) })
		}
		return true
	}
	d.free = slices.Insert(d.free, 0, b)
	return false
}

// expire takes a batch from a taker that has had it for too long.
func (d *desk) expire(l *lease) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !l.over {
		l.over, l.late = true, true
		l.to.leases--
		d.again(l.batch)
		d.stirLocked()
	}
}

// again puts a batch back after a delivery that came to nothing. The caller holds d.mu.
func (d *desk) again(b *batch) {
	i, _ := slices.BinarySearchFunc(d.free, b, func(x, y *batch) int { return cmp.Compare(x.records[0].ID, y.records[0].ID) })
	d.free = slices.Insert(d.free, i, b)
}

// disposed notes what a taker made of a batch.
func (d *desk) disposed(o amqp.Disposition) {
	l, ok := o.Ref.(*lease)
	if !ok {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	l.outcome, l.answered, l.id = o.State, o.Settled, o.ID
	d.settled = append(d.settled, l)
	d.stirLocked()
}

// settle works through what takers have settled: what they accepted or rejected leaves
// the inbox before those who wait for it are told; the rest is handed out again.
func (d *desk) settle(ctx context.Context) error {
	d.mu.Lock()
	for _, l := range d.settled {
		switch {
		case !l.over && d.end(ctx, l):
			d.consumed = append(d.consumed, l)
			continue
		case l.over && l.late && l.outcome.Outcome != amqp.Lost:
			l.outcome = amqp.State{Outcome: amqp.Rejected, Error: errorOf(fault.New(fault.LockLost, "the lock of this feedback is over"))}
		}
		l.answer()
	}
	d.settled = nil
	d.mu.Unlock()
	if len(d.consumed) == 0 {
		return nil
	}
	var ids []int64
	for _, l := range d.consumed {
		for i := range l.records {
			ids = append(ids, l.records[i].ID)
		}
	}
	if err := d.inbox.DropFeedback(ctx, ids...); err != nil {
		return err
	}
	for _, l := range d.consumed {
		l.answer()
	}
	d.consumed = nil
	return nil
}

// end ends a lease by its outcome and says whether the batch is done with; else it is
// handed out again. The caller holds d.mu.
func (d *desk) end(ctx context.Context, l *lease) (consumed bool) {
	l.over = true
	l.to.leases--
	if l.timer != nil {
		l.timer.Stop()
	}
	switch l.outcome.Outcome {
	case amqp.Accepted, amqp.Rejected:
		return true
	case amqp.Released, amqp.Modified:
		if l.deliveries++; l.deliveries >= maxFeedbackDeliveries {
			d.log.WarnContext(ctx, "feedback was handed out too often and is dropped", "records", len(l.records), "times", l.deliveries)
			return true
		}
	}
	d.again(l.batch)
	return false
}

// answer tells a taker that waits for it what became of its outcome.
func (l *lease) answer() {
	if !l.answered {
		l.to.sender.Settle(l.id, l.outcome)
	}
}
