// Package agent makes the modules of an edge device what its deployment says. It
// compares what is wanted with what there is, takes the steps between them, and
// reports how things are.
//
// Deciding is apart from doing: Plan is a pure function from a Situation to steps, and
// a step that is taken twice does no harm. After whatever happens (the twin or a module
// changed, a step ended, a time came) there is a new plan.
package agent

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/edge/runtime"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/manifest"
	"github.com/selvedge-io/selvedge/model/twin"
)

// Twin is the agent's own twin, $edgeAgent, as the edge broker keeps it.
type Twin interface {
	// Twin gives {"desired":{…,"$version":n},"reported":{…}}, from the broker's cache
	// when the hub cannot be reached.
	Twin(ctx context.Context) ([]byte, error)
	// Report merges a patch into the reported properties; it is durable when it returns.
	Report(ctx context.Context, patch []byte) error
}

// Driver runs modules of one type. All methods may be called from many goroutines, and
// doing again what is done is no error.
type Driver interface {
	// Start makes the module run. One that runs with this very version is left alone.
	// One that runs with another is stopped first, if the new one looks as if it could
	// run: a mistake in an update should not end what works.
	Start(ctx context.Context, m runtime.Module) error
	// Stop ends a module, gently first. The driver still knows it afterwards.
	Stop(ctx context.Context, name string) error
	// Remove stops a module and forgets it and its log.
	Remove(ctx context.Context, name string) error
	// List gives all modules that were started and not removed, those of an earlier
	// run of ours included.
	List(ctx context.Context) ([]runtime.State, error)
	// Watch calls changed, one call at a time, first with the state of every module
	// and then whenever one starts or ends, until ctx ends.
	Watch(ctx context.Context, changed func(runtime.State)) error
	// Logs reads what a module wrote.
	Logs(ctx context.Context, name string, q runtime.LogQuery) (io.ReadCloser, error)
}

// Identities sees to the identities of modules at the hub.
type Identities interface {
	// Sync gives the generation id of each wanted module, by name, and makes the
	// identities that are missing. Those of the modules gone, which an earlier
	// deployment had, are deleted if the edge manages them; no others are, because a
	// newer deployment may be under way that has them. Without the hub it answers
	// from what it knows, and fails when that is not enough.
	Sync(ctx context.Context, want, gone []string) (generations map[string]string, err error)
}

// Sockets are the sockets of the workload API, one for each module.
type Sockets interface {
	// Ensure listens for a module and gives the URI of its socket.
	Ensure(ctx context.Context, module, generation string) (uri string, err error)
	// Drop ends that.
	Drop(module string)
}

// Store keeps small things durably; storage/kv does.
type Store interface {
	Get(key string) ([]byte, bool)
	Put(ctx context.Context, key string, value []byte) error
}

// Sealer hides what is stored from whoever reads the disk: deployments hold secrets.
type Sealer interface {
	Seal(plain []byte) ([]byte, error)
	Open(sealed []byte) ([]byte, error)
}

// Config of an Agent. What is marked so may be left out.
type Config struct {
	Twin       Twin
	Drivers    map[string]Driver // by module type
	Identities Identities
	Sockets    Sockets
	Store      Store
	Seal       Sealer // may be nil
	Host       Host
	Log        *slog.Logger // may be nil

	// Env are settings in the original's names (edge-runtime 2.1); the deployment's
	// env for edgeAgent goes before them. May be nil.
	Env map[string]string

	Version, Commit string // of this program, for the reported properties

	KeepModules bool          // let modules run on when the agent stops
	StopWithin  time.Duration // how long stopping all modules may take; 30 s when zero
}

// Agent looks after the modules of one edge device.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	engines map[string]*engine

	again   chan struct{} // something happened: plan again
	changed chan struct{} // the twin is to be read
	tell    chan struct{} // there may be something to report

	saving sync.Mutex // held while records are written, so that the newest are the last

	mu      sync.Mutex
	since   time.Time            // when Run began
	want    *manifest.Deployment // nil as long as there never was one
	desired *twin.Object         // what the twin said last, good or bad
	problem error                // what is wrong with it
	epoch   int                  // counts deployments: what began under an older one counts no more
	limits  Limits
	records map[string]*record
	sync    Sync
	syncErr error
	status  deployed
	stopped bool
	steps   sync.WaitGroup
}

// deployed is how the last deployment went.
type deployed struct {
	version int64 // zero when there was none
	code    int
	text    string
}

const (
	stopWithin  = 30 * time.Second
	syncWithin  = time.Minute // one attempt to bring identities up to date
	firstPause  = time.Second // after a first failure to reach somebody on this device
	longestWait = time.Minute
)

// New makes an agent. It does nothing before Run.
func New(cfg Config) *Agent {
	cfg.StopWithin = cmp.Or(cfg.StopWithin, stopWithin)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	a := &Agent{
		cfg: cfg, log: cfg.Log,
		engines: make(map[string]*engine, len(cfg.Drivers)),
		again:   make(chan struct{}, 1), changed: make(chan struct{}, 1), tell: make(chan struct{}, 1),
		records: make(map[string]*record),
		status:  deployed{code: codeUnknown, text: "the agent is starting"},
	}
	for kind, d := range cfg.Drivers {
		a.engines[kind] = &engine{a: a, kind: kind, driver: d, dirty: make(chan struct{}, 1)}
	}
	return a
}

// Changed says that the twin changed, or that the hub can be reached again.
func (a *Agent) Changed() { signal(a.changed) }

// Run looks after the modules until ctx ends; then it stops them, unless they are to be
// kept. It starts what ran last without waiting for anybody.
func (a *Agent) Run(ctx context.Context) error {
	a.mu.Lock()
	a.since = time.Now()
	a.mu.Unlock()
	a.load()

	var parts sync.WaitGroup
	for _, e := range a.engines {
		parts.Go(func() { e.keepListed(ctx) })
		parts.Go(func() { e.keepWatching(ctx) })
	}
	var talk *talker
	parts.Go(func() { talk = a.converse(ctx) })
	a.reconcile(ctx)
	a.steps.Wait()
	parts.Wait()
	a.shutDown(context.WithoutCancel(ctx), talk)
	return nil
}

// reconcile plans and takes steps until ctx ends.
func (a *Agent) reconcile(ctx context.Context) {
	for {
		wake := a.advance(ctx)
		var timer <-chan time.Time
		if !wake.IsZero() {
			timer = time.After(time.Until(wake))
		}
		select {
		case <-a.again:
		case <-timer:
		case <-ctx.Done():
			return
		}
	}
}

// advance takes the steps that can be taken now, each in a goroutine of its own, and
// gives the time when there may be others.
func (a *Agent) advance(ctx context.Context) (wake time.Time) {
	if ctx.Err() != nil {
		return time.Time{}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.situation()
	p := Plan(s)
	for _, step := range p.Steps {
		a.take(ctx, step)
	}
	if p.Settled && a.want != nil {
		a.settle(s)
	}
	signal(a.tell)
	return p.Wake
}

// settle notes that all steps of the deployment were taken, and how that went.
func (a *Agent) settle(s *Situation) {
	next := deployed{version: a.want.Version, code: 200}
	if text := troubles(s, a.syncErr); text != "" {
		next.code, next.text = 500, text
	}
	if a.status != next {
		a.log.Info("deployment is in force", "version", next.version, "code", next.code, "trouble", next.text)
	}
	a.status = next
}

// situation is what a plan is made from. The caller holds a.mu.
func (a *Agent) situation() *Situation {
	s := &Situation{
		Now: time.Now(), Since: a.since, Want: a.want, Limits: a.limits, Sync: a.sync,
		Engines: make(map[string]Engine, len(a.engines)),
		Records: make(map[string]Record, len(a.records)),
	}
	s.Sync.Gone = slices.Clone(a.sync.Gone)
	for kind, e := range a.engines {
		s.Engines[kind] = e.seen
		for _, state := range e.states {
			s.Have = append(s.Have, Instance{kind, state})
		}
	}
	for name, r := range a.records {
		s.Records[name] = r.Record
	}
	return s
}

// record finds or makes the record of a module. The caller holds a.mu.
func (a *Agent) record(name string) *record {
	r := a.records[name]
	if r == nil {
		r = new(record)
		a.records[name] = r
	}
	return r
}

// shutDown stops the modules and tells so.
func (a *Agent) shutDown(ctx context.Context, talk *talker) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.StopWithin)
	defer cancel()
	a.mu.Lock()
	a.stopped = true
	a.status.code, a.status.text = codeUnknown, "the agent is not running"
	for _, r := range a.records {
		r.answer(errStopping)
	}
	a.mu.Unlock()
	if err := talk.report(ctx); err != nil {
		a.log.Warn("the end of the agent is not reported", "err", err)
	}
	if !a.cfg.KeepModules {
		a.stopAll(ctx)
	}
}

var errStopping = fault.New(fault.Unavailable, "the edge is stopping")

// stopAll stops what runs, in the reverse of the start order.
func (a *Agent) stopAll(ctx context.Context) {
	for _, e := range a.engines {
		if err := e.refresh(ctx); err != nil {
			a.log.Warn("engine does not say what runs", "type", e.kind, "err", err)
		}
	}
	a.mu.Lock()
	groups := stopOrder(a.situation())
	for _, group := range groups {
		for _, i := range group {
			a.record(i.Name).Halted = true
		}
	}
	a.mu.Unlock()
	if len(groups) > 0 {
		a.save(ctx)
	}
	for _, group := range groups {
		var ends sync.WaitGroup
		for _, i := range group {
			ends.Go(func() {
				if err := a.engines[i.Type].driver.Stop(ctx, i.Name); err != nil {
					a.log.Warn("module could not be stopped, it runs on", "module", i.Name, "err", err)
				}
			})
		}
		ends.Wait()
	}
}

// signal leaves a sign in a channel of capacity one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// backOff is a pause that doubles with each attempt, from first up to most.
func backOff(first, most time.Duration, attempts int) time.Duration {
	d := first
	for range attempts {
		if d >= most {
			break
		}
		d *= 2
	}
	return min(d, most)
}

// sleep waits; it is false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// stoppedBy says whether an error is only that of ctx having ended.
func stoppedBy(ctx context.Context, err error) bool {
	return ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx)))
}
