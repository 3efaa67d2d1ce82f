package api

import (
	"slices"
	"strings"

	"github.com/selvedge-io/selvedge/model/twin"
)

// The checks below are the basics of the two system modules' desired properties
// (edge-runtime 1.2, 1.3, 1.7): enough that an edge device will not refuse the
// content as a whole. What the device decides, such as images, is left to it.

// checkAgent checks the desired properties of $edgeAgent.
func checkAgent(at string, o *twin.Object) error {
	if err := checkSchema(at, o, "1.0", "1.1", "1.1.0"); err != nil {
		return err
	}
	runtime, err := needObject(at, o, "runtime")
	if err != nil {
		return err
	}
	if _, err := needText(at+".runtime", runtime, "type"); err != nil {
		return err
	}
	if err := checkRegistries(at, runtime); err != nil {
		return err
	}
	for _, group := range []string{"systemModules", "modules"} {
		modules, err := optionalObject(at, o, group)
		if err != nil {
			return err
		}
		for name, v := range modules.All() {
			here := at + "." + group + "." + name
			if !isModuleName(name) {
				return invalid(here, "%q must be made of letters, digits, - and _", name)
			}
			m, ok := v.Object()
			if !ok {
				return invalid(here, "it must be an object")
			}
			if group == "systemModules" && name != "edgeAgent" && name != "edgeHub" {
				return invalid(here, "the only system modules are edgeAgent and edgeHub")
			}
			if err := checkModule(here, m); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkRegistries(at string, runtime *twin.Object) error {
	settings, err := optionalObject(at+".runtime", runtime, "settings")
	if err != nil {
		return err
	}
	at += ".runtime.settings"
	registries, err := optionalObject(at, settings, "registryCredentials")
	if err != nil {
		return err
	}
	for name, v := range registries.All() {
		here := at + ".registryCredentials." + name
		credentials, ok := v.Object()
		if !ok {
			return invalid(here, "it must be an object")
		}
		for _, member := range []string{"address", "username", "password"} {
			if _, err := needText(here, credentials, member); err != nil {
				return err
			}
		}
	}
	return nil
}

func isModuleName(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	}) < 0
}

func checkModule(at string, m *twin.Object) error {
	kind, err := needText(at, m, "type")
	if err != nil {
		return err
	}
	settings, err := needObject(at, m, "settings")
	if err != nil {
		return err
	}
	if kind == "docker" {
		if _, err := needText(at+".settings", settings, "image"); err != nil {
			return err
		}
	}
	for _, member := range []struct {
		name  string
		words []string
	}{
		{"status", []string{"running", "stopped"}},
		{"restartPolicy", []string{"never", "on-failure", "on-unhealthy", "always"}},
		{"imagePullPolicy", []string{"on-create", "never"}},
	} {
		if err := checkWord(at, m, member.name, member.words...); err != nil {
			return err
		}
	}
	if err := checkNumber(at, m, "startupOrder", 0, 1<<32-1); err != nil {
		return err
	}
	env, err := optionalObject(at, m, "env")
	if err != nil {
		return err
	}
	for name, v := range env.All() {
		o, ok := v.Object()
		if !ok {
			return invalid(at+".env."+name, `it must be an object such as {"value": "x"}`)
		}
		value, ok := o.Get("value")
		_, isObject := value.Object()
		_, isArray := value.Items()
		if !ok || isObject || isArray || value.IsNull() {
			return invalid(at+".env."+name, "its value must be a string, a number or a boolean")
		}
	}
	return nil
}

// isLowest says whether a route's priority is the one that stands for none.
func isLowest(v twin.Value) bool {
	n, ok := v.Int()
	return ok && n == 2000000000
}

// checkHub checks the desired properties of $edgeHub.
func checkHub(at string, o *twin.Object) error {
	if err := checkSchema(at, o, "1.0", "1.1", "1.2", "1.3"); err != nil {
		return err
	}
	routes, err := optionalObject(at, o, "routes")
	if err != nil {
		return err
	}
	for name, v := range routes.All() {
		if err := checkRoute(at+".routes."+name, v); err != nil {
			return err
		}
	}
	store, err := optionalObject(at, o, "storeAndForwardConfiguration")
	if err != nil {
		return err
	}
	return checkNumber(at+".storeAndForwardConfiguration", store, "timeToLiveSecs", -1<<31, 1<<31-1)
}

func checkRoute(at string, v twin.Value) error {
	if _, ok := v.Text(); ok {
		return nil
	}
	o, ok := v.Object()
	if !ok {
		return invalid(at, "it must be a string, or an object with the member route")
	}
	if _, err := needText(at, o, "route"); err != nil {
		return err
	}
	if p, _ := o.Get("priority"); !isLowest(p) {
		if err := checkNumber(at, o, "priority", 0, 9); err != nil {
			return err
		}
	}
	return checkNumber(at, o, "timeToLiveSecs", 0, 1<<32-1)
}

// checkSchema wants a schema version that this part of the edge runtime knows.
// 1.1.0 is as good as 1.1.
func checkSchema(at string, o *twin.Object, known ...string) error {
	v, err := needText(at, o, "schemaVersion")
	if err != nil {
		return err
	}
	if !slices.Contains(known, v) && !slices.Contains(known, strings.TrimSuffix(v, ".0")) {
		return invalid(at+".schemaVersion", "%q is unknown; known are %s", v, strings.Join(known, ", "))
	}
	return nil
}

func needObject(at string, o *twin.Object, name string) (*twin.Object, error) {
	v, _ := o.Get(name)
	child, ok := v.Object()
	if !ok {
		return nil, invalid(at+"."+name, "it must be an object")
	}
	return child, nil
}

// optionalObject gives an empty object for what is absent or null.
func optionalObject(at string, o *twin.Object, name string) (*twin.Object, error) {
	if v, ok := o.Get(name); !ok || v.IsNull() {
		return nil, nil
	}
	return needObject(at, o, name)
}

func needText(at string, o *twin.Object, name string) (string, error) {
	v, _ := o.Get(name)
	s, ok := v.Text()
	if !ok || strings.TrimSpace(s) == "" {
		return "", invalid(at+"."+name, "it must be a string that is not blank")
	}
	return s, nil
}

func checkWord(at string, o *twin.Object, name string, words ...string) error {
	v, ok := o.Get(name)
	if !ok {
		return nil
	}
	if s, ok := v.Text(); !ok || !slices.Contains(words, s) {
		return invalid(at+"."+name, "it must be one of %s", strings.Join(words, ", "))
	}
	return nil
}

func checkNumber(at string, o *twin.Object, name string, low, high int64) error {
	v, ok := o.Get(name)
	if !ok {
		return nil
	}
	if n, ok := v.Int(); !ok || n < low || n > high {
		return invalid(at+"."+name, "it must be a whole number from %d to %d", low, high)
	}
	return nil
}
