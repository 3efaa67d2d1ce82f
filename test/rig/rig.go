// Package rig runs Selvedge's real programs for the tests beside it: a hub and an
// edge as processes that can be killed and started again, the operator's commands as
// anybody types them, and a plain MQTT client that takes the servers at their word.
package rig

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Patience is how long a test waits for a condition that should come at once, on a
// machine that may be busy.
const Patience = 30 * time.Second

// bin is where Main put the programs.
var bin string

// Main builds the programs, runs the tests and gives the exit code; TestMain calls it.
func Main(m *testing.M) (code int) {
	dir, err := os.MkdirTemp("", "selvedge-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "make a directory for the programs:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-trimpath", "-o", dir+string(filepath.Separator), "./cmd/...")
	build.Dir = Root()
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the programs: %v\n%s", err, out)
		return 1
	}
	bin = dir
	return m.Run()
}

// Selvedge is the path of the program selvedge.
func Selvedge() string { return filepath.Join(bin, "selvedge") }

// SelvedgeEdge is the path of the program selvedge-edge.
func SelvedgeEdge() string { return filepath.Join(bin, "selvedge-edge") }

// Root is the repository's directory: the one above that has go.mod.
func Root() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	for dir != filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	panic("no go.mod above the working directory")
}

// FreeAddress is a loopback address whose port nobody has.
func FreeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Eventually waits until ok says true and fails the test after Patience. what tells
// what was waited for.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !Within(t, Patience, ok) {
		t.Fatalf("waited %v in vain: %s", Patience, what)
	}
}

// Within says whether ok came to say true in time.
func Within(t testing.TB, limit time.Duration, ok func() bool) bool {
	t.Helper()
	end := time.After(limit)
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for !ok() {
		select {
		case <-end:
			return ok()
		case <-t.Context().Done():
			return false
		case <-look.C:
		}
	}
	return true
}
