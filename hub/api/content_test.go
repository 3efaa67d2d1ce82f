package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/selvedge-io/selvedge/model/fault"
)

const manifest = `{"modulesContent":{
	"$edgeAgent":{"properties.desired":{"schemaVersion":"1.1","runtime":{"type":"docker","settings":{"minDockerVersion":"v1.25","loggingOptions":"",
		"registryCredentials":{"r":{"address":"r.example.net","username":"u","password":"p"}}}},
		"systemModules":{"edgeAgent":{"type":"docker","settings":{"image":"agent:1","createOptions":"{}"}},
			"edgeHub":{"type":"docker","status":"running","restartPolicy":"always","settings":{"image":"hub:1"}}},
		"modules":{"sensor":{"type":"process","status":"running","restartPolicy":"always","startupOrder":1,"env":{"A":{"value":1},"B":{"value":"x"}},"settings":{"builtin":"sensor"}},
			"filter":{"version":"1.0","type":"docker","status":"stopped","restartPolicy":"never","imagePullPolicy":"never","settings":{"image":"filter"}}}}},
	"$edgeHub":{"properties.desired":{"schemaVersion":"1.2","routes":{"a":"FROM /* INTO $upstream","b":{"route":"FROM /* INTO $upstream","priority":0,"timeToLiveSecs":60}},
		"storeAndForwardConfiguration":{"timeToLiveSecs":7200}}},
	"sensor":{"properties.desired":{"interval":5}}}}`

func TestApplyContent(t *testing.T) {
	h := start(t)
	h.must(200, "PUT /devices/gw", `{"capabilities":{"iotEdge":true}}`)
	for _, body := range []string{manifest, `{"id":"x","content":` + manifest + `}`} {
		if r := h.ask("iothubowner", "POST /devices/gw/applyConfigurationContent", body); r.StatusCode != 204 || len(r.body) != 0 {
			t.Fatalf("%d %s", r.StatusCode, r.body)
		}
	}
	doc := h.must(200, "GET /devices/gw/modules/sensor", "")
	if doc["managedBy"] != "iotEdge" || at(doc, "authentication/type") != "sas" {
		t.Errorf("sensor %v", doc)
	}
	agent := h.must(200, "GET /twins/gw/modules/$edgeAgent", "")
	if at(agent, "properties/desired/modules/sensor/settings/builtin") != "sensor" || at(agent, "properties/desired/$version") != 3.0 {
		t.Errorf("agent %v", agent)
	}
	// The plain path replaces all, a longer path a part.
	h.must(204, "POST /devices/gw/applyConfigurationContent", `{"modulesContent":{
		"$edgeAgent":{"properties.desired.modules.sensor":{"type":"process","settings":{"builtin":"sensor"}},"properties.desired.modules.filter":null},
		"sensor":{"properties.desired":{"x":1},"properties.desired.y.z":2}}}`)
	agent = h.must(200, "GET /twins/gw/modules/$edgeAgent", "")
	if at(agent, "properties/desired/modules/sensor/env") != nil || at(agent, "properties/desired/modules/filter") != nil ||
		at(agent, "properties/desired/runtime/type") != "docker" {
		t.Errorf("agent %v", agent)
	}
	sensor := h.must(200, "GET /twins/gw/modules/sensor", "")
	if at(sensor, "properties/desired/x") != 1.0 || at(sensor, "properties/desired/y/z") != 2.0 || at(sensor, "properties/desired/interval") != nil {
		t.Errorf("sensor %v", sensor)
	}
	h.must(204, "POST /devices/gw/applyConfigurationContent", `{"deviceContent":{"properties.desired.a.b":1}}`)
	if doc := h.must(200, "GET /twins/gw", ""); at(doc, "properties/desired/a/b") != 1.0 {
		t.Errorf("device twin %v", doc)
	}
	if !strings.Contains(h.log.String(), `change="apply configuration content"`) {
		t.Errorf("audit log: %s", h.log)
	}
}

func TestApplyContentRefusals(t *testing.T) {
	h := start(t)
	h.must(200, "PUT /devices/gw", `{"capabilities":{"iotEdge":true}}`)
	h.must(200, "PUT /devices/leaf", `{}`)
	for body, where := range map[string]string{
		``:                             "the content cannot be read",
		`[]`:                           "not an object",
		`{}`:                           "exactly one of",
		`{"$schema-template":"4.0.0"}`: "deployment template",
		`{"modules":{}}`:               "exactly one of",
		`{"content":5}`:                "content: it must be an object",
		`{"modulesContent":[]}`:        "modulesContent: it must be an object",
		`{"modulesContent":{}}`:        "modulesContent: it names no module",
		`{"modulesContent":{"m":{"properties.desired":{}}},"deviceContent":{}}`: "it holds 2",
		`{"modulesContent":{"m":5}}`:                                         "modulesContent.m: it must be an object",
		`{"modulesContent":{"m":{}}}`:                                        "modulesContent.m: it sets nothing",
		`{"modulesContent":{"a b":{"properties.desired":{}}}}`:               "is no module id",
		`{"modulesContent":{"$mine":{"properties.desired":{}}}}`:             "reserved",
		`{"modulesContent":{"m":{"properties.reported":{}}}}`:                `"properties.reported" is unknown`,
		`{"modulesContent":{"m":{"properties.desired":5}}}`:                  "modulesContent.m.properties.desired: it must be an object",
		`{"modulesContent":{"m":{"properties.desired..a":5}}}`:               "empty part",
		`{"modulesContent":{"m":{"properties.desired.a b":5}}}`:              "a b",
		`{"modulesContent":{"m":{"properties.desired":{"a":[null]}}}}`:       "null",
		`{"moduleContent":{"properties.desired":{"a":1}}}`:                   "one device takes modulesContent",
		`{"content":{"modulesContent":{"m%d":{"properties.desired":"%s"}}}}`: "content.modulesContent.m%d.properties.desired: it must be an object",
	} {
		r := h.ask("iothubowner", "POST /devices/gw/applyConfigurationContent", body)
		if r.StatusCode != 400 || r.code(t) != "InvalidConfigurationContent" || !strings.Contains(strings.ReplaceAll(string(r.body), `\"`, `"`), where) {
			t.Errorf("%s: %d %s, want %q", body, r.StatusCode, r.body, where)
		}
	}
	for what, want := range map[string]string{"leaf": "ArgumentInvalid", "nobody": "DeviceNotFound"} {
		if r := h.ask("service", "POST /devices/"+what+"/applyConfigurationContent", manifest); r.code(t) != want {
			t.Errorf("%s: %d %s", what, r.StatusCode, r.body)
		}
	}
	if r := h.ask("registryRead", "POST /devices/gw/applyConfigurationContent", manifest); r.StatusCode != 401 {
		t.Errorf("reader applied: %d", r.StatusCode)
	}
	// Nothing was made on the way.
	if r := h.ask("iothubowner", "GET /devices/gw/modules/m", ""); r.StatusCode != 404 {
		t.Errorf("a refused apply left a module: %s", r.body)
	}
}

func TestSystemModuleSchemas(t *testing.T) {
	agent := func(old, new string) string { return strings.Replace(manifest, old, new, 1) }
	for name, c := range map[string]struct{ body, where string }{
		"good":               {manifest, ""},
		"agent version 2":    {agent(`"schemaVersion":"1.1"`, `"schemaVersion":"2.0"`), "$edgeAgent.properties.desired.schemaVersion"},
		"agent version 1.2":  {agent(`"schemaVersion":"1.1"`, `"schemaVersion":"1.2"`), "$edgeAgent.properties.desired.schemaVersion"},
		"agent 1.1.0":        {agent(`"schemaVersion":"1.1"`, `"schemaVersion":"1.1.0"`), ""},
		"no agent version":   {agent(`"schemaVersion":"1.1",`, ``), "schemaVersion"},
		"runtime text":       {agent(`"runtime":{"type":"docker"`, `"runtime":{"type":5`), "runtime.type"},
		"blank credentials":  {agent(`"password":"p"`, `"password":" "`), "registryCredentials.r.password"},
		"unknown system":     {agent(`"edgeAgent":{"type"`, `"edgePony":{"type"`), "systemModules.edgePony"},
		"module name":        {agent(`"sensor":{"type"`, `"my.sensor":{"type"`), "my.sensor"},
		"module type":        {agent(`"type":"process"`, `"kind":"process"`), "modules.sensor.type"},
		"module settings":    {agent(`"settings":{"builtin":"sensor"}`, `"settings":"x"`), "modules.sensor.settings"},
		"docker image":       {agent(`"image":"filter"`, `"digest":"filter"`), "modules.filter.settings.image"},
		"restart policy":     {agent(`"restartPolicy":"never"`, `"restartPolicy":"sometimes"`), "modules.filter.restartPolicy"},
		"status":             {agent(`"status":"stopped"`, `"status":"paused"`), "modules.filter.status"},
		"pull policy":        {agent(`"imagePullPolicy":"never"`, `"imagePullPolicy":5`), "imagePullPolicy"},
		"start order":        {agent(`"startupOrder":1`, `"startupOrder":-1`), "startupOrder"},
		"env form":           {agent(`"A":{"value":1}`, `"A":1`), "env.A"},
		"env value":          {agent(`"A":{"value":1}`, `"A":{"value":{}}`), "env.A"},
		"modules array":      {agent(`"modules":{"sensor"`, `"modules":[],"other":{"sensor"`), "properties.desired.modules"},
		"hub version":        {agent(`"schemaVersion":"1.2"`, `"schemaVersion":"1.4"`), "$edgeHub.properties.desired.schemaVersion"},
		"hub routes":         {agent(`"routes":{"a":"FROM /* INTO $upstream",`, `"routes":{"a":5,`), "routes.a"},
		"hub route object":   {agent(`{"route":"FROM`, `{"rout":"FROM`), "routes.b.route"},
		"hub priority":       {agent(`"priority":0`, `"priority":10`), "routes.b.priority"},
		"hub no priority":    {agent(`"priority":0`, `"priority":2000000000`), ""},
		"hub time to live":   {agent(`"timeToLiveSecs":60`, `"timeToLiveSecs":-1`), "routes.b.timeToLiveSecs"},
		"hub store":          {agent(`"timeToLiveSecs":7200`, `"timeToLiveSecs":"long"`), "storeAndForwardConfiguration.timeToLiveSecs"},
		"hub keeps for ever": {agent(`"timeToLiveSecs":7200`, `"timeToLiveSecs":-1`), ""},
		"hub null routes":    {`{"modulesContent":{"$edgeHub":{"properties.desired":{"schemaVersion":"1.0","routes":null}}}}`, ""},
	} {
		_, err := parseContent("gw", []byte(c.body))
		if c.where == "" && err != nil || c.where != "" && (!fault.Is(err, fault.InvalidConfiguration) || !strings.Contains(fmt.Sprint(err), c.where)) {
			t.Errorf("%s: %v, want %q", name, err, c.where)
		}
	}
}

func FuzzContent(f *testing.F) {
	f.Add([]byte(manifest))
	f.Add([]byte(`{"content":{"deviceContent":{"properties.desired.a.b":null}}}`))
	f.Add([]byte(`{"modulesContent":{"$edgeHub":{"properties.desired":{"schemaVersion":"1.0","routes":null}}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		parts, err := parseContent("gw", body)
		if err != nil {
			if !fault.Is(err, fault.InvalidConfiguration) || err.Error() == "" {
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		if len(parts) == 0 {
			t.Fatalf("%q is good but sets nothing", body)
		}
		for _, p := range parts {
			u := p.update()
			_ = u.Check()
		}
	})
}
