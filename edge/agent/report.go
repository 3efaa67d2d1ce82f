package agent

import (
	"encoding/json"
	goruntime "runtime"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/manifest"
	"github.com/selvedge-io/selvedge/model/twin"
)

// schemaVersion of the reported properties (edge-runtime 1.11).
const schemaVersion = "1.0"

// codeUnknown is the code of lastDesiredStatus while the agent starts or does not run.
const codeUnknown = 406

// masked stands for a password in the reported properties. The original shows them.
const masked = "***"

// object is a JSON object under construction.
type object = map[string]any

// view is all that the reported properties tell about.
type view struct {
	*Situation
	deployed
	problem         error
	stopped         bool // the agent does not run any more
	version, commit string
}

// view is the view now.
func (a *Agent) view() view {
	a.mu.Lock()
	defer a.mu.Unlock()
	return view{a.situation(), a.status, a.problem, a.stopped, a.cfg.Version, a.cfg.Commit}
}

// reported is the whole of the reported properties, without nulls (edge-runtime 1.11).
func reported(v view) (*twin.Object, error) {
	code, text := v.code, v.text
	if v.problem != nil && !v.stopped {
		code, text = manifest.Code(v.problem), short(fault.TextOf(v.problem))
	}
	doc := object{
		"schemaVersion":     schemaVersion,
		"version":           object{"version": v.version, "build": "", "commit": v.commit},
		"lastDesiredStatus": object{"code": code, "description": text},
		"runtime":           v.runtime(),
		"systemModules":     v.systemModules(),
		"modules":           v.modules(),
	}
	if v.deployed.version > 0 {
		doc["lastDesiredVersion"] = v.deployed.version
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	o, err := twin.Parse(raw)
	return twin.Merge(nil, o), err // which leaves nulls out
}

func (v view) runtime() object {
	r := object{"platform": object{"os": goruntime.GOOS, "architecture": architecture(), "version": v.version}}
	if v.Want != nil {
		r["type"] = v.Want.Runtime.Type
		r["settings"] = maskPasswords(v.Want.Runtime.Settings)
	}
	return r
}

// architecture is the name that the original has for ours.
func architecture() string {
	names := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "arm": "armv7l", "386": "i686"}
	if name, ok := names[goruntime.GOARCH]; ok {
		return name
	}
	return goruntime.GOARCH
}

func maskPasswords(settings *twin.Object) *twin.Object {
	registries := settings.Child("registryCredentials")
	for name, v := range registries.All() {
		if credentials, ok := v.Object(); ok {
			registries = registries.With(name, twin.Of(credentials.With("password", twin.String(masked))))
		}
	}
	if registries.Len() > 0 {
		settings = settings.With("registryCredentials", twin.Of(registries))
	}
	return twin.Merge(nil, settings)
}

// systemModules are the agent and the broker. No image is run for them; they run when
// this is told.
func (v view) systemModules() object {
	agent, hub := object{"startupOrder": 0}, object{
		"status": manifest.Running, "restartPolicy": manifest.Always,
		"restartCount": 0, "lastRestartTimeUtc": utc(time.Time{}),
	}
	var wanted [2]*manifest.Module
	if v.Want != nil {
		wanted = [2]*manifest.Module{v.Want.Agent, v.Want.Hub}
	}
	for i, entry := range []object{agent, hub} {
		entry["type"], entry["imagePullPolicy"] = manifest.Docker, manifest.PullOnCreate
		entry["settings"], entry["env"] = object{}, object{}
		if m := wanted[i]; m != nil {
			entry["type"], entry["imagePullPolicy"] = m.Type, m.PullPolicy
			entry["settings"], entry["env"] = m.Settings, variables(m.Env)
		}
		entry["runtimeStatus"], entry["statusDescription"] = v.unlessStopped(isRunning, isRunning)
		entry["exitCode"] = 0
		entry["lastStartTimeUtc"], entry["lastExitTimeUtc"] = utc(v.Since), utc(time.Time{})
	}
	if m := wanted[1]; m != nil {
		hub["status"], hub["restartPolicy"] = m.Status, m.RestartPolicy
		if m.StartupOrder != manifest.DefaultOrder {
			hub["startupOrder"] = m.StartupOrder
		}
	}
	return object{manifest.AgentName: agent, manifest.HubName: hub}
}

func (v view) unlessStopped(status, text string) (string, string) {
	if v.stopped {
		return isUnknown, "the agent is not running"
	}
	return status, text
}

func (v view) modules() object {
	all := object{}
	if v.Want == nil {
		return all
	}
	for _, m := range v.Want.Modules {
		all[m.Name] = v.module(m)
	}
	return all
}

func (v view) module(m manifest.Module) object {
	status, text := v.unlessStopped(v.health(m))
	r := v.Records[m.Name]
	entry := object{
		"type": m.Type, "version": m.Version, "status": m.Status, "restartPolicy": m.RestartPolicy,
		"imagePullPolicy": m.PullPolicy, "settings": m.Settings, "env": variables(m.Env),
		"runtimeStatus": status, "statusDescription": short(text), "exitCode": 0,
		"lastStartTimeUtc": utc(time.Time{}), "lastExitTimeUtc": utc(time.Time{}),
		"restartCount": r.Restarts, "lastRestartTimeUtc": utc(r.LastRestart),
	}
	if m.StartupOrder != manifest.DefaultOrder {
		entry["startupOrder"] = m.StartupOrder
	}
	if i, _ := v.find(m); i != nil {
		entry["lastStartTimeUtc"], entry["lastExitTimeUtc"] = utc(i.Started), utc(i.Exited)
		if !i.Running {
			entry["exitCode"] = i.ExitCode
		}
	}
	return entry
}

func variables(env map[string]string) object {
	all := object{}
	for name, value := range env {
		all[name] = object{"value": value}
	}
	return all
}

// utc writes a time with up to seven digits of its second, as the original does. Times
// that never were have the year 1.
func utc(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.9999999Z") }

// minimal is what is reported when the whole cannot be: the text says why.
func minimal(v view, why error) *twin.Object {
	o := (*twin.Object)(nil).With("code", twin.Int(500)).
		With("description", twin.String(short("the state of the modules cannot be reported: "+fault.TextOf(why))))
	doc := (*twin.Object)(nil).With("schemaVersion", twin.String(schemaVersion)).With("lastDesiredStatus", twin.Of(o))
	if v.deployed.version > 0 {
		doc = doc.With("lastDesiredVersion", twin.Int(v.deployed.version))
	}
	return doc
}
