package inbox

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
)

// Status says how a message ended, in the words of feedback records
// (service-protocol 8.2).
type Status string

// The statuses. All but Success are negative.
const (
	Success               Status = "Success"
	Expired               Status = "Expired"
	DeliveryCountExceeded Status = "DeliveryCountExceeded"
	Rejected              Status = "Rejected"
	Purged                Status = "Purged"
)

// Feedback is one record of how a message ended whose sender wanted to know.
type Feedback struct {
	ID         int64 // ever growing
	Of         ident.ID
	Generation string // of the device's identity when the message came
	MessageID  string
	Enqueued   time.Time // of the message, UTC
	Status     Status
	At         time.Time // when it ended, UTC
}

func (x *Inbox) insertFeedback(tx *sql.Tx, w written, now time.Time) error {
	id, err := count(tx)
	if err != nil {
		return err
	}
	_, err = tx.Exec(`INSERT INTO inbox_feedback (id, device, module, generation, message_id, enqueued, status, created)
		SELECT $1, device, module, generation, message_id, enqueued, $2, $3 FROM inbox WHERE sequence = $4`,
		id, string(w.status), now.UnixMicro(), w.sequence)
	return err
}

// prune bounds the records now and then, so that it costs little each time.
func (x *Inbox) prune(tx *sql.Tx, added int, now time.Time) error {
	x.unpruned += added
	if x.unpruned <= x.cfg.MaxFeedback/8 && now.Sub(x.prunedLast) < x.cfg.FeedbackTTL/8 {
		return nil
	}
	x.unpruned, x.prunedLast = 0, now
	_, err := tx.Exec(`DELETE FROM inbox_feedback WHERE created <= $1
		OR id <= (SELECT id FROM inbox_feedback ORDER BY id DESC LIMIT 1 OFFSET $2)`,
		now.Add(-x.cfg.FeedbackTTL).UnixMicro(), x.cfg.MaxFeedback)
	if err != nil {
		return fmt.Errorf("prune feedback: %w", err)
	}
	return nil
}

// Feedback waits for records with an ID above after and gives the oldest of them, at
// most most. Records stay until DropFeedback or until they are too old. It fails
// when ctx ends, and with fault.Unavailable when the inbox is closed.
func (x *Inbox) Feedback(ctx context.Context, after int64, most int) ([]Feedback, error) {
	for {
		x.mu.Lock()
		news := x.news
		x.mu.Unlock()
		records, err := x.readFeedback(ctx, after, most)
		if err != nil || len(records) > 0 {
			return records, err
		}
		select {
		case <-news:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-x.ctx.Done():
			return nil, fault.New(fault.Unavailable, "the hub is stopping")
		}
	}
}

func (x *Inbox) readFeedback(ctx context.Context, after int64, most int) (records []Feedback, err error) {
	rows, err := x.db.Read().QueryContext(ctx, `SELECT id, device, module, generation, message_id, enqueued, status, created
		FROM inbox_feedback WHERE id > $1 AND created > $2 ORDER BY id LIMIT $3`,
		after, time.Now().Add(-x.cfg.FeedbackTTL).UnixMicro(), most)
	if err != nil {
		return nil, fmt.Errorf("read feedback: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var f Feedback
		var enqueued, at int64
		if err := rows.Scan(&f.ID, &f.Of.Device, &f.Of.Module, &f.Generation, &f.MessageID, &enqueued, &f.Status, &at); err != nil {
			return nil, fmt.Errorf("read feedback: %w", err)
		}
		f.Enqueued, f.At = time.UnixMicro(enqueued).UTC(), time.UnixMicro(at).UTC()
		records = append(records, f)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read feedback: %w", err)
	}
	return records, nil
}

// DropFeedback removes records that were consumed.
func (x *Inbox) DropFeedback(ctx context.Context, ids ...int64) error {
	return x.db.Write(ctx, func(tx *sql.Tx) error {
		for _, id := range ids {
			if _, err := tx.Exec("DELETE FROM inbox_feedback WHERE id = $1", id); err != nil {
				return fmt.Errorf("drop feedback %d: %w", id, err)
			}
		}
		return nil
	})
}
