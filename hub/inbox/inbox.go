// Package inbox keeps the cloud-to-device messages that wait for the hub's devices
// and brings them to those that are connected, one queue a device, with locks,
// expiry and feedback as IoT Hub has them (device-protocol 9.3).
//
// The messages are in the hub's database. Memory holds a few words about each, so
// that a device with nothing waiting costs no query, and who is connected.
package inbox

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/hub/store"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
)

// Config of an inbox. DB is needed; zero of the others means Azure's value
// (device-protocol 9.1), given in the comment.
type Config struct {
	DB  *store.DB
	Log *slog.Logger // nil is silence

	Depth         int           // messages that may wait for one device: 50
	DefaultTTL    time.Duration // life of a message without an expiry: 1 h
	MaxTTL        time.Duration // longest life, whatever its expiry says: 48 h
	Lock          time.Duration // how long a delivery may stay unsettled: 60 s
	MaxDeliveries int           // a message abandoned so often is given up: 10
	Window        int           // unsettled deliveries on one line: 16
	WindowBytes   int           // their size, beyond the first: 256 KiB
	FeedbackTTL   time.Duration // life of a feedback record: 1 h
	MaxFeedback   int           // the oldest records go above about so many: 10,000
}

func (c Config) withDefaults() Config {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Depth = cmp.Or(c.Depth, 50)
	c.DefaultTTL = cmp.Or(c.DefaultTTL, time.Hour)
	c.MaxTTL = cmp.Or(c.MaxTTL, 48*time.Hour)
	c.Lock = cmp.Or(c.Lock, time.Minute)
	c.MaxDeliveries = cmp.Or(c.MaxDeliveries, 10)
	c.Window = cmp.Or(c.Window, 16)
	c.WindowBytes = cmp.Or(c.WindowBytes, 256<<10)
	c.FeedbackTTL = cmp.Or(c.FeedbackTTL, time.Hour)
	c.MaxFeedback = cmp.Or(c.MaxFeedback, 10_000)
	return c
}

// Inbox is all queues. Its methods may be called from many goroutines.
type Inbox struct {
	cfg    Config
	db     *store.DB
	log    *slog.Logger
	ctx    context.Context // ends when the inbox closes
	cancel context.CancelFunc
	joined sync.WaitGroup

	mu      sync.Mutex
	queues  map[ident.ID]*queue // those with messages or lines
	dates   dates
	rouse   chan struct{} // the earliest date changed
	changes []*entry      // to be written
	work    sync.Cond     // the writer of changes waits here
	token   uint64        // of the last delivery
	closing bool
	news    chan struct{} // closed at the next feedback

	// Of the writer of changes.
	unpruned   int // feedback records since the last pruning
	prunedLast time.Time
}

// Open opens the inbox over cfg.DB and learns what waits.
func Open(ctx context.Context, cfg Config) (*Inbox, error) {
	x := &Inbox{cfg: cfg.withDefaults(), db: cfg.DB, queues: map[ident.ID]*queue{}, rouse: make(chan struct{}, 1), news: make(chan struct{})}
	x.log = x.cfg.Log
	x.work.L = &x.mu
	if err := x.load(ctx); err != nil {
		return nil, fmt.Errorf("open inbox: %w", err)
	}
	x.ctx, x.cancel = context.WithCancel(context.Background())
	x.joined.Go(x.keepDates)
	x.joined.Go(x.writeChanges)
	return x, nil
}

func (x *Inbox) load(ctx context.Context) error {
	rows, err := x.db.Read().QueryContext(ctx, "SELECT device, module, sequence, expires, deliveries, ack, length(content) FROM inbox ORDER BY sequence")
	if err != nil {
		return fmt.Errorf("list waiting messages: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id ident.ID
		var expires int64
		var ack string
		e := &entry{}
		if err := rows.Scan(&id.Device, &id.Module, &e.sequence, &expires, &e.deliveries, &ack, &e.size); err != nil {
			return fmt.Errorf("read waiting message: %w", err)
		}
		e.expires, e.ack = time.UnixMicro(expires), parseAck(ack)
		x.add(id, e)
	}
	return rows.Err()
}

// Close writes what has been settled and ends deliveries. Lines are useless
// afterwards. The database must still be open.
func (x *Inbox) Close() {
	x.mu.Lock()
	x.closing = true
	x.work.Broadcast()
	x.mu.Unlock()
	x.cancel()
	x.joined.Wait()
}

// Send keeps m durably for an existing device before it returns. A message without
// an expiry gets the default life; none lives longer than the longest. It fails with
// fault.ArgumentInvalid for a module, fault.MessageTooLarge, fault.InvalidExpiry for
// a message that is over, fault.DeviceNotFound or fault.QueueFull.
func (x *Inbox) Send(ctx context.Context, to ident.ID, m *message.Message) error {
	if to.IsModule() {
		return fault.New(fault.ArgumentInvalid, "messages go to devices only, %q is a module", to)
	}
	if n := m.Size(); n > message.MaxToDevice {
		return fault.New(fault.MessageTooLarge, "the message has %d bytes, the most is %d", n, message.MaxToDevice)
	}
	now := time.Now()
	e := &entry{expires: now.Add(x.cfg.DefaultTTL), ack: parseAck(m.System.Ack)}
	if !m.System.Expiry.IsZero() {
		if !m.System.Expiry.After(now) {
			return fault.New(fault.InvalidExpiry, "the message expired before it came")
		}
		e.expires = m.System.Expiry
		if last := now.Add(x.cfg.MaxTTL); e.expires.After(last) {
			e.expires = last
		}
	}
	kept := *m
	kept.System.Enqueued, kept.System.Sequence, kept.System.DeliveryCount, kept.System.LockToken = now.UTC(), 0, 0, ""
	content := kept.Append(nil)
	e.size = len(content)
	return x.db.WriteThen(ctx, func(tx *sql.Tx) (err error) {
		e.sequence, err = x.insert(tx, to, e, &kept, content)
		return err
	}, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.add(to, e).kick()
	})
}

func (x *Inbox) insert(tx *sql.Tx, to ident.ID, e *entry, m *message.Message, content []byte) (sequence int64, err error) {
	var generation string
	err = tx.QueryRow("SELECT generation FROM identities WHERE device = $1 AND module = ''", to.Device).Scan(&generation)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, fault.New(fault.DeviceNotFound, "there is no device %q", to.Device)
	}
	var waiting int
	if err == nil {
		err = tx.QueryRow("SELECT COUNT(*) FROM inbox WHERE device = $1 AND module = ''", to.Device).Scan(&waiting)
	}
	if err == nil && waiting >= x.cfg.Depth {
		return 0, fault.New(fault.QueueFull, "%d messages wait for %q already, the most is %d", waiting, to.Device, x.cfg.Depth)
	}
	if err == nil {
		sequence, err = count(tx)
	}
	if err == nil {
		_, err = tx.Exec(`INSERT INTO inbox (sequence, device, generation, message_id, ack, enqueued, expires, content)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`, sequence, to.Device, generation, m.System.MessageID, m.System.Ack,
			m.System.Enqueued.UnixMicro(), e.expires.UnixMicro(), content)
	}
	if err != nil {
		return 0, fmt.Errorf("keep message for %s: %w", to, err)
	}
	return sequence, nil
}

// count gives the next number.
func count(tx *sql.Tx) (n int64, err error) {
	err = tx.QueryRow("UPDATE inbox_counter SET value = value + 1 WHERE one = 1 RETURNING value").Scan(&n)
	return n, err
}

// Purge drops what waits, deliveries under way included, durably and gives its
// number.
func (x *Inbox) Purge(ctx context.Context, of ident.ID) (int, error) {
	w := &waiter{done: make(chan error, 1)}
	x.mu.Lock()
	if q := x.queues[of]; q != nil {
		for _, e := range q.entries {
			if e.state != leaving {
				x.leave(e, Purged)
				e.waiter = w
				w.left++
			}
		}
	}
	n := w.left
	x.mu.Unlock()
	if n == 0 {
		return 0, nil
	}
	select {
	case err := <-w.done:
		return n, err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// Waiting is how many messages wait, deliveries under way included.
func (x *Inbox) Waiting(_ context.Context, of ident.ID) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := 0
	if q := x.queues[of]; q != nil {
		for _, e := range q.entries {
			if e.state != leaving {
				n++
			}
		}
	}
	return n, nil
}

// Forget is called after a device was deleted: the database has dropped its queue
// with it, and memory follows. What a new device of the name was sent meanwhile
// stays.
func (x *Inbox) Forget(ctx context.Context, id ident.ID) error {
	if id.IsModule() {
		return nil
	}
	kept := map[int64]bool{}
	return x.db.WriteThen(ctx, func(tx *sql.Tx) error { // so that it stays in order with Send
		rows, err := tx.Query("SELECT sequence FROM inbox WHERE device = $1 AND module = ''", id.Device)
		if err != nil {
			return fmt.Errorf("list messages of %s: %w", id, err)
		}
		defer rows.Close()
		for rows.Next() {
			var sequence int64
			if err := rows.Scan(&sequence); err != nil {
				return fmt.Errorf("list messages of %s: %w", id, err)
			}
			kept[sequence] = true
		}
		return rows.Err()
	}, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		if q := x.queues[id]; q != nil {
			q.retain(func(e *entry) bool { return kept[e.sequence] })
			q.kick()
		}
	})
}
