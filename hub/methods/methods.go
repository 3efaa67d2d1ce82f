// Package methods calls direct methods of connected devices and modules. It knows
// who listens now and lets callers wait, within bounds, for those who do not yet.
package methods

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/method"
)

// Listener is a connection that takes calls.
type Listener interface {
	// Invoke calls a method and waits for the answer until ctx ends. It fails
	// with fault.DeviceNotOnline when the call was not sent, and with
	// fault.ConnectionClosed when the connection ended before the answer.
	Invoke(ctx context.Context, c *method.Call) (method.Reply, error)
}

// Config bounds the calls under way, those that wait for their device included.
type Config struct {
	PerDevice int // zero means 64
	Overall   int // zero means 10,000
}

// Methods calls methods. Its methods may be called from many goroutines.
type Methods struct {
	cfg Config

	mu       sync.Mutex
	lines    map[ident.ID]*line // of those who listen or are called
	underWay int

	answered, failed atomic.Int64
}

// line is one device or module as far as calls go.
type line struct {
	listener Listener      // nil: it does not listen
	came     chan struct{} // closed when a listener comes; nil when nobody waits
	calls    int
}

// New makes Methods with nobody listening.
func New(cfg Config) *Methods {
	if cfg.PerDevice <= 0 {
		cfg.PerDevice = 64
	}
	if cfg.Overall <= 0 {
		cfg.Overall = 10_000
	}
	return &Methods{cfg: cfg, lines: map[ident.ID]*line{}}
}

// Open makes l the listener of id, in place of an older one. It never blocks.
func (m *Methods) Open(id ident.ID, l Listener) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ln := m.lines[id]
	if ln == nil {
		ln = &line{}
		m.lines[id] = ln
	}
	ln.listener = l
	if ln.came != nil {
		close(ln.came)
		ln.came = nil
	}
}

// Shut ends the listening of l. It does nothing when another took its place.
func (m *Methods) Shut(id ident.ID, l Listener) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ln := m.lines[id]; ln != nil && ln.listener == l {
		ln.listener = nil
		m.tidy(id, ln)
	}
}

// tidy forgets a line that nobody needs. It is called with the lock held.
func (m *Methods) tidy(id ident.ID, ln *line) {
	if ln.listener == nil && ln.calls == 0 {
		delete(m.lines, id)
	}
}

// Invoke calls a method of id: it waits up to c.ConnectTimeout for id to listen,
// then up to c.ResponseTimeout for the answer. It fails with fault.DeviceNotOnline,
// fault.ConnectionClosed, fault.GatewayTimeout, fault.TooManyInflight or
// fault.BadGateway.
func (m *Methods) Invoke(ctx context.Context, id ident.ID, c *method.Call) (method.Reply, error) {
	ln, err := m.enter(id)
	if err != nil {
		return method.Reply{}, err
	}
	defer m.leave(id, ln)
	reply, err := m.call(ctx, id, ln, c)
	if err != nil {
		m.failed.Add(1)
	} else {
		m.answered.Add(1)
	}
	return reply, err
}

func (m *Methods) call(ctx context.Context, id ident.ID, ln *line, c *method.Call) (method.Reply, error) {
	var patience *time.Timer // made when first needed
	for {
		l, came := m.listener(ln, c.ConnectTimeout > 0)
		if l != nil {
			reply, err := ask(ctx, id, l, c)
			if !fault.Is(err, fault.DeviceNotOnline) {
				return reply, err
			}
			// It stopped listening as we asked, or does not want this method.
		}
		if c.ConnectTimeout <= 0 {
			return method.Reply{}, notOnline(id)
		}
		if patience == nil {
			patience = time.NewTimer(c.ConnectTimeout)
			defer patience.Stop()
		}
		select {
		case <-came:
		case <-patience.C:
			return method.Reply{}, notOnline(id)
		case <-ctx.Done():
			return method.Reply{}, givenUp(ctx, id)
		}
	}
}

// ask sends the call and waits for the answer.
func ask(ctx context.Context, id ident.ID, l Listener, c *method.Call) (method.Reply, error) {
	timed, cancel := context.WithTimeout(ctx, c.ResponseTimeout)
	defer cancel()
	reply, err := l.Invoke(timed, c)
	switch {
	case err == nil || ctx.Err() == nil && timed.Err() == nil:
		return reply, err
	case ctx.Err() != nil:
		return method.Reply{}, givenUp(ctx, id)
	case fault.Is(err, fault.GatewayTimeout) || fault.CodeOf(err) == fault.ServerError:
		return method.Reply{}, fault.Wrap(err, fault.GatewayTimeout, "timed out waiting for the answer of %q to method %q", id, c.Name)
	}
	return reply, err
}

func notOnline(id ident.ID) error {
	return fault.New(fault.DeviceNotOnline, "%q is not connected or does not listen for methods", id)
}

// givenUp says that the caller's context ended: it left, or the hub stops.
func givenUp(ctx context.Context, id ident.ID) error {
	return fault.Wrap(context.Cause(ctx), fault.GatewayTimeout, "the call was given up before %q answered", id)
}

// listener gives who listens now and, for those who can wait, what is closed when
// the next one comes.
func (m *Methods) listener(ln *line, wait bool) (Listener, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if wait && ln.came == nil {
		ln.came = make(chan struct{})
	}
	return ln.listener, ln.came
}

// enter counts a call in, unless there are too many.
func (m *Methods) enter(id ident.ID) (*line, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.underWay >= m.cfg.Overall {
		return nil, fault.New(fault.TooManyInflight, "%d direct methods are under way, the most is that; call again later", m.underWay)
	}
	ln := m.lines[id]
	if ln == nil {
		ln = &line{}
		m.lines[id] = ln
	}
	if ln.calls >= m.cfg.PerDevice {
		return nil, fault.New(fault.TooManyInflight, "%d direct methods of %q are under way, the most is that; call again later", ln.calls, id)
	}
	ln.calls++
	m.underWay++
	return ln, nil
}

func (m *Methods) leave(id ident.ID, ln *line) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ln.calls--
	m.underWay--
	m.tidy(id, ln)
}

// Counts are numbers of calls.
type Counts struct {
	Answered, Failed int64 // since the start
	UnderWay         int   // now
	Listening        int   // devices and modules that would take one now
}

// Counts gives the numbers now.
func (m *Methods) Counts() Counts {
	c := Counts{Answered: m.answered.Load(), Failed: m.failed.Load()}
	m.mu.Lock()
	defer m.mu.Unlock()
	c.UnderWay = m.underWay
	for _, ln := range m.lines {
		if ln.listener != nil {
			c.Listening++
		}
	}
	return c
}
