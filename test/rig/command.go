package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Answer is what a command that ended left behind.
type Answer struct {
	Args   []string
	Stdout string
	Stderr string
	Code   int
}

// Run runs the program selvedge with env beside a bare environment, in which nothing
// names a hub, and waits for its end.
func Run(t testing.TB, env []string, args ...string) Answer {
	t.Helper()
	return RunProgram(t, Selvedge(), env, "", args...)
}

// RunProgram runs any program, with stdin as its standard input.
func RunProgram(t testing.TB, name string, env []string, stdin string, args ...string) Answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(bare(), env...)
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	a := Answer{Args: args}
	if err := cmd.Run(); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || ctx.Err() != nil {
			t.Fatalf("run %s %s: %v\n%s", name, strings.Join(args, " "), err, errs.String())
		}
		a.Code = exit.ExitCode()
	}
	a.Stdout, a.Stderr = out.String(), errs.String()
	return a
}

// bare is the test's environment without what names a hub.
func bare() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "SELVEDGE_") {
			env = append(env, v)
		}
	}
	return env
}

// Must gives what the command printed, and fails the test unless it succeeded.
func (a Answer) Must(t testing.TB) string {
	t.Helper()
	if a.Code != 0 {
		t.Fatalf("selvedge %s: exit code %d: %s", strings.Join(a.Args, " "), a.Code, a.Stderr)
	}
	return a.Stdout
}

// JSON reads what the command printed.
func (a Answer) JSON(t testing.TB, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.Must(t)), into); err != nil {
		t.Fatalf("selvedge %s printed no JSON: %v\n%s", strings.Join(a.Args, " "), err, a.Stdout)
	}
}

// Refused fails the test unless the command ended with code, printed nothing on
// standard output and one line on standard error that has all the words.
func (a Answer) Refused(t testing.TB, code int, words ...string) {
	t.Helper()
	said := "selvedge " + strings.Join(a.Args, " ") + ": " + a.Stderr
	if a.Code != code {
		t.Errorf("exit code %d, want %d: %s", a.Code, code, said)
	}
	if a.Stdout != "" {
		t.Errorf("printed %q on standard output: %s", a.Stdout, said)
	}
	if strings.Count(a.Stderr, "\n") != 1 || !strings.HasSuffix(a.Stderr, "\n") {
		t.Errorf("standard error is not one line: %s", said)
	}
	for _, w := range words {
		if !strings.Contains(a.Stderr, w) {
			t.Errorf("standard error does not say %q: %s", w, said)
		}
	}
}
