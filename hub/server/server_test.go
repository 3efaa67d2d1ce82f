package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
	"github.com/selvedge-io/selvedge/trust/cert"
)

func TestTelemetry(t *testing.T) {
	h := startHub(t, nil)
	key, moduleKey := h.create(pump, `{}`), h.create(valve, `{}`)
	events := h.follow("?device=pump")
	device := h.connect(h.config(pump, key))
	module := h.connect(h.config(valve, moduleKey))
	for n := range 20 {
		m := text(fmt.Sprintf(`{"n":%d}`, n))
		m.System.ContentType, m.System.ContentEncoding = "application/json", "utf-8"
		if err := device.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 20 {
		e := next(t, "event", events)
		body, _ := e.Body.(map[string]any)
		if e.Device != "pump" || e.Module != "" || e.Source != message.Telemetry || body["n"] != float64(n) {
			t.Fatalf("event %d is %+v", n, e)
		}
		if n == 0 {
			generation := h.must(200, "GET /devices/pump", "")["generationId"]
			if e.System["connectionDeviceGenerationId"] != generation && e.System["iothub-connection-auth-generation-id"] != generation {
				t.Errorf("no generation %v in %v", generation, e.System)
			}
		}
	}
	if err := module.Send(t.Context(), text("from the module")); err != nil {
		t.Fatal(err)
	}
	if e := next(t, "event", events); e.Module != "valve" {
		t.Errorf("event of the module: %+v", e)
	}
	eventually(t, "the device to be shown as connected", func() bool {
		return h.must(200, "GET /devices/pump", "")["connectionState"] == "Connected"
	})
	device.Close()
	eventually(t, "the device to be shown as gone", func() bool {
		return h.must(200, "GET /devices/pump", "")["connectionState"] == "Disconnected"
	})
}

// A batch that is too large ends the connection: MQTT has no other way to say so.
func TestTooLargeTelemetry(t *testing.T) {
	h := startHub(t, nil)
	b := &backend{}
	_, err := b.accept(&ident.Principal{ID: pump}, []message.Message{*text("fits"), *text(strings.Repeat("x", message.MaxTelemetry+1))}, time.Now())
	if !fault.Is(err, fault.MessageTooLarge) {
		t.Error(err)
	}
	c := h.connect(h.config(pump, h.create(pump, `{}`)))
	m := text(strings.Repeat("x", message.MaxTelemetry))
	if err := c.Send(t.Context(), m); err != nil {
		t.Errorf("the largest message: %v", err)
	}
}

func TestStampCannotBeForged(t *testing.T) {
	now := time.Now()
	batch := []message.Message{{System: message.System{MessageID: "mine", ConnectionDevice: "other", ConnectionModule: "other", Generation: "9",
		AuthMethod: "x", ModelID: "y", Source: message.TwinChange, Input: "i", Sequence: 7, DeliveryCount: 1, LockToken: "l"}}}
	b := &backend{}
	who := &ident.Principal{ID: valve, Generation: "g", Method: "m", ModelID: "dtmi:x;1"}
	if _, err := b.accept(who, batch, now); err != nil {
		t.Fatal(err)
	}
	want := message.System{MessageID: "mine", ConnectionDevice: "pump", ConnectionModule: "valve", Generation: "g", AuthMethod: "m",
		ModelID: "dtmi:x;1", Source: message.Telemetry, Enqueued: now}
	if batch[0].System != want {
		t.Errorf("stamped %+v", batch[0].System)
	}
	if n := testing.AllocsPerRun(100, func() { b.accept(who, batch, now) }); n != 0 {
		t.Errorf("stamping allocates %v times", n)
	}
}

func TestTwin(t *testing.T) {
	h := startHub(t, nil)
	c := h.connect(h.config(pump, h.create(pump, `{}`)))
	changes := make(chan string, 10)
	if err := c.OnDesired(t.Context(), func(version int64, patch []byte) { changes <- fmt.Sprint(version, " ", string(patch)) }); err != nil {
		t.Fatal(err)
	}
	h.must(200, "PATCH /twins/pump", `{"properties":{"desired":{"speed":3}}}`)
	if got := next(t, "desired", changes); got != `2 {"speed":3,"$version":2}` {
		t.Errorf("desired came as %s", got)
	}
	if v, err := c.Report(t.Context(), []byte(`{"rpm":900}`)); err != nil || v != 2 {
		t.Errorf("reported version %d, %v", v, err)
	}
	doc, err := c.Twin(t.Context())
	if err != nil || string(doc) != `{"desired":{"speed":3,"$version":2},"reported":{"rpm":900,"$version":2}}` {
		t.Errorf("twin %s, %v", doc, err)
	}
	if got := at(h.must(200, "GET /twins/pump", ""), "properties/reported/rpm"); got != 900.0 {
		t.Errorf("the service reads %v", got)
	}
}

func TestTwinEvents(t *testing.T) {
	h := startHub(t, func(c *Config) { c.TwinEvents = true })
	c := h.connect(h.config(pump, h.create(pump, `{}`)))
	events := h.follow("")
	if _, err := c.Report(t.Context(), []byte(`{"rpm":900}`)); err != nil {
		t.Fatal(err)
	}
	e := next(t, "twin change event", events)
	body, _ := e.Body.(map[string]any)
	if e.Source != message.TwinChange || e.Device != "pump" || at(body, "properties/reported/rpm") != 900.0 {
		t.Errorf("event %+v", e)
	}
}

func TestModelID(t *testing.T) {
	h := startHub(t, nil)
	cfg := h.config(pump, h.create(pump, `{}`))
	cfg.ModelID = "dtmi:example:Pump;1"
	h.connect(cfg)
	if got := h.must(200, "GET /twins/pump", "")["modelId"]; got != "dtmi:example:Pump;1" {
		t.Errorf("model id %v", got)
	}
}

func TestMethod(t *testing.T) {
	h := startHub(t, nil)
	key := h.create(pump, `{}`)
	call := `{"methodName":"open","payload":{"by":3},"responseTimeoutInSeconds":5,"connectTimeoutInSeconds":%d}`
	if doc := h.must(404, "POST /twins/pump/methods", fmt.Sprintf(call, 0)); !strings.Contains(fmt.Sprint(doc), "404103") {
		t.Errorf("device is not online: %v", doc)
	}
	answered := make(chan map[string]any, 1)
	go func() {
		resp, err := h.request(t.Context(), "service", "POST /twins/pump/methods", fmt.Sprintf(call, 30))
		if err != nil {
			t.Error(err)
			close(answered)
			return
		}
		defer resp.Body.Close()
		var doc map[string]any
		if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
			t.Error(err)
		}
		answered <- doc
	}()
	c := h.connect(h.config(pump, key))
	err := c.OnMethod(t.Context(), func(_ context.Context, c *method.Call) method.Reply {
		return method.Reply{Status: 207, Payload: []byte(`["` + c.Name + `",` + string(c.Payload) + `]`)}
	})
	if err != nil {
		t.Fatal(err)
	}
	doc := next(t, "the answer", answered)
	if doc["status"] != 207.0 || fmt.Sprint(doc["payload"]) != "[open map[by:3]]" {
		t.Errorf("answer %v", doc)
	}
	c.Close()
	eventually(t, "the device to stop listening", func() bool {
		resp, err := h.request(t.Context(), "service", "POST /twins/pump/methods", fmt.Sprintf(call, 0))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusNotFound
	})
}

func TestCredentials(t *testing.T) {
	h := startHub(t, nil)
	key, moduleKey := h.create(pump, `{}`), h.create(valve, `{}`)
	h.refused(h.config(pump, moduleKey), fault.Unauthorized)
	h.refused(h.config(ident.ID{Device: "unknown"}, key), fault.Unauthorized)
	h.refused(h.config(ident.ID{Device: "pump", Module: "unknown"}, key), fault.Unauthorized)
	foreign := h.config(pump, key)
	foreign.Host, foreign.Gateway = "other.example.test", "localhost"
	h.refused(foreign, fault.Unauthorized)
	alias := h.config(pump, key)
	alias.Host = "hub.example.test"
	h.connect(alias)
	if resp, err := h.request(t.Context(), "registryRead", "PUT /devices/x", `{}`); err != nil || resp.StatusCode != 401 {
		t.Errorf("a policy without the right: %v, %v", resp, err)
	}
	if strings.Contains(h.log.String(), "sig=") {
		t.Error("a token stands in the log")
	}
}

func TestCertificateDevice(t *testing.T) {
	h := startHub(t, nil)
	own, err := cert.OpenAuthority(t.TempDir(), cert.Options{Name: "somebody's"})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := own.Issue(cert.Request{CommonName: "pump", Usage: cert.ForClient})
	if err != nil {
		t.Fatal(err)
	}
	_, sha256 := cert.Fingerprints(leaf.Certificate.Raw)
	h.must(200, "PUT /devices/pump", `{"authentication":{"type":"selfSigned","x509Thumbprint":{"primaryThumbprint":"`+sha256+`"}}}`)
	cfg := h.config(pump, nil)
	cfg.Credentials, cfg.Certificates = nil, []tls.Certificate{leaf.TLS()}
	events := h.follow("")
	if err := h.connect(cfg).Send(t.Context(), text("signed")); err != nil {
		t.Fatal(err)
	}
	if e := next(t, "event", events); e.Device != "pump" {
		t.Errorf("event %+v", e)
	}
	other, err := own.Issue(cert.Request{CommonName: "pump", Usage: cert.ForClient})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Certificates = []tls.Certificate{other.TLS()}
	h.refused(cfg, fault.Unauthorized)
}

func TestTakeOver(t *testing.T) {
	h := startHub(t, nil)
	key := h.create(pump, `{}`)
	events := h.follow("")
	older := h.connect(h.config(pump, key))
	h.refused(h.config(pump, []byte("a key that is wrong")), fault.Unauthorized)
	if err := older.Send(t.Context(), text("still here")); err != nil {
		t.Fatalf("a stranger disturbed the connection: %v", err)
	}
	newer := h.connect(h.config(pump, key))
	ended(t, older)
	if err := newer.Send(t.Context(), text("newer")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"still here", "newer"} {
		if e := next(t, "event", events); e.Body != want {
			t.Errorf("event %v, want %s", e.Body, want)
		}
	}
	// The end of the older one must not count as the device's.
	if got := h.must(200, "GET /devices/pump", "")["connectionState"]; got != "Connected" {
		t.Errorf("after the take-over the device is %v", got)
	}
}

func TestRevoked(t *testing.T) {
	h := startHub(t, nil)
	for what, revoke := range map[string]func(id string){
		"disabled": func(id string) {
			h.must(200, "PUT /devices/"+id, `{"status":"disabled"}`, "If-Match", "*")
		},
		"deleted": func(id string) { h.must(204, "DELETE /devices/"+id, "", "If-Match", "*") },
		"new keys": func(id string) {
			h.must(200, "PUT /devices/"+id, `{"authentication":{"type":"sas","symmetricKey":{"primaryKey":"","secondaryKey":""}}}`, "If-Match", "*")
		},
	} {
		t.Run(what, func(t *testing.T) {
			name := strings.ReplaceAll(what, " ", "-")
			device, module := ident.ID{Device: name}, ident.ID{Device: name, Module: "m"}
			key, moduleKey := h.create(device, `{}`), h.create(module, `{}`)
			c, m := h.connect(h.config(device, key)), h.connect(h.config(module, moduleKey))
			revoke(name)
			ended(t, c)
			h.refused(h.config(device, key), fault.Unauthorized)
			if what != "new keys" {
				ended(t, m)
				h.refused(h.config(module, moduleKey), fault.Unauthorized)
			} else if err := m.Send(t.Context(), text("not concerned")); err != nil {
				t.Errorf("the module has keys of its own: %v", err)
			}
		})
	}
}

func TestRestartKeepsEverything(t *testing.T) {
	h := startHub(t, nil)
	key := h.create(pump, `{"deviceId":"pump"}`)
	cfg := h.config(pump, key)
	c := h.connect(cfg)
	if err := c.Send(t.Context(), text("before")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Report(t.Context(), []byte(`{"rpm":900}`)); err != nil {
		t.Fatal(err)
	}
	if err := c.OnMessage(t.Context(), func(context.Context, *message.Message) error { return nil }); err != nil {
		t.Fatal(err)
	}
	c.Close()
	scope, err := IDScope(t.Context(), h.cfg.DataDir)
	if err != nil || !regexp.MustCompile(`^0ne[0-9A-F]{8}$`).MatchString(scope) {
		t.Errorf("id scope %q, %v", scope, err)
	}
	owner, err := ConnectionString(t.Context(), h.cfg.DataDir, "", "iothubowner", false)
	if err != nil {
		t.Fatal(err)
	}
	root, err := RootPEM(h.cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	h.must(204, "POST /messages/devicebound", "while away", "iothub-to", "/devices/pump/messages/devicebound")
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	if again, err := IDScope(t.Context(), h.cfg.DataDir); err != nil || again != scope {
		t.Errorf("id scope of a stopped hub %q, %v", again, err)
	}
	h.start()
	if again, err := RootPEM(h.cfg.DataDir); err != nil || string(again) != string(root) {
		t.Errorf("another root after the restart (%v)", err)
	}
	if again, err := ConnectionString(t.Context(), h.cfg.DataDir, "", "iothubowner", false); err != nil || again != owner {
		t.Errorf("another connection string after the restart (%v)", err)
	}
	if got := at(h.must(200, "GET /twins/pump", ""), "properties/reported/rpm"); got != 900.0 {
		t.Errorf("reported %v after the restart", got)
	}
	if e := next(t, "event", h.follow("?since=1h")); e.Body != "before" {
		t.Errorf("event %+v after the restart", e)
	}
	// The kept session brings the message before any subscription.
	cfg.Address = h.at.MQTT
	p := dialRaw(t, h, cfg)
	if !p.present {
		t.Error("the session is gone after the restart")
	}
	if topic, body := p.publish(t); !strings.HasPrefix(topic, "devices/pump/messages/devicebound/") || body != "while away" {
		t.Errorf("came %q on %s", body, topic)
	}
}

func TestToDevice(t *testing.T) {
	h := startHub(t, nil)
	key := h.create(pump, `{}`)
	send := func(body string) {
		h.must(204, "POST /messages/devicebound", body, "iothub-to", "/devices/pump/messages/devicebound", "iothub-messageid", body)
	}
	send("1")
	got := make(chan string, 10)
	c := h.connect(h.config(pump, key))
	err := c.OnMessage(t.Context(), func(_ context.Context, m *message.Message) error {
		got <- m.System.MessageID + "=" + string(m.Body)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	send("2")
	for _, want := range []string{"1=1", "2=2"} {
		if m := next(t, "message", got); m != want {
			t.Errorf("came %s, want %s", m, want)
		}
	}
	eventually(t, "the queue to be empty", func() bool {
		return h.must(200, "GET /devices/pump", "")["cloudToDeviceMessageCount"] == 0.0
	})
}

// What the older connection had not acknowledged goes to the newer one, and nothing
// to the older one.
func TestToDeviceTakeOver(t *testing.T) {
	h := startHub(t, nil)
	key := h.create(pump, `{}`)
	stuck := make(chan string, 10)
	older := h.connect(h.config(pump, key))
	err := older.OnMessage(t.Context(), func(_ context.Context, m *message.Message) error {
		stuck <- string(m.Body)
		return errors.New("not now")
	})
	if err != nil {
		t.Fatal(err)
	}
	h.must(204, "POST /messages/devicebound", "1", "iothub-to", "/devices/pump/messages/devicebound")
	next(t, "first delivery", stuck)
	got := make(chan string, 10)
	newer := h.connect(h.config(pump, key))
	if err := newer.OnMessage(t.Context(), func(_ context.Context, m *message.Message) error { got <- string(m.Body); return nil }); err != nil {
		t.Fatal(err)
	}
	h.must(204, "POST /messages/devicebound", "2", "iothub-to", "/devices/pump/messages/devicebound")
	for _, want := range []string{"1", "2"} {
		if m := next(t, "message", got); m != want {
			t.Errorf("came %s, want %s", m, want)
		}
	}
	ended(t, older)
	if len(stuck) > 0 {
		t.Errorf("the older connection got %s", <-stuck)
	}
}

func TestStopsWithConnectionsOpen(t *testing.T) {
	h := startHub(t, nil)
	c := h.connect(h.config(pump, h.create(pump, `{}`)))
	events := h.follow("")
	if err := c.Send(t.Context(), text("x")); err != nil {
		t.Fatal(err)
	}
	next(t, "event", events)
	start := time.Now()
	if err := h.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("stopping took %v", took)
	}
	ended(t, c)
	if _, open := <-events; open {
		t.Error("the event stream goes on")
	}
}

func TestSecondHubIsRefused(t *testing.T) {
	h := startHub(t, nil)
	s, err := New(h.cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), h.cfg.DataDir) || !strings.Contains(err.Error(), "process") {
		t.Errorf("a second hub on the same data: %v", err)
	}
	h.must(200, "GET /statistics/devices", "")
}

func TestAddressInUse(t *testing.T) {
	h := startHub(t, nil)
	cfg := h.cfg
	cfg.DataDir, cfg.MQTT = t.TempDir(), h.at.MQTT
	s, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "--mqtt") {
		t.Errorf("a taken port: %v", err)
	}
}

// A hub that lost its database, or finds it damaged, says so instead of starting with
// no devices and other keys.
func TestLostDatabase(t *testing.T) {
	h := startHub(t, nil)
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	file := database(h.cfg.DataDir)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, left := range map[string][]byte{
		"missing": nil, "emptied": {}, "cut off": whole[:len(whole)/2], "overwritten": bytes.Repeat([]byte("x"), len(whole)),
	} {
		os.Remove(file)
		if left != nil {
			if err := os.WriteFile(file, left, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := New(h.cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			select {
			case <-s.Ready():
				cancel()
			case <-ctx.Done():
			}
		}()
		err = s.Run(ctx)
		cancel()
		if err == nil || !strings.Contains(err.Error(), "backup") || !strings.Contains(err.Error(), databaseName) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
}
