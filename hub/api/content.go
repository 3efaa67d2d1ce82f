package api

import (
	"fmt"
	"slices"
	"strings"

	"github.com/selvedge-io/selvedge/hub/registry"
	"github.com/selvedge-io/selvedge/hub/twins"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/twin"
)

// managedByEdge marks modules that the edge runtime owns.
const managedByEdge = "iotEdge"

// applyContent gives one device its deployment (service-protocol 11.6): identities
// that are missing are made, then all desired properties change at once.
func (a *api) applyContent(c *call) error {
	parts, err := parseContent(c.id.Device, c.body)
	if err != nil {
		return err
	}
	device, err := a.Registry.Get(c.r.Context(), c.id)
	if err != nil {
		return err
	}
	var updates []twins.Update
	for _, p := range parts {
		if p.id.IsModule() && !device.Edge {
			return fault.New(fault.ArgumentInvalid, "%q is no edge device, so it takes no modules", device.ID.Device)
		}
		u := p.update()
		if err := u.Check(); err != nil {
			return invalid(p.id.Module, "%s", fault.TextOf(err))
		}
		updates = append(updates, u)
	}
	for _, p := range parts {
		if err := a.ensure(c, p.id); err != nil {
			return err
		}
	}
	if err := a.Twins.ApplyAll(c.r.Context(), updates); err != nil {
		return err
	}
	a.audit(c, "apply configuration content", "modules", len(parts))
	return c.done()
}

// ensure makes the identity of a module that has none.
func (a *api) ensure(c *call, id ident.ID) error {
	if !id.IsModule() {
		return nil
	}
	_, err := a.Registry.Get(c.r.Context(), id)
	if !fault.Is(err, fault.ModuleNotFound) {
		return err
	}
	owner := managedByEdge
	_, err = a.Registry.Create(c.r.Context(), registry.Spec{ID: id, ManagedBy: &owner})
	if fault.Is(err, fault.ModuleAlreadyExists) {
		return nil
	}
	return err
}

// part is what content says about the twin of one module, or of the device itself.
type part struct {
	id      ident.ID
	desired *twin.Object // replaces all; nil: not given
	set     []twins.Set  // parts that replace what is there
}

// update is the change of the twin.
func (p part) update() twins.Update {
	return twins.Update{ID: p.id, Desired: p.desired, Replace: p.desired != nil, Set: p.set}
}

// Names in content (service-protocol 11.2, edge-runtime 1.1).
const (
	pathDesired = "properties.desired"
	inModules   = "modulesContent"
	inModule    = "moduleContent"
	inDevice    = "deviceContent"
)

// invalid is the fault for content that is wrong at a place.
func invalid(at, format string, args ...any) error {
	return fault.New(fault.InvalidConfiguration, "%s: %s", at, fmt.Sprintf(format, args...))
}

// parseContent reads and checks configuration content for a device. Faults say
// where the content is wrong.
func parseContent(device string, body []byte) ([]part, error) {
	root, err := twin.Parse(body)
	if err != nil {
		return nil, fault.New(fault.InvalidConfiguration, "the content cannot be read: %s", fault.TextOf(err))
	}
	at := ""
	if v, ok := root.Get("content"); ok {
		if root, ok = v.Object(); !ok {
			return nil, invalid("content", "it must be an object")
		}
		at = "content."
	}
	var kinds []string
	for _, kind := range []string{inModules, inModule, inDevice} {
		if v, ok := root.Get(kind); ok && !v.IsNull() {
			kinds = append(kinds, kind)
		}
	}
	if len(kinds) != 1 {
		if _, template := root.Get("$schema-template"); template && len(kinds) == 0 {
			return nil, fault.New(fault.InvalidConfiguration, "this is a deployment template; generate the manifest from it first")
		}
		return nil, fault.New(fault.InvalidConfiguration, "the content must hold exactly one of modulesContent, moduleContent and deviceContent, it holds %d", len(kinds))
	}
	v, _ := root.Get(kinds[0])
	content, ok := v.Object()
	if !ok {
		return nil, invalid(at+kinds[0], "it must be an object")
	}
	if kinds[0] == inDevice {
		p, err := parsePart(at+inDevice, ident.ID{Device: device}, content)
		return []part{p}, err
	}
	return parseModules(at+kinds[0], device, content)
}

func parseModules(at, device string, content *twin.Object) ([]part, error) {
	var parts []part
	for name, v := range content.All() {
		here := at + "." + name
		if name == pathDesired || strings.HasPrefix(name, pathDesired+".") {
			return nil, invalid(at, "this is content for modules in many devices; one device takes modulesContent with a member for each module")
		}
		if err := (ident.ID{Device: device, Module: name}).CheckNew(); err != nil || name == "" {
			return nil, invalid(here, "%q is no module id", name)
		}
		if strings.HasPrefix(name, "$") && name != ident.EdgeAgent && name != ident.EdgeHub {
			return nil, invalid(here, "module ids that begin with $ are reserved")
		}
		paths, ok := v.Object()
		if !ok {
			return nil, invalid(here, "it must be an object")
		}
		p, err := parsePart(here, ident.ID{Device: device, Module: name}, paths)
		if err != nil {
			return nil, err
		}
		switch {
		case p.desired == nil:
		case name == ident.EdgeAgent:
			err = checkAgent(here+"."+pathDesired, p.desired)
		case name == ident.EdgeHub:
			err = checkHub(here+"."+pathDesired, p.desired)
		}
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	if len(parts) == 0 {
		return nil, invalid(at, "it names no module")
	}
	if len(parts) > registry.MaxModules+2 {
		return nil, invalid(at, "it names %d modules, the most is %d", len(parts), registry.MaxModules+2)
	}
	return parts, nil
}

// parsePart reads {"properties.desired": {…}, "properties.desired.a.b": value}.
func parsePart(at string, id ident.ID, paths *twin.Object) (part, error) {
	p := part{id: id}
	for path, v := range paths.All() {
		rest, ok := strings.CutPrefix(path, pathDesired)
		switch {
		case ok && rest == "":
			o, isObject := v.Object()
			if !isObject {
				return p, invalid(at+"."+path, "it must be an object")
			}
			p.desired = o
		case ok && rest[0] == '.':
			keys := strings.Split(rest[1:], ".")
			if slices.Contains(keys, "") {
				return p, invalid(at, "the path %q has an empty part", path)
			}
			if len(keys) > twin.MaxDepth+1 {
				return p, invalid(at, "the path %q has %d parts, the most is %d", path, len(keys), twin.MaxDepth+1)
			}
			p.set = append(p.set, twins.Set{Path: keys, Value: v})
		default:
			return p, invalid(at, "%q is unknown; use properties.desired, or properties.desired.PATH to set a part of it", path)
		}
	}
	if p.desired == nil && len(p.set) == 0 {
		return p, invalid(at, "it sets nothing; use properties.desired")
	}
	return p, nil
}
