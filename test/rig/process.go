package rig

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Output is what a program has printed so far. Many goroutines may look at it while
// it grows.
type Output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write takes what the program prints.
func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

// String is all of it.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Contains says whether all of the words came, anywhere.
func (o *Output) Contains(words ...string) bool {
	text := o.String()
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

// Line is the first line with all of the words, empty when there is none.
func (o *Output) Line(words ...string) string {
next:
	for line := range strings.Lines(o.String()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		return strings.TrimSpace(line)
	}
	return ""
}

// Process is a program that runs.
type Process struct {
	Out Output // standard output
	Err Output // standard error: notes and the log

	cmd   *exec.Cmd
	ended chan struct{}
}

// Start runs a program with env beside the test's own environment. It ends with the
// test, and its output is shown when the test fails.
func Start(t testing.TB, name string, env []string, args ...string) *Process {
	t.Helper()
	p := &Process{ended: make(chan struct{})}
	p.cmd = exec.Command(name, args...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.Out, &p.Err
	p.cmd.WaitDelay = 5 * time.Second // what it started may hold its pipes open
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // Code tells
	}()
	t.Cleanup(func() {
		p.Terminate(t)
		if t.Failed() {
			t.Logf("%s %s: exit code %d, printed\n%s%s", name, strings.Join(args, " "), p.Code(), tail(p.Out.String()), tail(p.Err.String()))
		}
	})
	return p
}

// tail is the end of a long text.
func tail(s string) string {
	const most = 8 << 10
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Ended is closed when the program has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Running says whether it still runs.
func (p *Process) Running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Code is the exit code of a program that has ended, -1 while it runs or when a
// signal ended it.
func (p *Process) Code() int {
	if p.Running() {
		return -1
	}
	return p.cmd.ProcessState.ExitCode()
}

// AwaitReady waits until the program says on standard error that it accepts
// connections.
func (p *Process) AwaitReady(t testing.TB) {
	t.Helper()
	ready := func() bool { return p.Err.Line("selvedge", " ready") != "" }
	Eventually(t, "the program says that it is ready", func() bool { return ready() || !p.Running() })
	if !ready() {
		t.Fatalf("the program ended before it was ready: exit code %d\n%s", p.Code(), tail(p.Err.String()))
	}
}

// Signal sends a signal; a program that has ended gets none.
func (p *Process) Signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("send %v: %v", s, err)
	}
}

// Kill ends the program as a power cut would, and waits for its end.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	p.Signal(t, syscall.SIGKILL)
	<-p.ended
}

// Terminate asks the program to stop and waits for its end; after Patience it kills.
func (p *Process) Terminate(t testing.TB) {
	t.Helper()
	p.Signal(t, syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(Patience):
		t.Errorf("%s did not stop within %v of SIGTERM", p.cmd.Path, Patience)
		p.Kill(t)
	}
}
