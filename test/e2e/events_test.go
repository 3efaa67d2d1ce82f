package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/test/rig"
)

// interrupt is Ctrl-C: the program ends by itself, without complaint.
func interrupt(t *testing.T, p *rig.Process) {
	t.Helper()
	p.Signal(t, syscall.SIGINT)
	select {
	case <-p.Ended():
	case <-time.After(rig.Patience):
		t.Fatal("Ctrl-C did not end the program")
	}
	if p.Code() != 0 || p.Err.String() != "" {
		t.Errorf("after Ctrl-C the exit code is %d and standard error says %q", p.Code(), p.Err.String())
	}
}

// send publishes one message and waits for its acknowledgement.
func send(t *testing.T, c *rig.Client, topic, payload string) {
	t.Helper()
	id, err := c.Send(topic, []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitAck(id, rig.Patience); err != nil {
		t.Fatalf("no acknowledgement of %s: %v", topic, err)
	}
}

func dial(t *testing.T, id rig.Identity) *rig.Client {
	t.Helper()
	c, err := rig.Dial(t.Context(), id)
	if err != nil {
		t.Fatalf("connect as %s: %v", id.Name(), err)
	}
	t.Cleanup(c.Drop)
	return c
}

const asJSON = "$.ct=application%2Fjson&$.ce=utf-8"

// TestEvents watches the stream through pipes: each line comes as soon as it is there.
func TestEvents(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	one, two := dial(t, h.Device(t, "one")), dial(t, h.Device(t, "two"))
	module := dial(t, h.Module(t, "one", "mod"))
	watch := func(flags ...string) *rig.Process {
		return rig.Start(t, rig.Selvedge(), h.Env(), append([]string{"events"}, flags...)...)
	}
	// A watcher that starts now sees what comes from now on: send until it does.
	started := func(p *rig.Process, c *rig.Client, device string) {
		t.Helper()
		rig.Eventually(t, "the watcher sees something", func() bool {
			send(t, c, "devices/"+device+"/messages/events/"+asJSON, `{"start":true}`)
			return p.Out.Contains("start")
		})
	}
	all, mine := watch(), watch("--device", "one", "--output", "json")
	started(all, two, "two")
	started(mine, one, "one")

	send(t, one, "devices/one/messages/events/site=north&"+asJSON, `{"n": 1}`)
	send(t, two, "devices/two/messages/events/", "plain text")
	send(t, module, "devices/one/modules/mod/messages/events/$.on=out&"+asJSON, `{"n": 2}`)
	rig.Eventually(t, "all three are printed", func() bool {
		return all.Out.Line("one", `{"n":1}`) != "" && all.Out.Line("two") != "" && all.Out.Line("one/mod", `{"n":2}`) != ""
	})
	rig.Eventually(t, "both of device one are printed", func() bool {
		return mine.Out.Line(`"n":1`) != "" && mine.Out.Line(`"n":2`, `"moduleId":"mod"`) != ""
	})
	if mine.Out.Line(`"two"`) != "" {
		t.Errorf("--device one shows another device: %s", mine.Out.Line(`"two"`))
	}
	for line := range strings.Lines(mine.Out.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("a line is no JSON: %q", line)
		}
	}
	if line := all.Out.Line("one", `{"n":1}`); strings.Contains(line, "north") {
		t.Errorf("properties are shown without --properties: %s", line)
	}
	interrupt(t, all)
	interrupt(t, mine)

	past := watch("--device", "one", "--since", "1h", "--properties")
	rig.Eventually(t, "the past is printed with properties", func() bool { return past.Out.Line(`{"n":1}`, "site=north") != "" })
	interrupt(t, past)

	counted := h.Must(t, "events", "--since", "1h", "--count", "3")
	if n := strings.Count(counted, "\n"); n != 3 {
		t.Errorf("--count 3 printed %d lines: %q", n, counted)
	}
	if out := h.Must(t, "events", "--since", "1h", "--count", "1", "-o", "yaml"); !strings.HasPrefix(out, "---\n") {
		t.Errorf("YAML events begin with %.40q", out)
	}
	h.Run(t, "events", "--since", "yesterday").Refused(t, 2, "yesterday")
	h.Run(t, "events", "--module", "mod").Refused(t, 2, "--module needs --device")

	// A reader that goes away ends the program without noise.
	torn := watch("--since", "1h")
	rig.Eventually(t, "it prints", func() bool { return torn.Out.Contains("one") })
	h.Terminate(t)
	select {
	case <-torn.Ended():
	case <-time.After(rig.Patience):
		t.Fatal("events goes on although the hub has stopped")
	}
	if h.Code() != 0 {
		t.Errorf("the hub's exit code after SIGTERM is %d", h.Code())
	}
}

// TestEventsKeepOrder sends from one device and expects its order, before and after a
// restart of the hub.
func TestEventsKeepOrder(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	id := h.Device(t, "steady")
	const n = 200
	for half := range 2 {
		c := dial(t, id)
		for i := range n {
			send(t, c, "devices/steady/messages/events/"+asJSON, fmt.Sprintf(`{"n":%d}`, half*n+i))
		}
		c.Close()
		h.Terminate(t)
		h.Start(t)
	}
	events := h.Events(t, "--device", "steady")
	for i := range 2 * n {
		select {
		case e := <-events:
			if want := fmt.Sprintf(`{"n":%d}`, i); string(e.Body) != want {
				t.Fatalf("event %d is %s, want %s", i, e.Body, want)
			}
		case <-time.After(rig.Patience):
			t.Fatalf("event %d did not come", i)
		}
	}
}
