package agent

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/selvedge-io/selvedge/model/manifest"
)

func TestVersionStandsForWhatMatters(t *testing.T) {
	parse := func(module string) *manifest.Module {
		t.Helper()
		d, err := manifest.Parse([]byte(`{"schemaVersion":"1.1","runtime":{"type":"docker"},"modules":{"m":` + module + `}}`))
		if err != nil {
			t.Fatal(err)
		}
		return &d.Modules[0]
	}
	version := func(module string) string {
		t.Helper()
		m := parse(module)
		made, err := compose(m, environment(Host{Device: "gw"}, nil, m, "g", "unix:///s"))
		if err != nil {
			t.Fatal(err)
		}
		return made.Version
	}
	process := version(`{"type":"process","settings":{"command":"a","args":["b"],"n":1.50}}`)
	docker := version(`{"type":"docker","settings":{"image":"i","createOptions":"{\"A\":1,\"B\":[2]}"}}`)
	for i, c := range []struct {
		module, than string
		same         bool
	}{
		{`{"settings":{ "n":1.50, "args":["b"],"command":"a"},"type":"process","status":"stopped","restartPolicy":"never","startupOrder":7,"imagePullPolicy":"never"}`, process, true},
		{`{"type":"process","settings":{"command":"a","args":["c"],"n":1.50}}`, process, false},
		{`{"type":"process","settings":{"command":"a","args":["b"],"n":1.5}}`, process, false},
		{`{"type":"process","version":"2","settings":{"command":"a","args":["b"],"n":1.50}}`, process, false},
		{`{"type":"process","env":{"A":{"value":""}},"settings":{"command":"a","args":["b"],"n":1.50}}`, process, false},
		{`{"type":"docker","settings":{"image":"i","createoptions":"{\"B\": [2],","createOptions01":" \"A\": 1 }"}}`, docker, true},
		{`{"type":"docker","settings":{"image":"j","createOptions":"{\"A\":1,\"B\":[2]}"}}`, docker, false},
		{`{"type":"docker","settings":{"image":"i","createOptions":"{\"A\":1,\"B\":[3]}"}}`, docker, false},
		{`{"type":"docker","settings":{"image":"i","digest":"d","createOptions":"{\"A\":1,\"B\":[2]}"}}`, docker, false},
	} {
		if got := version(c.module); (got == c.than) != c.same {
			t.Errorf("case %d: version %s against %s, same %v", i, got, c.than, c.same)
		}
	}
	if _, err := compose(&manifest.Module{Type: "process", Settings: json.RawMessage("{")}, nil); err == nil {
		t.Error("settings that are no JSON are composed")
	}
}

func TestEnvironmentBelongsToUs(t *testing.T) {
	m := &manifest.Module{Name: "m", Env: map[string]string{"IOTEDGE_MODULEID": "other", "upstreamprotocol": "", "EXTRA": "mine"}}
	h := Host{Device: "gw", Hub: "h", Gateway: "g", Parent: "p", APIVersion: "2019-01-30", Extra: map[string]string{"EXTRA": "x", "OTHER": "y"}}
	got := environment(h, map[string]string{"upstreamprotocol": "Amqp", "runtimeloglevel": "WARNING"}, m, "gen", "unix:///s")
	want := map[string]string{"IOTEDGE_MODULEID": "m", "upstreamprotocol": "", "EXTRA": "mine", "OTHER": "y", "RuntimeLogLevel": "Warning",
		"IOTEDGE_WORKLOADURI": "unix:///s", "IOTEDGE_AUTHSCHEME": "sasToken", "IOTEDGE_MODULEGENERATIONID": "gen", "IOTEDGE_IOTHUBHOSTNAME": "h",
		"IOTEDGE_DEVICEID": "gw", "IOTEDGE_APIVERSION": "2019-01-30", "IOTEDGE_GATEWAYHOSTNAME": "g", "IOTEDGE_PARENTHOSTNAME": "p"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if m.Env["IOTEDGE_MODULEID"] != "other" {
		t.Error("the manifest itself was changed")
	}
}

func TestLimitsOf(t *testing.T) {
	l, wrong := limitsOf(map[string]string{"coolofftimeunitinseconds": "0", "intensivecaretimeinminutes": "-1", "maxrestartcount": "x", "other": "y"})
	if fmt.Sprint(l, len(wrong)) != "{1s 10m0s 0} 2" {
		t.Errorf("limits %v, wrong %q", l, wrong)
	}
}
