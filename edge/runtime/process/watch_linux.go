package process

import (
	"context"

	"github.com/selvedge-io/selvedge/edge/runtime"
)

// watcher is one call of Watch. What it has not told yet is kept once a module, so
// that a slow one costs no more than that.
type watcher struct {
	wake    chan struct{}
	order   []string // modules in pending, oldest first
	pending map[string]runtime.State
}

// put is called under Driver.mu.
func (w *watcher) put(s runtime.State) {
	if _, ok := w.pending[s.Name]; !ok {
		w.order = append(w.order, s.Name)
	}
	w.pending[s.Name] = s
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// tell lets all watchers know a state. The caller holds d.mu.
func (d *Driver) tell(s runtime.State) {
	for w := range d.watchers {
		w.put(s)
	}
}

// Watch calls changed, one call at a time, first with the state of every module and
// then with each new one, until ctx ends. When changed is slow, states of one module
// that were overtaken are left out.
func (d *Driver) Watch(ctx context.Context, changed func(runtime.State)) error {
	w := &watcher{wake: make(chan struct{}, 1), pending: map[string]runtime.State{}}
	d.mu.Lock()
	d.watchers[w] = true
	for _, s := range d.states() {
		w.put(s)
	}
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.watchers, w)
	}()
	for {
		select {
		case <-w.wake:
		case <-ctx.Done():
			return nil
		}
		d.mu.Lock()
		order, pending := w.order, w.pending
		w.order, w.pending = nil, map[string]runtime.State{}
		d.mu.Unlock()
		for _, name := range order {
			changed(pending[name])
		}
	}
}
