package identity

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/selvedge-io/selvedge/auth"
	"github.com/selvedge-io/selvedge/model/ident"
)

// Keys in the store.
const (
	entryPrefix = "identity/"
	gonePrefix  = "identity-gone/"
)

// entry is what is kept of a module. It belongs to one device at one hub: after those
// change it means nothing.
type entry struct {
	Owner       owner     `json:"owner"`
	Generation  string    `json:"generation"`
	ManagedBy   string    `json:"managedBy,omitempty"`
	Type        string    `json:"type"` // one of auth's Type constants
	Keys        [2]string `json:"keys"` // base64
	Thumbprints [2]string `json:"thumbprints"`
}

type owner struct {
	Host   string `json:"host"`
	Device string `json:"device"`
}

func (d *Directory) owner() owner {
	return owner{strings.ToLower(d.cfg.Host), d.cfg.Device}
}

// usable says whether we can sign for the module.
func (e entry) usable() bool {
	key, err := base64.StdEncoding.DecodeString(e.Keys[0])
	return e.Type == auth.TypeSAS && err == nil && len(key) > 0
}

// load reads what is stored. What cannot be read is dropped: the hub has it too.
func (d *Directory) load(ctx context.Context) error {
	for _, key := range d.cfg.Store.Keys(entryPrefix) {
		sealed, _ := d.cfg.Store.Get(key)
		name := strings.TrimPrefix(key, entryPrefix)
		var e entry
		plain, err := d.cfg.Seal.Open(sealed)
		if err == nil {
			err = json.Unmarshal(plain, &e)
		}
		switch {
		case err != nil:
			d.log.Warn("stored identity cannot be read and is dropped", "module", name, "err", err)
		case e.Owner == d.owner():
			d.modules[name] = e
			continue
		}
		if err := d.cfg.Store.Delete(ctx, key); err != nil {
			return err
		}
	}
	for _, key := range d.cfg.Store.Keys(gonePrefix) {
		raw, _ := d.cfg.Store.Get(key)
		var o owner
		if err := json.Unmarshal(raw, &o); err == nil && o == d.owner() {
			d.gone[strings.TrimPrefix(key, gonePrefix)] = true
			continue
		}
		if err := d.cfg.Store.Delete(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// keep stores what the hub says of a module.
func (d *Directory) keep(ctx context.Context, name string, e entry) error {
	e.Owner = d.owner()
	d.mu.Lock()
	was, known := d.modules[name]
	d.mu.Unlock()
	if was == e {
		return nil
	}
	plain, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("keep identity of module %s: %w", name, err)
	}
	sealed, err := d.cfg.Seal.Seal(plain)
	if err == nil {
		err = d.cfg.Store.Put(ctx, entryPrefix+name, sealed)
	}
	if err != nil {
		return fmt.Errorf("keep identity of module %s: %w", name, err)
	}
	d.mu.Lock()
	d.modules[name] = e
	d.mu.Unlock()
	if known && (was.Keys != e.Keys || was.Type != e.Type || was.Thumbprints != e.Thumbprints || was.Generation != e.Generation) {
		d.log.Info("credentials of a module changed", "module", name)
		d.revoked(name)
		if was.Generation != e.Generation {
			d.ended(name)
		}
	}
	return nil
}

// forget drops a module that is no more.
func (d *Directory) forget(ctx context.Context, name string) error {
	d.mu.Lock()
	_, known := d.modules[name]
	d.mu.Unlock()
	if !known {
		return nil
	}
	if err := d.cfg.Store.Delete(ctx, entryPrefix+name); err != nil {
		return fmt.Errorf("forget identity of module %s: %w", name, err)
	}
	d.mu.Lock()
	delete(d.modules, name)
	d.mu.Unlock()
	d.revoked(name)
	d.ended(name)
	return nil
}

func (d *Directory) ended(name string) {
	if d.cfg.Gone != nil {
		d.cfg.Gone(ident.ID{Device: d.cfg.Device, Module: name})
	}
}

func (d *Directory) revoked(name string) {
	if d.cfg.Revoked != nil {
		d.cfg.Revoked(ident.ID{Device: d.cfg.Device, Module: name})
	}
}

// setGone notes which identities are to be deleted at the hub, and which are not.
func (d *Directory) setGone(ctx context.Context, want, gone []string) error {
	o, err := json.Marshal(d.owner())
	if err != nil {
		return fmt.Errorf("note identities to delete: %w", err)
	}
	var errs []error
	for _, name := range gone {
		if isSystem(name) || d.isGone(name) {
			continue
		}
		if err := d.cfg.Store.Put(ctx, gonePrefix+name, o); err != nil {
			errs = append(errs, fmt.Errorf("note identity to delete: %w", err))
			continue
		}
		d.mu.Lock()
		d.gone[name] = true
		d.mu.Unlock()
	}
	for _, name := range want {
		errs = append(errs, d.ungone(ctx, name))
	}
	return errors.Join(errs...)
}

// ungone notes that an identity needs no deleting any more.
func (d *Directory) ungone(ctx context.Context, name string) error {
	if !d.isGone(name) {
		return nil
	}
	if err := d.cfg.Store.Delete(ctx, gonePrefix+name); err != nil {
		return fmt.Errorf("note identity that stays: %w", err)
	}
	d.mu.Lock()
	delete(d.gone, name)
	d.mu.Unlock()
	return nil
}

func (d *Directory) isGone(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.gone[name]
}
