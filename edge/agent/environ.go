package agent

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/selvedge-io/selvedge/edge/runtime"
	"github.com/selvedge-io/selvedge/model/manifest"
)

// Host is what modules are told about where they run.
type Host struct {
	Device     string // id of the device
	Hub        string // host name of the hub
	Gateway    string // host name of this device, where its broker is
	Parent     string // host name of the gateway above; empty when that is the hub
	APIVersion string // of the workload API; DefaultAPIVersion when empty

	// Extra are more variables for modules; what the deployment sets goes before them.
	Extra map[string]string
}

// DefaultAPIVersion is what the original tells modules (edge-runtime 2.7).
const DefaultAPIVersion = "2022-08-03"

// levels are the original's long names of log levels (edge-runtime 2.1, 2.7).
var levels = map[string]string{
	"fatal": "Fatal", "error": "Error", "warning": "Warning", "info": "Information", "information": "Information",
	"debug": "Debug", "verbose": "Verbose",
}

// environment is the whole environment of a module (edge-runtime 2.7). settings are
// those of the agent, with names in lower case. Nobody but us says who a module is and where it finds its broker.
func environment(h Host, settings map[string]string, m *manifest.Module, generation, workload string) map[string]string {
	env := maps.Clone(m.Env)
	if env == nil {
		env = make(map[string]string)
	}
	offer := func(name, value string) {
		if value != "" && !isSet(env, name) {
			env[name] = value
		}
	}
	offer("RuntimeLogLevel", cmp.Or(levels[strings.ToLower(settings["runtimeloglevel"])], "Information"))
	offer("UpstreamProtocol", settings["upstreamprotocol"])
	for name, value := range h.Extra {
		offer(name, value)
	}
	for name, value := range map[string]string{
		"IOTEDGE_WORKLOADURI":        workload,
		"IOTEDGE_AUTHSCHEME":         "sasToken",
		"IOTEDGE_MODULEGENERATIONID": generation,
		"IOTEDGE_IOTHUBHOSTNAME":     h.Hub,
		"IOTEDGE_DEVICEID":           h.Device,
		"IOTEDGE_MODULEID":           m.Name,
		"IOTEDGE_APIVERSION":         cmp.Or(h.APIVersion, DefaultAPIVersion),
		"IOTEDGE_GATEWAYHOSTNAME":    h.Gateway,
		"IOTEDGE_PARENTHOSTNAME":     h.Parent,
	} {
		if value != "" {
			env[name] = value
		}
	}
	return env
}

// compose makes what a driver is to run. Its version stands for all that makes a
// difference to the running module, so that policies and order can change without a
// restart (edge-runtime 1.6).
func compose(m *manifest.Module, env map[string]string) (runtime.Module, error) {
	settings, err := canonical(m)
	if err != nil {
		return runtime.Module{}, fmt.Errorf("settings of module %s: %w", m.Name, err)
	}
	text, err := json.Marshal(map[string]any{"type": m.Type, "version": m.Version, "settings": settings, "env": env})
	if err != nil {
		return runtime.Module{}, fmt.Errorf("settings of module %s: %w", m.Name, err)
	}
	sum := sha256.Sum256(text)
	return runtime.Module{Name: m.Name, Settings: m.Settings, Env: env, Version: hex.EncodeToString(sum[:16])}, nil
}

// canonical is the settings of a module in a form in which neither white space nor the
// order of keys makes a difference.
func canonical(m *manifest.Module) (map[string]any, error) {
	var settings map[string]any
	if err := decode(m.Settings, &settings); err != nil {
		return nil, err
	}
	if m.Type != manifest.Docker {
		return settings, nil
	}
	for name := range settings { // however its text is cut into pieces
		if strings.HasPrefix(strings.ToLower(name), "createoptions") {
			delete(settings, name)
		}
	}
	var options any
	if err := decode(m.CreateOptions, &options); err != nil {
		return nil, err
	}
	settings["createOptions"] = options
	return settings, nil
}

func decode(raw []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return d.Decode(into)
}
