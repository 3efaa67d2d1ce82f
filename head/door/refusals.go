package door

import (
	"log/slog"
	"net"
	"sync"
	"time"
)

// Bounds of the refusals written in a period: for one remote host, and for all, since a
// peer may have as many addresses as it likes.
const (
	refusalPeriod = 10 * time.Second
	refusalLines  = 20
	refusalTotal  = 1000
)

// Refusals writes lines about peers that were turned away, so that one peer cannot
// flood the log. The zero value is ready.
type Refusals struct {
	mu         sync.Mutex
	start      time.Time
	lines      map[string]int // written, by host
	total      int            // of them
	suppressed int
}

// Warn writes a line about the peer at remote, unless that has caused too many lately.
func (r *Refusals) Warn(log *slog.Logger, remote, msg string, args ...any) {
	ok, suppressed := r.allow(remote, time.Now())
	if !ok {
		return
	}
	if suppressed > 0 {
		args = append(args, "suppressed", suppressed)
	}
	log.Warn(msg, append(args, "remote", remote)...)
}

// allow says whether remote may have another line now, and how many lines were
// held back in the period before.
func (r *Refusals) allow(remote string, now time.Time) (ok bool, suppressed int) {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lines == nil || now.Sub(r.start) >= refusalPeriod {
		suppressed = r.suppressed
		r.start, r.lines, r.total, r.suppressed = now, map[string]int{}, 0, 0
	}
	if r.lines[host] >= refusalLines || r.total >= refusalTotal {
		r.suppressed++
		return false, 0
	}
	r.lines[host]++
	r.total++
	return true, suppressed
}
