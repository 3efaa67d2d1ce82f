package server

import (
	"context"
	"sync"
)

// group runs parts of the hub that live and end together: with its context, or when
// one of them fails.
type group struct {
	ctx    context.Context
	cancel context.CancelFunc
	parts  sync.WaitGroup

	mu  sync.Mutex
	err error // of the part that failed first
}

func newGroup(ctx context.Context) *group {
	g := &group{}
	g.ctx, g.cancel = context.WithCancel(ctx)
	return g
}

// run starts a part. It has to return when its context ends.
func (g *group) run(part func(context.Context) error) {
	g.parts.Go(func() {
		if err := part(g.ctx); err != nil {
			g.fail(err)
		}
	})
}

func (g *group) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
	}
	g.cancel()
}

// wait returns when the group's context and all parts have ended, with the first
// part's error.
func (g *group) wait() error {
	<-g.ctx.Done()
	g.parts.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// end makes the group end and waits for that.
func (g *group) end() error {
	g.cancel()
	return g.wait()
}
