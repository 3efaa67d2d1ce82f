package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/test/rig"
)

// demo is the manifest of `make demo`.
func demo() string { return filepath.Join(rig.Root(), "deploy", "demo", "manifest.json") }

type listed struct {
	Name, Status, Source string
	Started              time.Time `json:"lastStartTimeUtc"`
}

// modules is what `edge list` shows, nil when it fails.
func modules(t *testing.T, e *rig.Edge) map[string]listed {
	t.Helper()
	a := e.Run(t, "list", "--output", "json")
	if a.Code != 0 {
		return nil
	}
	var all []listed
	if err := json.Unmarshal([]byte(a.Stdout), &all); err != nil {
		t.Fatalf("edge list printed %s: %v", a.Stdout, err)
	}
	by := map[string]listed{}
	for _, m := range all {
		by[m.Name] = m
	}
	return by
}

type edgeStatus struct {
	Version, Device, Hub string
	Link                 struct{ Up bool }
	Queue                struct{ Messages int64 }
	Modules              struct{ Deployed, Running int }
}

func status(t *testing.T, e *rig.Edge) (s edgeStatus) {
	t.Helper()
	out := e.Run(t, "status").Must(t)
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("edge status printed %s: %v", out, err)
	}
	return s
}

// TestEdgeRunsTheDemo: a real deployment, its telemetry at the hub, and the commands of
// the device.
func TestEdgeRunsTheDemo(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	h.Device(t, "gateway", "--edge")
	h.Must(t, "deployment", "set-modules", "gateway", demo())
	e := rig.StartEdge(t, h, rig.EdgeOptions{Device: "gateway"})
	events := h.Events(t, "--device", "gateway")
	select {
	case ev := <-events:
		if ev.Module != "filter" || !strings.Contains(string(ev.Body), "temperature") {
			t.Errorf("the first event is of %s: %s", ev.Module, ev.Body)
		}
	case <-time.After(rig.Patience):
		t.Fatal("no telemetry arrived")
	}

	ms := modules(t, e)
	for _, name := range []string{"edgeAgent", "edgeHub", "sensor", "filter"} {
		if ms[name].Status != "running" {
			t.Errorf("module %s is %+v", name, ms[name])
		}
	}
	if table := e.Run(t, "list").Must(t); !strings.Contains(table, "builtin sensor") {
		t.Errorf("edge list printed\n%s", table)
	}
	s := status(t, e)
	if s.Device != "gateway" || s.Hub != "localhost" || s.Version == "" || !s.Link.Up || s.Modules.Running != 2 {
		t.Errorf("edge status is %+v", s)
	}
	rig.Eventually(t, "the sensor has a log", func() bool {
		return strings.Contains(e.Run(t, "logs", "sensor", "--tail", "5").Must(t), "connected")
	})
	e.Run(t, "logs", "nobody").Refused(t, 1, "nobody")
	e.Run(t, "restart", "nobody").Refused(t, 1, "nobody")
	e.Run(t, "restart", "sensor").Must(t)
	if again := modules(t, e)["sensor"]; !again.Started.After(ms["sensor"].Started) {
		t.Errorf("the sensor restarted, but started at %v and then at %v", ms["sensor"].Started, again.Started)
	}
	h.Must(t, "method", "invoke", "gateway", "ping", "-m", "$edgeAgent")

	// A new deployment while it runs.
	h.Deploy(t, "gateway", `{"other":{"type":"process","status":"running","restartPolicy":"always","settings":{"builtin":"filter"}}}`, `{}`)
	rig.Eventually(t, "the new deployment is in force", func() bool {
		ms := modules(t, e)
		return len(ms) == 3 && ms["other"].Status == "running"
	})

	e.Terminate(t)
	if e.Code() != 0 {
		t.Errorf("the edge stopped with code %d", e.Code())
	}
	e.Run(t, "list").Refused(t, 1, "no edge is running")
	if left := workingBelow(t, e.Dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// workingBelow finds processes whose working directory is below dir.
func workingBelow(t *testing.T, dir string) (found []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range all {
		if cwd, err := os.Readlink(link); err == nil && strings.HasPrefix(cwd, dir) {
			found = append(found, link)
		}
	}
	return found
}

// TestEdgeIsKilledOffline: modules run on while the edge is dead, and the next one
// finds them; what was kept goes to the hub when that is back.
func TestEdgeIsKilledOffline(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	h.Device(t, "gateway", "--edge")
	h.Must(t, "deployment", "set-modules", "gateway", demo())
	e := rig.StartEdge(t, h, rig.EdgeOptions{Device: "gateway"})
	rig.Eventually(t, "modules run", func() bool { return status(t, e).Modules.Running == 2 })
	before := modules(t, e)

	h.Terminate(t)
	rig.Eventually(t, "messages are kept", func() bool { s := status(t, e); return !s.Link.Up && s.Queue.Messages > 0 })
	e.Kill(t)
	if left := workingBelow(t, e.Dir); len(left) != 2 {
		t.Errorf("%d modules run without the edge, want 2", len(left))
	}
	e.Start(t)
	kept := status(t, e).Queue.Messages
	if kept == 0 {
		t.Error("the kept messages are gone")
	}
	rig.Eventually(t, "the modules are found again", func() bool { return status(t, e).Modules.Running == 2 })
	for name, m := range modules(t, e) {
		if old := before[name]; (name == "sensor" || name == "filter") && !m.Started.Equal(old.Started) {
			t.Errorf("module %s was started again: at %v and %v", name, old.Started, m.Started)
		}
	}
	h.Start(t)
	rig.Eventually(t, "the queue is empty", func() bool { s := status(t, e); return s.Link.Up && s.Queue.Messages < kept })
}

// TestEdgeConfigurationIsWrong: one line that says what to do.
func TestEdgeConfigurationIsWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "edge.toml")
	for text, want := range map[string]string{
		"hostnam = \"a\"\n":                   "did you mean hostname?",
		"[provisioning]\nsource = \"dps\"\n":  "not supported yet",
		"[provisioning]\nsource = \"manual\"": "set connection_string",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, program := range []string{rig.Selvedge(), rig.SelvedgeEdge()} {
			a := rig.RunProgram(t, program, nil, "", "edge", "run", "--config", file, "--data", t.TempDir())
			if a.Code != 1 || !strings.Contains(a.Stderr, want) || strings.Count(strings.TrimSpace(a.Stderr), "\n") != 0 {
				t.Errorf("%q: code %d, %s", text, a.Code, a.Stderr)
			}
		}
	}
}

// TestSmallEdgeProgram: selvedge-edge does all of it alone, within its budget.
func TestSmallEdgeProgram(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	h.Device(t, "gateway", "--edge")
	h.Must(t, "deployment", "set-modules", "gateway", demo())
	e := rig.PlanEdge(t, h, rig.EdgeOptions{Device: "gateway"})
	e.Process = rig.Start(t, rig.SelvedgeEdge(), nil, "run", "--config", e.Config, "--data", e.Dir)
	e.AwaitReady(t)
	rig.Eventually(t, "modules run", func() bool { return status(t, e).Modules.Running == 2 })
	out := rig.RunProgram(t, rig.SelvedgeEdge(), nil, "", "list", "--data", e.Dir)
	if out.Code != 0 || !strings.Contains(out.Stdout, "sensor") {
		t.Errorf("list gives %d %s%s", out.Code, out.Stdout, out.Stderr)
	}
	rss := memory(t, e.PID())
	t.Logf("%d KiB of memory", rss)
	if rss > 30<<10 {
		t.Errorf("it takes %d KiB of memory, the budget is 30 MiB", rss)
	}
}

// memory is the resident memory of a process, in KiB.
func memory(t *testing.T, pid int) (kib int) {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			if _, err := fmt.Sscan(rest, &kib); err != nil {
				t.Fatal(err)
			}
		}
	}
	return kib
}
