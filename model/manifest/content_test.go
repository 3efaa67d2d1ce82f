package manifest

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/selvedge-io/selvedge/model/fault"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestContentKeepsWhatItSays(t *testing.T) {
	for _, name := range []string{"testdata/full.json", "../../deploy/demo/manifest.json"} {
		text := read(t, name)
		var want any
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
		inner := bytes.TrimSpace(text)
		deployment := append(append([]byte(`{"id":"d1","content":`), inner...), `,"priority":10,"targetCondition":"*"}`...)
		older := bytes.Replace(text, []byte("modulesContent"), []byte("moduleContent"), 1)
		for _, form := range [][]byte{text, deployment, older, append([]byte("\xef\xbb\xbf"), text...)} {
			body, err := Content(form)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			var got any
			if err := json.Unmarshal(body, &got); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: body %s, %v", name, body, err)
			}
		}
	}
}

func TestContentOfLayers(t *testing.T) {
	const layer = `{"modulesContent":{` +
		`"$edgeAgent":{"properties.desired.modules.extra":{"type":"process","status":"running","settings":{"builtin":"filter"}},"properties.desired.modules.old":null,` +
		`"properties.desired.modules.x.env.A":{"value":"1"},"properties.desired.systemModules.edgeHub":{"type":"docker","settings":{"image":"h"}}},` +
		`"$edgeHub":{"properties.desired.routes.extra":"FROM /* INTO $upstream","properties.desired.routes.fast":{"route":"FROM /* INTO $upstream","priority":0}},` +
		`"extra":{"properties.desired.interval":5,"properties.desired":{}}}}`
	if body, err := Content([]byte(layer)); err != nil || string(body) != layer {
		t.Errorf("body %s, error %v", body, err)
	}
}

// manifestWith is a valid manifest with some text replaced.
func manifestWith(old, new string) string {
	const good = `{"modulesContent":{"$edgeAgent":{"properties.desired":{"schemaVersion":"1.1","runtime":{"type":"docker"},"modules":{` +
		`"m":{"type":"process","status":"running","settings":{"builtin":"sensor"}}}}},` +
		`"$edgeHub":{"properties.desired":{"schemaVersion":"1.1","routes":{"a":"FROM /* INTO $upstream","b":{"route":"FROM /* INTO $upstream","priority":1,"timeToLiveSecs":9}},` +
		`"storeAndForwardConfiguration":{"timeToLiveSecs":7200}}},"m":{"properties.desired":{"x":1}}}}`
	if !strings.Contains(good, old) {
		panic("nothing to replace: " + old)
	}
	return strings.Replace(good, old, new, 1)
}

func TestContentRefuses(t *testing.T) {
	const agent, hub = "modulesContent.$edgeAgent.properties.desired.", "modulesContent.$edgeHub.properties.desired."
	for text, where := range map[string]string{
		``:                             "the manifest cannot be read",
		`{}`:                           "modulesContent is missing",
		`{"$schema-template":"4.0.0"}`: "deployment template",
		`{"content":5}`:                "content: it must be an object",
		`{"content":{}}`:               "content.modulesContent",
		`{"modulesContent":[]}`:        "modulesContent: it must be an object",
		`{"modulesContent":{}}`:        "modulesContent: it names no module",
		`{"modulesContent":{"m":5}}`:   "modulesContent.m: it must be an object",
		`{"modulesContent":{"m":{}}}`:  "modulesContent.m: it must be an object such as",
		`{"content":{"modulesContent":{"a b":{"properties.desired":{}}}}}`:                                                     "content.modulesContent.a b",
		`{"modulesContent":{"$mine":{"properties.desired":{}}}}`:                                                               "reserved",
		`{"modulesContent":{"m":{"properties.reported":{}}}}`:                                                                  "is not known; write properties.desired",
		`{"modulesContent":{"m":{"properties.desiredx":{}}}}`:                                                                  "is not known",
		`{"modulesContent":{"m":{"properties.desired":5}}}`:                                                                    "modulesContent.m.properties.desired: it must be an object",
		`{"modulesContent":{"m":{"properties.desired..a":5}}}`:                                                                 "empty part",
		`{"modulesContent":{"m":{"properties.desired.a.b.c.d.e.f.g.h.i.j.k.l":5}}}`:                                            "12 parts",
		`{"modulesContent":{"m":{"properties.desired.a b":5}}}`:                                                                "modulesContent.m.properties.desired",
		`{"modulesContent":{"m":{"properties.desired":{"a":[null]}}}}`:                                                         "null",
		`{"modulesContent":{"m":{"properties.desired":{"$version":1}}}}`:                                                       "$version",
		`{"moduleContent":{"properties.desired":{"a":1}}}`:                                                                     "one module of many devices",
		manifestWith(`"schemaVersion":"1.1","runtime"`, `"schemaVersion":"1.2","runtime"`):                                     agent + "schemaVersion",
		manifestWith(`"type":"docker"`, `"type":5`):                                                                            agent + "runtime.type",
		manifestWith(`"type":"process"`, `"type":"dockr"`):                                                                     agent + `modules.m.type: "dockr" is not known; write one of docker, process, wasm`,
		manifestWith(`"status":"running",`, ``):                                                                                agent + "modules.m.status: it is missing; write running or stopped",
		manifestWith(`"m":{"type"`, `"edgeAgent":{"type"`):                                                                     agent + "modules.edgeAgent",
		manifestWith(`"schemaVersion":"1.1","routes"`, `"schemaVersion":"1.4","routes"`):                                       hub + "schemaVersion",
		manifestWith(`"schemaVersion":"1.1","routes"`, `"schemaVersion":"1.0","routes"`):                                       hub + "routes.b: schema version 1.0",
		manifestWith(`"routes"`, `"roots"`):                                                                                    hub + "routes: it is missing",
		manifestWith(`"a":"FROM /* INTO $upstream"`, `"a":5`):                                                                  hub + "routes.a: it must be a string",
		manifestWith(`{"route"`, `{"rout"`):                                                                                    hub + "routes.b.route: it is missing",
		manifestWith(`"priority":1`, `"priority":10`):                                                                          hub + "routes.b.priority",
		manifestWith(`"timeToLiveSecs":9`, `"timeToLiveSecs":-1`):                                                              hub + "routes.b.timeToLiveSecs",
		manifestWith(`{"timeToLiveSecs":7200}`, `null`):                                                                        hub + "storeAndForwardConfiguration: it is missing",
		manifestWith(`7200`, `"long"`):                                                                                         hub + "storeAndForwardConfiguration.timeToLiveSecs",
		manifestWith(`"x":1`, `"x":"`+strings.Repeat("x", 5000)+`"`):                                                           "modulesContent.m.properties.desired: ",
		`{"modulesContent":{"$edgeAgent":{"properties.desired.modules.m":{"type":"process","status":"running"}}}}`:             agent + "modules.m.settings",
		`{"modulesContent":{"$edgeAgent":{"properties.desired.modules":{"m":{"type":"x","status":"running","settings":{}}}}}}`: agent + "modules.m.type",
		`{"modulesContent":{"$edgeAgent":{"properties.desired.systemModules.pony":{}}}}`:                                       agent + "systemModules.pony",
		`{"modulesContent":{"$edgeAgent":{"properties.desired.runtime":{}}}}`:                                                  agent + "runtime.type",
		`{"modulesContent":{"$edgeAgent":{"properties.desired.schemaVersion":"7.0"}}}`:                                         agent + "schemaVersion",
		`{"modulesContent":{"$edgeHub":{"properties.desired.schemaVersion":"7.0"}}}`:                                           hub + "schemaVersion",
		`{"modulesContent":{"$edgeHub":{"properties.desired.routes.r":{}}}}`:                                                   hub + "routes.r.route",
		`{"modulesContent":{"$edgeHub":{"properties.desired.routes":{"r":7}}}}`:                                                hub + "routes.r",
	} {
		_, err := Content([]byte(text))
		if !fault.Is(err, fault.InvalidConfiguration) || !strings.Contains(fault.TextOf(err), where) {
			t.Errorf("%s:\n  %v, want %q", text, err, where)
		}
	}
	for _, text := range []string{manifestWith(`"priority":1`, `"priority":2000000000`), manifestWith(`7200`, `-1`), manifestWith(`"a":"FROM /* INTO $upstream",`, `"a":null,"c":"",`)} {
		if _, err := Content([]byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestRoutes(t *testing.T) {
	const layered = `{"modulesContent":{"$edgeHub":{"properties.desired.routes.a":"FROM /a INTO $upstream","properties.desired.routes.gone":null,` +
		`"properties.desired.routes":{"b":{"route":"FROM /b INTO $upstream","priority":1}},"properties.desired.schemaVersion":"1.1"},"m":{"properties.desired":{"routes":{"x":"no"}}}}}`
	for text, want := range map[string]map[string]string{
		manifestWith(`"x":1`, `"x":2`): {"a": "FROM /* INTO $upstream", "b": "FROM /* INTO $upstream"},
		layered:                        {"a": "FROM /a INTO $upstream", "b": "FROM /b INTO $upstream"},
		`{"modulesContent":{"m":{"properties.desired":{}}}}`: {},
	} {
		if got, err := Routes([]byte(text)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

func FuzzContent(f *testing.F) {
	f.Add(read(f, "testdata/full.json"))
	f.Add([]byte(manifestWith(`"x":1`, `"x":{"y":[1]}`)))
	f.Add([]byte(`{"content":{"modulesContent":{"$edgeAgent":{"properties.desired.modules.m":null}}}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		body, err := Content(in)
		if err != nil {
			if !fault.Is(err, fault.InvalidConfiguration) {
				t.Fatalf("%v is no fault for a client", err)
			}
			return
		}
		if _, err := Routes(body); err != nil {
			t.Fatalf("routes of %s: %v", body, err)
		}
		again, err := Content(body)
		if err != nil || !bytes.Equal(again, body) {
			t.Fatalf("%s becomes %s, %v", body, again, err)
		}
	})
}
