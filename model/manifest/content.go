package manifest

import (
	"bytes"
	"slices"
	"strings"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/twin"
)

const (
	desiredPath = "properties.desired"
	inModules   = "modulesContent"
	inModule    = "moduleContent" // older spelling
)

// Content reads a deployment manifest as Azure's tools write it, checks it, and gives
// the body to apply it to one device with: {"modulesContent": …}, with all that the
// manifest says about modules. It takes {"modulesContent": …} and a whole deployment,
// {"content": {"modulesContent": …}, …} (edge-runtime 1.1). Errors are
// fault.InvalidConfiguration; they name the place and what to write there.
func Content(text []byte) ([]byte, error) {
	root, err := twin.Parse(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))) // some editors mark UTF-8
	if err != nil {
		return nil, fault.Wrap(err, fault.InvalidConfiguration, "the manifest cannot be read: %s", fault.TextOf(err))
	}
	modules, at, err := modulesOf(root)
	if err != nil {
		return nil, err
	}
	if modules.Len() == 0 {
		return nil, at.refuse("it names no module")
	}
	for name, v := range modules.All() {
		if err := checkContent(at.in(name), name, v); err != nil {
			return nil, err
		}
	}
	return (*twin.Object)(nil).With(inModules, twin.Of(modules)).AppendJSON(nil), nil
}

// modulesOf finds the object with a member for each module.
func modulesOf(root *twin.Object) (modules *twin.Object, at place, err error) {
	if has(root, "content") {
		if root, err = at.needObject(root, "content"); err != nil {
			return nil, at, err
		}
		at = at.in("content")
	}
	for _, name := range []string{inModules, inModule} {
		if !has(root, name) {
			continue
		}
		if modules, err = at.needObject(root, name); err != nil {
			return nil, at, err
		}
		at = at.in(name)
		for key := range modules.All() {
			if key == desiredPath || strings.HasPrefix(key, desiredPath+".") {
				return nil, at, at.refuse("this is content for one module of many devices; an edge device takes modulesContent with a member for each module")
			}
		}
		return modules, at, nil
	}
	if has(root, "$schema-template") {
		return nil, at, fault.New(fault.InvalidConfiguration, "this is a deployment template; generate the manifest from it first")
	}
	return nil, at, fault.New(fault.InvalidConfiguration, `%s is missing; a deployment manifest is {"modulesContent": {"$edgeAgent": {"properties.desired": …}, …}}`, at.in(inModules).path)
}

// checkContent checks what the manifest says about the twin of one module.
func checkContent(at place, name string, v twin.Value) error {
	if name == "" || (ident.ID{Device: "d", Module: name}).CheckNew() != nil {
		return at.refuse("%q is no module id", name)
	}
	if strings.HasPrefix(name, "$") && name != ident.EdgeAgent && name != ident.EdgeHub {
		return at.refuse("module ids that begin with $ are reserved; the system modules are %s and %s", ident.EdgeAgent, ident.EdgeHub)
	}
	paths, ok := v.Object()
	if !ok || paths.Len() == 0 {
		return at.refuse(`it must be an object such as {"properties.desired": {…}}`)
	}
	for path, v := range paths.All() {
		rest, ok := strings.CutPrefix(path, desiredPath)
		var err error
		switch {
		case ok && rest == "":
			err = checkDesired(at.in(path), name, v)
		case ok && rest[0] == '.':
			err = checkPart(at.in(path), name, strings.Split(rest[1:], "."), v)
		default:
			err = at.refuse("%.80q is not known; write properties.desired, or properties.desired.PATH to set a part of it", path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkDesired checks the whole desired properties of a module.
func checkDesired(at place, module string, v twin.Value) error {
	o, ok := v.Object()
	if !ok {
		return at.refuse("it must be an object")
	}
	switch module {
	case ident.EdgeAgent:
		if _, err := parseAgent(at, o); err != nil {
			return err
		}
		if err := checkModules(at, o); err != nil {
			return err
		}
	case ident.EdgeHub:
		if err := checkHub(at, o); err != nil {
			return err
		}
	}
	return checkLimits(at, o)
}

// checkStrictly asks more of a manifest that is being written than of one that arrived.
func checkStrictly(at place, m Module, o *twin.Object) error {
	if known := []string{Docker, Process, Wasm}; !slices.Contains(known, m.Type) {
		return at.in("type").refuse("%.40q is not known; write one of %s", m.Type, strings.Join(known, ", "))
	}
	if !has(o, "status") {
		return at.in("status").refuse("it is missing; write running or stopped")
	}
	return nil
}

func checkLimits(at place, o *twin.Object) error {
	if err := twin.CheckDesired(o); err != nil {
		return at.because(err, "%s", fault.TextOf(err))
	}
	return nil
}

// checkPart checks a part of the desired properties, as layers set them. What lies
// deeper than a module or route is checked by the device when it has all.
func checkPart(at place, module string, path []string, v twin.Value) error {
	if slices.Contains(path, "") {
		return at.refuse("the path has an empty part")
	}
	if len(path) > twin.MaxDepth+1 {
		return at.refuse("the path has %d parts, the most is %d", len(path), twin.MaxDepth+1)
	}
	root := place{strings.TrimSuffix(at.path, "."+strings.Join(path, "."))}
	whole := twin.SetPath(nil, path, v)
	if err := checkLimits(root, whole); err != nil || v.IsNull() { // null deletes
		return err
	}
	var err error
	switch shallow := len(path) <= 2; {
	case module == ident.EdgeAgent && path[0] == "modules" && shallow:
		err = checkModules(root, whole)
	case module == ident.EdgeAgent && path[0] == "systemModules" && shallow:
		_, _, err = parseSystem(root, whole)
	case module == ident.EdgeAgent && path[0] == "runtime" && len(path) == 1:
		_, err = parseRuntime(root, whole)
	case module == ident.EdgeAgent && path[0] == "schemaVersion":
		_, err = parseAgentSchema(root, whole)
	case module == ident.EdgeHub && path[0] == "routes" && shallow:
		err = checkRoutes(root, whole, true)
	case module == ident.EdgeHub && path[0] == "schemaVersion":
		_, err = hubSchema(root, whole)
	}
	return err
}

// checkModules checks the section modules of $edgeAgent.
func checkModules(at place, o *twin.Object) error {
	modules, err := parseModules(at, o)
	if err != nil {
		return err
	}
	for _, m := range modules {
		if err := checkStrictly(at.in("modules").in(m.Name), m, o.Child("modules").Child(m.Name)); err != nil {
			return err
		}
	}
	return nil
}
