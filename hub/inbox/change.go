package inbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/selvedge-io/selvedge/hub/store"
	"github.com/selvedge-io/selvedge/model/ident"
)

// maxChanges bounds the messages whose change is written in one go, so that others
// have their turn at the database.
const maxChanges = 256

// writeRetry is the pause after changes could not be written.
const writeRetry = time.Second

// waiter waits for a number of entries to have left.
type waiter struct {
	left int
	done chan error // has room for one
}

func (w *waiter) tell(err error) {
	select {
	case w.done <- err:
	default:
	}
}

// leave has e removed for good. The caller holds x.mu, as for change.
func (x *Inbox) leave(e *entry, why Status) {
	e.q.release(e)
	e.state, e.status = leaving, why
	x.date(e)
	x.change(e)
}

// change has e written as it is then.
func (x *Inbox) change(e *entry) {
	if !e.changed {
		e.changed = true
		x.changes = append(x.changes, e)
		x.work.Signal()
	}
}

// written is a change as it is being written.
type written struct {
	e          *entry
	id         ident.ID
	sequence   int64
	deliveries int
	leaving    bool
	status     Status
	feedback   bool
}

// writeChanges writes changes, those that gather while others are written together.
// What cannot be written is tried again: that a device has settled a message is not
// forgotten while the hub lives.
func (x *Inbox) writeChanges() {
	for {
		batch := x.nextChanges()
		if len(batch) == 0 {
			return
		}
		err := x.db.WriteThen(context.Background(), func(tx *sql.Tx) error { return x.write(tx, batch) }, func() { x.wrote(batch) })
		if err == nil {
			continue
		}
		if errors.Is(err, store.ErrClosed) || x.ctx.Err() != nil {
			x.log.Error("settled messages are not written and come again", "messages", len(batch), "err", err)
			return
		}
		x.log.Error("settled messages are not written, trying again", "messages", len(batch), "err", err)
		x.unwritten(batch, err)
		select {
		case <-time.After(writeRetry):
		case <-x.ctx.Done():
		}
	}
}

// nextChanges waits for changes; there are none when the inbox is closed.
func (x *Inbox) nextChanges() (batch []written) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for len(x.changes) == 0 && !x.closing {
		x.work.Wait()
	}
	n := min(len(x.changes), maxChanges)
	for _, e := range x.changes[:n] {
		e.changed = false
		batch = append(batch, written{e, e.q.id, e.sequence, e.deliveries, e.state == leaving, e.status,
			e.state == leaving && e.wants()})
	}
	x.changes = slices.Delete(x.changes, 0, n)
	return batch
}

// wants says whether feedback is wanted on an entry that is leaving.
func (e *entry) wants() bool {
	if e.status == Success {
		return e.ack&ackPositive != 0
	}
	return e.ack&ackNegative != 0
}

func (x *Inbox) write(tx *sql.Tx, batch []written) error {
	now := time.Now()
	told := 0
	for _, w := range batch {
		if w.feedback {
			if err := x.insertFeedback(tx, w, now); err != nil {
				return fmt.Errorf("write feedback on message %d of %s: %w", w.sequence, w.id, err)
			}
			told++
		}
		var err error
		if w.leaving {
			_, err = tx.Exec("DELETE FROM inbox WHERE sequence = $1", w.sequence)
		} else {
			_, err = tx.Exec("UPDATE inbox SET deliveries = $2 WHERE sequence = $1", w.sequence, w.deliveries)
		}
		if err != nil {
			return fmt.Errorf("settle message %d of %s: %w", w.sequence, w.id, err)
		}
	}
	if told > 0 {
		return x.prune(tx, told, now)
	}
	return nil
}

// wrote drops what has left.
func (x *Inbox) wrote(batch []written) {
	x.mu.Lock()
	defer x.mu.Unlock()
	news := false
	for _, w := range batch {
		if !w.leaving {
			continue
		}
		news = news || w.feedback
		q := w.e.q
		if i := slices.Index(q.entries, w.e); i >= 0 {
			q.entries = slices.Delete(q.entries, i, i+1)
			q.dropIfIdle()
		}
		if wait := w.e.waiter; wait != nil {
			if wait.left--; wait.left == 0 {
				wait.tell(nil)
			}
		}
	}
	if news {
		close(x.news)
		x.news = make(chan struct{})
	}
}

// unwritten takes changes up again.
func (x *Inbox) unwritten(batch []written, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, w := range batch {
		if wait := w.e.waiter; wait != nil {
			wait.tell(err)
		}
		x.change(w.e)
	}
}
