package registry

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
)

// managedByEdge marks modules that the edge runtime owns.
const managedByEdge = "iotEdge"

// Create registers a new device or module. It fails with fault.DeviceAlreadyExists,
// fault.ModuleAlreadyExists, fault.DeviceNotFound for a module of no device,
// fault.TooManyModules, fault.InvalidDeviceScope or fault.ArgumentInvalid.
func (r *Registry) Create(ctx context.Context, spec Spec) (Identity, error) {
	if err := spec.ID.CheckNew(); err != nil {
		return Identity{}, err
	}
	if strings.HasPrefix(spec.ID.Module, "$") && !isSystem(spec.ID.Module) {
		return Identity{}, fault.New(fault.ArgumentInvalid, "module ids that begin with $ are reserved")
	}
	if err := spec.check(); err != nil {
		return Identity{}, err
	}
	return r.change(ctx, spec.ID, func(tx *sql.Tx) ([]Change, error) { return r.create(tx, spec) })
}

// Update changes an identity; ifMatch is an etag without quotes, or * for any. It
// fails as Create does, and with fault.PreconditionFailed when the etag moved on.
func (r *Registry) Update(ctx context.Context, spec Spec, ifMatch string) (Identity, error) {
	if err := spec.ID.Check(); err != nil {
		return Identity{}, err
	}
	if err := spec.check(); err != nil {
		return Identity{}, err
	}
	return r.change(ctx, spec.ID, func(tx *sql.Tx) ([]Change, error) { return r.update(tx, spec, ifMatch) })
}

// Delete removes an identity, a device with its modules; their twins go with them.
// ifMatch is as for Update; empty means any.
func (r *Registry) Delete(ctx context.Context, id ident.ID, ifMatch string) error {
	if err := id.Check(); err != nil {
		return err
	}
	_, err := r.change(ctx, id, func(tx *sql.Tx) ([]Change, error) { return r.remove(tx, id, ifMatch) })
	return err
}

// change runs fn in a write, and tells watchers and cache once it is durable. fn
// lists the identity asked for last.
func (r *Registry) change(ctx context.Context, id ident.ID, fn func(*sql.Tx) ([]Change, error)) (Identity, error) {
	var changes []Change
	err := r.db.Write(ctx, func(tx *sql.Tx) (err error) {
		changes, err = fn(tx)
		return err
	})
	if err != nil {
		return Identity{}, err
	}
	r.cache.Drop(id.Device)
	r.absent.Drop(id.Device)
	r.tell(changes)
	last := changes[len(changes)-1].Identity
	r.presence.overlay(&last)
	return last, nil
}

func (s *Spec) check() error {
	if s.StatusReason != nil && utf8.RuneCountInString(*s.StatusReason) > maxReason {
		return fault.New(fault.ArgumentInvalid, "statusReason is longer than %d characters", maxReason)
	}
	if s.ParentScopes != nil && len(*s.ParentScopes) > 1 {
		return fault.New(fault.ArgumentInvalid, "parentScopes has %d elements, the most is 1", len(*s.ParentScopes))
	}
	if s.ManagedBy != nil && len(*s.ManagedBy) > ident.MaxLength {
		return fault.New(fault.ArgumentInvalid, "managedBy is longer than %d characters", ident.MaxLength)
	}
	if s.Auth == nil {
		return nil
	}
	complete, err := s.Auth.complete()
	if err != nil {
		return err
	}
	s.Auth = &complete
	return nil
}

func isSystem(module string) bool { return module == ident.EdgeAgent || module == ident.EdgeHub }

func (r *Registry) create(tx *sql.Tx, spec Spec) ([]Change, error) {
	ctx := context.Background()
	if _, err := r.get(ctx, tx, spec.ID); err == nil {
		if spec.ID.IsModule() {
			return nil, fault.New(fault.ModuleAlreadyExists, "device %q has a module %q already", spec.ID.Device, spec.ID.Module)
		}
		return nil, fault.New(fault.DeviceAlreadyExists, "a device %q exists already", spec.ID.Device)
	} else if !isNotFound(err) {
		return nil, err
	}
	i := Identity{ID: spec.ID, Generation: fmt.Sprint(r.ticks()), etag: newEtag(), Created: r.now().UTC()}
	if spec.ID.IsModule() {
		if err := r.roomForModule(tx, spec.ID); err != nil {
			return nil, err
		}
		i.ManagedBy = spec.ManagedBy
	}
	if spec.Auth == nil {
		spec.Auth = &Authentication{Type: SAS, Keys: [2]string{newKey(), newKey()}}
	}
	i.Auth = *spec.Auth
	if err := r.apply(tx, &i, spec, true); err != nil {
		return nil, err
	}
	i.StatusUpdated = moment(0)
	if err := r.insert(tx, i); err != nil {
		return nil, err
	}
	changes, err := r.addSystemModules(tx, i)
	return append(changes, Change{Kind: Created, Identity: i}), err
}

func (r *Registry) roomForModule(tx *sql.Tx, id ident.ID) error {
	if _, err := r.get(context.Background(), tx, ident.ID{Device: id.Device}); err != nil {
		return err
	}
	if isSystem(id.Module) {
		return fault.New(fault.SystemModuleModify, "%s belongs to the edge runtime; it comes with the edge device", id.Module)
	}
	var n int
	err := tx.QueryRow("SELECT count(*) FROM identities WHERE device = $1 AND module <> '' AND module NOT IN ($2, $3)",
		id.Device, ident.EdgeAgent, ident.EdgeHub).Scan(&n)
	if err != nil {
		return fmt.Errorf("count modules of %s: %w", id.Device, err)
	}
	if n >= MaxModules {
		return fault.New(fault.TooManyModules, "device %q has %d modules, the most is %d", id.Device, n, MaxModules)
	}
	return nil
}

// addSystemModules makes the two modules that every edge device has.
func (r *Registry) addSystemModules(tx *sql.Tx, device Identity) ([]Change, error) {
	if !device.Edge || device.ID.IsModule() {
		return nil, nil
	}
	var changes []Change
	for _, name := range []string{ident.EdgeAgent, ident.EdgeHub} {
		owner := managedByEdge
		m := Identity{ID: ident.ID{Device: device.ID.Device, Module: name}, Generation: fmt.Sprint(r.ticks()), Enabled: true,
			etag: newEtag(), Auth: Authentication{Type: None}, ManagedBy: &owner, Created: r.now().UTC()}
		if err := r.insert(tx, m); err != nil {
			return nil, err
		}
		changes = append(changes, Change{Kind: Created, Identity: m})
	}
	return changes, nil
}

// apply lays the spec over a device or module.
func (r *Registry) apply(tx *sql.Tx, i *Identity, spec Spec, isNew bool) error {
	if i.ID.IsModule() {
		i.Enabled = true
		if spec.ManagedBy != nil && !isSystem(i.ID.Module) {
			i.ManagedBy = spec.ManagedBy
		}
		return nil
	}
	enabled := spec.Enabled == nil || *spec.Enabled
	if enabled != i.Enabled {
		i.Enabled, i.StatusUpdated = enabled, r.now().UTC()
	}
	i.StatusReason = spec.StatusReason
	wasEdge := i.Edge
	if spec.Edge != nil {
		i.Edge = *spec.Edge
	}
	if wasEdge && !i.Edge {
		return fault.New(fault.InvalidOperation, "%q is an edge device and stays one; delete it and create it anew", i.ID.Device)
	}
	return r.place(tx, i, spec, isNew, wasEdge)
}

func (r *Registry) update(tx *sql.Tx, spec Spec, ifMatch string) ([]Change, error) {
	was, err := r.get(context.Background(), tx, spec.ID)
	if err != nil {
		return nil, err
	}
	if err := was.matches(ifMatch); err != nil {
		return nil, err
	}
	now := was
	now.etag++
	if spec.Auth != nil {
		now.Auth = *spec.Auth
	}
	if err := r.apply(tx, &now, spec, false); err != nil {
		return nil, err
	}
	if err := r.rewrite(tx, now); err != nil {
		return nil, err
	}
	var changes []Change
	if now.Edge && !was.Edge {
		if changes, err = r.addSystemModules(tx, now); err != nil {
			return nil, err
		}
	}
	disabled := was.Enabled && !now.Enabled
	if disabled && !now.ID.IsModule() {
		modules, err := r.query(context.Background(), tx, "WHERE device = $1 AND module <> '' ORDER BY module", now.ID.Device)
		if err != nil {
			return nil, fmt.Errorf("list modules of %s: %w", now.ID.Device, err)
		}
		for _, m := range modules {
			changes = append(changes, Change{Kind: Updated, Identity: m, Revoked: true})
		}
	}
	return append(changes, Change{Kind: Updated, Identity: now, Revoked: disabled || now.Auth != was.Auth}), nil
}

func (r *Registry) remove(tx *sql.Tx, id ident.ID, ifMatch string) ([]Change, error) {
	was, err := r.get(context.Background(), tx, id)
	if err != nil {
		return nil, err
	}
	if err := was.matches(ifMatch); err != nil {
		return nil, err
	}
	var changes []Change
	if id.IsModule() {
		if isSystem(id.Module) {
			return nil, fault.New(fault.SystemModuleModify, "%s belongs to the edge runtime; it goes with the edge device", id.Module)
		}
		_, err = tx.Exec("DELETE FROM identities WHERE device = $1 AND module = $2", id.Device, id.Module)
	} else {
		modules, qerr := r.query(context.Background(), tx, "WHERE device = $1 AND module <> '' ORDER BY module", id.Device)
		if qerr != nil {
			return nil, fmt.Errorf("list modules of %s: %w", id.Device, qerr)
		}
		for _, m := range modules {
			changes = append(changes, Change{Kind: Deleted, Identity: m, Revoked: true})
		}
		if err = r.orphan(tx, was); err == nil {
			_, err = tx.Exec("DELETE FROM identities WHERE device = $1", id.Device)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("delete %s: %w", id, err)
	}
	return append(changes, Change{Kind: Deleted, Identity: was, Revoked: true}), nil
}

func (r *Registry) insert(tx *sql.Tx, i Identity) error {
	keys, err := r.sealBoth(i.Auth.Keys)
	if err != nil {
		return err
	}
	_, err = tx.Exec(`INSERT INTO identities (`+columns+`) VALUES
		($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, 0, 0, 0)`,
		i.ID.Device, i.ID.Module, i.Generation, i.etag, flag(i.Enabled), i.StatusReason, micros(i.StatusUpdated), i.Auth.Type,
		keys[0], keys[1], i.Auth.Thumbprints[0], i.Auth.Thumbprints[1], flag(i.Edge), i.Scope, i.ParentScope, i.ManagedBy,
		micros(i.Created))
	if err != nil {
		return fmt.Errorf("insert %s: %w", i.ID, err)
	}
	return nil
}

func (r *Registry) rewrite(tx *sql.Tx, i Identity) error {
	keys, err := r.sealBoth(i.Auth.Keys)
	if err != nil {
		return err
	}
	_, err = tx.Exec(`UPDATE identities SET etag = $3, enabled = $4, status_reason = $5, status_updated = $6, auth_type = $7,
		primary_key = $8, secondary_key = $9, primary_thumb = $10, secondary_thumb = $11, edge = $12, scope = $13,
		parent_scope = $14, managed_by = $15 WHERE device = $1 AND module = $2`,
		i.ID.Device, i.ID.Module, i.etag, flag(i.Enabled), i.StatusReason, micros(i.StatusUpdated), i.Auth.Type,
		keys[0], keys[1], i.Auth.Thumbprints[0], i.Auth.Thumbprints[1], flag(i.Edge), i.Scope, i.ParentScope, i.ManagedBy)
	if err != nil {
		return fmt.Errorf("update %s: %w", i.ID, err)
	}
	return nil
}

func (r *Registry) sealBoth(keys [2]string) (sealed [2]any, err error) {
	for n, key := range keys {
		if sealed[n], err = r.seal(key); err != nil {
			return sealed, err
		}
	}
	return sealed, nil
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}
