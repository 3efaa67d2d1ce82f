package manifest

import (
	"math"
	"strings"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/twin"
)

// lowest is the priority that stands for a route without one.
const lowest = 2000000000

// checkHub checks the desired properties of $edgeHub (edge-runtime 1.7). What the
// routes say is for the broker, which compiles them.
func checkHub(at place, o *twin.Object) error {
	minor, err := hubSchema(at, o)
	if err != nil {
		return err
	}
	if _, ok := o.Get("routes"); !ok {
		return at.in("routes").refuse(`it is missing; write "routes": {} when there are none`)
	}
	if err := checkRoutes(at, o, minor > 0); err != nil {
		return err
	}
	store, err := at.object(o, "storeAndForwardConfiguration")
	if err != nil {
		return err
	}
	at = at.in("storeAndForwardConfiguration")
	if store == nil && minor > 0 {
		return at.refuse(`it is missing, and schema versions from 1.1 on need it; write {"timeToLiveSecs": 7200}`)
	}
	_, err = at.whole(store, "timeToLiveSecs", 0, math.MinInt32, math.MaxInt32)
	return err
}

// hubSchema is the y of schema version 1.y.
func hubSchema(at place, o *twin.Object) (int, error) {
	s, err := at.text(o, "schemaVersion")
	if err != nil {
		return 0, err
	}
	for minor, known := range []string{"1.0", "1.1", "1.2", "1.3"} {
		if s == known || s == known+".0" {
			return minor, nil
		}
	}
	return 0, at.in("schemaVersion").refuse("%.20q is not supported; known are 1.0 to 1.3", s)
}

func checkRoutes(at place, o *twin.Object, objects bool) error {
	routes, err := at.object(o, "routes")
	if err != nil {
		return err
	}
	for name, v := range routes.All() {
		if err := checkRoute(at.in("routes").in(name), v, objects); err != nil {
			return err
		}
	}
	return nil
}

func checkRoute(at place, v twin.Value, objects bool) error {
	if _, ok := v.Text(); ok || v.IsNull() {
		return nil
	}
	o, ok := v.Object()
	switch {
	case !ok:
		return at.refuse("it must be a string, or an object with route, priority and timeToLiveSecs")
	case !objects:
		return at.refuse(`schema version 1.0 knows routes as strings only; write "schemaVersion": "1.1"`)
	}
	if _, err := at.text(o, "route"); err != nil {
		return err
	}
	if v, _ := o.Get("priority"); !isLowest(v) {
		if _, err := at.whole(o, "priority", 0, 0, 9); err != nil {
			return err
		}
	}
	_, err := at.whole(o, "timeToLiveSecs", 0, 0, math.MaxUint32)
	return err
}

func isLowest(v twin.Value) bool {
	n, ok := v.Int()
	return ok && n == lowest
}

// Routes gives the routes that a manifest, as Content gives it, sets for $edgeHub: by
// name, without those that are blank or deleted. What they say is not looked at.
func Routes(content []byte) (map[string]string, error) {
	root, err := twin.Parse(content)
	if err != nil {
		return nil, fault.Wrap(err, fault.InvalidConfiguration, "the manifest cannot be read: %s", fault.TextOf(err))
	}
	all := map[string]string{}
	add := func(name string, v twin.Value) {
		if o, ok := v.Object(); ok {
			v, _ = o.Get("route")
		}
		if s, ok := v.Text(); ok && strings.TrimSpace(s) != "" {
			all[name] = s
		}
	}
	for path, v := range root.Child(inModules).Child(ident.EdgeHub).All() {
		section := v
		if path == desiredPath {
			o, _ := v.Object()
			section, _ = o.Get("routes")
		} else if name, ok := strings.CutPrefix(path, desiredPath+".routes."); ok {
			add(name, v)
			continue
		} else if path != desiredPath+".routes" {
			continue
		}
		routes, _ := section.Object()
		for name, v := range routes.All() {
			add(name, v)
		}
	}
	return all, nil
}
