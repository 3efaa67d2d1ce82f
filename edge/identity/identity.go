// Package identity knows who this device is: it sees to the identities of the device's
// modules at the hub, keeps their keys for times without one, and signs with them.
package identity

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/auth"
	"github.com/selvedge-io/selvedge/client"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/trust/sas"
)

// Store keeps small things durably; storage/kv does.
type Store interface {
	Get(key string) ([]byte, bool)
	Put(ctx context.Context, key string, value []byte) error
	Delete(ctx context.Context, key string) error
	Keys(prefix string) []string
}

// Sealer hides what is stored from whoever reads the disk; trust/keys does.
type Sealer interface {
	Seal(plain []byte) ([]byte, error)
	Open(sealed []byte) ([]byte, error)
}

// Config says who the device is and how it reaches its hub. Gateway, Address, Roots,
// Revoked, Gone and Log may be left out, and one of Key and Certificates.
type Config struct {
	Host    string // name of the hub, as in tokens
	Gateway string // name of the server when that is not Host: a parent device
	Address string // host:port to dial when it is not port 443 of Gateway

	Device       string            // id of this device
	Key          []byte            // its symmetric key, decoded
	Certificates []tls.Certificate // or its client certificate

	Roots *x509.CertPool // who may vouch for the server; nil means those of the system
	Store Store
	Seal  Sealer

	// Revoked is called, in no order, for each module whose connections must end
	// because it was deleted or its keys changed. It must not block.
	Revoked func(of ident.ID)

	// Gone is called, after Revoked, for each module whose identity is no more; one of
	// the same name is another. Changes of identities wait for it.
	Gone func(of ident.ID)

	Log *slog.Logger // nil for silence
}

// Directory is the device and its modules. Its methods may be called from many
// goroutines.
type Directory struct {
	cfg Config
	log *slog.Logger
	hub *hub

	working chan struct{} // holds a token while somebody changes identities

	mu      sync.Mutex
	modules map[string]entry // by name
	gone    map[string]bool  // modules to be deleted at the hub
}

var _ auth.Directory = (*Directory)(nil)

// New makes a directory from what is in the store. It does not talk to the hub.
func New(ctx context.Context, cfg Config) (*Directory, error) {
	switch {
	case cfg.Host == "" || cfg.Device == "":
		return nil, errors.New("identity: the names of hub and device are needed")
	case len(cfg.Key) == 0 && len(cfg.Certificates) == 0:
		return nil, errors.New("identity: the device has neither a key nor a certificate")
	case cfg.Store == nil || cfg.Seal == nil:
		return nil, errors.New("identity: store and sealer are needed")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d := &Directory{cfg: cfg, log: cfg.Log, working: make(chan struct{}, 1), hub: newHub(cfg),
		modules: map[string]entry{}, gone: map[string]bool{}}
	if err := d.load(ctx); err != nil {
		return nil, fmt.Errorf("read the identities of modules: %w", err)
	}
	return d, nil
}

// Close lets go of connections to the hub that nobody uses.
func (d *Directory) Close() error {
	d.hub.client.CloseIdleConnections()
	return nil
}

// Identity implements auth.Directory for the modules of this device, from what is
// known here.
func (d *Directory) Identity(_ context.Context, id ident.ID) (auth.Record, error) {
	e, err := d.find(id)
	if err != nil {
		return auth.Record{}, err
	}
	return auth.Record{ID: id, Enabled: true, Generation: e.Generation, Type: e.Type, Keys: e.Keys, Thumbprints: e.Thumbprints}, nil
}

// Policy implements auth.Directory; nobody connects to an edge device with a shared
// access policy.
func (d *Directory) Policy(context.Context, string) (auth.Policy, error) {
	return auth.Policy{}, fault.New(fault.Unauthorized, "there are no shared access policies on an edge device")
}

// Module is what is known of a module's identity, without its keys.
type Module struct {
	Name       string
	Generation string // new when the identity is deleted and made again
	ManagedBy  string // "iotEdge" when this device made it
}

// Modules lists the known identities by name, those of the system modules included.
func (d *Directory) Modules() []Module {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]Module, 0, len(d.modules))
	for _, name := range slices.Sorted(maps.Keys(d.modules)) {
		e := d.modules[name]
		all = append(all, Module{Name: name, Generation: e.Generation, ManagedBy: e.ManagedBy})
	}
	return all
}

func (d *Directory) find(id ident.ID) (entry, error) {
	if id.Device != d.cfg.Device || !id.IsModule() {
		return entry{}, fault.New(fault.DeviceNotFound, "device %q is not known here", id.Device)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.modules[id.Module]
	if !ok {
		return entry{}, fault.New(fault.ModuleNotFound, "module %q is not known on device %q", id.Module, id.Device)
	}
	return e, nil
}

// Sign is HMAC-SHA256 over data with the primary key of a module, which is what the
// workload API's sign gives (edge-runtime 3.2.1). A system module whose key is not
// known yet gets one from the hub.
func (d *Directory) Sign(ctx context.Context, module string, data []byte) ([]byte, error) {
	key, err := d.key(ctx, ident.ID{Device: d.cfg.Device, Module: module})
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(data)
	return mac.Sum(nil), nil
}

// Credentials makes tokens in the name of this device or one of its modules. The key
// is looked up for each token, so a changed one is used from then on.
func (d *Directory) Credentials(of ident.ID) client.Credentials {
	return func(ctx context.Context, resource string, expiry time.Time) (string, error) {
		key, err := d.key(ctx, of)
		if err != nil {
			return "", err
		}
		return sas.Sign(resource, key, expiry, ""), nil
	}
}

// key is the primary key of an identity, decoded.
func (d *Directory) key(ctx context.Context, of ident.ID) ([]byte, error) {
	if of == (ident.ID{Device: d.cfg.Device}) {
		if len(d.cfg.Key) == 0 {
			return nil, fault.New(fault.Unauthorized, "device %q has a certificate and no key", of.Device)
		}
		return d.cfg.Key, nil
	}
	e, err := d.find(of)
	if isSystem(of.Module) && of.Device == d.cfg.Device && (err != nil || !e.usable()) {
		e, err = d.system(ctx, of.Module)
	}
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(e.Keys[0])
	if err != nil || len(key) == 0 {
		return nil, fault.New(fault.Unauthorized, "module %q has no key", of.Module)
	}
	return key, nil
}

func isSystem(module string) bool { return module == ident.EdgeAgent || module == ident.EdgeHub }

// work waits until nobody else changes identities.
func (d *Directory) work(ctx context.Context) error {
	select {
	case d.working <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (d *Directory) rest() { <-d.working }
