package manifest

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/selvedge-io/selvedge/model/fault"
)

// agentOf is the desired properties of $edgeAgent in a manifest of testdata, as a
// device gets them.
func agentOf(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		ModulesContent map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	desired := string(doc.ModulesContent["$edgeAgent"]["properties.desired"])
	return strings.TrimSuffix(strings.TrimSpace(desired), "}") + `,"$version":12}`
}

func TestParse(t *testing.T) {
	d, err := Parse([]byte(agentOf(t, "full.json")))
	if err != nil {
		t.Fatal(err)
	}
	if d.Version != 12 || d.SchemaVersion != "1.1" || d.Runtime.Type != "docker" || d.Runtime.Settings.Child("registryCredentials").Len() != 1 {
		t.Errorf("deployment %+v", d)
	}
	sensor := d.Module("sensor")
	if len(d.Modules) != 1 || sensor == nil || d.Module("pony") != nil {
		t.Fatalf("modules %+v", d.Modules)
	}
	want := Module{Name: "sensor", Type: Docker, Version: "1.0", Status: Running, RestartPolicy: OnUnhealthy, PullPolicy: PullNever,
		StartupOrder: 5, Env: map[string]string{"RATE": "10"}, Image: "registry.plant.example/sensor:1",
		CreateOptions: json.RawMessage(`{"HostConfig":{"Binds":["/dev/shm:/shm"]}}`), Settings: sensor.Settings}
	if !reflect.DeepEqual(*sensor, want) {
		t.Errorf("sensor %+v\nwant   %+v", *sensor, want)
	}
	if !json.Valid(sensor.Settings) || !strings.Contains(string(sensor.Settings), "createOptions01") {
		t.Errorf("settings %s", sensor.Settings)
	}
	if d.Agent == nil || d.Agent.RestartPolicy != Always || d.Agent.StartupOrder != 0 || d.Agent.Env["SendRuntimeQualityTelemetry"] != "false" {
		t.Errorf("agent %+v", d.Agent)
	}
	if d.Hub == nil || d.Hub.RestartPolicy != Always || d.Hub.StartupOrder != 0 || d.Hub.Status != Running {
		t.Errorf("hub %+v", d.Hub)
	}
}

// small is a valid $edgeAgent section with one module's members in it.
func small(module string) string {
	return `{"schemaVersion":"1.1","runtime":{"type":"docker"},"modules":{"m":{` + module + `}},"later":{"x":1}}`
}

const process = `"type":"process","status":"running","settings":{"builtin":"sensor"}`

func TestDefaults(t *testing.T) {
	d, err := Parse([]byte(small(`"type":"process","settings":{"command":"/bin/true","x":1},"later":true,"env":{"T":{"value":true},"F":{"value":1.50},"S":{"value":" "}}`)))
	if err != nil {
		t.Fatal(err)
	}
	want := Module{Name: "m", Type: Process, Status: Running, RestartPolicy: OnUnhealthy, PullPolicy: PullOnCreate, StartupOrder: DefaultOrder,
		Env: map[string]string{"T": "true", "F": "1.50", "S": " "}, Settings: json.RawMessage(`{"command":"/bin/true","x":1}`)}
	if !reflect.DeepEqual(d.Modules[0], want) {
		t.Errorf("%+v\nwant %+v", d.Modules[0], want)
	}
	if d.Agent != nil || d.Hub != nil || d.Version != 0 {
		t.Errorf("deployment %+v", d)
	}
	hub, err := Parse([]byte(`{"schemaVersion":"1.0","runtime":{"type":"docker"},"modules":null,"systemModules":{"edgeHub":{"type":"docker","settings":{"image":"h"}}}}`))
	if err != nil || hub.Hub.RestartPolicy != Always || len(hub.Modules) != 0 {
		t.Errorf("%+v, %v", hub, err)
	}
}

func TestSchemaVersions(t *testing.T) {
	for version, want := range map[string]int{`"1.0"`: 200, `"1.1"`: 200, `"1.1.0"`: 200, `"1.0.7"`: 200, `"1.1.1"`: 412, `"1.2"`: 412, `"2.0"`: 412,
		`"0.9"`: 412, `"1"`: 412, `"1.x"`: 412, `"1.1.0.0.0"`: 412, `" "`: 400, `1.1`: 400, `null`: 417} {
		_, err := Parse([]byte(`{"schemaVersion":` + version + `,"runtime":{"type":"docker"}}`))
		if Code(err) != want {
			t.Errorf("schema version %s: code %d (%v), want %d", version, Code(err), err, want)
		}
	}
	for _, empty := range []string{`{}`, `{"$version":1}`} {
		if _, err := Parse([]byte(empty)); Code(err) != 417 || !fault.Is(err, fault.InvalidConfiguration) {
			t.Errorf("%s: %v", empty, err)
		}
	}
	if Code(os.ErrClosed) != 500 {
		t.Error("an unknown error is not a 500")
	}
}

func TestParseRefuses(t *testing.T) {
	for text, where := range map[string]string{
		``:                                     "cannot be read",
		`[]`:                                   "cannot be read",
		`{"schemaVersion":"1.1"}`:              "runtime: it is missing",
		`{"schemaVersion":"1.1","runtime":5}`:  "runtime: it must be an object",
		`{"schemaVersion":"1.1","runtime":{}}`: "runtime.type: it is missing",
		`{"schemaVersion":"1.1","runtime":{"type":"docker","settings":[]}}`:                                            "runtime.settings: it must be an object",
		`{"schemaVersion":"1.1","runtime":{"type":"docker","settings":{"registryCredentials":{"r":5}}}}`:               "runtime.settings.registryCredentials.r: it must",
		`{"schemaVersion":"1.1","runtime":{"type":"docker","settings":{"registryCredentials":{"r":{"address":" "}}}}}`: "registryCredentials.r.address: it is blank",
		`{"schemaVersion":"1.1","runtime":{"type":"docker"},"systemModules":{"edgePony":{}}}`:                          "systemModules.edgePony: the only system modules",
		`{"schemaVersion":"1.1","runtime":{"type":"docker"},"systemModules":{"edgeHub":{"type":"docker"}}}`:            "systemModules.edgeHub.settings: it is missing",
		`{"schemaVersion":"1.1","runtime":{"type":"docker"},"modules":[]}`:                                             "modules: it must be an object",
		`{"schemaVersion":"1.1","runtime":{"type":"docker"},"modules":{"a b":{}}}`:                                     "modules.a b: the name must be made of",
		`{"schemaVersion":"1.1","runtime":{"type":"docker"},"modules":{"edgeHub":{}}}`:                                 "modules.edgeHub: the name belongs to a system module",
		`{"schemaVersion":"1.1","runtime":{"type":"docker"},"modules":{"":{}}}`:                                        "no name",
		`{"schemaVersion":"1.1","runtime":{"type":"docker"},"modules":{"` + strings.Repeat("m", 129) + `":{}}}`:        "129 characters",
		`{"schemaVersion":"1.1","runtime":{"type":"docker"},"modules":{"m":null}}`:                                     "modules.m: it must be an object",
		small(`"type":5`):                                                                           "modules.m.type: it must be a string",
		small(`"type":"process"`):                                                                   "modules.m.settings: it is missing",
		small(process + `,"status":"paused"`):                                                       "modules.m.status: it must be one of running, stopped",
		small(process + `,"restartPolicy":5`):                                                       "modules.m.restartPolicy: it must be one of never",
		small(process + `,"imagePullPolicy":"often"`):                                               "modules.m.imagePullPolicy: it must be one of on-create",
		small(process + `,"startupOrder":-1`):                                                       "modules.m.startupOrder: it must be a whole number from 0 to 4294967295",
		small(process + `,"startupOrder":4294967296`):                                               "startupOrder",
		small(process + `,"startupOrder":"1"`):                                                      "startupOrder",
		small(process + `,"version":{}`):                                                            "modules.m.version",
		small(process + `,"env":{"A":"b"}`):                                                         `modules.m.env.A: it must be an object such as {"value": "x"}`,
		small(process + `,"env":{"A":{}}`):                                                          "modules.m.env.A.value",
		small(process + `,"env":{"A":{"value":{}}}`):                                                "modules.m.env.A.value",
		small(process + `,"env":{"A":{"value":"a\u0000b"}}`):                                        "modules.m.env.A.value: it holds a zero byte",
		small(process + `,"env":{"A=":{"value":1}}`):                                                "cannot be the name",
		small(`"type":"process","settings":{}`):                                                     "modules.m.settings: it must hold either command",
		small(`"type":"process","settings":{"command":"a","builtin":"b"}`):                          "either command",
		small(`"type":"process","settings":{"command":" "}`):                                        "settings.command: it is blank",
		small(`"type":"process","settings":{"command":"a","args":"b"}`):                             "settings.args: it must be an array of strings",
		small(`"type":"process","settings":{"command":"a","args":[1]}`):                             "settings.args",
		small(`"type":"process","settings":{"command":"a","workingDir":5}`):                         "settings.workingDir",
		small(`"type":"docker","settings":{}`):                                                      "modules.m.settings.image: it is missing",
		small(`"type":"docker","settings":{"image":"i","createOptions":{}}`):                        "createOptions: it must be a string that holds JSON",
		small(`"type":"docker","settings":{"image":"i","createOptions":"{"}`):                       "createOptions: the text is not a JSON object",
		small(`"type":"docker","settings":{"image":"i","createOptions":"{","createOptions02":"}"}`): "number 01 is missing",
		small(`"type":"docker","settings":{"image":"i","createOptions01":"}"}`):                     "number 00 is missing",
		small(`"type":"docker","settings":{"image":"i","createOptions":"{}","createoptions":"{}"}`): "is there twice",
	} {
		_, err := Parse([]byte(text))
		if !fault.Is(err, fault.InvalidConfiguration) || !strings.Contains(fault.TextOf(err), where) {
			t.Errorf("%s:\n  %v, want %q", text, err, where)
		}
		if Code(err) != 400 {
			t.Errorf("%s: code %d", text, Code(err))
		}
	}
}

func TestCreateOptions(t *testing.T) {
	for settings, want := range map[string]string{
		`"x":1`:                               `{}`,
		`"createOptions":""`:                  `{}`,
		`"createOptions":"null"`:              `{}`,
		`"createOptions":null`:                `{}`,
		`"createoptions":" {\"User\":\"u\"}"`: `{"User":"u"}`,
		`"createOptions02":"\"u\"}","createOptions":"{\"User","createOptions01":"\":"`:          `{"User":"u"}`,
		`"createOptions":"{}","createOptions1":"x","createOptions00":"x","createOptionsXX":"x"`: `{}`,
	} {
		d, err := Parse([]byte(small(`"type":"docker","settings":{"image":"i",` + settings + `}`)))
		if err != nil || string(d.Modules[0].CreateOptions) != want {
			t.Errorf("%s: %+v, %v, want %s", settings, d, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(agentOf(f, "full.json")))
	f.Add([]byte(small(process)))
	f.Fuzz(func(t *testing.T, in []byte) {
		d, err := Parse(in)
		if err != nil {
			if !fault.Is(err, fault.InvalidConfiguration) {
				t.Fatalf("%v is no fault for a client", err)
			}
			return
		}
		for _, m := range d.Modules {
			if m.Name == "" || strings.ContainsAny(m.Name, "/.\\") || m.Type == "" || !json.Valid(m.Settings) {
				t.Fatalf("module %+v", m)
			}
			if m.Type == Docker && (m.Image == "" || !json.Valid(m.CreateOptions)) {
				t.Fatalf("module %+v", m)
			}
		}
	})
}
