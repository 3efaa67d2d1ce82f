package sdk

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/test/rig"
)

// TestMosquitto holds the hub to plain MQTT: a client that knows nothing of Azure but
// user name, password and topics.
func TestMosquitto(t *testing.T) {
	h := startHub(t)
	id := h.Device(t, "mosquitto-1")
	id.Host = "localhost" // the program resolves names by itself
	common := []string{"-h", "localhost", "-p", "8883", "--cafile", h.CA, "-V", "mqttv311",
		"-i", id.Device, "-u", id.User(), "-q", "1"}

	t.Run("publish", func(t *testing.T) {
		events := h.Events(t, "--device", id.Device)
		args := append(common, "-P", id.Token(time.Now().Add(time.Hour)),
			"-t", "devices/mosquitto-1/messages/events/site=north%20south&$.ct=application%2Fjson&$.ce=utf-8", "-l")
		a := rig.RunProgram(t, "mosquitto_pub", nil, "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n", args...)
		a.Must(t)
		for n := range 3 {
			select {
			case e := <-events:
				var body struct{ N int }
				if err := json.Unmarshal(e.Body, &body); err != nil || body.N != n+1 {
					t.Errorf("message %d has the body %s (%v)", n+1, e.Body, err)
				}
				if e.Properties["site"] != "north south" {
					t.Errorf("message %d has the properties %v", n+1, e.Properties)
				}
			case <-time.After(rig.Patience):
				t.Fatalf("message %d did not arrive", n+1)
			}
		}
	})

	t.Run("subscribe", func(t *testing.T) {
		for _, text := range []string{"first", "second"} { // waiting for it
			h.Must(t, "message", "send", id.Device, text, "--property", "site=north south")
		}
		args := append(common, "-P", id.Token(time.Now().Add(time.Hour)),
			"-t", "devices/mosquitto-1/messages/devicebound/#", "-C", "3", "-F", "%t %p", "-W", "30")
		sub := rig.Start(t, "mosquitto_sub", nil, args...)
		rig.Eventually(t, "the waiting messages come", func() bool { return sub.Out.Contains(" first\n", " second\n") })
		h.Must(t, "message", "send", id.Device, "third") // while it listens
		<-sub.Ended()
		lines := strings.Split(strings.TrimSpace(sub.Out.String()), "\n")
		if sub.Code() != 0 || len(lines) != 3 {
			t.Fatalf("exit code %d, printed %q, %s", sub.Code(), lines, sub.Err.String())
		}
		for i, text := range []string{"first", "second", "third"} {
			topic, body, _ := strings.Cut(lines[i], " ")
			if body != text || !strings.HasPrefix(topic, "devices/mosquitto-1/messages/devicebound/%24.") {
				t.Errorf("line %d is %q, want a devicebound topic and %q", i+1, lines[i], text)
			}
		}
		if !strings.Contains(lines[0], "site=north%20south") {
			t.Errorf("%q does not carry the property", lines[0])
		}
	})

	t.Run("wrong password", func(t *testing.T) {
		other := id
		other.Key = "c29tZSBvdGhlciBrZXkgYWx0b2dldGhlcg=="
		args := append(common, "-P", other.Token(time.Now().Add(time.Hour)), "-t", "devices/mosquitto-1/messages/events/", "-m", "x")
		a := rig.RunProgram(t, "mosquitto_pub", nil, "", args...)
		if a.Code == 0 || !strings.Contains(a.Stderr, "not authorised") {
			t.Errorf("exit code %d, said %q", a.Code, a.Stderr)
		}
	})
}
