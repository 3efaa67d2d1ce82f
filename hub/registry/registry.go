// Package registry keeps the hub's identities: devices and modules with their
// keys, thumbprints, capabilities and place in the edge hierarchy, and the shared
// access policies of services. It answers auth's questions about them from a
// bounded cache and tells the rest of the hub what changed.
package registry

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/auth"
	"github.com/selvedge-io/selvedge/hub/store"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
)

// Sealer protects keys at rest.
type Sealer interface {
	Seal(plain []byte) ([]byte, error)
	Open(sealed []byte) ([]byte, error)
}

// Config is what a registry stands on.
type Config struct {
	DB     *store.DB
	Sealer Sealer
	Log    *slog.Logger

	// CacheRecords bounds the identities kept in memory for auth; zero means 50,000.
	CacheRecords int
	Now          func() time.Time // nil means time.Now
}

// Registry is the identity registry. All methods may be called from many
// goroutines.
type Registry struct {
	db     *store.DB
	sealer Sealer
	log    *slog.Logger
	now    func() time.Time

	cache    *store.Cache[string, family]   // by device id
	absent   *store.Cache[string, struct{}] // device ids that nobody has
	policies policies
	presence presence
	watchers []func(Change)

	ticksMu   sync.Mutex
	lastTicks int64
}

var _ auth.Directory = (*Registry)(nil)

// New opens the registry over cfg.DB. In a new database it makes the built-in
// shared access policies with random keys.
func New(ctx context.Context, cfg Config) (*Registry, error) {
	r := &Registry{db: cfg.DB, sealer: cfg.Sealer, log: cfg.Log, now: cfg.Now}
	if r.now == nil {
		r.now = time.Now
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	records := cfg.CacheRecords
	if records <= 0 {
		records = 50_000
	}
	r.cache = store.NewCache[string](records, func(f family) int { return len(f) })
	r.absent = store.NewCache[string](maxAbsent, func(struct{}) int { return 1 })
	r.presence.pending = map[ident.ID]sighting{}
	if err := r.openPolicies(ctx); err != nil {
		return nil, fmt.Errorf("open shared access policies: %w", err)
	}
	return r, nil
}

// OnChange adds a watcher that is called after each change is durable, in the
// goroutine that made it. Watchers are added before the registry is used by many.
func (r *Registry) OnChange(fn func(Change)) { r.watchers = append(r.watchers, fn) }

// Change tells what happened to one identity.
type Change struct {
	Kind     Kind
	Identity Identity // as it is now; for Deleted, as it was

	// Revoked says that sessions opened with the credentials or rights of before
	// must end: the identity was deleted, disabled, or its keys changed.
	Revoked bool
}

// Kind is the kind of a change.
type Kind uint8

// The kinds of change.
const (
	Created Kind = iota
	Updated
	Deleted
)

func (r *Registry) tell(changes []Change) {
	for _, c := range changes {
		for _, fn := range r.watchers {
			fn(c)
		}
	}
}

// maxAbsent bounds the ids known to be nobody's. They are remembered so that a refusal
// takes no longer than that of a device, and costs the database as little. They are kept
// apart from the records, which strangers must not push out.
const maxAbsent = 4096

// family is what auth knows of a device ("") and its modules.
type family map[string]auth.Record

// Identity gives what auth needs to judge a claim. Modules of a disabled device
// are disabled. It fails with fault.DeviceNotFound or fault.ModuleNotFound.
func (r *Registry) Identity(ctx context.Context, id ident.ID) (auth.Record, error) {
	f, ok := r.cache.Get(id.Device)
	if !ok {
		if _, ok := r.absent.Get(id.Device); ok {
			return auth.Record{}, notFound(ident.ID{Device: id.Device})
		}
		epoch, absent := r.cache.Epoch(), r.absent.Epoch()
		var err error
		if f, err = r.loadFamily(ctx, id.Device); err != nil {
			return auth.Record{}, err
		}
		device := strings.Clone(id.Device) // not the user name that it was cut from
		if len(f) > 0 {
			r.cache.Put(epoch, device, f, nil)
		} else {
			r.absent.Put(absent, device, struct{}{}, nil)
		}
	}
	if _, ok := f[""]; !ok {
		return auth.Record{}, notFound(ident.ID{Device: id.Device})
	}
	rec, ok := f[id.Module]
	if !ok {
		return auth.Record{}, notFound(id)
	}
	return rec, nil
}

func (r *Registry) loadFamily(ctx context.Context, device string) (family, error) {
	all, err := r.query(ctx, r.db.Read(), "WHERE device = $1 ORDER BY module", device)
	if err != nil {
		return nil, fmt.Errorf("load device %s for authentication: %w", device, err)
	}
	f := make(family, len(all))
	for _, i := range all {
		f[i.ID.Module] = auth.Record{ID: i.ID, Enabled: i.Enabled && all[0].Enabled, Generation: i.Generation,
			Type: i.Auth.Type, Keys: i.Auth.Keys, Thumbprints: i.Auth.Thumbprints}
	}
	return f, nil
}

// Get gives one identity. It fails with fault.DeviceNotFound, also for a module of
// an unknown device, or fault.ModuleNotFound.
func (r *Registry) Get(ctx context.Context, id ident.ID) (Identity, error) {
	if err := id.Check(); err != nil {
		return Identity{}, err
	}
	i, err := r.get(ctx, r.db.Read(), id)
	if err != nil {
		return Identity{}, err
	}
	r.presence.overlay(&i)
	return i, nil
}

// List gives at most top devices, by id.
func (r *Registry) List(ctx context.Context, top int) ([]Identity, error) {
	all, err := r.query(ctx, r.db.Read(), "WHERE module = '' ORDER BY device LIMIT $1", top)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	for i := range all {
		r.presence.overlay(&all[i])
	}
	return all, nil
}

// Modules gives the modules of a device, by id, or fault.DeviceNotFound.
func (r *Registry) Modules(ctx context.Context, device string) ([]Identity, error) {
	if _, err := r.Get(ctx, ident.ID{Device: device}); err != nil {
		return nil, err
	}
	all, err := r.query(ctx, r.db.Read(), "WHERE device = $1 AND module <> '' ORDER BY module", device)
	if err != nil {
		return nil, fmt.Errorf("list modules of %s: %w", device, err)
	}
	for i := range all {
		r.presence.overlay(&all[i])
	}
	return all, nil
}

// Statistics counts devices; modules do not count.
type Statistics struct {
	Total, Enabled, Disabled, Connected int
}

// Statistics counts the devices by their state.
func (r *Registry) Statistics(ctx context.Context) (Statistics, error) {
	var s Statistics
	if err := r.Flush(ctx); err != nil {
		return s, err
	}
	err := r.db.Read().QueryRowContext(ctx, `SELECT count(*), coalesce(sum(enabled), 0), coalesce(sum(connected), 0)
		FROM identities WHERE module = ''`).Scan(&s.Total, &s.Enabled, &s.Connected)
	if err != nil {
		return s, fmt.Errorf("count devices: %w", err)
	}
	s.Disabled = s.Total - s.Enabled
	return s, nil
}

// querier is a transaction or the pool of readers.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

const columns = `device, module, generation, etag, enabled, status_reason, status_updated, auth_type,
	primary_key, secondary_key, primary_thumb, secondary_thumb, edge, scope, parent_scope, managed_by,
	created, connected, connection_updated, last_activity`

func (r *Registry) query(ctx context.Context, q querier, where string, args ...any) ([]Identity, error) {
	rows, err := q.QueryContext(ctx, "SELECT "+columns+" FROM identities "+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Identity
	for rows.Next() {
		i, err := r.scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, i)
	}
	return all, rows.Err()
}

func (r *Registry) scan(rows *sql.Rows) (Identity, error) {
	var i Identity
	var sealed [2]sql.NullString
	var statusUpdated, created, connectionUpdated, lastActivity int64
	err := rows.Scan(&i.ID.Device, &i.ID.Module, &i.Generation, &i.etag, &i.Enabled, &i.StatusReason, &statusUpdated,
		&i.Auth.Type, &sealed[0], &sealed[1], &i.Auth.Thumbprints[0], &i.Auth.Thumbprints[1], &i.Edge, &i.Scope,
		&i.ParentScope, &i.ManagedBy, &created, &i.Connected, &connectionUpdated, &lastActivity)
	if err != nil {
		return i, err
	}
	i.StatusUpdated, i.Created = moment(statusUpdated), moment(created)
	i.ConnectionUpdated, i.LastActivity = moment(connectionUpdated), moment(lastActivity)
	for n := range sealed {
		if i.Auth.Keys[n], err = unseal(r.sealer, sealed[n].String); err != nil {
			return i, fmt.Errorf("unseal the keys of %s: %w", i.ID, err)
		}
	}
	return i, nil
}

// get finds one identity, or says which part of it is missing.
func (r *Registry) get(ctx context.Context, q querier, id ident.ID) (Identity, error) {
	all, err := r.query(ctx, q, "WHERE device = $1 AND module = $2", id.Device, id.Module)
	if err != nil {
		return Identity{}, fmt.Errorf("read identity %s: %w", id, err)
	}
	if len(all) == 1 {
		return all[0], nil
	}
	if id.IsModule() {
		if _, err := r.get(ctx, q, ident.ID{Device: id.Device}); err != nil {
			return Identity{}, err
		}
	}
	return Identity{}, notFound(id)
}

func notFound(id ident.ID) error {
	if id.IsModule() {
		return fault.New(fault.ModuleNotFound, "device %q has no module %q", id.Device, id.Module)
	}
	return fault.New(fault.DeviceNotFound, "there is no device %q", id.Device)
}

// isNotFound says whether err is one of notFound's.
func isNotFound(err error) bool {
	return fault.Is(err, fault.DeviceNotFound) || fault.Is(err, fault.ModuleNotFound)
}

// ticks is a number that only grows, in the style of .NET's 100 ns since year 1:
// generation ids and the numbers of edge scopes.
func (r *Registry) ticks() int64 {
	const unixEpoch = 621355968000000000
	r.ticksMu.Lock()
	defer r.ticksMu.Unlock()
	r.lastTicks = max(r.lastTicks+1, r.now().UnixNano()/100+unixEpoch)
	return r.lastTicks
}

// micros is how times are stored; zero is never.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func moment(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}
