// Package upstream is the edge broker's link to the hub above. Each identity that
// needs one has a connection there, or its part of one that all share, and an outbox
// of its own in the queue, so that messages of one sender stay in order and an identity
// in trouble holds up nobody else.
package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/selvedge-io/selvedge/edge/broker"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
	"github.com/selvedge-io/selvedge/storage/queue"
)

// Conn is one identity's connection to the parent; client.Client is.
type Conn interface {
	// Publish sends a batch in order without waiting. done is called once: nil
	// when the parent has acknowledged all of it.
	Publish(batch []message.Message, done func(error))
	Twin(ctx context.Context) ([]byte, error)
	Report(ctx context.Context, patch []byte) (version int64, err error)
	OnDesired(ctx context.Context, changed func(version int64, patch []byte)) error
	OnMethod(ctx context.Context, call func(ctx context.Context, c *method.Call) method.Reply) error
	Done() <-chan struct{}
	Err() error
	Close() error
}

// Config of a Link. What is zero has a default.
type Config struct {
	Device string // id of the edge device
	Queue  *queue.Queue
	Dial   func(ctx context.Context, of ident.ID) (Conn, error)
	Log    *slog.Logger

	// Window and WindowBytes bound what is under way on one connection without
	// being acknowledged.
	Window      int // messages, 256 when zero
	WindowBytes int // 1 MiB when zero

	FirstRetry  time.Duration // longest pause before the first attempt to connect again, 100 ms when zero
	MaxRetry    time.Duration // longest pause, 30 s when zero
	RefusedWait time.Duration // longest pause after the parent refused the identity, 5 min when zero
	Idle        time.Duration // a connection nobody needs is closed after it, 1 h when zero
	Linger      time.Duration // the same when the parent might call methods on it, 5 s when zero
	Grace       time.Duration // how long to wait for acknowledgements when stopping, 1 s when zero
}

const (
	dialTimeout      = 30 * time.Second
	subscribeTimeout = 20 * time.Second
)

// outboxPrefix begins the names of outboxes in the queue; the identity follows.
const outboxPrefix = "iothub/"

// Link is the link to the parent.
type Link struct {
	cfg  Config
	log  *slog.Logger
	self ident.ID // $edgeHub, whose connection is what "online" means

	mu     sync.Mutex
	peers  map[ident.ID]*peer
	child  broker.Child
	ctx    context.Context // of Run; nil while it does not run
	joined sync.WaitGroup
	watch  []func(online bool)
	kick   chan struct{} // closed and replaced when a connection was made

	online  atomic.Bool
	since   time.Time // of the state, under mu
	told    bool      // of the trouble, under mu
	sent    atomic.Int64
	dropped atomic.Int64
}

var _ broker.Parent = (*Link)(nil)

// New makes a link that does nothing until Run.
func New(cfg Config) *Link {
	cfg.Window = cmp.Or(cfg.Window, 256)
	cfg.WindowBytes = cmp.Or(cfg.WindowBytes, 1<<20)
	cfg.FirstRetry = cmp.Or(cfg.FirstRetry, 100*time.Millisecond)
	cfg.MaxRetry = cmp.Or(cfg.MaxRetry, 30*time.Second)
	cfg.RefusedWait = cmp.Or(cfg.RefusedWait, 5*time.Minute)
	cfg.Idle = cmp.Or(cfg.Idle, time.Hour)
	cfg.Linger = cmp.Or(cfg.Linger, 5*time.Second)
	cfg.Grace = cmp.Or(cfg.Grace, time.Second)
	return &Link{
		cfg: cfg, log: cfg.Log,
		self:  ident.ID{Device: cfg.Device, Module: ident.EdgeHub},
		peers: make(map[ident.ID]*peer),
		kick:  make(chan struct{}),
		since: time.Now(),
	}
}

// Run implements broker.Parent. It finds the outboxes of earlier runs and empties them
// too.
func (l *Link) Run(ctx context.Context, child broker.Child) error {
	for _, name := range l.cfg.Queue.Names() {
		id, ok := strings.CutPrefix(name, outboxPrefix)
		if !ok {
			continue
		}
		of, err := ident.Parse(id)
		if err != nil {
			return fmt.Errorf("read name of outbox %q: %w", name, err)
		}
		if _, err := l.Outbox(of); err != nil {
			return err
		}
	}
	l.mu.Lock()
	l.ctx, l.child = ctx, child
	for _, p := range l.peers {
		l.startPeer(p)
	}
	l.mu.Unlock()

	<-ctx.Done()
	l.mu.Lock()
	l.ctx = nil
	l.mu.Unlock()
	l.joined.Wait()
	l.online.Store(false) // on purpose, so nobody is told
	return nil
}

// peer finds or makes the peer of an identity.
func (l *Link) peer(of ident.ID) *peer {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.peers[of]
	if p == nil {
		p = newPeer(l, of)
		l.peers[of] = p
		l.startPeer(p)
	}
	return p
}

// startPeer sets a peer to work if Run runs. The caller holds l.mu.
func (l *Link) startPeer(p *peer) {
	if l.ctx == nil {
		return
	}
	ctx := l.ctx
	l.joined.Go(func() { p.run(ctx) })
	l.startPump(p)
}

// startPump sets the pump of an outbox to work if there is one that has none, and Run
// runs. The caller holds l.mu.
func (l *Link) startPump(p *peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.ctx == nil || p.outbox == nil || p.outbox == p.pumped {
		return
	}
	p.pumped = p.outbox
	ctx, u := l.ctx, &pump{p: p, from: p.outbox, moved: make(chan struct{}, 1)}
	l.joined.Go(func() { u.run(ctx) })
}

// Hold implements broker.Parent.
func (l *Link) Hold(of ident.ID) (release func()) {
	p := l.peer(of)
	p.need(1)
	return sync.OnceFunc(func() { p.need(-1) })
}

// Methods implements broker.Parent.
func (l *Link) Methods(of ident.ID, can bool) {
	p := l.peer(of)
	p.mu.Lock()
	p.methods = can
	p.mu.Unlock()
	p.poke()
}

// Await implements broker.Parent.
func (l *Link) Await(ctx context.Context, of ident.ID) error {
	_, err := l.peer(of).await(ctx, false)
	return err
}

// Twin implements broker.Parent. It does not wait for an identity whose last attempt
// to connect went wrong.
func (l *Link) Twin(ctx context.Context, of ident.ID) ([]byte, error) {
	defer l.Hold(of)()
	c, err := l.peer(of).await(ctx, true)
	if err != nil {
		return nil, err
	}
	return c.Twin(ctx)
}

// Report implements broker.Parent.
func (l *Link) Report(ctx context.Context, of ident.ID, patch []byte) (int64, error) {
	defer l.Hold(of)()
	c, err := l.peer(of).await(ctx, true)
	if err != nil {
		return 0, err
	}
	return c.Report(ctx, patch)
}

// Outbox implements broker.Parent.
func (l *Link) Outbox(of ident.ID) (*queue.Endpoint, error) {
	p := l.peer(of)
	e, isNew, err := p.openOutbox()
	if isNew {
		l.mu.Lock()
		l.startPump(p)
		l.mu.Unlock()
	}
	return e, err
}

// Discard implements broker.Parent.
func (l *Link) Discard() error {
	l.mu.Lock()
	peers := make([]*peer, 0, len(l.peers))
	for _, p := range l.peers {
		peers = append(peers, p)
	}
	l.mu.Unlock()
	for _, p := range peers {
		p.mu.Lock()
		p.outbox = nil // its pump ends when the endpoint is gone
		p.mu.Unlock()
	}
	var errs []error
	for _, name := range l.cfg.Queue.Names() {
		if strings.HasPrefix(name, outboxPrefix) {
			l.log.Info("no route leads upstream any more, messages are removed", "endpoint", name)
			errs = append(errs, l.cfg.Queue.Remove(name))
		}
	}
	return errors.Join(errs...)
}

// Online implements broker.Parent: whether $edgeHub is connected.
func (l *Link) Online() bool { return l.online.Load() }

// Watch calls f for each change of Online, from now on and in order; f must not block.
func (l *Link) Watch(f func(online bool)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watch = append(l.watch, f)
}

// Counts are numbers of messages since the start.
type Counts struct {
	Sent    int64 // acknowledged by the parent
	Dropped int64 // that the parent would never take
}

// Counts gives the numbers so far.
func (l *Link) Counts() Counts { return Counts{Sent: l.sent.Load(), Dropped: l.dropped.Load()} }

func (l *Link) setOnline(online bool, cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.online.CompareAndSwap(!online, online) {
		if !online && cause != nil && !l.told {
			l.told = true
			l.log.Warn("the hub cannot be reached, messages are kept", "device", l.cfg.Device, "err", cause)
		}
		return
	}
	l.told = !online
	lasted := time.Since(l.since).Round(time.Millisecond)
	l.since = time.Now()
	if online {
		l.log.Info("link to the hub is up", "device", l.cfg.Device, "after", lasted)
	} else {
		l.log.Warn("link to the hub is down, messages are kept", "device", l.cfg.Device, "after", lasted, "err", cause)
	}
	for _, f := range l.watch {
		f(online)
	}
}

// connected wakes all who wait to connect again: the parent can be reached.
func (l *Link) connected() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.kick)
	l.kick = make(chan struct{})
}

func (l *Link) kicked() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kick
}

// refused says whether the parent will not have the identity, which waiting does not
// cure soon.
func refused(err error) bool {
	switch fault.CodeOf(err).Status() {
	case 401, 403, 404:
		return !fault.Temporary(err)
	default:
		return false
	}
}
