package agent

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/selvedge-io/selvedge/edge/runtime"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/manifest"
)

// ModuleState is how one module is, for people on the device.
type ModuleState struct {
	Name     string    `json:"name"`
	Status   string    `json:"status"`
	Detail   string    `json:"statusDescription"`
	Restarts int       `json:"restartCount"`
	Started  time.Time `json:"lastStartTimeUtc"`
	Source   string    `json:"source"` // what runs: an image, a command or a builtin
}

// Modules lists the modules of the deployment by name, after the two system modules.
func (a *Agent) Modules() []ModuleState {
	v := a.view()
	var all []ModuleState
	for _, name := range []string{manifest.AgentName, manifest.HubName} {
		all = append(all, ModuleState{Name: name, Status: isRunning, Detail: up(v.Now.Sub(v.Since)),
			Started: v.Since, Source: "part of selvedge " + v.version})
	}
	if v.Want == nil {
		return all
	}
	for _, m := range v.Want.Modules {
		status, text := v.health(m)
		s := ModuleState{Name: m.Name, Status: status, Detail: text, Restarts: v.Records[m.Name].Restarts, Source: source(&m)}
		if i, _ := v.find(m); i != nil {
			s.Started = i.Started
			s.Detail = detail(status, text, i, v.Now)
		}
		all = append(all, s)
	}
	return all
}

// detail is the original's text for people where it has one (edge-runtime 6.1).
func detail(status, text string, i *Instance, now time.Time) string {
	switch {
	case status == isRunning && text == isRunning:
		return up(now.Sub(i.Started))
	case status == isStopped && !i.Exited.IsZero():
		return "Stopped " + span(now.Sub(i.Exited)) + " ago"
	case status == isFailed && i.ExitCode > 0:
		return fmt.Sprintf("Failed (%d) %s ago: %s", i.ExitCode, span(now.Sub(i.Exited)), text)
	}
	return text
}

func up(d time.Duration) string { return "Up " + span(d) }

// span is a duration in its largest unit.
func span(d time.Duration) string {
	for _, u := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		switch n := d / u.size; {
		case n == 1:
			return "1 " + u.name
		case n > 1:
			return fmt.Sprintf("%d %ss", n, u.name)
		}
	}
	return "less than a second"
}

// Restart stops a module and starts it again, and says how that went.
func (a *Agent) Restart(ctx context.Context, module string) error {
	done, err := a.kick(module)
	if err != nil {
		return err
	}
	signal(a.again)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fault.Wrap(context.Cause(ctx), fault.GenericTimeout, "module %s was not restarted in time", module)
	}
}

// maxWaiters is how many may wait for the restart of one module.
const maxWaiters = 64

// kick asks for a restart.
func (a *Agent) kick(module string) (done <-chan error, err error) {
	if isSystem(module) {
		return nil, fault.New(fault.InvalidOperation, "%s is part of the edge itself; restart the edge instead", module)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	m, err := a.wanted(module)
	if err != nil {
		return nil, err
	}
	r := a.record(module)
	_, known := a.engines[m.Type]
	switch {
	case a.stopped:
		return nil, errStopping
	case m.Status == manifest.Stopped:
		return nil, fault.New(fault.InvalidOperation, "the deployment says that module %s is stopped; set its status to running there", module)
	case !known:
		return nil, fault.New(fault.InvalidOperation, "this gateway has no engine for modules of type %s", m.Type)
	case r.Generation == "":
		return nil, fault.New(fault.Unavailable, "module %s has no identity yet", module)
	}
	if len(r.waiters) == maxWaiters {
		return nil, fault.New(fault.TooManyInflight, "a restart of module %s is under way, and many wait for it", module)
	}
	w := make(chan error, 1)
	r.waiters, r.Kick = append(r.waiters, w), true
	return w, nil
}

// wanted finds a module of the deployment. The caller holds a.mu.
func (a *Agent) wanted(module string) (*manifest.Module, error) {
	if a.want != nil {
		if m := a.want.Module(module); m != nil {
			return m, nil
		}
	}
	return nil, fault.New(fault.ModuleNotFound, "there is no module %q in the deployment of this device", module)
}

func isSystem(module string) bool {
	return module == manifest.AgentName || module == manifest.HubName || module == ident.EdgeAgent || module == ident.EdgeHub
}

// Logs reads what a module wrote. The reader is the caller's to close; what it follows
// ends with ctx.
func (a *Agent) Logs(ctx context.Context, module string, q runtime.LogQuery) (io.ReadCloser, error) {
	if isSystem(module) {
		return nil, fault.New(fault.InvalidOperation, "%s is part of the edge itself; it writes to the edge's own log", module)
	}
	a.mu.Lock()
	m, err := a.wanted(module)
	var e *engine
	if err == nil {
		e = a.engines[m.Type]
	}
	a.mu.Unlock()
	switch {
	case err != nil:
		return nil, err
	case e == nil:
		return nil, fault.New(fault.InvalidOperation, "this gateway has no engine for modules of type %s", m.Type)
	}
	return e.driver.Logs(ctx, module, q)
}
