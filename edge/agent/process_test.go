//go:build linux

package agent

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/edge/runtime"
	"github.com/selvedge-io/selvedge/edge/runtime/process"
)

// TestRealProcesses runs an agent over real processes, stops it, and runs another over
// what is left.
func TestRealProcesses(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	run := func(keep bool) (a *Agent, stop func()) {
		t.Helper()
		d, err := process.New(process.Config{Dir: dir, StopAfter: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		a = New(Config{Twin: w, Drivers: map[string]Driver{"process": d}, Identities: w, Sockets: w, Store: w, Host: Host{Device: "gw"}, KeepModules: keep})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		return a, func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	await := func(a *Agent, want string, within time.Duration) {
		t.Helper()
		var got []string
		for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			got = nil
			for _, m := range a.Modules()[2:] {
				got = append(got, m.Name+" "+m.Status)
			}
			if strings.Join(got, ", ") == want {
				return
			}
		}
		t.Fatalf("after %v: %s, want %s", within, got, want)
	}
	started := func(a *Agent) (s string) {
		for _, m := range a.Modules()[2:] {
			s += fmt.Sprint(m.Started.UnixNano(), " ")
		}
		return s
	}
	shell := func(name, script, policy string) string {
		return fmt.Sprintf(`%q:{"type":"process","status":"running","restartPolicy":%q,"settings":{"command":"sh","args":["-c",%q]}}`, name, policy, script)
	}
	deploy := func(a *Agent, version int, modules string) {
		w.mu.Lock()
		w.desired = fmt.Sprintf(`{"schemaVersion":"1.1","runtime":{"type":"docker"},"modules":{%s},"$version":%d}`, modules, version)
		w.mu.Unlock()
		a.Changed()
	}
	loop := shell("loop", `echo "i am $IOTEDGE_MODULEID"; exec sleep 1000`, "always")

	a, stop := run(true)
	deploy(a, 2, loop+","+shell("job", "exit 3", "never"))
	await(a, "job failed, loop running", 10*time.Second)
	text, err := a.Logs(t.Context(), "loop", runtime.LogQuery{})
	if err != nil {
		t.Fatal(err)
	}
	log, err := io.ReadAll(text)
	if text.Close(); err != nil || string(log) != "i am loop\n" {
		t.Errorf("log %q, %v", log, err)
	}
	before := started(a)
	stop()

	w.mu.Lock()
	w.offline = true
	w.mu.Unlock()
	a, stop = run(false)
	await(a, "job failed, loop running", 10*time.Second)
	if after := started(a); after != before {
		t.Errorf("modules were started anew: %s and %s", before, after)
	}
	stop()

	begin := time.Now()
	a, stop = run(false)
	await(a, "job failed, loop running", 10*time.Second)
	t.Logf("first module runs after %v", time.Since(begin))
	w.mu.Lock()
	w.offline = false
	w.mu.Unlock()
	deploy(a, 3, loop)
	await(a, "loop running", 10*time.Second)
	if err := a.Restart(t.Context(), "loop"); err != nil {
		t.Error(err)
	}
	if after := started(a); strings.Contains(before, strings.TrimSpace(after)) {
		t.Error("it was not restarted")
	}
	stop()
}
