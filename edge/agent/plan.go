package agent

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/selvedge-io/selvedge/edge/runtime"
	"github.com/selvedge-io/selvedge/model/manifest"
)

// Situation is all that a plan is made from.
type Situation struct {
	Now     time.Time
	Since   time.Time            // when the agent started: what ended before, ended with the agent
	Want    *manifest.Deployment // nil: not known, so nothing is touched
	Have    []Instance
	Engines map[string]Engine // by type that can be run
	Records map[string]Record
	Sync    Sync
	Limits  Limits
}

// Engine is what runs modules of one type.
type Engine struct {
	Ready bool   // what there is of its modules is known
	Err   string // why it is not ready; empty when it was not asked yet
}

// Instance is a module that there is.
type Instance struct {
	Type string
	runtime.State
}

// Record is what the agent remembers of a module.
type Record struct {
	// These outlast the agent.
	Restarts    int       // since it last ran for long
	LastRestart time.Time // zero when there was none
	Generation  string    // of its identity; empty as long as it has none
	Halted      bool      // it was ended by us, so that its end says nothing about it

	Version  string    // that it is to have; empty until it is prepared
	Busy     Action    // the step under way, empty when there is none
	Attempts int       // of the next step that failed in a row
	Retry    time.Time // when that is tried again
	Err      string    // why it failed
	Kick     bool      // somebody asked for a restart
}

// Sync is how the identities of modules are brought up to date.
type Sync struct {
	Due      bool     // the wanted modules may have changed
	Gone     []string // modules of earlier deployments whose identities are to be deleted
	Busy     bool
	Attempts int // that failed in a row
	Retry    time.Time
}

// Action is what a step does.
type Action string

// The actions. None does harm when it is done again.
const (
	SyncIdentities Action = "sync-identities"
	Remove         Action = "remove"  // stop and forget a module
	Forget         Action = "forget"  // what is left of one that never ran
	Stop           Action = "stop"    // as the deployment says
	Prepare        Action = "prepare" // its socket and environment
	Start          Action = "start"
	Replace        Action = "replace" // start as it is to be now in place of how it was
	Restart        Action = "restart" // start again what ended by itself, which is counted
	Bounce         Action = "bounce"  // stop and start because somebody asked
	Reset          Action = "reset"   // forget its restarts
)

// Step is one thing to do.
type Step struct {
	Do     Action
	Module string
	Type   string // of the engine to do it with
	Why    string
}

// Work is what can be done in a situation.
type Work struct {
	Steps   []Step    // none depends on another: they may all be done at once
	Wake    time.Time // when there may be others if nothing else happens; zero is never
	Settled bool      // each step that the deployment needs was tried at least once
}

// Plan says what to do now to get from what there is to what is wanted. It decides
// everything and touches nothing. A module is started once all that come before it in
// the start order are settled: they run, or were tried in vain, and once what is to be
// removed or stopped is gone (edge-runtime 2.5).
func Plan(s *Situation) Work {
	p := planner{Situation: s, Work: Work{Settled: true}}
	if s.Want == nil {
		return p.Work
	}
	p.identities()
	p.removals()
	for _, group := range startOrder(s.Want.Modules) {
		for _, m := range group {
			if m.Status == manifest.Stopped {
				p.stop(m)
			}
		}
		waiting := false
		for _, m := range group {
			if m.Status != manifest.Stopped && p.start(m) {
				waiting = true
			}
		}
		p.hold = p.hold || waiting
	}
	p.Settled = p.Settled && !p.hold
	return p.Work
}

// planner makes one plan.
type planner struct {
	*Situation
	Work
	hold bool // something has to be over before a module may be started
}

func (p *planner) do(a Action, module, kind, why string, args ...any) {
	p.Steps = append(p.Steps, Step{a, module, kind, fmt.Sprintf(why, args...)})
}

// later says that there may be something to do at a time.
func (p *planner) later(at time.Time) {
	if p.Wake.IsZero() || at.Before(p.Wake) {
		p.Wake = at
	}
}

// startOrder groups modules by their start order; within a group they are by name.
func startOrder(modules []manifest.Module) [][]manifest.Module {
	sorted := slices.Clone(modules)
	slices.SortFunc(sorted, func(a, b manifest.Module) int {
		return cmp.Or(cmp.Compare(a.StartupOrder, b.StartupOrder), cmp.Compare(a.Name, b.Name))
	})
	var groups [][]manifest.Module
	for group := range chunk(sorted, func(a, b manifest.Module) bool { return a.StartupOrder == b.StartupOrder }) {
		groups = append(groups, group)
	}
	return groups
}

// chunk cuts a sorted slice where neighbours differ.
func chunk[T any](all []T, same func(a, b T) bool) func(yield func([]T) bool) {
	return func(yield func([]T) bool) {
		for len(all) > 0 {
			n := 1
			for n < len(all) && same(all[n-1], all[n]) {
				n++
			}
			if !yield(all[:n]) {
				return
			}
			all = all[n:]
		}
	}
}

func (p *planner) identities() {
	why := ""
	for _, m := range p.Want.Modules {
		if p.Records[m.Name].Generation == "" {
			why = m.Name + " has no identity yet"
			break
		}
	}
	switch {
	case len(p.Sync.Gone) > 0:
		why = fmt.Sprintf("%s is gone", p.Sync.Gone[0])
	case p.Sync.Due:
		why = "something changed"
	case why == "":
		return
	}
	switch {
	case p.Sync.Busy:
	case p.Sync.Retry.After(p.Now):
		p.later(p.Sync.Retry)
	default:
		p.do(SyncIdentities, "", "", "%s", why)
	}
}

// removals removes what is not wanted, or not with that type.
func (p *planner) removals() {
	present := make(map[string]bool)
	for _, i := range p.sorted() {
		present[i.Name] = true
		m := p.Want.Module(i.Name)
		switch {
		case m == nil:
			p.remove(Remove, i.Name, i.Type, "it is not deployed any more")
		case m.Type != i.Type:
			p.remove(Remove, i.Name, i.Type, "its type is %s now", m.Type)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Records)) {
		if !present[name] && p.Want.Module(name) == nil {
			p.remove(Forget, name, "", "it is not deployed any more")
		}
	}
}

// sorted is Have by name.
func (p *planner) sorted() []Instance {
	return slices.SortedFunc(slices.Values(p.Have), func(a, b Instance) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Type, b.Type))
	})
}

func (p *planner) remove(a Action, name, kind, why string, args ...any) {
	r := p.Records[name]
	switch {
	case r.Busy != "":
		p.hold = p.hold || r.Attempts == 0
	case r.Retry.After(p.Now):
		p.later(r.Retry)
	case kind != "" && !p.Engines[kind].Ready:
	default:
		p.do(a, name, kind, why, args...)
		p.hold = p.hold || r.Attempts == 0
	}
}

// find gives the instance of a module; stray says that there is one of another type.
func (s *Situation) find(m manifest.Module) (found *Instance, stray bool) {
	for i := range s.Have {
		if s.Have[i].Name != m.Name {
			continue
		}
		if s.Have[i].Type == m.Type {
			found = &s.Have[i]
		} else {
			stray = true
		}
	}
	return found, stray
}

func (p *planner) stop(m manifest.Module) {
	i, _ := p.find(m)
	r := p.Records[m.Name]
	switch {
	case r.Busy != "":
		p.hold = p.hold || r.Attempts == 0
	case i == nil || !i.Running || !p.Engines[m.Type].Ready:
	case r.Retry.After(p.Now):
		p.later(r.Retry)
	default:
		p.do(Stop, m.Name, m.Type, "its status is stopped")
		p.hold = p.hold || r.Attempts == 0
	}
}

// start plans for a module that is to run. It is true while the first attempt is not
// over, so that modules after it have to wait.
func (p *planner) start(m manifest.Module) (waiting bool) {
	r := p.Records[m.Name]
	i, stray := p.find(m)
	engine, known := p.Engines[m.Type]
	switch {
	case !known:
		return false // there is nothing to run it with
	case r.Busy != "":
		return r.Attempts == 0 && r.Busy != Restart && r.Busy != Bounce && r.Busy != Reset
	case !engine.Ready:
		return engine.Err == ""
	case stray:
		return r.Attempts == 0
	case r.Retry.After(p.Now) && !r.Kick:
		p.later(r.Retry)
		return false
	case r.Generation == "":
		return p.Sync.Attempts == 0
	case r.Version == "":
		p.do(Prepare, m.Name, m.Type, "the deployment is new")
		return r.Attempts == 0
	case i == nil || i.Version != r.Version:
		if !p.hold && i == nil {
			p.do(Start, m.Name, m.Type, "it is new")
		} else if !p.hold {
			p.do(Replace, m.Name, m.Type, "it changed")
		}
		return r.Attempts == 0
	case r.Kick:
		p.do(Bounce, m.Name, m.Type, "somebody asked")
		return false
	case i.Running:
		p.reset(m, r, i)
		return false
	}
	return p.ended(m, r, i)
}

// reset forgets the restarts of a module that has run for long.
func (p *planner) reset(m manifest.Module, r Record, i *Instance) {
	if r.Restarts == 0 {
		return
	}
	if well := i.Started.Add(p.Limits.Care); well.After(p.Now) {
		p.later(well)
		return
	}
	p.do(Reset, m.Name, m.Type, "it has run for %v", p.Limits.Care)
}

// ended plans for a module that ran and does not any more.
func (p *planner) ended(m manifest.Module, r Record, i *Instance) (waiting bool) {
	switch again, at := p.next(m, r, i); {
	case !again:
	case r.Halted || !i.Exited.After(p.Since):
		if !p.hold {
			p.do(Start, m.Name, m.Type, "it was stopped with the agent or by it")
		}
		return r.Attempts == 0
	case at.After(p.Now):
		p.later(at)
	default:
		p.do(Restart, m.Name, m.Type, "it ended with code %d", i.ExitCode)
	}
	return false
}

// next says whether a module that ended is started again, and when (edge-runtime 2.6).
// A module that ended well stays so under on-failure. Under on-unhealthy, which is the
// default, it is started again: one that does not run is not healthy.
func (s *Situation) next(m manifest.Module, r Record, i *Instance) (again bool, at time.Time) {
	if r.Halted {
		return true, s.Now
	}
	switch {
	case s.Limits.MaxRestarts > 0 && r.Restarts >= s.Limits.MaxRestarts,
		m.RestartPolicy == manifest.Never,
		m.RestartPolicy == manifest.OnFailure && i.ExitCode == 0:
		return false, time.Time{}
	case i.Exited.After(s.Now): // the clock was set back
		return true, s.Now
	}
	return true, i.Exited.Add(backOff(s.Limits.CoolOff, maxCoolOff, r.Restarts))
}

// stopOrder groups what runs for stopping: what is not wanted first, then the reverse of
// the start order.
func stopOrder(s *Situation) [][]Instance {
	order := func(i Instance) int64 {
		if s.Want != nil {
			if m := s.Want.Module(i.Name); m != nil {
				return int64(m.StartupOrder)
			}
		}
		return manifest.DefaultOrder + 1
	}
	running := slices.DeleteFunc(slices.Clone(s.Have), func(i Instance) bool { return !i.Running })
	slices.SortFunc(running, func(a, b Instance) int {
		return cmp.Or(cmp.Compare(order(b), order(a)), cmp.Compare(a.Name, b.Name))
	})
	var groups [][]Instance
	for group := range chunk(running, func(a, b Instance) bool { return order(a) == order(b) }) {
		groups = append(groups, group)
	}
	return groups
}
