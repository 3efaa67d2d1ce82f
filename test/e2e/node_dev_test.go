package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/selvedge-io/selvedge/test/rig"
)

// TestDev: hub and gateway in one process, found by the commands without more ado, and
// the same again after a restart.
func TestDev(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	start := func(more ...string) *rig.Process {
		p := rig.Start(t, rig.Selvedge(), nil, append([]string{"dev", "--data", data}, more...)...)
		rig.Eventually(t, "dev is ready", func() bool { return p.Err.Line("Ctrl-C ends") != "" || !p.Running() })
		if p.Err.Line("selvedge edge ready") == "" {
			t.Fatalf("dev did not start:\n%s", p.Err.String())
		}
		return p
	}
	p := start("--manifest", demo())
	rig.Eventually(t, "the modules of the manifest run", func() bool {
		a := rig.Run(t, nil, "edge", "list", "--data", data)
		return a.Code == 0 && strings.Count(a.Stdout, "running") == 4
	})
	if out := rig.Run(t, nil, "device", "list", "--hub-data", data).Must(t); !strings.Contains(out, "edge") {
		t.Errorf("device list printed\n%s", out)
	}
	if out := rig.Run(t, nil, "hub", "connection-string", "--data", data).Must(t); !strings.HasPrefix(out, "HostName=localhost;") {
		t.Errorf("hub connection-string printed %s", out)
	}
	p.Terminate(t)
	if p.Code() != 0 {
		t.Errorf("dev stopped with code %d", p.Code())
	}
	if left := workingBelow(t, data); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	p = start()
	rig.Eventually(t, "the modules run again", func() bool {
		a := rig.Run(t, nil, "edge", "list", "--data", data)
		return a.Code == 0 && strings.Count(a.Stdout, "running") == 4
	})
	p.Terminate(t)

	rig.Run(t, nil, "dev", "--data", data, "--manifest", filepath.Join(data, "absent.json")).Refused(t, 1, "--manifest")
}
