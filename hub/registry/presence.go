package registry

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/model/ident"
)

// flushEvery is how long connection states may wait for the database.
const flushEvery = 2 * time.Second

// sighting is what was last seen of an identity and is not written back yet.
type sighting struct {
	connected *bool // nil: no change
	changed   time.Time
	activity  time.Time
}

// presence gathers sightings between flushes; there is at most one per identity.
type presence struct {
	mu      sync.Mutex
	pending map[ident.ID]sighting
}

// Seen notes that an identity connected or disconnected. It costs no disk access;
// Run writes it back a little later.
func (r *Registry) Seen(id ident.ID, connected bool) {
	now := r.now().UTC()
	r.presence.mu.Lock()
	defer r.presence.mu.Unlock()
	s := r.presence.pending[id]
	s.connected, s.changed, s.activity = &connected, now, now
	r.presence.pending[id] = s
}

// Active notes that an identity sent something. It is cheap, but callers with many
// messages should call it once for a batch of them.
func (r *Registry) Active(id ident.ID) {
	now := r.now().UTC()
	r.presence.mu.Lock()
	defer r.presence.mu.Unlock()
	s := r.presence.pending[id]
	s.activity = now
	r.presence.pending[id] = s
}

func (p *presence) overlay(i *Identity) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.pending[i.ID]
	if !ok || s.activity.Before(i.Created) {
		return
	}
	if s.connected != nil {
		i.Connected, i.ConnectionUpdated = *s.connected, s.changed
	}
	i.LastActivity = s.activity
}

// Run writes connection states back until ctx ends, and once more then. It starts
// with nobody connected: after a crash, whoever was connected has to come again.
func (r *Registry) Run(ctx context.Context) error {
	err := r.db.Write(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec("UPDATE identities SET connected = 0 WHERE connected = 1")
		return err
	})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("reset connection states: %w", err)
	}
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := r.Flush(ctx); err != nil && ctx.Err() == nil {
				r.log.Warn("connection states wait for the next try", "err", err)
			}
		case <-ctx.Done():
			return r.Flush(context.WithoutCancel(ctx))
		}
	}
}

// Flush writes what Seen and Active noted.
func (r *Registry) Flush(ctx context.Context) error {
	r.presence.mu.Lock()
	batch := r.presence.pending
	if len(batch) == 0 {
		r.presence.mu.Unlock()
		return nil
	}
	noted := make(map[ident.ID]sighting, len(batch))
	for id, s := range batch {
		noted[id] = s
	}
	r.presence.mu.Unlock()
	if err := r.db.Write(ctx, func(tx *sql.Tx) error { return writeSightings(tx, noted) }); err != nil {
		return fmt.Errorf("write connection states: %w", err)
	}
	// Only now may readers rely on the database for them.
	r.presence.mu.Lock()
	defer r.presence.mu.Unlock()
	for id, s := range noted {
		if r.presence.pending[id] == s {
			delete(r.presence.pending, id)
		}
	}
	return nil
}

func writeSightings(tx *sql.Tx, noted map[ident.ID]sighting) error {
	// An identity that was made anew in the meantime is somebody else: created.
	full, err := tx.Prepare(`UPDATE identities SET connected = $3, connection_updated = $4, last_activity = $5
		WHERE device = $1 AND module = $2 AND created <= $5`)
	if err != nil {
		return err
	}
	defer full.Close()
	activity, err := tx.Prepare("UPDATE identities SET last_activity = $3 WHERE device = $1 AND module = $2 AND created <= $3")
	if err != nil {
		return err
	}
	defer activity.Close()
	for id, s := range noted {
		if s.connected != nil {
			_, err = full.Exec(id.Device, id.Module, flag(*s.connected), micros(s.changed), micros(s.activity))
		} else {
			_, err = activity.Exec(id.Device, id.Module, micros(s.activity))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
