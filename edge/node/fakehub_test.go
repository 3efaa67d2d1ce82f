package node

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/head/amqphead"
	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/head/mqtthead"
	"github.com/selvedge-io/selvedge/head/wshead"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/trust/cert"
)

const (
	testDevice = "gw-1"
	testKey    = "AAECAwQFBgcICQoLDA0ODw=="
)

// fakeHub is a hub for one gateway: the real MQTT and AMQP heads before a backend in memory, and
// as much of the registry's REST API as a gateway uses.
type fakeHub struct {
	*headtest.Backend
	mqtt, amqp, https string // addresses, the same after each start
	root              string // PEM file
	most              int    // identities on one AMQP connection, if not the usual

	mu      sync.Mutex
	modules map[string]map[string]any // identities by module
	created int
	stopped func()
	tls     *tls.Config
}

func newFakeHub(t *testing.T) *fakeHub {
	t.Helper()
	dir := t.TempDir()
	ca, err := cert.OpenAuthority(dir, cert.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := cert.NewServer(cert.ServerConfig{Authority: ca, Hosts: []string{"hub.test"}})
	if err != nil {
		t.Fatal(err)
	}
	h := &fakeHub{Backend: &headtest.Backend{}, root: filepath.Join(dir, "root.pem"), modules: map[string]map[string]any{}, tls: s.TLS()}
	for _, name := range []string{ident.EdgeAgent, ident.EdgeHub} { // without keys, as registered
		h.modules[name] = map[string]any{"deviceId": testDevice, "moduleId": name, "generationId": "1", "managedBy": "iotEdge",
			"authentication": map[string]any{"type": "sas", "symmetricKey": map[string]any{}}}
	}
	h.start(t)
	t.Cleanup(h.stop)
	return h
}

// start lets gateways in.
func (h *fakeHub) start(t *testing.T) {
	t.Helper()
	mqtt, err := net.Listen("tcp", cmp.Or(h.mqtt, "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	amqp, err := net.Listen("tcp", cmp.Or(h.amqp, "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	https, err := net.Listen("tcp", cmp.Or(h.https, "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	h.mqtt, h.amqp, h.https = mqtt.Addr().String(), amqp.Addr().String(), https.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	mqtts, amqps := mqtthead.New(mqtthead.Config{Backend: h.Backend}), amqphead.New(amqphead.Config{Backend: h.Backend, MaxIdentities: h.most})
	ended.Go(func() { _ = mqtts.Serve(ctx, tls.NewListener(mqtt, h.tls)) })
	ended.Go(func() { _ = amqps.Serve(ctx, tls.NewListener(amqp, h.tls)) })
	sockets := wshead.New(map[string]wshead.Server{wshead.MQTT: mqtts, wshead.AMQP: amqps}, nil)
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if wshead.IsUpgrade(r) {
			sockets.ServeHTTP(w, r)
			return
		}
		h.registry(w, r)
	})}
	ended.Go(func() { _ = web.Serve(tls.NewListener(https, h.tls)) })
	h.stopped = func() {
		cancel()
		web.Close()
		sockets.Close()
		ended.Wait()
	}
}

// stop ends all connections and lets none in.
func (h *fakeHub) stop() {
	if h.stopped != nil {
		h.stopped()
		h.stopped = nil
	}
}

// registry answers {GET,PUT,DELETE} /devices/{device}/modules[/{module}].
func (h *fakeHub) registry(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(parts) < 3 || parts[0] != "devices" || parts[1] != testDevice || parts[2] != "modules" || r.Header.Get("Authorization") == "" && len(r.TLS.PeerCertificates) == 0 {
		http.Error(w, `{"Message":"ErrorCode:IotHubUnauthorizedAccess;Unauthorized"}`, http.StatusUnauthorized)
		return
	}
	answer := func(v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	if len(parts) == 3 {
		all := []map[string]any{}
		for _, m := range h.modules {
			all = append(all, m)
		}
		answer(all)
		return
	}
	name := parts[3]
	m := h.modules[name]
	switch {
	case r.Method == http.MethodPut:
		body, err := io.ReadAll(r.Body)
		doc := map[string]any{}
		if err != nil || json.Unmarshal(body, &doc) != nil || doc["deviceId"] != testDevice || doc["moduleId"] != name {
			http.Error(w, `{"Message":"ErrorCode:ArgumentInvalid"}`, http.StatusBadRequest)
			return
		}
		h.created++
		doc["generationId"] = strconv.Itoa(638000000000000000 + h.created)
		if m != nil {
			doc["generationId"] = m["generationId"]
		}
		if doc["authentication"] == nil {
			doc["authentication"] = map[string]any{"type": "sas", "symmetricKey": map[string]any{"primaryKey": testKey, "secondaryKey": testKey}}
		}
		doc["deviceId"], doc["moduleId"], doc["etag"] = testDevice, name, "MQ=="
		h.modules[name] = doc
		answer(doc)
	case m == nil:
		w.Header().Set("iothub-errorcode", "ModuleNotFound")
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"Message":"ErrorCode:ModuleNotFound;no such module"}`)
	case r.Method == http.MethodGet:
		answer(m)
	case r.Method == http.MethodDelete:
		delete(h.modules, name)
		w.WriteHeader(http.StatusNoContent)
	default:
		http.Error(w, "{}", http.StatusMethodNotAllowed)
	}
}

// bodies are the messages that arrived, in the order of their arrival.
func (h *fakeHub) bodies(t *testing.T, n int) []string {
	t.Helper()
	var all []string
	for _, m := range h.Messages(t, n) {
		all = append(all, string(m.Body))
	}
	return all
}

// deploy gives the gateway modules and routes, both in JSON.
func (h *fakeHub) deploy(t *testing.T, modules, routes string) {
	t.Helper()
	h.Desire(t, module(ident.EdgeAgent), `{"schemaVersion":"1.1","runtime":{"type":"docker","settings":{}},
		"systemModules":{"edgeAgent":{"type":"docker","settings":{"image":"selvedge/edge"}},
		"edgeHub":{"type":"docker","status":"running","restartPolicy":"always","settings":{"image":"selvedge/edge"}}},
		"modules":`+modules+`}`)
	h.Desire(t, module(ident.EdgeHub), `{"schemaVersion":"1.1","routes":`+routes+`,"storeAndForwardConfiguration":{"timeToLiveSecs":7200}}`)
}

func module(name string) ident.ID { return ident.ID{Device: testDevice, Module: name} }

// config is that of a gateway below the hub.
func (h *fakeHub) config(t *testing.T) Config {
	t.Helper()
	cfg := Default()
	cfg.DataDir = filepath.Join(t.TempDir(), "edge")
	cfg.Hostname = "localhost"
	cfg.TrustBundle = h.root
	cfg.Broker.MQTT, cfg.Broker.AMQP, cfg.Broker.HTTPS = "127.0.0.1:0", "", ""
	cfg.Upstream = Upstream{AMQP: h.amqp, MQTT: h.mqtt, HTTPS: h.https}
	if err := cfg.Provisioning.SetConnectionString("HostName=hub.test;DeviceId=" + testDevice + ";SharedAccessKey=" + testKey); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// eventually waits for a condition that nobody announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.After(15 * time.Second)
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for !ok() {
		select {
		case <-end:
			t.Fatalf("waited in vain for %s", what)
		case <-look.C:
		}
	}
}

// raceEnabled is true under the race detector, which makes everything slow.
var raceEnabled bool

func pool(t *testing.T, roots []byte) *x509.CertPool {
	t.Helper()
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(roots) {
		t.Fatal("there is no certificate")
	}
	return p
}

func clientTLS(t *testing.T, roots []byte) *tls.Config {
	t.Helper()
	return &tls.Config{RootCAs: pool(t, roots), MinVersion: tls.VersionTLS12}
}
