package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrClosed is what writes meet after Close.
var ErrClosed = errors.New("the database is closed")

const (
	maxBatch     = 512         // callers in one commit
	vacuumEvery  = time.Minute // while idle
	vacuumPages  = 256
	queuedWrites = 1024
)

// writer owns the one write connection. While a commit syncs, the next callers
// gather, so the syncs are shared the more the busier it is.
type writer struct {
	db       *sql.DB
	requests chan *request
	done     chan struct{} // closed when run has ended

	mu     sync.RWMutex // held for reading while a request is handed over
	closed bool
}

type request struct {
	ctx      context.Context
	fn       func(*sql.Tx) error
	then     func()
	err      error
	panicked any
	done     chan struct{}
}

func newWriter(db *sql.DB) *writer {
	w := &writer{db: db, requests: make(chan *request, queuedWrites), done: make(chan struct{})}
	go w.run()
	return w
}

func (w *writer) do(ctx context.Context, fn func(*sql.Tx) error, then func()) error {
	r := &request{ctx: ctx, fn: fn, then: then, done: make(chan struct{})}
	if err := w.hand(r); err != nil {
		return err
	}
	<-r.done
	if r.panicked != nil {
		panic(r.panicked)
	}
	return r.err
}

func (w *writer) hand(r *request) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		return ErrClosed
	}
	select {
	case w.requests <- r:
		return nil
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	}
}

func (w *writer) stop() {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.requests)
	}
	w.mu.Unlock()
	<-w.done
}

func (w *writer) run() {
	defer close(w.done)
	vacuum := time.NewTicker(vacuumEvery)
	defer vacuum.Stop()
	batch := make([]*request, 0, maxBatch)
	for {
		select {
		case r, open := <-w.requests:
			if !open {
				return
			}
			batch = w.gather(append(batch[:0], r))
			w.commit(batch)
			for _, r := range batch {
				if r.err == nil && r.then != nil {
					r.then()
				}
				close(r.done)
			}
			clear(batch)
		case <-vacuum.C:
			// Best effort: pages it does not give back now it gives back later.
			_, _ = w.db.Exec(fmt.Sprintf("PRAGMA incremental_vacuum(%d)", vacuumPages))
		}
	}
}

// gather takes what waits already.
func (w *writer) gather(batch []*request) []*request {
	for len(batch) < maxBatch {
		select {
		case r, open := <-w.requests:
			if !open {
				return batch
			}
			batch = append(batch, r)
		default:
			return batch
		}
	}
	return batch
}

// commit runs the batch in one transaction and sets each request's error.
func (w *writer) commit(batch []*request) {
	tx, err := w.db.Begin()
	if err != nil {
		fail(batch, fmt.Errorf("begin transaction: %w", err))
		return
	}
	for i, r := range batch {
		if err := context.Cause(r.ctx); err != nil {
			r.err = err
			continue
		}
		if err := r.run(tx, len(batch) == 1); err != nil {
			// The transaction as a whole is in doubt: nothing of it counts.
			_ = tx.Rollback()
			fail(batch[:i+1], err)
			fail(batch[i+1:], err)
			return
		}
	}
	if len(batch) == 1 && batch[0].err != nil {
		_ = tx.Rollback()
		return
	}
	if err := tx.Commit(); err != nil {
		_ = tx.Rollback()
		fail(batch, fmt.Errorf("commit: %w", err))
	}
}

// fail gives err to the requests that have no error of their own.
func fail(batch []*request, err error) {
	for _, r := range batch {
		if r.err == nil {
			r.err = err
		}
	}
}

// run calls the request's function inside a savepoint and sets r.err; alone in
// its transaction it needs none. It returns an error when the savepoint itself
// fails.
func (r *request) run(tx *sql.Tx, alone bool) error {
	if alone {
		r.call(tx)
		return nil
	}
	if _, err := tx.Exec("SAVEPOINT caller"); err != nil {
		return fmt.Errorf("set savepoint: %w", err)
	}
	r.call(tx)
	if r.err != nil {
		if _, err := tx.Exec("ROLLBACK TO caller"); err != nil {
			return fmt.Errorf("undo to savepoint: %w", err)
		}
	}
	if _, err := tx.Exec("RELEASE caller"); err != nil {
		return fmt.Errorf("release savepoint: %w", err)
	}
	return nil
}

// call keeps a panic for the goroutine that asked.
func (r *request) call(tx *sql.Tx) {
	defer func() {
		if r.panicked = recover(); r.panicked != nil {
			r.err = fmt.Errorf("panic: %v", r.panicked)
		}
	}()
	r.err = r.fn(tx)
}
