// Package broker is what modules talk to on an edge device: it authenticates them,
// routes what they send, keeps it until it is delivered, and serves their twins
// whether or not the hub can be reached.
package broker

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/lang/route"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/method"
	"github.com/selvedge-io/selvedge/storage/queue"
)

// Verifier judges claims; auth.Verifier does.
type Verifier interface {
	Device(ctx context.Context, c *ident.Claim) (*ident.Principal, error)
}

// Store keeps small things durably; storage/kv does.
type Store interface {
	Get(key string) ([]byte, bool)
	Put(ctx context.Context, key string, value []byte) error
	Delete(ctx context.Context, key string) error
	Keys(prefix string) []string
}

// Sealer hides what is stored from whoever reads the disk; trust/keys does.
type Sealer interface {
	Seal(plain []byte) ([]byte, error)
	Open(sealed []byte) ([]byte, error)
}

// Parent is the link to the hub above; edge/upstream is. Whoever is asked for needs a
// connection of its own there, which the parent makes when it is needed.
type Parent interface {
	// Run keeps the link until ctx ends, and tells child what comes down.
	Run(ctx context.Context, child Child) error
	// Online says whether the link is up, as far as we know.
	Online() bool
	// Hold keeps a connection for an identity until release is called.
	Hold(of ident.ID) (release func())
	// Methods says whether the identity can take direct methods now. It counts
	// while the identity is held.
	Methods(of ident.ID, can bool)
	// Await waits for the connection of an identity.
	Await(ctx context.Context, of ident.ID) error
	// Twin and Report are those of head.Backend, done by the parent.
	Twin(ctx context.Context, of ident.ID) ([]byte, error)
	Report(ctx context.Context, of ident.ID, patch []byte) (int64, error)
	// Outbox is the endpoint of the queue for an identity's messages to the parent.
	Outbox(of ident.ID) (*queue.Endpoint, error)
	// Discard removes all outboxes and what is in them.
	Discard() error
}

// Child is what the parent's link tells about: the broker.
type Child interface {
	// Linked is called, in a goroutine of its own, when a held identity has got a
	// connection.
	Linked(ctx context.Context, of ident.ID)
	// Desired is called for each change of desired properties of a held identity,
	// in order.
	Desired(ctx context.Context, of ident.ID, version int64, patch []byte) error
	// Invoke calls a direct method of a module.
	Invoke(ctx context.Context, of ident.ID, c *method.Call) (method.Reply, error)
}

// Config of a Broker. Window, WindowBytes, Seal, Refresh and Version may be left out.
type Config struct {
	Device string // id of the edge device
	Auth   Verifier
	Queue  *queue.Queue // stays the caller's to close, after Run
	Store  Store
	Seal   Sealer // for twins; nil keeps them as they are
	Parent Parent
	Log    *slog.Logger

	// Window and WindowBytes bound what is under way to one input of a module
	// without being acknowledged.
	Window      int // messages, 256 when zero
	WindowBytes int // 1 MiB when zero

	// Refresh is called when the hub says that identities changed: a list of
	// "device" or "device/module".
	Refresh func(ctx context.Context, ids []string) error

	Version string // of this program, for the reported properties
}

// Broker is a head.Backend and head.Sessions for the modules of one edge device.
type Broker struct {
	cfg  Config
	log  *slog.Logger
	self ident.ID // the pseudo identity $edgeHub

	table   atomic.Pointer[routing]
	scratch sync.Pool // of *publication

	mu       sync.Mutex
	sessions map[ident.ID]*session
	clients  map[ident.ID]client // for the reported properties
	running  context.Context     // of Run, for goroutines that calls start; nil before
	stopped  bool
	joined   sync.WaitGroup

	twinsMu sync.Mutex
	twins   map[ident.ID]*twinState

	applying    sync.Mutex
	configured  chan struct{} // closed once there are routes, perhaps none
	reconfigure chan struct{} // the twin of $edgeHub changed
	presence    chan struct{} // clients changed

	counts counts
}

var (
	_ head.Backend  = (*Broker)(nil)
	_ head.Sessions = (*Broker)(nil)
	_ Child         = (*Broker)(nil)
)

// routing is one configuration in force.
type routing struct {
	table  *route.Table
	ttl    time.Duration
	inputs []*queue.Endpoint // by index of the table's endpoints; nil for $upstream
}

// New makes a broker with the routes that were in force last. As long as there never
// were any it takes no messages, so that none is lost for want of a route.
func New(cfg Config) (*Broker, error) {
	cfg.Window = cmp.Or(cfg.Window, 256)
	cfg.WindowBytes = cmp.Or(cfg.WindowBytes, 1<<20)
	b := &Broker{
		cfg: cfg, log: cfg.Log,
		self:        ident.ID{Device: cfg.Device, Module: ident.EdgeHub},
		sessions:    make(map[ident.ID]*session),
		clients:     make(map[ident.ID]client),
		configured:  make(chan struct{}),
		twins:       make(map[ident.ID]*twinState),
		reconfigure: make(chan struct{}, 1),
		presence:    make(chan struct{}, 1),
	}
	b.scratch.New = func() any { return newPublication() }
	empty, err := route.New(nil)
	if err != nil {
		return nil, err
	}
	b.table.Store(&routing{table: empty})
	if raw, ok := cfg.Store.Get(configKey); ok {
		if err := b.Apply(context.Background(), raw); err != nil {
			return nil, fmt.Errorf("bring back the routes of the last run: %w", err)
		}
	}
	return b, nil
}

// Run serves until ctx ends. Stop the heads first, close the queue afterwards.
func (b *Broker) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b.mu.Lock()
	b.running = ctx
	b.mu.Unlock()

	if err := b.start(ctx); err != nil {
		cancel()
		b.join()
		return err
	}
	err := b.cfg.Parent.Run(ctx, b)
	cancel()
	b.join()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}

// start brings back what the disk remembers.
func (b *Broker) start(ctx context.Context) error {
	hub, err := b.state(b.self)
	if err != nil {
		return err
	}
	b.spawn(func(ctx context.Context) { b.configure(ctx, hub) })
	b.spawn(b.reportClients)
	for _, key := range b.cfg.Store.Keys(twinPrefix) {
		of, err := ident.Parse(key[len(twinPrefix):])
		if err != nil {
			return fmt.Errorf("read name of cached twin %q: %w", key, err)
		}
		s, err := b.state(of)
		if err != nil {
			return err
		}
		s.mu.Lock()
		b.startPush(s)
		s.mu.Unlock()
	}
	b.spawn(func(ctx context.Context) {
		defer b.cfg.Parent.Hold(b.self)()
		b.cfg.Parent.Methods(b.self, true)
		<-ctx.Done()
	})
	return nil
}

// join ends the sessions and waits for everything that Run or a call started.
func (b *Broker) join() {
	b.mu.Lock()
	b.stopped = true
	open := make([]*session, 0, len(b.sessions))
	for _, s := range b.sessions {
		open = append(open, s)
	}
	b.mu.Unlock()
	for _, s := range open {
		s.device.Close(fault.New(fault.Unavailable, "the edge broker is stopping"))
		s.Detach()
	}
	b.joined.Wait()
}

// spawn runs f in a goroutine that ends with Run; false when Run is not running.
func (b *Broker) spawn(f func(ctx context.Context)) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped || b.running == nil {
		return false
	}
	ctx := b.running
	b.joined.Go(func() { f(ctx) })
	return true
}

// Authenticate implements head.Backend.
func (b *Broker) Authenticate(ctx context.Context, c *ident.Claim) (*ident.Principal, error) {
	if c.ID.Device == b.cfg.Device && !c.ID.IsModule() {
		// The device itself has nothing to say to its own broker.
		return nil, fault.New(fault.Unauthorized, "not authorized")
	}
	select { // at the first start the routes come a moment after the modules
	case <-b.configured:
	case <-ctx.Done():
	case <-time.After(configWait):
	}
	return b.cfg.Auth.Device(ctx, c)
}

// Invoke implements Child: it calls a direct method of a connected module.
func (b *Broker) Invoke(ctx context.Context, of ident.ID, c *method.Call) (method.Reply, error) {
	if of == b.self {
		return b.invokeSelf(ctx, c)
	}
	s := b.session(of)
	if s == nil {
		return method.Reply{}, fault.New(fault.DeviceNotOnline, "module %s is not connected to the edge broker or takes no methods", of)
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.ResponseTimeout, method.DefaultResponseTimeout))
	defer cancel()
	reply, err := s.invoke(ctx, c)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fault.Wrap(err, fault.GatewayTimeout, "module %s did not answer in time", of)
	}
	return reply, err
}

// Linked implements Child: what changed above while the link was away is fetched.
func (b *Broker) Linked(ctx context.Context, of ident.ID) {
	s, err := b.state(of)
	if err != nil {
		b.log.Error("twin is not kept up to date", "module", of.Module, "err", err)
		return
	}
	for pause := reportRetry; ; pause = min(2*pause, maxRetry) {
		within, cancel := context.WithTimeout(ctx, reportTimeout)
		err := b.pull(within, s)
		cancel()
		if err == nil || ctx.Err() != nil {
			return
		}
		b.log.Warn("twin could not be fetched from the hub, the cached one stays", "module", of.Module, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (b *Broker) seal(plain []byte) ([]byte, error) {
	if b.cfg.Seal == nil {
		return plain, nil
	}
	return b.cfg.Seal.Seal(plain)
}

func (b *Broker) open(sealed []byte) ([]byte, error) {
	if b.cfg.Seal == nil {
		return sealed, nil
	}
	return b.cfg.Seal.Open(sealed)
}

// Apply puts the desired properties of $edgeHub into force: all of them, or none and
// the error says why; then what was in force before stays so.
func (b *Broker) Apply(ctx context.Context, desired []byte) error {
	b.applying.Lock()
	defer b.applying.Unlock()
	s, err := parseSettings(desired)
	if err != nil {
		return err
	}
	table, err := route.New(s.routes)
	if err != nil {
		return fault.Wrap(err, fault.InvalidConfiguration, "%v", err)
	}
	next := &routing{table: table, ttl: s.ttl, inputs: make([]*queue.Endpoint, len(table.Endpoints()))}
	keep := make(map[string]bool)
	upstream := false
	for i, e := range table.Endpoints() {
		if e.IsUpstream() {
			upstream = true
			continue
		}
		name := b.inputName(e)
		keep[name] = true
		if next.inputs[i], err = b.cfg.Queue.Endpoint(name); err != nil {
			return fmt.Errorf("open queue of %s: %w", e, err)
		}
	}
	if old, ok := b.cfg.Store.Get(configKey); !ok || !bytes.Equal(old, desired) {
		if err := b.cfg.Store.Put(ctx, configKey, desired); err != nil {
			return fmt.Errorf("keep the routes: %w", err)
		}
	}
	b.table.Store(next)
	select {
	case <-b.configured:
	default:
		close(b.configured)
	}
	b.eachSession((*session).connect)
	return b.sweep(keep, upstream)
}

const (
	inputPrefix = "input/"
	configKey   = "config/edgeHub" // the desired properties in force

	// configWait is how long a module waits at the door for the first routes.
	configWait = 5 * time.Second
)

// inputName is the name of a module input's endpoint in the queue.
func (b *Broker) inputName(e route.Endpoint) string {
	return inputPrefix + b.cfg.Device + "/" + e.Module + "/" + e.Input
}

// sweep removes the queues of endpoints that no route leads to.
func (b *Broker) sweep(keep map[string]bool, upstream bool) error {
	var errs []error
	for _, name := range b.cfg.Queue.Names() {
		if len(name) > len(inputPrefix) && name[:len(inputPrefix)] == inputPrefix && !keep[name] {
			b.log.Info("no route leads to the endpoint any more, its messages are removed", "endpoint", name)
			errs = append(errs, b.cfg.Queue.Remove(name))
		}
	}
	if !upstream {
		errs = append(errs, b.cfg.Parent.Discard())
	}
	return errors.Join(errs...)
}

func (b *Broker) eachSession(f func(s *session)) {
	b.mu.Lock()
	all := make([]*session, 0, len(b.sessions))
	for _, s := range b.sessions {
		all = append(all, s)
	}
	b.mu.Unlock()
	slices.SortFunc(all, func(a, b *session) int { return cmp.Compare(a.who.ID.Module, b.who.ID.Module) })
	for _, s := range all {
		f(s)
	}
}

// session is the connected session of an identity, nil when there is none.
func (b *Broker) session(of ident.ID) *session {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sessions[of]
}
