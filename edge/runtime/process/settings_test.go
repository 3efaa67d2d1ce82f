package process

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/selvedge-io/selvedge/model/fault"
)

func TestSettings(t *testing.T) {
	for _, c := range []struct{ in, wrong string }{
		{`{"command":"sh","args":["-c","true"],"workingDir":"/tmp"}`, ""},
		{`{"builtin":"sensor"}`, ""},
		{`{"builtin":"sensor","image":"x","createOptions":"{}"}`, ""},
		{`{}`, "either command or builtin"},
		{``, "settings of a process module"},
		{`{"command":"a","builtin":"sensor"}`, "either command or builtin"},
		{`{"command":"a","arg":["b"]}`, "unknown field"},
		{`{"command":"a","workingDir":"b"}`, "not absolute"},
		{`{"builtin":"sensr"}`, "there are sensor, filter"},
		{`{"command":"a\u0000"}`, "zero byte"},
		{`{"command":1}`, "settings of a process module"},
	} {
		_, err := parseSettings([]byte(c.in), []string{"sensor", "filter"})
		if c.wrong == "" && err != nil {
			t.Errorf("%s: %v", c.in, err)
		}
		if c.wrong != "" && (!fault.Is(err, fault.InvalidConfiguration) || !strings.Contains(fault.TextOf(err), c.wrong)) {
			t.Errorf("%s: got %v, want %q", c.in, err, c.wrong)
		}
	}
	if _, err := parseSettings([]byte(`{"builtin":"-h"}`), nil); err == nil {
		t.Error("a flag passes as a builtin")
	}
}

func TestFolderNamesAreSafeAndDiffer(t *testing.T) {
	long := strings.Repeat("$", 128)
	names := []string{"a", "A", "a.b", ".", "..", ".a", "%2E", "a%", "a/b", "$edgeAgent", "a:b", "a*", "a'", "a b",
		long, long[1:] + "#", strings.Repeat("x", 128)}
	seen := map[string]string{}
	for _, n := range names {
		f := folderName(n)
		if other, ok := seen[f]; ok {
			t.Errorf("%q and %q share folder %q", n, other, f)
		}
		seen[f] = n
		if f == "" || f[0] == '.' || len(f) > 255 || strings.ContainsAny(f, "/\\:*?\"<>|' ") || filepath.Base(f) != f {
			t.Errorf("%q gives folder %q", n, f)
		}
	}
}

func TestEnvironment(t *testing.T) {
	env, err := environment(map[string]string{"B": "2", "PATH": "/own"}, map[string]string{"PATH": "/bin", "A": "1"})
	if want := []string{"A=1", "B=2", "PATH=/own"}; err != nil || !slices.Equal(env, want) {
		t.Errorf("got %q %v, want %q", env, err, want)
	}
	for _, bad := range []map[string]string{{"": "x"}, {"A=B": "x"}, {"A": "x\x00y"}} {
		if _, err := environment(bad, map[string]string{}); !fault.Is(err, fault.InvalidConfiguration) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestLookUp(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"run": 0o755, "text": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		command, path string
		ok            bool
	}{
		{"run", "/nowhere:" + dir, true}, {"./run", "", true}, {dir + "/run", "", true},
		{"run", "/nowhere", false}, {"text", dir, false}, {"./text", "", false}, {dir, "", false}, {"run", ":.", false},
	} {
		got, err := lookUp(c.command, c.path, dir)
		if c.ok != (err == nil) || c.ok && got != filepath.Join(dir, "run") {
			t.Errorf("lookUp(%q, %q) = %q, %v", c.command, c.path, got, err)
		}
		if err != nil && !fault.Is(err, fault.InvalidConfiguration) {
			t.Errorf("lookUp(%q): %v", c.command, err)
		}
	}
}
