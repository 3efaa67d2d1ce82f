package e2e

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/test/rig"
)

// tear leaves a record at the end of each log below dir that says it is longer than
// what follows, as a power cut does. It walks over the records by their lengths; the
// form of a log is described in storage/log.
func tear(t *testing.T, dir string) (torn int) {
	t.Helper()
	newest := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".log" && !d.IsDir() {
			newest[filepath.Dir(path)] = max(newest[filepath.Dir(path)], path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range newest {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := 24
		for at+8 <= len(b) {
			n := int(binary.LittleEndian.Uint32(b[at:]))
			if n == 0 {
				break
			}
			at += 8 + n - 1
		}
		half := append(binary.LittleEndian.AppendUint32(nil, 1000), "crc?a record of which only the beginn"...)
		b = append(b[:min(at, len(b))], half...)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		torn++
	}
	return torn
}

// TestTornHubLog: what was being written when the power went is cut off, and all that
// was acknowledged is there.
func TestTornHubLog(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	id := h.Device(t, "torn")
	const n = 50
	c := dial(t, id)
	for i := range n {
		send(t, c, "devices/torn/messages/events/"+asJSON, fmt.Sprintf(`{"n":%d}`, i))
	}
	h.Must(t, "twin", "update", "torn", "--desired", `{"kept":true}`)
	h.Must(t, "message", "send", "torn", "waiting")
	h.Kill(t)
	if torn := tear(t, filepath.Join(h.Dir, "events")); torn == 0 {
		t.Fatal("there is no log to tear")
	}
	h.Start(t)
	if h.Err.Line("WARN") == "" {
		t.Error("the log does not say that something was cut off")
	}
	c = dial(t, id)
	send(t, c, "devices/torn/messages/events/"+asJSON, fmt.Sprintf(`{"n":%d}`, n))
	events := h.Events(t, "--device", "torn")
	for i := range n + 1 {
		select {
		case e := <-events:
			if want := fmt.Sprintf(`{"n":%d}`, i); string(e.Body) != want {
				t.Fatalf("event %d is %s, want %s", i, e.Body, want)
			}
		case <-time.After(rig.Patience):
			t.Fatalf("event %d is lost", i)
		}
	}
	if out := h.Must(t, "twin", "show", "torn"); !strings.Contains(out, `"kept": true`) {
		t.Errorf("the twin is %s", out)
	}
	if err := c.Subscribe("devices/torn/messages/devicebound/#", 1); err != nil {
		t.Fatal(err)
	}
	if _, body, err := c.Message(rig.Patience); err != nil || body != "waiting" {
		t.Errorf("the waiting message came as %q, %v", body, err)
	}
}

// TestDamagedHubData: what cannot be mended is refused with one line that names the
// file, and nothing is overwritten.
func TestDamagedHubData(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	h.Device(t, "d")
	h.Terminate(t)
	for _, name := range []string{"hub.db", "hub-keys/master.key", "ca/root.key", "ca/root.pem", "events/stream.json"} {
		t.Run(strings.ReplaceAll(name, "/", "-"), func(t *testing.T) {
			path := filepath.Join(h.Dir, name)
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			half := whole[:len(whole)/2]
			if name == "hub.db" {
				half = append([]byte("this is no database at all, but long enough"), whole[50:]...)
			}
			if err := os.WriteFile(path, half, 0o600); err != nil {
				t.Fatal(err)
			}
			h.Launch(t)
			select {
			case <-h.Ended():
			case <-time.After(rig.Patience):
				t.Fatal("the hub starts with damaged data")
			}
			said := strings.Split(strings.TrimSpace(h.Err.String()), "\n")
			last := said[len(said)-1]
			if h.Code() != 1 || !strings.HasPrefix(last, "selvedge: ") || !strings.Contains(last, filepath.Base(name)) && !strings.Contains(last, filepath.Dir(name)) {
				t.Errorf("exit code %d, last line %q; want 1 and a line that names %s", h.Code(), last, name)
			}
			if h.Err.Contains("panic", "goroutine") {
				t.Error("the hub panics")
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != string(half) {
				t.Errorf("the damaged file was changed: %v", err)
			}
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
	h.Start(t) // mended
	h.Must(t, "device", "show", "d")
}

// TestHubAddressesAndLock: a second hub on the same data or ports is refused.
func TestHubAddressesAndLock(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	run := func(flags ...string) rig.Answer {
		return rig.Run(t, nil, append([]string{"hub", "run"}, flags...)...)
	}
	other := filepath.Join(t.TempDir(), "other")
	free := []string{"--mqtt", rig.FreeAddress(t), "--amqp", rig.FreeAddress(t), "--https", rig.FreeAddress(t), "--ops", rig.FreeAddress(t)}
	run(append(free, "--data", h.Dir)...).Refused(t, 1, h.Dir)
	taken := []string{"--mqtt", h.MQTT, "--amqp", rig.FreeAddress(t), "--https", rig.FreeAddress(t), "--ops", rig.FreeAddress(t)}
	a := run(append(taken, "--data", other)...)
	a.Stderr = a.Stderr[strings.LastIndex(strings.TrimSpace(a.Stderr), "\n")+1:] // after what it logs
	a.Refused(t, 1, h.MQTT, "another program uses that port", "--mqtt")
	run(append(free, "--data", other, "--hostname", "https://x")...).Refused(t, 2, "host name")
	run(append(free, "--data", other, "--retention", "1s")...).Refused(t, 2, "events must be kept")
}

// TestTornEdgeQueue does to a gateway what TestTornHubLog does to a hub.
func TestTornEdgeQueue(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	h.Device(t, "gateway", "--edge")
	h.Deploy(t, "gateway", `{}`, `{"up": "FROM /messages/* INTO $upstream"}`)
	module := h.Module(t, "gateway", "mod")
	e := rig.StartEdge(t, h, rig.EdgeOptions{Device: "gateway"})
	c := dial(t, e.At(module))
	topic := "devices/gateway/modules/mod/messages/events/$.on=out&" + asJSON
	send(t, c, topic, `{"n":0}`)
	h.Kill(t)
	const n = 50
	for i := 1; i < n; i++ {
		send(t, c, topic, fmt.Sprintf(`{"n":%d}`, i))
	}
	e.Kill(t)
	if torn := tear(t, e.Dir); torn == 0 {
		t.Fatal("there is no log to tear")
	}
	e.Start(t)
	h.Start(t)
	seen := 0
	events := h.Events(t, "--device", "gateway", "--module", "mod")
	for late := time.After(rig.Patience); seen < n; {
		select {
		case e := <-events:
			if string(e.Body) == fmt.Sprintf(`{"n":%d}`, seen) {
				seen++ // others came twice
			}
		case <-late:
			t.Fatalf("message %d is lost", seen)
		}
	}
}

// TestBadRoutes: the gateway refuses routes as a whole, reports why, and goes on with
// those it had.
func TestBadRoutes(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	h.Device(t, "gateway", "--edge")
	h.Deploy(t, "gateway", `{}`, `{"up": "FROM /messages/* INTO $upstream"}`)
	module := h.Module(t, "gateway", "mod")
	e := rig.StartEdge(t, h, rig.EdgeOptions{Device: "gateway"})
	c := dial(t, e.At(module))
	events := h.Events(t, "--device", "gateway", "--module", "mod")
	status := func() (code int, description string) {
		var d struct {
			Properties struct {
				Reported struct {
					Last struct {
						Code        int    `json:"code"`
						Description string `json:"description"`
					} `json:"lastDesiredStatus"`
				}
			}
		}
		h.Run(t, "twin", "show", "gateway", "-m", "$edgeHub").JSON(t, &d)
		return d.Properties.Reported.Last.Code, d.Properties.Reported.Last.Description
	}
	rig.Eventually(t, "the gateway reports its routes as good", func() bool { code, _ := status(); return code == 200 })
	for n, text := range []string{
		"FROM /messages/* INTO nowhere", "FROM messages INTO $upstream", "FROM /messages/*",
		"FROM /messages/* WHERE no_such_function(x) INTO $upstream", "FROM /messages/* INTO BrokeredEndpoint(\\\"/modules/m\\\")",
	} {
		h.Deploy(t, "gateway", `{}`, fmt.Sprintf(`{"bad%d": "%s", "good": "FROM /messages/* INTO $upstream"}`, n, text), "--unchecked-routes")
		rig.Eventually(t, "the gateway reports "+text+" as bad", func() bool {
			code, description := status()
			return code == 400 && strings.Contains(description, fmt.Sprintf("bad%d", n))
		})
		send(t, c, "devices/gateway/modules/mod/messages/events/"+asJSON, fmt.Sprintf(`{"n":%d}`, n))
		select {
		case e := <-events:
			if string(e.Body) != fmt.Sprintf(`{"n":%d}`, n) {
				t.Errorf("message %d came as %s", n, e.Body)
			}
		case <-time.After(rig.Patience):
			t.Fatalf("after the bad route %q no message goes up", text)
		}
	}
	if e.Err.Line("WARN", "bad4") == "" && e.Err.Line("ERROR", "bad4") == "" {
		t.Error("the gateway's log does not name the bad route")
	}
	h.Deploy(t, "gateway", `{}`, `{"up": "FROM /messages/* INTO $upstream"}`)
	rig.Eventually(t, "the gateway reports good routes again", func() bool { code, _ := status(); return code == 200 })
}
