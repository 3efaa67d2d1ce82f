// Package api is the hub's REST surface for services, in the shape of IoT Hub's:
// identities, twins, methods, configuration content, cloud-to-device messages and,
// for our own command line, the event stream. It translates between HTTP and the
// rooms behind it and decides nothing else.
package api

import (
	"context"
	"iter"
	"log/slog"
	"net/http"
	"time"

	"github.com/selvedge-io/selvedge/auth"
	"github.com/selvedge-io/selvedge/head/door"
	"github.com/selvedge-io/selvedge/hub/registry"
	"github.com/selvedge-io/selvedge/hub/twins"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
)

// Authorizer judges the credentials of a call; *auth.Verifier is one.
type Authorizer interface {
	// Service judges an Authorization header for a resource, the path of the call
	// without leading slash, and names the policy.
	Service(ctx context.Context, authorization, resource string, need auth.Right) (name string, err error)
	// DeviceToken judges a token signed with a device's own key.
	DeviceToken(ctx context.Context, token string, of ident.ID) error
	// Device judges a claim; the API brings client certificates in it.
	Device(ctx context.Context, c *ident.Claim) (*ident.Principal, error)
}

// Methods calls direct methods.
type Methods interface {
	// Invoke calls a method of an existing device or module and waits for the
	// answer. It fails with fault.DeviceNotOnline, fault.ConnectionClosed,
	// fault.GatewayTimeout or fault.TooManyInflight.
	Invoke(ctx context.Context, of ident.ID, c *method.Call) (method.Reply, error)
}

// Inbox keeps the messages that wait for devices.
type Inbox interface {
	// Send keeps m durably for an existing device before it returns.
	Send(ctx context.Context, to ident.ID, m *message.Message) error
	// Purge drops what waits and gives its number.
	Purge(ctx context.Context, of ident.ID) (int, error)
	// Waiting is how many messages wait.
	Waiting(ctx context.Context, of ident.ID) (int, error)
}

// Events is the event stream.
type Events interface {
	// Follow gives the events that q asks for, as they come, until ctx ends or
	// q.Count were given. Each step yields one or more whole lines of JSON, each
	// with its newline, valid until the next step; an error ends it. What is wrong
	// with q, such as an unknown group, is said at once.
	Follow(ctx context.Context, q EventQuery) (iter.Seq2[[]byte, error], error)
}

// EventQuery says which events a follower wants.
type EventQuery struct {
	Device string    // only this device and its modules; empty: all
	Module string    // only this module of Device
	Since  time.Time // from then on; zero: only what comes
	Group  string    // consumer group; empty: $Default
	Count  int       // stop after so many; zero: never
}

// Config is what the API stands on. All but Log and Now are needed.
type Config struct {
	Auth     Authorizer
	Registry *registry.Registry
	Twins    *twins.Twins
	Methods  Methods
	Inbox    Inbox
	Events   Events
	Log      *slog.Logger
	Now      func() time.Time
}

// api is the handler.
type api struct {
	Config
	routes   []route
	refusals door.Refusals
}

// New makes the handler of the REST calls. Paths it does not know get 404 in
// Azure's form.
func New(cfg Config) http.Handler {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	a := &api{Config: cfg}
	a.routes = a.table()
	return a
}

// Largest request bodies, in bytes.
const (
	maxIdentity = 64 << 10
	maxTwin     = 1 << 20 // clients post whole twins back, metadata included
	maxMethod   = method.MaxPayload + 8<<10
	maxContent  = 4 << 20
	maxBulk     = 8 << 20
	maxToDevice = message.MaxToDevice
)

// table lists the calls. Literal segments come before {d} and {m} in the same
// place.
func (a *api) table() []route {
	const (
		rRead  = auth.RegistryRead
		rWrite = auth.RegistryWrite
		svc    = auth.ServiceConnect
	)
	return []route{
		{method: "GET", path: "devices", need: rRead, do: a.listDevices},
		{method: "POST", path: "devices", need: rWrite, body: maxBulk, do: a.bulk},
		{method: "GET", path: "devices/{d}", need: rRead, do: a.getIdentity},
		{method: "PUT", path: "devices/{d}", need: rWrite, body: maxIdentity, do: a.putIdentity},
		{method: "DELETE", path: "devices/{d}", need: rWrite, do: a.deleteIdentity},
		{method: "DELETE", path: "devices/{d}/commands", need: svc, do: a.purge},
		{method: "POST", path: "devices/{d}/applyConfigurationContent", need: rWrite, or: svc, body: maxContent, do: a.applyContent},
		{method: "GET", path: "devices/{d}/modules", need: rRead, device: true, do: a.listModules},
		{method: "GET", path: "devices/{d}/modules/{m}", need: rRead, device: true, do: a.getIdentity},
		{method: "PUT", path: "devices/{d}/modules/{m}", need: rWrite, device: true, body: maxIdentity, do: a.putIdentity},
		{method: "DELETE", path: "devices/{d}/modules/{m}", need: rWrite, device: true, do: a.deleteIdentity},
		{method: "GET", path: "statistics/devices", need: rRead, do: a.deviceStatistics},
		{method: "GET", path: "statistics/service", need: rRead, do: a.serviceStatistics},
		{method: "GET", path: "twins/{d}", need: svc, nested: true, do: a.getTwin},
		{method: "PATCH", path: "twins/{d}", need: svc, nested: true, body: maxTwin, do: a.writeTwin},
		{method: "PUT", path: "twins/{d}", need: svc, nested: true, body: maxTwin, do: a.writeTwin},
		{method: "POST", path: "twins/{d}/methods", need: svc, nested: true, body: maxMethod, do: a.invoke},
		{method: "GET", path: "twins/{d}/modules/{m}", need: svc, nested: true, do: a.getTwin},
		{method: "PATCH", path: "twins/{d}/modules/{m}", need: svc, nested: true, body: maxTwin, do: a.writeTwin},
		{method: "PUT", path: "twins/{d}/modules/{m}", need: svc, nested: true, body: maxTwin, do: a.writeTwin},
		{method: "POST", path: "twins/{d}/modules/{m}/methods", need: svc, nested: true, body: maxMethod, do: a.invoke},
		{method: "POST", path: "messages/devicebound", need: svc, body: maxToDevice, do: a.sendToDevice},
		{method: "GET", path: "selvedge/events", need: svc, do: a.followEvents},
	}
}
