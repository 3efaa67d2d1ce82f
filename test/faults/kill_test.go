package faults

import (
	"fmt"
	"os"
	"testing"

	"github.com/selvedge-io/selvedge/test/rig"
)

func TestMain(m *testing.M) { os.Exit(rig.Main(m)) }

// kills is how often a program is killed in the middle of its work.
const kills = 20

// TestKillHub kills the hub while devices send: what was acknowledged is there.
func TestKillHub(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	var senders []*sender
	for i := range 4 {
		senders = append(senders, &sender{id: h.Device(t, fmt.Sprintf("device-%d", i))})
	}
	wait := runAll(t, senders)
	for n := range kills {
		progress(t, senders[:1+n%len(senders)], int64(1+37*n%200)) // strike at ever other moments
		h.Kill(t)
		h.Start(t)
	}
	wait()
	audit(t, h, senders, 2*rig.Patience)
}

// TestKillEdge kills the edge while modules send to the hub through it.
func TestKillEdge(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	h.Device(t, "gateway", "--edge")
	h.Deploy(t, "gateway", `{}`, `{"all": "FROM /messages/* INTO $upstream"}`)
	var senders []*sender
	for i := range 3 {
		senders = append(senders, &sender{id: h.Module(t, "gateway", fmt.Sprintf("module-%d", i))})
	}
	e := rig.StartEdge(t, h, rig.EdgeOptions{Device: "gateway"})
	for _, s := range senders {
		s.id = e.At(s.id)
	}
	wait := runAll(t, senders)
	for n := range kills {
		progress(t, senders[:1+n%len(senders)], int64(1+37*n%200))
		e.Kill(t)
		e.Start(t)
	}
	wait()
	audit(t, h, senders, 2*rig.Patience)
}

// TestKillBoth kills hub and edge in turn, so that the edge is in every state between
// draining and filling when it happens.
func TestKillBoth(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	h.Device(t, "gateway", "--edge")
	h.Deploy(t, "gateway", `{}`, `{"all": "FROM /messages/* INTO $upstream"}`)
	s := &sender{id: h.Module(t, "gateway", "module")}
	e := rig.StartEdge(t, h, rig.EdgeOptions{Device: "gateway"})
	s.id = e.At(s.id)
	senders := []*sender{s}
	wait := runAll(t, senders)
	for n := range kills / 4 {
		progress(t, senders, int64(1+53*n%200))
		h.Kill(t)
		progress(t, senders, 50) // the edge takes messages without its hub
		e.Kill(t)
		e.Start(t) // offline
		progress(t, senders, 50)
		h.Start(t)
	}
	wait()
	audit(t, h, senders, 2*rig.Patience)
}
