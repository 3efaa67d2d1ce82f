package agent

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/edge/runtime"
	"github.com/selvedge-io/selvedge/model/manifest"
)

var update = flag.Bool("update", false, "write the plans that come out to testdata/plan.txt")

// noon is the time of every plan; the agent started an hour before.
var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// TestPlan holds Plan to testdata/plan.txt. Each case is a title, lines that describe the
// situation, and the plan in lines that begin with ">". Times are relative to now.
func TestPlan(t *testing.T) {
	const file = "testdata/plan.txt"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cases := strings.Split(strings.TrimSpace(string(text)), "\n\n")
	var out []string
	for _, c := range cases {
		title, _, _ := strings.Cut(c, "\n")
		var said []string
		s := newSituation()
		for _, line := range strings.Split(c, "\n") {
			switch {
			case strings.HasPrefix(line, ">"):
				continue
			case !strings.HasPrefix(line, "#"):
				if err := s.read(line); err != nil {
					t.Fatalf("%s: %q: %v", title, line, err)
				}
			}
			said = append(said, line)
		}
		got := strings.Join(append(said, s.plan()...), "\n")
		if got != c && !*update {
			t.Errorf("got\n%s\n\nwant\n%s", got, c)
		}
		out = append(out, got)
		if again := strings.Join(append(said, s.plan()...), "\n"); again != got {
			t.Errorf("%s: the same situation gives another plan:\n%s", title, again)
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(strings.Join(out, "\n\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// scene is a Situation that is read from text.
type scene struct{ Situation }

func newSituation() *scene {
	return &scene{Situation{
		Now: noon, Since: noon.Add(-time.Hour), Limits: defaultLimits,
		Engines: map[string]Engine{"process": {Ready: true}}, Records: map[string]Record{},
	}}
}

// read takes one line:
//
//	want NAME [stopped] [never|on-failure|always] [type=T] [order=N]
//	have NAME VERSION running|exit=N [type=T] [started=-1m] [ended=-1m]
//	record NAME [version=V] [generation=G] [restarts=N] [busy=A] [attempts=N] [retry=10s] [halted] [kick]
//	known NAME…    are wanted, ready and run as they should
//	sync [due] [busy] [gone=A,B] [attempts=N] [retry=10s]
//	engine TYPE ready|asked|ERROR
//	limits [restarts=N] [since=-1m]
//	nothing known  there is no deployment
func (s *scene) read(line string) error {
	words := strings.Fields(line)
	verb, name, rest := words[0], "", words[1:]
	if verb != "sync" && verb != "limits" && verb != "known" {
		name, rest = words[1], words[2:]
	}
	if s.Want == nil && verb != "nothing" && verb != "have" {
		s.Want = &manifest.Deployment{Version: 7}
	}
	args := map[string]string{}
	for _, w := range rest {
		key, value, _ := strings.Cut(w, "=")
		args[key] = value
	}
	has := func(key string) bool { _, ok := args[key]; return ok }
	var bad error
	number := func(key string) int {
		n, err := strconv.Atoi(args[key])
		if has(key) && err != nil {
			bad = err
		}
		return n
	}
	moment := func(key string) (at time.Time) {
		if !has(key) {
			return at
		}
		d, err := time.ParseDuration(args[key])
		if err != nil {
			bad = err
		}
		return noon.Add(d)
	}
	switch verb {
	case "want":
		m := manifest.Module{Name: name, Type: manifest.Process, Status: manifest.Running, RestartPolicy: manifest.OnUnhealthy, StartupOrder: manifest.DefaultOrder}
		for _, p := range []manifest.RestartPolicy{manifest.Never, manifest.OnFailure, manifest.Always} {
			if has(string(p)) {
				m.RestartPolicy = p
			}
		}
		if has("stopped") {
			m.Status = manifest.Stopped
		}
		if has("type") {
			m.Type = args["type"]
		}
		if has("order") {
			m.StartupOrder = uint32(number("order"))
		}
		s.Want.Modules = append(s.Want.Modules, m)
		slices.SortFunc(s.Want.Modules, func(a, b manifest.Module) int { return strings.Compare(a.Name, b.Name) })
	case "have":
		i := Instance{manifest.Process, runtime.State{Name: name, Version: rest[0], Running: has("running"), ExitCode: number("exit"),
			Started: moment("started"), Exited: moment("ended")}}
		if has("type") {
			i.Type = args["type"]
		}
		s.Have = append(s.Have, i)
	case "record":
		s.Records[name] = Record{Version: args["version"], Generation: args["generation"], Restarts: number("restarts"),
			Busy: Action(args["busy"]), Attempts: number("attempts"), Retry: moment("retry"), Halted: has("halted"), Kick: has("kick")}
		if has("attempts") {
			r := s.Records[name]
			r.Err = "it did not work"
			s.Records[name] = r
		}
	case "known":
		for _, name := range rest {
			if err := s.read("want " + name); err != nil {
				return err
			}
			s.Have = append(s.Have, Instance{manifest.Process, runtime.State{Name: name, Version: "v1", Running: true, Started: noon.Add(-30 * time.Minute)}})
			s.Records[name] = Record{Version: "v1", Generation: "g"}
		}
	case "sync":
		s.Sync = Sync{Due: has("due"), Busy: has("busy"), Attempts: number("attempts"), Retry: moment("retry")}
		if has("gone") {
			s.Sync.Gone = strings.Split(args["gone"], ",")
		}
	case "engine":
		s.Engines[name] = map[string]Engine{"ready": {Ready: true}, "asked": {}, "down": {Err: "no answer"}}[rest[0]]
	case "limits":
		s.Limits.MaxRestarts = number("restarts")
		if has("since") {
			s.Since = moment("since")
		}
	case "nothing":
	default:
		bad = fmt.Errorf("unknown word %q", verb)
	}
	return bad
}

// plan is the plan as text, and what is reported of each module.
func (s *scene) plan() []string {
	p := Plan(&s.Situation)
	var out []string
	for _, step := range p.Steps {
		line := "> " + string(step.Do)
		if step.Module != "" {
			line += " " + step.Module
		}
		if step.Type != "" && step.Type != manifest.Process {
			line += " (" + step.Type + ")"
		}
		out = append(out, line+": "+step.Why)
	}
	if !p.Wake.IsZero() {
		out = append(out, "> wake in "+p.Wake.Sub(noon).String())
	}
	if !p.Settled {
		out = append(out, "> not settled")
	}
	if s.Want == nil {
		return out
	}
	for _, m := range s.Want.Modules {
		if status, text := s.health(m); status != isRunning || text != isRunning {
			out = append(out, fmt.Sprintf("> %s is %s: %s", m.Name, status, text))
		}
	}
	return out
}
