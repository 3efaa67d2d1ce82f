package agent

import (
	"fmt"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/model/manifest"
)

// Words for the state of a module (edge-runtime 1.3).
const (
	isUnknown = "unknown"
	isBackoff = "backoff"
	isRunning = "running"
	isStopped = "stopped"
	isFailed  = "failed"
)

// health is the state of a module as it is reported, and what there is to say about
// it. The text changes only when the state does.
func (s *Situation) health(m manifest.Module) (status, text string) {
	i, _ := s.find(m)
	r := s.Records[m.Name]
	engine, known := s.Engines[m.Type]
	switch {
	case !known:
		return isFailed, fmt.Sprintf("this gateway has no engine for modules of type %s", m.Type)
	case !engine.Ready && engine.Err != "":
		return isUnknown, fmt.Sprintf("the engine for modules of type %s does not answer: %s", m.Type, engine.Err)
	case i != nil && i.Running && r.Err != "":
		return isRunning, "it runs as before: " + r.Err
	case i != nil && i.Running:
		return isRunning, isRunning
	case m.Status == manifest.Stopped:
		return isStopped, isStopped
	case r.Err != "":
		return isBackoff, r.Err + "; next attempt at " + clock(r.Retry)
	case r.Generation == "":
		return isUnknown, "it waits for its identity"
	case i == nil:
		return isUnknown, "it was not started yet"
	case r.Halted:
		return isStopped, isStopped
	}
	how := fmt.Sprintf("it ended with code %d", i.ExitCode)
	if i.ExitCode < 0 {
		how = "it ended"
	}
	switch again, at := s.next(m, r, i); {
	case again:
		return isBackoff, how + ", next start at " + clock(at)
	case s.Limits.MaxRestarts > 0 && r.Restarts >= s.Limits.MaxRestarts:
		return isFailed, fmt.Sprintf("%s and is given up after %d restarts", how, r.Restarts)
	case i.ExitCode == 0:
		return isStopped, how
	default:
		return isFailed, how
	}
}

// troubles says what keeps the deployment from being wholly in force, empty when nothing
// does. A module that ends and is started again is none.
func troubles(s *Situation, identities error) string {
	var all []string
	homeless := false
	for _, m := range s.Want.Modules {
		r := s.Records[m.Name]
		engine, known := s.Engines[m.Type]
		switch {
		case m.Status == manifest.Stopped && r.Err == "":
		case !known, engine.Err != "":
			_, text := s.health(m)
			all = append(all, m.Name+": "+text)
		case r.Err != "":
			all = append(all, m.Name+": "+r.Err)
		case r.Generation == "":
			homeless = true
		}
	}
	for _, i := range s.Have {
		if r := s.Records[i.Name]; r.Err != "" && s.Want.Module(i.Name) == nil {
			all = append(all, i.Name+": "+r.Err)
		}
	}
	if homeless && identities != nil {
		all = append(all, "identities of modules: "+identities.Error())
	}
	return short(strings.Join(all, "; "))
}

// short keeps a text small enough for a twin.
func short(s string) string {
	const most = 1000
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + " …"
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// source is what a module runs, for people: an image or a command.
func source(m *manifest.Module) string {
	if m.Image != "" {
		return m.Image
	}
	var s struct {
		Command, Builtin string
		Args             []string
	}
	if err := decode(m.Settings, &s); err != nil {
		return m.Type
	}
	if s.Builtin != "" {
		return "builtin " + s.Builtin
	}
	return strings.Join(append([]string{s.Command}, s.Args...), " ")
}
