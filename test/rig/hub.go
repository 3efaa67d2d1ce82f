package rig

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// HubOptions says how a hub runs. The zero value is good.
type HubOptions struct {
	Host  string   // its name, localhost unless given
	MQTT  string   // addresses; free ones unless given
	AMQP  string   //
	HTTPS string   //
	Plain bool     // MQTT without TLS too
	Args  []string // more flags of hub run
	Env   []string // more environment of hub run
}

// Hub is a hub in its own process.
type Hub struct {
	*Process
	Dir     string // its data
	Host    string
	MQTT    string
	AMQP    string
	HTTPS   string
	Plain   string // address of MQTT without TLS, empty unless asked for
	Ops     string
	CA      string // file with its root certificate
	Service string // connection string of iothubowner

	args []string
	env  []string
}

// StartHub runs a hub with data in a new directory and waits until it is ready.
func StartHub(t testing.TB, o HubOptions) *Hub {
	t.Helper()
	h := PlanHub(t, o)
	h.Start(t)
	h.CA = filepath.Join(t.TempDir(), "root.pem")
	root := Run(t, nil, "hub", "ca", "--data", h.Dir).Must(t)
	if err := os.WriteFile(h.CA, []byte(root), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Service = strings.TrimSpace(Run(t, nil, "hub", "connection-string", "--data", h.Dir, "--hostname", h.Host).Must(t))
	return h
}

// PlanHub is StartHub without starting anything: for tests of the start itself.
func PlanHub(t testing.TB, o HubOptions) *Hub {
	t.Helper()
	h := &Hub{Dir: filepath.Join(t.TempDir(), "hub"), Host: o.Host, MQTT: o.MQTT, AMQP: o.AMQP, HTTPS: o.HTTPS, Ops: FreeAddress(t), env: o.Env}
	if h.Host == "" {
		h.Host = "localhost"
	}
	if h.MQTT == "" {
		h.MQTT = FreeAddress(t)
	}
	if h.AMQP == "" {
		h.AMQP = FreeAddress(t)
	}
	if h.HTTPS == "" {
		h.HTTPS = FreeAddress(t)
	}
	h.args = []string{"hub", "run", "--data", h.Dir, "--hostname", h.Host, "--mqtt", h.MQTT, "--amqp", h.AMQP, "--https", h.HTTPS, "--ops", h.Ops}
	if o.Plain {
		h.Plain = FreeAddress(t)
		h.args = append(h.args, "--plain-mqtt", h.Plain)
	}
	h.args = append(h.args, o.Args...)
	return h
}

// Start starts the hub, or starts it again, with the same data and addresses.
func (h *Hub) Start(t testing.TB) {
	t.Helper()
	h.Launch(t)
	h.AwaitReady(t)
}

// Launch is Start without waiting.
func (h *Hub) Launch(t testing.TB) {
	t.Helper()
	h.Process = Start(t, Selvedge(), h.env, h.args...)
}

// Env is the environment in which commands reach this hub.
func (h *Hub) Env() []string {
	return []string{"SELVEDGE_HUB=" + h.Service, "SELVEDGE_HUB_ADDRESS=" + h.HTTPS, "SELVEDGE_CA=" + h.CA}
}

// Run runs an operator's command against this hub.
func (h *Hub) Run(t testing.TB, args ...string) Answer {
	t.Helper()
	return Run(t, h.Env(), args...)
}

// Must runs a command that has to succeed and gives what it printed.
func (h *Hub) Must(t testing.TB, args ...string) string {
	t.Helper()
	return h.Run(t, args...).Must(t)
}

// Device registers a device, with more flags of device create, and gives its
// credentials.
func (h *Hub) Device(t testing.TB, id string, flags ...string) Identity {
	t.Helper()
	h.Must(t, slices.Concat([]string{"device", "create", id, "--output", "json"}, flags)...)
	return h.identity(t, h.Must(t, "device", "connection-string", id))
}

// Module registers a module of a device and gives its credentials.
func (h *Hub) Module(t testing.TB, device, module string, flags ...string) Identity {
	t.Helper()
	h.Must(t, slices.Concat([]string{"module", "create", device, module, "--output", "json"}, flags)...)
	return h.identity(t, h.Must(t, "module", "connection-string", device, module))
}

func (h *Hub) identity(t testing.TB, connectionString string) Identity {
	t.Helper()
	id := ParseIdentity(t, connectionString)
	id.Address, id.CA = h.MQTT, h.CA
	return id
}
