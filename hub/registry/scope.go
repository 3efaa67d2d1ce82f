package registry

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/selvedge-io/selvedge/model/fault"
)

// scopePrefix begins every edge scope: ms-azure-iot-edge://DEVICE-NUMBER.
const scopePrefix = "ms-azure-iot-edge://"

// place puts a device into the edge hierarchy (service-protocol 4.4): an edge
// device has a scope of its own that never changes and may have a parent; a leaf
// shows its parent's scope as its own.
func (r *Registry) place(tx *sql.Tx, i *Identity, spec Spec, isNew, wasEdge bool) error {
	if i.Edge {
		return r.placeEdge(tx, i, spec, isNew, wasEdge)
	}
	parent := i.ParentScope
	if spec.ParentScopes != nil {
		if p := only(*spec.ParentScopes); p != i.ParentScope {
			parent = p
		}
	}
	// Clients echo both members back and change one: the one that differs counts,
	// deviceScope first.
	if spec.Scope != nil && *spec.Scope != i.Scope {
		parent = *spec.Scope
	}
	if parent != i.ParentScope {
		if err := r.checkParent(tx, i, parent); err != nil {
			return err
		}
	}
	i.Scope, i.ParentScope = parent, parent
	return nil
}

func (r *Registry) placeEdge(tx *sql.Tx, i *Identity, spec Spec, isNew, wasEdge bool) error {
	switch given := spec.Scope; {
	case !wasEdge && given != nil && strings.HasPrefix(*given, scopePrefix) && (isNew || *given != i.Scope):
		if err := scopeIsFree(tx, *given); err != nil {
			return err
		}
		i.Scope = *given
	case !wasEdge:
		i.Scope = fmt.Sprintf("%s%s-%d", scopePrefix, i.ID.Device, r.ticks())
	case given != nil && *given != "" && *given != i.Scope:
		return fault.New(fault.ArgumentInvalid, "the deviceScope of an edge device does not change")
	}
	if spec.ParentScopes == nil {
		return nil
	}
	parent := only(*spec.ParentScopes)
	if parent != i.ParentScope {
		if err := r.checkParent(tx, i, parent); err != nil {
			return err
		}
	}
	i.ParentScope = parent
	return nil
}

// scopeIsFree says whether no edge device has the scope yet: who shared one would
// share its children.
func scopeIsFree(tx *sql.Tx, scope string) error {
	var owner string
	err := tx.QueryRow("SELECT device FROM identities WHERE scope = $1 AND module = '' AND edge = 1", scope).Scan(&owner)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("look up edge scope: %w", err)
	}
	return fault.New(fault.InvalidDeviceScope, "the scope %q belongs to %q", scope, owner)
}

func only(scopes []string) string {
	if len(scopes) == 0 {
		return ""
	}
	return scopes[0]
}

// checkParent says whether scope names an edge device that i may be a child of.
func (r *Registry) checkParent(tx *sql.Tx, i *Identity, scope string) error {
	above := scope
	for steps := 0; above != ""; steps++ {
		var device, next string
		err := tx.QueryRow("SELECT device, parent_scope FROM identities WHERE scope = $1 AND module = '' AND edge = 1", above).
			Scan(&device, &next)
		switch {
		case errors.Is(err, sql.ErrNoRows) && steps == 0:
			return fault.New(fault.InvalidDeviceScope, "%q is the scope of no edge device", scope)
		case errors.Is(err, sql.ErrNoRows):
			return nil
		case err != nil:
			return fmt.Errorf("look up edge scope: %w", err)
		case device == i.ID.Device || steps > 100:
			return fault.New(fault.InvalidDeviceScope, "%q cannot be its own ancestor", i.ID.Device)
		}
		above = next
	}
	return nil
}

// orphan takes a parent that goes away from its children.
func (r *Registry) orphan(tx *sql.Tx, gone Identity) error {
	if !gone.Edge {
		return nil
	}
	_, err := tx.Exec("UPDATE identities SET scope = '', parent_scope = '', etag = etag + 1 WHERE scope = $1 AND edge = 0", gone.Scope)
	if err == nil {
		_, err = tx.Exec("UPDATE identities SET parent_scope = '', etag = etag + 1 WHERE parent_scope = $1", gone.Scope)
	}
	return err
}
