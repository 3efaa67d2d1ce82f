//go:build linux

package process

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/edge/runtime"
	"github.com/selvedge-io/selvedge/model/fault"
)

// TestMain lets the test's program also be an edge that gets killed, and a builtin
// module.
func TestMain(m *testing.M) {
	if dir := os.Getenv("PROCESS_TEST_EDGE"); dir != "" {
		edge(dir)
	}
	if len(os.Args) > 2 && os.Args[1] == "module" {
		fmt.Println("builtin", os.Args[2])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// edge starts the modules it reads from standard input and waits to be killed.
func edge(dir string) {
	d, err := New(Config{Dir: dir})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for dec := json.NewDecoder(os.Stdin); ; {
		var m runtime.Module
		if err := dec.Decode(&m); err != nil {
			select {}
		}
		fmt.Println("started", d.Start(context.Background(), m))
	}
}

func open(t *testing.T, dir string) *Driver {
	t.Helper()
	d, err := New(Config{Dir: dir, StopAfter: 300 * time.Millisecond, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, s := range states(t, d) {
			d.Stop(context.Background(), s.Name)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func states(t *testing.T, d *Driver) []runtime.State {
	t.Helper()
	all, err := d.List(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// script is a module that runs a shell script.
func script(name, text string) runtime.Module {
	raw, err := json.Marshal(settings{Command: "sh", Args: []string{"-c", text}})
	if err != nil {
		panic(err)
	}
	return runtime.Module{Name: name, Version: "1", Settings: raw, Env: map[string]string{"SECRET": "hidden word"}}
}

func start(t *testing.T, d *Driver, m runtime.Module) {
	t.Helper()
	if err := d.Start(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// stateOf waits until a module is as wanted.
func stateOf(t *testing.T, d *Driver, name string, cond func(runtime.State) bool) (found runtime.State) {
	t.Helper()
	until(t, "state of "+name, func() bool {
		for _, s := range states(t, d) {
			if s.Name == name && cond(s) {
				found = s
				return true
			}
		}
		return false
	})
	return found
}

func stopped(s runtime.State) bool { return !s.Running }

// text is what a module wrote.
func text(t *testing.T, d *Driver, name string, q runtime.LogQuery) string {
	t.Helper()
	r, err := d.Logs(t.Context(), name, q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func alive(pid int) bool {
	st, err := readStat(pid)
	return err == nil && st.state != 'Z'
}

// written waits for a number that a module wrote into its log.
func written(t *testing.T, d *Driver, name string) (n int) {
	t.Helper()
	until(t, "output of "+name, func() bool {
		var err error
		n, err = strconv.Atoi(strings.TrimSpace(text(t, d, name, runtime.LogQuery{})))
		return err == nil
	})
	return n
}

func TestExitCodes(t *testing.T) {
	d := open(t, t.TempDir())
	for script_, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -9 $$": 137, "kill -TERM $$": 143} {
		name := strings.ReplaceAll(script_, " ", "$") // odd names too
		before := time.Now()
		start(t, d, script(name, script_))
		s := stateOf(t, d, name, stopped)
		if s.ExitCode != want || s.PID != 0 || s.Version != "1" || s.Started.Before(before) || s.Exited.Before(s.Started) {
			t.Errorf("%s: state %+v, want exit code %d", script_, s, want)
		}
	}
	if zombies := children(t); len(zombies) > 0 {
		t.Errorf("zombies: %v", zombies)
	}
}

// children lists our children, dead or alive.
func children(t *testing.T) (pids []int) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range tasks {
		raw, err := os.ReadFile(f)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
		for _, p := range strings.Fields(string(raw)) {
			pid, _ := strconv.Atoi(p)
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestModulesAreKeptApart(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("EDGE_SECRET", "ours")
	d := open(t, dir)
	start(t, d, script("m", `env | cut -d= -f1 | grep -v -e PWD -e SHLVL -e '^_$' | sort | xargs; pwd; echo $HOME; ls -d "$TMPDIR"; cat; ls /proc/self/fd | wc -l`))
	stateOf(t, d, "m", stopped)
	got := strings.Split(strings.TrimSpace(text(t, d, "m", runtime.LogQuery{})), "\n")
	if want := "HOME LANG PATH SECRET TMPDIR"; got[0] != want {
		t.Errorf("environment has %q, want %q", got[0], want)
	}
	work := filepath.Join(dir, "m", "work")
	if got[1] != work || got[2] != work || got[3] != filepath.Join(dir, "m", "tmp") {
		t.Errorf("folders are %q", got[1:4])
	}
	if got[4] != "4" { // 0, 1, 2 and the folder that ls reads
		t.Errorf("module has descriptors %q", got[4])
	}
	for _, path := range []string{dir + "/m", work, dir + "/m/output.log", dir + "/m/module.json"} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("others may look into %s: %v %v", path, info.Mode(), err)
		}
	}
	raw, err := os.ReadFile(dir + "/m/module.json")
	if err != nil || strings.Contains(string(raw), "hidden word") {
		t.Errorf("secret on disk: %s %v", raw, err)
	}
}

func TestStartIsIdempotentAndReplacesOtherVersions(t *testing.T) {
	d := open(t, t.TempDir())
	m := script("m", "echo run; exec sleep 60")
	start(t, d, m)
	first := states(t, d)[0]
	until(t, "a line", func() bool { return text(t, d, "m", runtime.LogQuery{}) == "run\n" })
	start(t, d, m)
	if again := states(t, d)[0]; again != first {
		t.Errorf("started twice: %+v, then %+v", first, again)
	}
	m.Version = "2"
	start(t, d, m)
	second := states(t, d)[0]
	if second.PID == first.PID || second.Version != "2" || !second.Running || alive(first.PID) || second.Exited.IsZero() {
		t.Errorf("not replaced: %+v, then %+v", first, second)
	}
	until(t, "two lines", func() bool { return text(t, d, "m", runtime.LogQuery{}) == "run\nrun\n" })
}

func TestStop(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		code   int
	}{
		"gentle":    {`trap 'kill $!; exit 3' TERM; sleep 60 & echo $!; wait`, 3},
		"stubborn":  {`trap '' TERM; sleep 60 & echo $!; while :; do wait; done`, 137},
		"suspended": {`sleep 60 & echo $!; kill -STOP $$; wait`, 143},
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t, t.TempDir())
			start(t, d, script("m", c.script))
			child := written(t, d, "m")
			leader := states(t, d)[0].PID
			if err := d.Stop(t.Context(), "m"); err != nil {
				t.Fatal(err)
			}
			if s := states(t, d)[0]; s.Running || s.ExitCode != c.code || s.PID != 0 {
				t.Errorf("state %+v, want exit code %d", s, c.code)
			}
			until(t, "end of the child", func() bool { return !alive(child) })
			if alive(leader) {
				t.Error("leader runs on")
			}
			if err := d.Stop(t.Context(), "m"); err != nil {
				t.Errorf("second stop: %v", err)
			}
		})
	}
}

func TestStopGivesUpWithItsContext(t *testing.T) {
	d := open(t, t.TempDir())
	d.cfg.StopAfter = time.Hour
	start(t, d, script("m", `trap '' TERM; echo $$; while :; do sleep 0.05; done`))
	pid := written(t, d, "m")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := d.Stop(ctx, "m"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if !alive(pid) {
		t.Error("it was killed before its time")
	}
	d.cfg.StopAfter = time.Millisecond
}

func TestChildrenEndWithTheModule(t *testing.T) {
	d := open(t, t.TempDir())
	start(t, d, script("m", `sleep 60 & echo $!; setsid sleep 61 & exit 4`))
	s := stateOf(t, d, "m", stopped)
	if s.ExitCode != 4 {
		t.Errorf("state %+v", s)
	}
	child := written(t, d, "m")
	until(t, "end of the child", func() bool { return !alive(child) })
	if n, err := traceOf(filepath.Join(d.cfg.Dir, "m")).killAll(); n != 0 || err != nil {
		t.Errorf("%d processes run on (%v)", n, err)
	}
}

// TestStraysEndWithTheModule has children that left the module's group and session and
// write elsewhere: with each restart there would be more of them.
func TestStraysEndWithTheModule(t *testing.T) {
	const leave = `set -m; sleep 60 >/dev/null 2>&1 & echo $! >own-group
		setsid sh -c 'echo $$ >own-session; exec sleep 60' >/dev/null 2>&1 &
		while [ ! -s own-session ]; do sleep 0.01; done; `
	dir := t.TempDir()
	stray := func(name string) int {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(dir, "m", workFolder, name))
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	looker := exec.Command("sleep", "60") // somebody who looks around
	looker.Env = append(os.Environ(), "PWD="+filepath.Join(dir, "m", workFolder))
	if err := looker.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { looker.Process.Kill(); looker.Wait() }()

	d := open(t, dir)
	start(t, d, script("m", leave+"exit 4"))
	stateOf(t, d, "m", stopped)
	for _, name := range []string{"own-group", "own-session"} {
		pid := stray(name)
		until(t, "end of the stray in its "+name, func() bool { return !alive(pid) })
		if err := os.Remove(filepath.Join(dir, "m", workFolder, name)); err != nil {
			t.Fatal(err)
		}
	}
	m := script("m", leave+"exec sleep 60")
	m.Version = "2"
	start(t, d, m)
	until(t, "strays", func() bool {
		_, err := os.Stat(filepath.Join(dir, "m", workFolder, "own-session"))
		return err == nil
	})
	until(t, "a whole number", func() bool {
		raw, _ := os.ReadFile(filepath.Join(dir, "m", workFolder, "own-session"))
		return strings.HasSuffix(string(raw), "\n")
	})
	group, session := stray("own-group"), stray("own-session")
	if err := d.Remove(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	until(t, "end of strays of a removed module", func() bool { return !alive(group) && !alive(session) })
	if !alive(looker.Process.Pid) {
		t.Error("somebody else was ended, too")
	}
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	start(t, d, script("m", "exec sleep 60"))
	pid := states(t, d)[0].PID
	follow, err := d.Logs(t.Context(), "m", runtime.LogQuery{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(follow); err != nil || len(rest) > 0 {
		t.Errorf("follower got %q, %v", rest, err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 || len(states(t, d)) > 0 || alive(pid) {
		t.Errorf("left: %v %v", left, states(t, d))
	}
	if err := errors.Join(d.Remove(t.Context(), "m"), d.Stop(t.Context(), "m")); err != nil {
		t.Errorf("unknown module: %v", err)
	}
	if _, err := d.Logs(t.Context(), "m", runtime.LogQuery{}); !fault.Is(err, fault.ModuleNotFound) {
		t.Errorf("log of an unknown module: %v", err)
	}
}

func TestRefusedStartLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	for _, settings := range []string{`{}`, `{"command":"no-such-command"}`, `{"command":"sh","workingDir":"/no/such/folder"}`} {
		err := d.Start(t.Context(), runtime.Module{Name: "m", Settings: json.RawMessage(settings)})
		if err == nil {
			t.Errorf("%s starts", settings)
		}
		if all := states(t, d); len(all) > 0 {
			t.Errorf("%s leaves %+v", settings, all)
		}
	}
	if err := d.Start(t.Context(), runtime.Module{Settings: json.RawMessage(`{"command":"sh"}`)}); err == nil {
		t.Error("a module without name starts")
	}
	// And one that runs is not stopped for settings that cannot work.
	start(t, d, script("m", "exec sleep 60"))
	for _, settings := range []string{`{}`, `{"command":"no-such-command"}`, `{"command":"./no-such-file"}`,
		`{"command":"sh","workingDir":"/no/such/folder"}`} {
		if err := d.Start(t.Context(), runtime.Module{Name: "m", Version: "2", Settings: json.RawMessage(settings)}); err == nil {
			t.Errorf("%s starts", settings)
		}
		if s := states(t, d)[0]; !s.Running || s.Version != "1" {
			t.Fatalf("after %s the state is %+v", settings, s)
		}
	}
}

func TestBuiltin(t *testing.T) {
	d := open(t, t.TempDir())
	start(t, d, runtime.Module{Name: "m", Settings: json.RawMessage(`{"builtin":"sensor"}`)})
	if s := stateOf(t, d, "m", stopped); s.ExitCode != 0 {
		t.Errorf("state %+v", s)
	}
	if got := text(t, d, "m", runtime.LogQuery{}); got != "builtin sensor\n" {
		t.Errorf("wrote %q", got)
	}
}

func TestWatch(t *testing.T) {
	d := open(t, t.TempDir())
	start(t, d, script("old", "exec sleep 60"))
	var mu sync.Mutex
	var seen []string
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- d.Watch(ctx, func(s runtime.State) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, fmt.Sprintf("%s %t %d", s.Name, s.Running, s.ExitCode))
		})
	}()
	saw := func(want ...string) {
		t.Helper()
		until(t, strings.Join(want, ", "), func() bool {
			mu.Lock()
			defer mu.Unlock()
			return strings.Join(seen, ", ") == strings.Join(want, ", ")
		})
	}
	saw("old true 0")
	start(t, d, script("new", "while [ ! -e go ]; do sleep 0.02; done; exit 5"))
	saw("old true 0", "new true 0")
	if err := os.WriteFile(filepath.Join(d.cfg.Dir, "new", workFolder, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	saw("old true 0", "new true 0", "new false 5")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// killed is an edge in another process: it starts modules and is killed with -9.
func killed(t *testing.T, dir string, modules ...runtime.Module) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PROCESS_TEST_EDGE="+dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for _, m := range modules {
		if err := json.NewEncoder(in).Encode(m); err != nil {
			t.Fatal(err)
		}
		if !lines.Scan() || lines.Text() != "started <nil>" {
			t.Fatalf("edge says %q", lines.Text())
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
}

func TestModulesSurviveOurKillAndAreAdopted(t *testing.T) {
	dir := t.TempDir()
	killed(t, dir,
		script("on", `echo $$; while [ ! -e go ]; do sleep 0.02; done; echo more; exec sleep 60`),
		script("off", `while [ ! -e go ]; do sleep 0.02; done; exit 3`))
	rec, err := readRecord(filepath.Join(dir, "off"))
	if err != nil || !rec.Running {
		t.Fatal(rec, err)
	}
	release := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name, workFolder, "go"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	release("off")
	until(t, "end of module off", func() bool { return !alive(rec.PID) })

	d := open(t, dir)
	all := states(t, d)
	if len(all) != 2 || all[0].Name != "off" || all[0].Running || all[0].ExitCode != -1 || all[0].Exited.IsZero() {
		t.Errorf("module that ended meanwhile: %+v", all)
	}
	on := all[1]
	if !on.Running || on.Version != "1" || !alive(on.PID) {
		t.Fatalf("module that runs on: %+v", on)
	}
	start(t, d, script("on", "not started again"))
	if again := states(t, d)[1]; again != on {
		t.Errorf("adopted module was started again: %+v, then %+v", on, again)
	}
	release("on")
	want := fmt.Sprintf("%d\nmore\n", on.PID)
	until(t, "log of the adopted module", func() bool { return text(t, d, "on", runtime.LogQuery{}) == want })

	if err := syscall.Kill(on.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if s := stateOf(t, d, "on", stopped); s.ExitCode != -1 {
		t.Errorf("exit of an adopted module: %+v", s)
	}
}

func TestAdoptedModuleCanBeStopped(t *testing.T) {
	dir := t.TempDir()
	killed(t, dir, script("m", `trap '' TERM; sleep 60 & echo $!; while :; do wait; done`))
	d := open(t, dir)
	child, leader := written(t, d, "m"), states(t, d)[0].PID
	if err := d.Stop(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	until(t, "end of all", func() bool { return !alive(leader) && !alive(child) })
	start(t, d, script("m", "exit 0"))
	if s := stateOf(t, d, "m", stopped); s.ExitCode != 0 {
		t.Errorf("state %+v", s)
	}
}

func TestOthersAreNotAdopted(t *testing.T) {
	dir := t.TempDir()
	killed(t, dir, script("a", "exec sleep 60"), script("b", "exec sleep 60"), script("c", "exec sleep 60"))
	pids := map[string]int{}
	for name, change := range map[string]func(*record){
		"a": func(r *record) { r.Start++ },                   // its id went to another process
		"b": func(r *record) { r.Boot = "another" },          // the machine was started anew
		"c": func(r *record) { r.Running, r.PID = false, 0 }, // we died before we wrote it down
	} {
		folder := filepath.Join(dir, name)
		r, err := readRecord(folder)
		if err != nil {
			t.Fatal(err)
		}
		pids[name] = r.PID
		change(&r)
		if err := r.write(folder); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "half"), 0o700); err != nil {
		t.Fatal(err)
	}
	d := open(t, dir)
	for _, s := range states(t, d) {
		if s.Running {
			t.Errorf("adopted: %+v", s)
		}
	}
	// They hold the module's log, so they are what is left of it and must not run on.
	for name, pid := range pids {
		until(t, "end of "+name, func() bool { return !alive(pid) })
	}
	if _, err := os.Stat(filepath.Join(dir, "half")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half made module: %v", err)
	}
}

func TestParseStat(t *testing.T) {
	line := "10305 (a) (b R 1) S 10296 10306 4377 0 -1 4194304 100 0 0 0 0 0 0 0 20 0 1 0 87818 3133440 410 1"
	st, err := parseStat([]byte(line))
	if err != nil || st.state != 'S' || st.start != 87818 {
		t.Errorf("%+v %v", st, err)
	}
	for _, bad := range []string{"", "1 (a", "1 (a) S 1 2 3", strings.Replace(line, "87818", "x", 1)} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}
