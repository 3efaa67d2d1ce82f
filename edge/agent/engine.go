package agent

import (
	"context"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/edge/runtime"
)

// engine is a driver and what it last said there is.
type engine struct {
	a      *Agent
	kind   string
	driver Driver
	dirty  chan struct{} // the list may be out of date

	listing sync.Mutex // held while the driver is asked, so that the newest list is the last

	// Under Agent.mu.
	seen   Engine
	states []runtime.State
}

// refresh asks the driver what there is. When it returns, all that happened before the
// call is in states.
func (e *engine) refresh(ctx context.Context) error {
	e.listing.Lock()
	defer e.listing.Unlock()
	states, err := e.driver.List(ctx)
	if stoppedBy(ctx, err) {
		return err
	}
	e.a.mu.Lock()
	if err != nil {
		e.seen = Engine{Err: err.Error()}
	} else {
		e.seen, e.states = Engine{Ready: true}, states
	}
	e.a.mu.Unlock()
	signal(e.a.again)
	return err
}

// keepListed keeps states up to date until ctx ends.
func (e *engine) keepListed(ctx context.Context) {
	failed := 0
	for {
		var retry <-chan time.Time
		if err := e.refresh(ctx); err == nil {
			failed = 0
		} else if !stoppedBy(ctx, err) {
			retry = time.After(backOff(firstPause, longestWait, failed))
			failed++
			e.a.log.Warn("engine does not say what runs", "type", e.kind, "err", err)
		}
		select {
		case <-e.dirty:
		case <-retry:
		case <-ctx.Done():
			return
		}
	}
}

// keepWatching has the list refreshed whenever a module starts or ends.
func (e *engine) keepWatching(ctx context.Context) {
	for failed := 0; ; failed++ {
		began := time.Now()
		err := e.driver.Watch(ctx, func(runtime.State) { signal(e.dirty) })
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > longestWait {
			failed = 0
		}
		e.a.log.Warn("engine ended the watch of its modules", "type", e.kind, "err", err)
		signal(e.dirty)
		if !sleep(ctx, backOff(firstPause, longestWait, failed)) {
			return
		}
	}
}
