// Package manifest is what a deployment says: the desired properties of $edgeAgent as
// a value, and the checks of a whole deployment manifest before it is applied. It has
// no clock, disk or network, so that the edge and the command line share it.
package manifest

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/twin"
)

// Types of modules that Selvedge knows. Parse takes any other as well: what a device
// can run is for its agent to say.
const (
	Docker  = "docker"  // settings: image, createOptions
	Process = "process" // settings: command or builtin, args, workingDir
	Wasm    = "wasm"
)

// Status is what is wanted of a module.
type Status string

// The statuses (edge-runtime 1.3).
const (
	Running Status = "running"
	Stopped Status = "stopped"
)

// RestartPolicy says when a module that ended is started again.
type RestartPolicy string

// The restart policies (edge-runtime 1.3, 2.6).
const (
	Never       RestartPolicy = "never"
	OnFailure   RestartPolicy = "on-failure"
	OnUnhealthy RestartPolicy = "on-unhealthy"
	Always      RestartPolicy = "always"
)

// PullPolicy says when an image is fetched.
type PullPolicy string

// The image pull policies (edge-runtime 1.3).
const (
	PullOnCreate PullPolicy = "on-create"
	PullNever    PullPolicy = "never"
)

// DefaultOrder is the start order of a module that names none: after all others.
const DefaultOrder = math.MaxUint32

// Deployment is the desired state of $edgeAgent.
type Deployment struct {
	Version       int64 // "$version" of the desired properties; zero when absent
	SchemaVersion string
	Runtime       Runtime
	Agent, Hub    *Module  // the system modules; nil when absent
	Modules       []Module // by name
}

// Runtime is the section about the container engine.
type Runtime struct {
	Type     string
	Settings *twin.Object // may be nil
}

// Module is one module of a deployment, with the defaults filled in.
type Module struct {
	Name          string
	Type          string
	Status        Status
	RestartPolicy RestartPolicy
	PullPolicy    PullPolicy
	StartupOrder  uint32
	Version       string            // free text of the author's
	Env           map[string]string // values as text
	Settings      json.RawMessage   // an object, as it was written

	// Image and CreateOptions are read from the settings of type docker.
	// CreateOptions is one object, put together from its pieces.
	Image         string
	CreateOptions json.RawMessage
}

// Errors that Parse wraps in its faults, because the agent reports them by other codes.
var (
	ErrEmpty  = errors.New("there is no configuration")
	ErrSchema = errors.New("the schema version is not supported")
)

// Code is the code of lastDesiredStatus that tells about an error of Parse
// (edge-runtime 1.11): 200, 400, 412, 417 or 500.
func Code(err error) int {
	switch {
	case err == nil:
		return 200
	case errors.Is(err, ErrEmpty):
		return 417
	case errors.Is(err, ErrSchema):
		return 412
	case fault.Is(err, fault.InvalidConfiguration):
		return 400
	default:
		return 500
	}
}

// Module gives the module of that name, nil when there is none.
func (d *Deployment) Module(name string) *Module {
	for i := range d.Modules {
		if d.Modules[i].Name == name {
			return &d.Modules[i]
		}
	}
	return nil
}

// Parse reads the desired properties of $edgeAgent as a device receives them. Members
// it does not know are left alone, as the original does. Its errors are
// fault.InvalidConfiguration with a text for the reported properties; Code tells them
// apart.
func Parse(desired []byte) (*Deployment, error) {
	o, err := twin.Parse(desired)
	if err != nil {
		return nil, fault.Wrap(err, fault.InvalidConfiguration, "the desired properties cannot be read: %s", fault.TextOf(err))
	}
	return parseAgent(place{}, o)
}

// parseAgent reads the desired properties of $edgeAgent that stand at a place.
func parseAgent(at place, o *twin.Object) (*Deployment, error) {
	d := new(Deployment)
	if v, ok := o.Get(twin.KeyVersion); ok {
		d.Version, _ = v.Int()
	}
	if v, ok := o.Get("schemaVersion"); !ok || v.IsNull() {
		return nil, at.in("schemaVersion").because(ErrEmpty, `it is missing; write "1.1"`)
	}
	var err error
	if d.SchemaVersion, err = parseAgentSchema(at, o); err != nil {
		return nil, err
	}
	if d.Runtime, err = parseRuntime(at, o); err != nil {
		return nil, err
	}
	if d.Agent, d.Hub, err = parseSystem(at, o); err != nil {
		return nil, err
	}
	d.Modules, err = parseModules(at, o)
	return d, err
}

// parseAgentSchema takes schema versions up to 1.1.0 (edge-runtime 1.2).
func parseAgentSchema(at place, o *twin.Object) (string, error) {
	s, err := at.text(o, "schemaVersion")
	if err != nil {
		return "", err
	}
	parts := strings.Split(s, ".")
	var numbers [4]uint64
	ok := len(parts) >= 2 && len(parts) <= len(numbers)
	for i := 0; ok && i < len(parts); i++ {
		numbers[i], err = strconv.ParseUint(parts[i], 10, 16)
		ok = err == nil
	}
	if !ok || numbers[0] != 1 || numbers[1] > 1 || numbers[1] == 1 && numbers[2]+numbers[3] > 0 {
		return "", at.in("schemaVersion").because(ErrSchema, `%.20q is not supported; write "1.0" or "1.1"`, s)
	}
	return s, nil
}

func parseRuntime(at place, o *twin.Object) (Runtime, error) {
	section, err := at.needObject(o, "runtime")
	if err != nil {
		return Runtime{}, err
	}
	at = at.in("runtime")
	kind, err := at.text(section, "type")
	if err != nil {
		return Runtime{}, err
	}
	settings, err := at.object(section, "settings")
	if err != nil {
		return Runtime{}, err
	}
	registries, err := at.in("settings").object(settings, "registryCredentials")
	if err != nil {
		return Runtime{}, err
	}
	at = at.in("settings").in("registryCredentials")
	for name, v := range registries.All() {
		credentials, ok := v.Object()
		if !ok {
			return Runtime{}, at.in(name).refuse("it must be an object with address, username and password")
		}
		for _, member := range []string{"address", "username", "password"} {
			if _, err := at.in(name).text(credentials, member); err != nil {
				return Runtime{}, err
			}
		}
	}
	return Runtime{Type: kind, Settings: settings}, nil
}
