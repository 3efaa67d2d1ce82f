package identity

import (
	"context"
	"sync"
	"time"
)

// A first deployment may need a call for each of 50 modules and more; after those it
// is one each so often, whoever asks.
const (
	paceBurst = 120
	paceEvery = 500 * time.Millisecond
)

// pace bounds the rate of calls.
type pace struct {
	mu    sync.Mutex
	spent time.Time // the turns so far are worked off then
	now   func() time.Time
}

func newPace() pace { return pace{now: time.Now} }

// wait returns when it is the caller's turn. Whose ctx ends before takes none: else what
// is tried again and given up again would put off its own next turn for ever.
func (p *pace) wait(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p.mu.Lock()
	now := p.now()
	if p.spent.Before(now) {
		p.spent = now
	}
	p.spent = p.spent.Add(paceEvery)
	pause := p.spent.Sub(now) - paceBurst*paceEvery
	p.mu.Unlock()
	if pause <= 0 {
		return nil
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		p.mu.Lock()
		p.spent = p.spent.Add(-paceEvery)
		p.mu.Unlock()
		return context.Cause(ctx)
	}
}
