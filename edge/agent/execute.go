package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/selvedge-io/selvedge/edge/runtime"
	"github.com/selvedge-io/selvedge/model/manifest"
)

// record is a Record and what belongs to it but to no plan.
type record struct {
	Record
	module  runtime.Module // prepared: what to run
	waiters []chan error   // who asked for a restart
}

// answer tells those who asked for a restart how it went.
func (r *record) answer(err error) {
	for _, w := range r.waiters {
		w <- err // has room
	}
	r.waiters, r.Kick = nil, false
}

// Pauses before a step that failed is tried again.
const (
	firstRetry = 10 * time.Second
	lastRetry  = 5 * time.Minute
)

// take begins a step. The caller holds a.mu.
func (a *Agent) take(ctx context.Context, step Step) {
	a.log.Debug("step", "do", step.Do, "module", step.Module, "why", step.Why)
	if step.Do == SyncIdentities {
		a.takeSync(ctx)
		return
	}
	r := a.record(step.Module)
	r.Busy = step.Do
	j := job{Step: step, epoch: a.epoch, module: r.module, generation: r.Generation}
	if step.Do == Prepare {
		j.definition = *a.want.Module(step.Module)
		j.settings = a.agentSettings()
	}
	a.steps.Go(func() {
		err := a.execute(ctx, &j)
		if e := a.engines[step.Type]; e != nil && step.Do != Prepare && step.Do != Reset {
			// So that no plan is made from what there was before the step.
			if err := e.refresh(ctx); err != nil && !stoppedBy(ctx, err) {
				a.log.Warn("engine does not say what runs", "type", e.kind, "err", err)
			}
		}
		a.finish(ctx, &j, err)
	})
}

// job is a step under way with what it needs, as it was when it began.
type job struct {
	Step
	epoch      int
	module     runtime.Module
	generation string
	definition manifest.Module
	settings   map[string]string
}

// agentSettings are the settings in force. The caller holds a.mu.
func (a *Agent) agentSettings() map[string]string {
	if a.want == nil || a.want.Agent == nil {
		return settings(a.cfg.Env, nil)
	}
	return settings(a.cfg.Env, a.want.Agent.Env)
}

// execute does what a step says.
func (a *Agent) execute(ctx context.Context, j *job) error {
	var driver Driver
	if e := a.engines[j.Type]; e != nil {
		driver = e.driver
	}
	switch j.Do {
	case Prepare:
		uri, err := a.cfg.Sockets.Ensure(ctx, j.Module, j.generation)
		if err != nil {
			return fmt.Errorf("open the workload socket of module %s: %w", j.Module, err)
		}
		j.module, err = compose(&j.definition, environment(a.cfg.Host, j.settings, &j.definition, j.generation, uri))
		return err
	case Forget:
		a.cfg.Sockets.Drop(j.Module)
		return nil
	case Remove:
		return driver.Remove(ctx, j.Module)
	case Stop:
		a.halted(ctx, j.Module)
		return driver.Stop(ctx, j.Module)
	case Start, Restart:
		return driver.Start(ctx, j.module)
	case Replace:
		a.halted(ctx, j.Module)
		return driver.Start(ctx, j.module)
	case Bounce:
		a.halted(ctx, j.Module)
		if err := driver.Stop(ctx, j.Module); err != nil {
			return err
		}
		return driver.Start(ctx, j.module)
	case Reset:
		return nil
	}
	return fmt.Errorf("no such step: %s", j.Do)
}

// halted notes, before it happens, that a module ends because we want it to.
func (a *Agent) halted(ctx context.Context, module string) {
	a.mu.Lock()
	a.record(module).Halted = true
	a.mu.Unlock()
	a.save(ctx)
}

// finish notes how a step went.
func (a *Agent) finish(ctx context.Context, j *job, err error) {
	a.mu.Lock()
	r := a.record(j.Module)
	before := r.kept()
	r.Busy = ""
	switch {
	case stoppedBy(ctx, err):
	case err != nil:
		a.failed(r, j, err)
	default:
		a.done(r, j)
	}
	if a.have(j.Module, true) {
		r.Halted = false // it was not, or is not any more
	}
	changed := a.records[j.Module] != r || r.kept() != before
	a.mu.Unlock()
	if changed {
		a.save(ctx)
	}
	signal(a.again)
}

// failed notes that a step went wrong. What an older deployment wanted counts no more.
func (a *Agent) failed(r *record, j *job, err error) {
	r.answer(err)
	if j.epoch != a.epoch {
		return
	}
	r.Retry = time.Now().Add(backOff(firstRetry, lastRetry, r.Attempts))
	r.Attempts++
	r.Err = err.Error()
	a.log.Warn("step failed", "do", j.Do, "module", j.Module, "attempt", r.Attempts, "again", r.Retry.UTC().Truncate(time.Second), "err", err)
}

func (a *Agent) done(r *record, j *job) {
	r.Attempts, r.Retry, r.Err = 0, time.Time{}, ""
	switch j.Do {
	case Prepare:
		if j.epoch == a.epoch && j.generation == r.Generation {
			r.module, r.Version = j.module, j.module.Version
		}
		return
	case Remove, Forget:
		if a.want.Module(j.Module) == nil && !a.have(j.Module, false) {
			if j.Do == Remove {
				a.cfg.Sockets.Drop(j.Module)
			}
			delete(a.records, j.Module)
		}
	case Restart:
		r.Restarts++
		r.LastRestart = time.Now()
	case Replace, Reset:
		r.Restarts, r.LastRestart = 0, time.Time{}
	}
	if j.Do == Start || j.Do == Restart || j.Do == Replace || j.Do == Bounce {
		r.Halted = false
		r.answer(nil)
	}
	if j.Do != Reset {
		a.log.Info("module "+past[j.Do], "module", j.Module, "why", j.Why)
	}
}

var past = map[Action]string{
	Remove: "removed", Forget: "forgotten", Stop: "stopped", Start: "started", Replace: "replaced",
	Restart: "restarted", Bounce: "restarted",
}

// have says whether any engine has a module, one that runs if need be. The caller holds
// a.mu.
func (a *Agent) have(module string, running bool) bool {
	for _, e := range a.engines {
		if slices.ContainsFunc(e.states, func(s runtime.State) bool { return s.Name == module && (s.Running || !running) }) {
			return true
		}
	}
	return false
}

// syncSoon has identities brought up to date once more.
func (a *Agent) syncSoon() {
	a.mu.Lock()
	a.sync.Due, a.sync.Retry = true, time.Time{}
	a.mu.Unlock()
	signal(a.again)
}

// takeSync begins to bring identities up to date. The caller holds a.mu.
func (a *Agent) takeSync(ctx context.Context) {
	a.sync.Busy, a.sync.Due = true, false
	epoch, gone := a.epoch, slices.Clone(a.sync.Gone)
	want := make([]string, len(a.want.Modules))
	for i, m := range a.want.Modules {
		want[i] = m.Name
	}
	a.steps.Go(func() {
		within, cancel := context.WithTimeout(ctx, syncWithin)
		defer cancel()
		generations, err := a.cfg.Identities.Sync(within, want, gone)
		for _, name := range want {
			if err == nil && generations[name] == "" {
				err = fmt.Errorf("there is no identity for module %s", name)
			}
		}
		a.finishSync(ctx, epoch, generations, gone, err)
	})
}

// finishSync notes how that went.
func (a *Agent) finishSync(ctx context.Context, epoch int, generations map[string]string, gone []string, err error) {
	a.mu.Lock()
	a.sync.Busy = false
	changed := false
	for name, generation := range generations {
		if r := a.records[name]; r != nil && generation != "" && r.Generation != generation {
			r.Generation, r.Version = generation, ""
			changed = true
		}
	}
	switch {
	case stoppedBy(ctx, err):
		a.sync.Due = true
	case err != nil:
		a.sync.Due = true
		if epoch == a.epoch {
			a.sync.Retry = time.Now().Add(backOff(firstRetry, lastRetry, a.sync.Attempts))
			a.sync.Attempts++
			a.syncErr = err
		}
		a.log.Warn("identities of modules are not up to date", "err", err)
	default:
		a.sync.Attempts, a.sync.Retry, a.syncErr = 0, time.Time{}, nil
		changed = changed || len(gone) > 0
		a.sync.Gone = slices.DeleteFunc(a.sync.Gone, func(name string) bool { return slices.Contains(gone, name) })
	}
	a.mu.Unlock()
	if changed {
		a.save(ctx)
	}
	signal(a.again)
}
