package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
)

// layers are what runs, each upon those before it. They end in reverse: one begins to
// stop only when all above it have.
type layers struct {
	ctx    context.Context // ends when it is time to stop
	stop   context.CancelFunc
	below  context.Context // of the layers: without an end of its own
	failed atomic.Pointer[error]
	ends   []func() error
}

// newLayers makes no layer yet. It is time to stop when ctx ends or a layer fails.
func newLayers(ctx context.Context) *layers {
	l := &layers{below: context.WithoutCancel(ctx)}
	l.ctx, l.stop = context.WithCancel(ctx)
	return l
}

// run starts a layer that works until its context ends. One that ends before makes it
// time to stop for all.
func (l *layers) run(name string, work func(ctx context.Context) error) {
	ctx, stop := context.WithCancel(l.below)
	done := make(chan error, 1)
	go func() {
		err := work(ctx)
		switch {
		case ctx.Err() == nil:
			failure := fmt.Errorf("%s: %w", name, cmp.Or(err, errors.New("it ended by itself")))
			l.failed.CompareAndSwap(nil, &failure)
			l.stop()
			err = nil // told by failed
		case errors.Is(err, context.Canceled):
			err = nil
		case err != nil:
			err = fmt.Errorf("stop %s: %w", name, err)
		}
		done <- err
	}()
	l.onEnd(func() error {
		stop()
		return <-done
	})
}

// onEnd adds a layer that does nothing but end.
func (l *layers) onEnd(end func() error) { l.ends = append(l.ends, end) }

// end ends all layers and gives what went wrong, err first.
func (l *layers) end(err error) error {
	l.stop()
	for i := len(l.ends) - 1; i >= 0; i-- {
		if e := l.ends[i](); e != nil {
			err = errors.Join(err, e)
		}
	}
	if p := l.failed.Load(); p != nil {
		err = errors.Join(*p, err)
	}
	return err
}
