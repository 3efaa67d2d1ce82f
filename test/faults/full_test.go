package faults

import (
	"fmt"
	"testing"

	"github.com/selvedge-io/selvedge/test/rig"
)

// TestFullStore fills the gateway's store while the hub is away: it refuses, which
// over MQTT ends the connection, rather than drop what it has acknowledged, and goes on
// when there is room again.
func TestFullStore(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	h.Device(t, "gateway", "--edge")
	h.Deploy(t, "gateway", `{}`, `{"all": "FROM /messages/* INTO $upstream"}`)
	var senders []*sender
	for i := range 2 {
		senders = append(senders, &sender{id: h.Module(t, "gateway", fmt.Sprintf("module-%d", i))})
	}
	e := rig.StartEdge(t, h, rig.EdgeOptions{Device: "gateway", TOML: "[store]\nmax_bytes = \"1MiB\"\n"})
	for _, s := range senders {
		s.id = e.At(s.id)
	}
	wait := runAll(t, senders)
	progress(t, senders, 100)
	h.Kill(t)
	for _, s := range senders {
		from := s.broke.Load()
		rig.Eventually(t, "the full gateway refuses "+s.id.Name(), func() bool { return s.broke.Load() >= from+3 })
	}
	full := senders[0].acked.Load()
	if e.Err.Line("WARN") == "" {
		t.Error("the gateway's log does not say that its store is full")
	}
	e.Kill(t) // full, and killed
	e.Start(t)
	h.Start(t)
	progress(t, senders, 500)
	t.Logf("the first module had %d messages acknowledged when the store was full", full)
	wait()
	audit(t, h, senders, 2*rig.Patience)
}
