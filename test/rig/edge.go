package rig

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// EdgeOptions says how an edge runs.
type EdgeOptions struct {
	Device   string // its id, which must be registered
	Host     string // its own name, localhost unless given
	MQTT     string // addresses of its broker; free ones and none for HTTPS unless given
	AMQP     string
	HTTPS    string
	HubAMQP  string // where the hub is; its own addresses unless one is given
	HubMQTT  string
	HubHTTPS string   //
	TOML     string   // more configuration
	Env      []string // more environment
}

// Edge is an edge gateway in its own process.
type Edge struct {
	*Process
	Dir    string // its data
	Config string // its configuration file
	Host   string
	MQTT   string
	AMQP   string
	Self   Identity // of the device

	env []string
}

// StartEdge runs an edge gateway with data in a new directory and waits until it is
// ready.
func StartEdge(t testing.TB, h *Hub, o EdgeOptions) *Edge {
	t.Helper()
	e := PlanEdge(t, h, o)
	e.Start(t)
	return e
}

// PlanEdge writes the configuration and starts nothing.
func PlanEdge(t testing.TB, h *Hub, o EdgeOptions) *Edge {
	t.Helper()
	dir := t.TempDir()
	e := &Edge{Dir: filepath.Join(dir, "edge"), Config: filepath.Join(dir, "edge.toml"), Host: o.Host, MQTT: o.MQTT, AMQP: o.AMQP, env: o.Env}
	set := func(s *string, or string) {
		if *s == "" {
			*s = or
		}
	}
	set(&e.Host, "localhost")
	if e.MQTT == "" {
		e.MQTT = FreeAddress(t)
	}
	if e.AMQP == "" {
		e.AMQP = FreeAddress(t)
	}
	if o.HubMQTT == "" {
		set(&o.HubAMQP, h.AMQP) // else the way would lead around what the test puts in
	}
	set(&o.HubMQTT, h.MQTT)
	set(&o.HubHTTPS, h.HTTPS)
	cs := strings.TrimSpace(h.Must(t, "device", "connection-string", o.Device))
	e.Self = h.identity(t, cs)
	e.Self.CA = ""
	e.Self.Address = e.MQTT
	text := fmt.Sprintf(`hostname = %q
trust_bundle_cert = %q

[provisioning]
source = "manual"
connection_string = %q

[upstream]
amqp = %q
mqtt = %q
https = %q

[broker]
mqtt = %q
amqp = %q
https = %q

%s
`, e.Host, "file://"+h.CA, cs, o.HubAMQP, o.HubMQTT, o.HubHTTPS, e.MQTT, e.AMQP, o.HTTPS, o.TOML)
	if err := os.WriteFile(e.Config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return e
}

// Start starts the edge, or starts it again, with the same data and addresses.
func (e *Edge) Start(t testing.TB) {
	t.Helper()
	e.Launch(t)
	e.AwaitReady(t)
}

// Launch is Start without waiting.
func (e *Edge) Launch(t testing.TB) {
	t.Helper()
	e.Process = Start(t, Selvedge(), e.env, "edge", "run", "--config", e.Config, "--data", e.Dir)
}

// Run runs a command of the device, such as list, against this edge.
func (e *Edge) Run(t testing.TB, args ...string) Answer {
	t.Helper()
	return Run(t, nil, append(append([]string{"edge"}, args...), "--data", e.Dir)...)
}

// At is how a module or a child device, known by its identity at the hub, connects
// to this edge.
func (e *Edge) At(id Identity) Identity {
	id.Address, id.CA = e.MQTT, ""
	return id
}

// Deploy gives the edge's device a manifest with the modules and routes given, both
// in JSON, with more flags of deployment set-modules.
func (h *Hub) Deploy(t testing.TB, device, modules, routes string, flags ...string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifest.json")
	if err := os.WriteFile(file, []byte(Manifest(modules, routes)), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Must(t, append([]string{"deployment", "set-modules", device, file}, flags...)...)
}

// Manifest is a deployment with the modules and routes given, both in JSON.
func Manifest(modules, routes string) string {
	return fmt.Sprintf(`{"modulesContent": {
  "$edgeAgent": {"properties.desired": {
    "schemaVersion": "1.1",
    "runtime": {"type": "docker", "settings": {}},
    "systemModules": {
      "edgeAgent": {"type": "docker", "settings": {"image": "selvedge/edge"}},
      "edgeHub": {"type": "docker", "status": "running", "restartPolicy": "always", "settings": {"image": "selvedge/edge"}}
    },
    "modules": %s}},
  "$edgeHub": {"properties.desired": {
    "schemaVersion": "1.1",
    "routes": %s,
    "storeAndForwardConfiguration": {"timeToLiveSecs": 7200}}}}}`, modules, routes)
}
