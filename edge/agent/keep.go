package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/manifest"
	"github.com/selvedge-io/selvedge/model/twin"
)

// Keys in the store.
const (
	keyDeployment = "agent/deployment" // the last good desired properties, sealed
	keyRecords    = "agent/records"
)

// kept is what outlasts the agent of a Record.
type kept struct {
	Restarts    int       `json:"restarts,omitempty"`
	LastRestart time.Time `json:"lastRestart,omitzero"`
	Generation  string    `json:"generation,omitempty"`
	Halted      bool      `json:"halted,omitempty"`
}

func (r *Record) kept() kept { return kept{r.Restarts, r.LastRestart, r.Generation, r.Halted} }

type keptRecords struct {
	Modules map[string]kept `json:"modules"`
	Gone    []string        `json:"gone,omitempty"`
}

// load takes up what the store remembers. What it cannot read is as good as not there:
// the twin brings it again.
func (a *Agent) load() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if raw, ok := a.cfg.Store.Get(keyRecords); ok {
		var all keptRecords
		if err := json.Unmarshal(raw, &all); err != nil {
			a.log.Error("records of modules cannot be read and are lost", "err", err)
		}
		for name, k := range all.Modules {
			a.record(name).Record = Record{Restarts: k.Restarts, LastRestart: k.LastRestart, Generation: k.Generation, Halted: k.Halted}
		}
		a.sync.Gone = all.Gone
	}
	raw, ok := a.cfg.Store.Get(keyDeployment)
	if !ok {
		return
	}
	desired, d, err := a.open(raw)
	if err != nil {
		a.log.Error("the kept deployment cannot be read; modules wait for the twin", "err", err)
		return
	}
	a.log.Info("modules run as last deployed", "version", d.Version, "modules", len(d.Modules))
	a.desired = desired
	a.adopt(d)
}

func (a *Agent) open(raw []byte) (desired *twin.Object, d *manifest.Deployment, err error) {
	if a.cfg.Seal != nil {
		if raw, err = a.cfg.Seal.Open(raw); err != nil {
			return nil, nil, err
		}
	}
	if desired, err = twin.Parse(raw); err != nil {
		return nil, nil, err
	}
	d, err = manifest.Parse(raw)
	return desired, d, err
}

// keepDeployment makes the desired properties what the next start begins with.
func (a *Agent) keepDeployment(ctx context.Context, desired *twin.Object) error {
	raw := desired.AppendJSON(nil)
	if a.cfg.Seal != nil {
		var err error
		if raw, err = a.cfg.Seal.Seal(raw); err != nil {
			return fmt.Errorf("seal deployment: %w", err)
		}
	}
	if err := a.cfg.Store.Put(ctx, keyDeployment, raw); err != nil {
		return fmt.Errorf("keep deployment: %w", err)
	}
	return nil
}

// save writes the records. Modules are looked after even when that fails.
func (a *Agent) save(ctx context.Context) {
	a.saving.Lock()
	defer a.saving.Unlock()
	a.mu.Lock()
	all := keptRecords{Modules: make(map[string]kept, len(a.records)), Gone: a.sync.Gone}
	for name, r := range a.records {
		all.Modules[name] = r.kept()
	}
	raw, err := json.Marshal(all)
	a.mu.Unlock()
	if err == nil {
		err = a.cfg.Store.Put(context.WithoutCancel(ctx), keyRecords, raw)
	}
	if err != nil {
		a.log.Error("records of modules are not kept", "err", err)
	}
}

// takeDesired puts the desired properties of the twin into force if they are good. It
// is false when they are the same as before.
func (a *Agent) takeDesired(ctx context.Context, desired *twin.Object) bool {
	a.mu.Lock()
	old := a.desired
	a.mu.Unlock()
	if old != nil && twin.Equal(old, desired) {
		return false
	}
	d, err := manifest.Parse(desired.AppendJSON(nil))
	if err == nil {
		if err := a.keepDeployment(ctx, desired); err != nil {
			a.log.Error("the new deployment will not outlast a restart", "err", err)
		}
	}
	a.mu.Lock()
	a.desired, a.problem = desired, err
	switch {
	case err == nil:
		a.log.Info("deployment arrived", "version", d.Version, "modules", len(d.Modules))
		a.adopt(d)
	case errors.Is(err, manifest.ErrEmpty) && a.want == nil:
		a.log.Info("there is no deployment for this device yet")
	default:
		a.log.Error("deployment is refused, the one before stays in force", "code", manifest.Code(err), "err", fault.TextOf(err))
	}
	a.mu.Unlock()
	if err == nil {
		a.save(ctx)
	}
	signal(a.again)
	signal(a.tell)
	return true
}

// adopt puts a deployment into force. The caller holds a.mu.
func (a *Agent) adopt(d *manifest.Deployment) {
	for _, name := range slices.Sorted(maps.Keys(a.records)) {
		wanted := a.want == nil || a.want.Module(name) != nil
		if wanted && d.Module(name) == nil && !slices.Contains(a.sync.Gone, name) {
			a.sync.Gone = append(a.sync.Gone, name)
		}
	}
	a.sync.Gone = slices.DeleteFunc(a.sync.Gone, func(name string) bool { return d.Module(name) != nil })
	a.want = d
	a.epoch++
	for _, m := range d.Modules {
		a.record(m.Name)
	}
	for name, r := range a.records {
		r.Version, r.Attempts, r.Retry, r.Err = "", 0, time.Time{}, ""
		if m := d.Module(name); m == nil || m.Status == manifest.Stopped {
			r.answer(fault.New(fault.InvalidOperation, "module %s is not to run any more", name))
		}
	}
	a.sync.Due, a.sync.Attempts, a.sync.Retry = true, 0, time.Time{}
	a.syncErr = nil
	var wrong []string
	a.limits, wrong = limitsOf(a.agentSettings())
	for _, w := range wrong {
		a.log.Warn("setting of the agent is ignored", "err", w)
	}
}
