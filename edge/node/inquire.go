package node

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/edge/broker"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
)

// Bounds of what strangers can make us ask.
const (
	inquirePause = 5 * time.Second // between two questions about one module
	inquireMost  = 50              // questions in that time, about all modules
	inquireLimit = 10 * time.Second
)

// inquirer asks the hub before it refuses a module: the module may be new there, or
// have a new key (edge-runtime 4.5).
type inquirer struct {
	broker.Verifier
	device  string
	refresh func(ctx context.Context, ids []string) error
	log     *slog.Logger

	mu    sync.Mutex
	start time.Time       // of the period in which asked counts
	asked map[string]bool // modules, once each period
}

// Device implements broker.Verifier.
func (q *inquirer) Device(ctx context.Context, c *ident.Claim) (*ident.Principal, error) {
	p, err := q.Verifier.Device(ctx, c)
	if !fault.Is(err, fault.Unauthorized) || c.ID.Device != q.device || c.ID.Check() != nil || !q.may(c.ID, time.Now()) {
		return p, err
	}
	ask, cancel := context.WithTimeout(ctx, inquireLimit)
	defer cancel()
	if failed := q.refresh(ask, []string{c.ID.String()}); failed != nil {
		q.log.Debug("the hub could not be asked about a module that was refused", "module", c.ID.Module, "err", failed)
		return nil, err
	}
	return q.Verifier.Device(ctx, c)
}

// may says whether the hub may be asked about id now.
func (q *inquirer) may(id ident.ID, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.asked == nil || now.Sub(q.start) >= inquirePause {
		q.start, q.asked = now, map[string]bool{}
	}
	if q.asked[id.Module] || len(q.asked) >= inquireMost {
		return false
	}
	q.asked[id.Module] = true
	return true
}
