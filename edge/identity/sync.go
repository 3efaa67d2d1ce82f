package identity

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/selvedge-io/selvedge/auth"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
)

// managedByEdge marks the identities that we may delete. The hub's own writing; others
// differ in case.
const managedByEdge = "iotEdge"

// parallel is how many calls to the hub are under way at most.
const parallel = 4

// Sync gives the generation id of each wanted module, by name. It makes the identities
// that are missing, and deletes those of gone, if they are managed by the edge; system
// modules are never deleted. When all that is wanted is known here already it succeeds
// at once, with no word to the hub about it; what is to be deleted without a hub is
// noted and deleted later. Otherwise it fails, naming what is missing, and gives what
// it has; fault.Temporary says whether trying again may help.
func (d *Directory) Sync(ctx context.Context, want, gone []string) (generations map[string]string, err error) {
	if err := d.work(ctx); err != nil {
		return nil, err
	}
	defer d.rest()
	for _, name := range want {
		if err := (ident.ID{Device: d.cfg.Device, Module: name}).Check(); err != nil || name == "" {
			return nil, fault.New(fault.ArgumentInvalid, "module name %q cannot be an identity", name)
		}
	}
	gone = slices.DeleteFunc(slices.Clone(gone), func(name string) bool { return slices.Contains(want, name) })
	if err := d.setGone(ctx, want, gone); err != nil {
		return nil, err
	}
	for _, name := range gone { // nobody may connect as one of them
		if e, err := d.find(ident.ID{Device: d.cfg.Device, Module: name}); err == nil && e.managed() && !isSystem(name) {
			if err := d.forget(ctx, name); err != nil {
				return nil, err
			}
		}
	}
	missing := d.missing(want)
	if len(missing) > 0 {
		err = d.refreshAll(ctx)
		missing = d.missing(want)
	}
	// Deletions come first, since the hub bounds how many there are. They may wait
	// until it is known to answer.
	if err == nil && d.hub.answers() {
		d.deleteGone(ctx)
	}
	if len(missing) > 0 && err == nil {
		err = d.create(ctx, missing)
		missing = d.missing(want)
	}
	generations = make(map[string]string, len(want))
	d.mu.Lock()
	for _, name := range want {
		if e, ok := d.modules[name]; ok && e.usable() {
			generations[name] = e.Generation
		}
	}
	d.mu.Unlock()
	if len(missing) == 0 {
		return generations, nil
	}
	if err == nil {
		err = fault.New(fault.BadGateway, "the hub gave no key that can be used")
	}
	return generations, fault.Wrap(err, fault.CodeOf(err), "no identity for %s: %s", strings.Join(missing, ", "), fault.TextOf(err))
}

func (e entry) managed() bool { return strings.EqualFold(e.ManagedBy, managedByEdge) }

// missing are the wanted modules that we cannot sign for.
func (d *Directory) missing(want []string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var missing []string
	for _, name := range want {
		if !d.modules[name].usable() {
			missing = append(missing, name)
		}
	}
	return missing
}

// each calls do for all names, a few at a time.
func each(names []string, do func(name string) error) error {
	errs := make([]error, len(names))
	var joined sync.WaitGroup
	free := make(chan struct{}, parallel)
	for i, name := range names {
		free <- struct{}{}
		joined.Go(func() {
			errs[i] = do(name)
			<-free
		})
	}
	joined.Wait()
	// One that passes goes last, so that the whole counts as one that does not.
	slices.SortStableFunc(errs, func(a, b error) int { return rank(a) - rank(b) })
	return errors.Join(errs...)
}

func rank(err error) int {
	switch {
	case err == nil:
		return 2
	case fault.Temporary(err):
		return 1
	default:
		return 0
	}
}

// create makes identities, or gives those keys that have none we can use.
func (d *Directory) create(ctx context.Context, names []string) error {
	return each(names, func(name string) error {
		d.mu.Lock()
		_, exists := d.modules[name]
		d.mu.Unlock()
		var m document
		var err error
		if exists {
			m, err = d.hub.putModule(ctx, name, newKeys(), true)
		} else {
			m, err = d.hub.putModule(ctx, name, newKeys(), false)
			if fault.CodeOf(err).Status() == 409 { // an answer to us was lost
				m, err = d.hub.module(ctx, name)
			}
		}
		if err != nil {
			return fmt.Errorf("make identity of module %s: %w", name, err)
		}
		d.log.Info("module has an identity", "module", name, "generation", m.Generation)
		return d.keep(ctx, name, m.entry())
	})
}

// newKeys is a primary and a secondary key, base64 of 32 bytes each.
func newKeys() (keys [2]string) {
	for i := range keys {
		raw := make([]byte, 32)
		rand.Read(raw) // never fails
		keys[i] = base64.StdEncoding.EncodeToString(raw)
	}
	return keys
}

// deleteGone deletes what is noted. What goes wrong is tried again next time.
func (d *Directory) deleteGone(ctx context.Context) {
	d.mu.Lock()
	names := slices.Sorted(maps.Keys(d.gone))
	d.mu.Unlock()
	err := each(names, func(name string) error {
		if err := d.deleteOne(ctx, name); err != nil {
			return fmt.Errorf("delete identity of module %s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		d.log.Warn("identities of removed modules stay at the hub for now", "err", err)
	}
}

func (d *Directory) deleteOne(ctx context.Context, name string) error {
	m, err := d.hub.module(ctx, name)
	switch {
	case fault.Is(err, fault.ModuleNotFound):
		if err := d.forget(ctx, name); err != nil {
			return err
		}
		return d.ungone(ctx, name)
	case err != nil:
		return err
	case !m.entry().managed():
		return d.ungone(ctx, name) // somebody else's
	}
	if err := d.hub.deleteModule(ctx, name); err != nil && !fault.Is(err, fault.ModuleNotFound) {
		return err
	}
	d.log.Info("identity of a removed module is deleted", "module", name)
	return errors.Join(d.forget(ctx, name), d.ungone(ctx, name))
}

// Refresh asks the hub anew for identities, each a "device/module"; all of this
// device's when there are none or the device itself is named. Those of other devices
// are left out. It also deletes what had to wait for the hub. Call it when the hub
// says that identities changed, when the link to it is back, and when it refuses one
// of ours.
func (d *Directory) Refresh(ctx context.Context, ids []string) error {
	var names []string
	all := len(ids) == 0
	for _, text := range ids {
		id, err := ident.Parse(text)
		if err != nil {
			return fmt.Errorf("refresh identity: %w", err)
		}
		switch {
		case id.Device != d.cfg.Device:
		case !id.IsModule():
			all = true
		default:
			names = append(names, id.Module)
		}
	}
	if !all && len(names) == 0 {
		return nil
	}
	if err := d.work(ctx); err != nil {
		return err
	}
	defer d.rest()
	var err error
	if all || len(names) > parallel {
		err = d.refreshAll(ctx)
	} else {
		err = each(names, func(name string) error { return d.refreshOne(ctx, name) })
	}
	if err == nil {
		d.deleteGone(ctx)
	}
	return err
}

// refreshAll makes what we know what the hub knows.
func (d *Directory) refreshAll(ctx context.Context) error {
	list, err := d.hub.modules(ctx)
	if err != nil {
		return fmt.Errorf("list identities of modules: %w", err)
	}
	listed := make(map[string]bool, len(list))
	var errs []error
	for _, m := range list {
		listed[m.Module] = true
		errs = append(errs, d.take(ctx, m))
	}
	for _, m := range d.Modules() {
		if !listed[m.Name] {
			errs = append(errs, d.forget(ctx, m.Name))
		}
	}
	return errors.Join(errs...)
}

func (d *Directory) refreshOne(ctx context.Context, name string) error {
	m, err := d.hub.module(ctx, name)
	switch {
	case fault.Is(err, fault.ModuleNotFound):
		return d.forget(ctx, name)
	case err != nil:
		return fmt.Errorf("refresh identity of module %s: %w", name, err)
	}
	return d.take(ctx, m)
}

// take takes over what the hub says of a module. System modules come without keys and
// get them from us.
func (d *Directory) take(ctx context.Context, m document) error {
	if d.isGone(m.Module) {
		return nil
	}
	e := m.entry()
	if isSystem(m.Module) && !e.usable() {
		named, err := d.hub.putModule(ctx, m.Module, newKeys(), true)
		if err != nil {
			return fmt.Errorf("give module %s a key: %w", m.Module, err)
		}
		e = named.entry()
	}
	return d.keep(ctx, m.Module, e)
}

// system gets a system module's identity from the hub when it is not known yet.
func (d *Directory) system(ctx context.Context, name string) (entry, error) {
	if err := d.work(ctx); err != nil {
		return entry{}, err
	}
	defer d.rest()
	id := ident.ID{Device: d.cfg.Device, Module: name}
	if e, err := d.find(id); err == nil && e.usable() {
		return e, nil // another one was faster
	}
	m, err := d.hub.module(ctx, name)
	if err == nil {
		err = d.take(ctx, m)
	}
	if fault.Is(err, fault.ModuleNotFound) {
		return entry{}, fault.Wrap(err, fault.ModuleNotFound, "the hub has no %s for device %q: is it registered as an edge device?", name, d.cfg.Device)
	}
	if err != nil {
		return entry{}, fmt.Errorf("get identity of %s: %w", name, err)
	}
	return d.find(id)
}

// entry is what we keep of a document.
func (m document) entry() entry {
	e := entry{Generation: m.Generation, Type: m.Authentication.Type}
	if m.ManagedBy != nil {
		e.ManagedBy = *m.ManagedBy
	}
	e.Keys = [2]string{deref(m.Authentication.SymmetricKey.Primary), deref(m.Authentication.SymmetricKey.Secondary)}
	e.Thumbprints = [2]string{deref(m.Authentication.Thumbprint.Primary), deref(m.Authentication.Thumbprint.Secondary)}
	if e.Type == "x509" { // what hubs call both kinds in answers to devices
		e.Type = auth.TypeThumbprint
		if e.Thumbprints == [2]string{} {
			e.Type = auth.TypeAuthority
		}
	}
	return e
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
