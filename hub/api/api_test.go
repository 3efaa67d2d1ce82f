package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/model/ident"
)

func at(doc map[string]any, path string) any {
	var v any = doc
	for key := range strings.SplitSeq(path, "/") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[key]
	}
	return v
}

func TestCreateDevice(t *testing.T) {
	h := start(t)
	r := h.ask("iothubowner", "PUT /devices/pump-7", `{"deviceId":"pump-7","connectionState":"Connected","deviceScope":null,"unknown":1}`)
	if r.StatusCode != 200 || r.Header.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	var doc map[string]any
	if err := json.Unmarshal(r.body, &doc); err != nil {
		t.Fatal(err)
	}
	if r.Header.Get("ETag") != fmt.Sprintf("%q", doc["etag"]) {
		t.Errorf("ETag %s, body %s", r.Header.Get("ETag"), doc["etag"])
	}
	for path, want := range map[string]any{
		"deviceId": "pump-7", "connectionState": "Disconnected", "status": "enabled", "statusReason": nil,
		"connectionStateUpdatedTime": "0001-01-01T00:00:00Z", "statusUpdatedTime": "0001-01-01T00:00:00Z",
		"lastActivityTime": "0001-01-01T00:00:00Z", "cloudToDeviceMessageCount": 0.0, "authentication/type": "sas",
		"authentication/x509Thumbprint/primaryThumbprint": nil, "capabilities/iotEdge": false, "deviceScope": nil,
	} {
		if got := at(doc, path); got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	if key, _ := at(doc, "authentication/symmetricKey/primaryKey").(string); len(key) != 44 {
		t.Errorf("primary key %q", key)
	}
	if !strings.Contains(h.log.String(), `msg=audit change="create identity" by=iothubowner device=pump-7`) {
		t.Errorf("audit log: %s", h.log)
	}
	if strings.Contains(h.log.String(), at(doc, "authentication/symmetricKey/primaryKey").(string)) {
		t.Error("a key stands in the log")
	}
	got := h.must(200, "GET /devices/pump-7", "")
	if got["etag"] != doc["etag"] || got["generationId"] != doc["generationId"] {
		t.Errorf("read back %v", got)
	}
}

func TestPathForms(t *testing.T) {
	h := start(t)
	id := "a:b%(c)'d;e@f=g,h$i*j!k_l?"
	h.must(200, "PUT /devices/a:b%25(c)'d;e%40f=g,h%24i*j!k_l%3F", `{}`)
	for _, path := range []string{
		"/devices/a%3Ab%25%28c%29%27d%3Be%40f%3Dg%2Ch%24i%2Aj%21k_l%3F?api-version=2021-04-12",
		"/DEVICES/a:b%25(c)'d;e%40f=g,h%24i*j!k_l%3F/?api-version=2020-05-31-preview",
		"//devices//a:b%25(c)'d;e%40f=g,h%24i*j!k_l%3F?api-version=2016-11-14",
	} {
		if doc := h.must(200, "GET "+path, ""); doc["deviceId"] != id {
			t.Errorf("%s gave %v", path, doc["deviceId"])
		}
	}
	if r := h.ask("iothubowner", "GET /devices/A:b%25(c)'d;e%40f=g,h%24i*j!k_l%3F", ""); r.code(t) != "DeviceNotFound" {
		t.Errorf("ids must be case-sensitive: %s", r.body)
	}
	if r := h.ask("iothubowner", "GET /devices/?api-version=2021-04-12&top=1", ""); r.StatusCode != 200 || r.body[0] != '[' {
		t.Errorf("list with a slash: %d %s", r.StatusCode, r.body)
	}
}

func TestRefusals(t *testing.T) {
	h := start(t)
	h.must(200, "PUT /devices/d", `{}`)
	h.must(200, "PUT /devices/edge", `{"capabilities":{"iotEdge":true}}`)
	h.must(200, "PUT /devices/d/modules/m", `{}`)
	key := at(h.must(200, "GET /devices/d", ""), "authentication/symmetricKey/primaryKey").(string)
	big := strings.Repeat("x", 300<<10)
	for name, c := range map[string]struct {
		policy, what, body string
		header             []string
		status             int
		code               string
	}{
		"no api-version":          {"iothubowner", "GET /devices?api-version=", "", nil, 400, "InvalidProtocolVersion"},
		"odd api-version":         {"iothubowner", "GET /devices?api-version=latest", "", nil, 400, "InvalidProtocolVersion"},
		"version before rights":   {"", "GET /devices/0000/modules?api-version=", "", nil, 400, "InvalidProtocolVersion"},
		"no credentials":          {"", "GET /devices/d", "", nil, 401, "GenericUnauthorized"},
		"unknown policy":          {"hacker", "GET /devices/d", "", nil, 401, "IotHubUnauthorizedAccess"},
		"service reads registry":  {"service", "GET /devices/d", "", nil, 401, "IotHubUnauthorizedAccess"},
		"reader writes":           {"registryRead", "PUT /devices/x", `{}`, nil, 401, "IotHubUnauthorizedAccess"},
		"reader deletes":          {"registryRead", "DELETE /devices/d", "", nil, 401, "IotHubUnauthorizedAccess"},
		"registry reads twin":     {"registryReadWrite", "GET /twins/d", "", nil, 401, "IotHubUnauthorizedAccess"},
		"device policy":           {"device", "POST /twins/d/methods", `{}`, nil, 401, "IotHubUnauthorizedAccess"},
		"leaf manages modules":    {"", "GET /devices/d/modules", "", []string{"Authorization", "SharedAccessSignature sig=" + key}, 401, "IotHubUnauthorizedAccess"},
		"wrong device key":        {"", "GET /devices/d/modules", "", []string{"Authorization", "SharedAccessSignature sig=no"}, 401, "IotHubUnauthorized"},
		"unknown path":            {"iothubowner", "GET /nothing/here", "", nil, 404, "GenericNotFound"},
		"root":                    {"iothubowner", "GET /", "", nil, 404, "GenericNotFound"},
		"wrong verb":              {"iothubowner", "PATCH /devices/d", `{}`, nil, 405, "GenericMethodNotAllowed"},
		"bad id":                  {"iothubowner", "GET /devices/a%20b", "", nil, 400, "ArgumentInvalid"},
		"slash in id":             {"iothubowner", "GET /devices/a%2Fb", "", nil, 400, "ArgumentInvalid"},
		"unknown device":          {"iothubowner", "GET /devices/x", "", nil, 404, "DeviceNotFound"},
		"unknown module":          {"iothubowner", "GET /devices/d/modules/x", "", nil, 404, "ModuleNotFound"},
		"module of nobody":        {"iothubowner", "GET /devices/x/modules/m", "", nil, 404, "DeviceNotFound"},
		"modules of nobody":       {"iothubowner", "GET /devices/x/modules", "", nil, 404, "DeviceNotFound"},
		"device exists":           {"iothubowner", "PUT /devices/d", `{}`, nil, 409, "DeviceAlreadyExists"},
		"module exists":           {"iothubowner", "PUT /devices/d/modules/m", `{}`, nil, 409, "ModuleAlreadyExistsOnDevice"},
		"create system module":    {"iothubowner", "PUT /devices/d/modules/%24edgeHub", `{}`, nil, 401, "SystemModuleModifyUnauthorizedAccess"},
		"delete system module":    {"iothubowner", "DELETE /devices/edge/modules/$edgeHub", "", []string{"If-Match", "*"}, 401, "SystemModuleModifyUnauthorizedAccess"},
		"update of nothing":       {"iothubowner", "PUT /devices/x", `{}`, []string{"If-Match", `"*"`}, 404, "DeviceNotFound"},
		"stale update":            {"iothubowner", "PUT /devices/d", `{}`, []string{"If-Match", `"AAAA"`}, 412, "PreconditionFailed"},
		"stale delete":            {"iothubowner", "DELETE /devices/d", "", []string{"If-Match", `"AAAA"`}, 412, "PreconditionFailed"},
		"stale twin":              {"iothubowner", "PATCH /twins/d", `{"tags":{}}`, []string{"If-Match", `"AAAAAAAAAAk="`}, 412, "PreconditionFailed"},
		"no body":                 {"iothubowner", "PUT /devices/x", "", nil, 400, "ArgumentNull"},
		"no JSON":                 {"iothubowner", "PUT /devices/x", "{", nil, 400, "ArgumentInvalid"},
		"wrong type":              {"iothubowner", "PUT /devices/x", `{"status":1}`, nil, 400, "ArgumentInvalid"},
		"wrong status":            {"iothubowner", "PUT /devices/x", `{"status":"on"}`, nil, 400, "ArgumentInvalid"},
		"other id":                {"iothubowner", "PUT /devices/x", `{"deviceId":"y"}`, nil, 400, "ArgumentInvalid"},
		"other module":            {"iothubowner", "PUT /devices/d/modules/x", `{"deviceId":"d","moduleId":"y"}`, nil, 400, "ArgumentInvalid"},
		"unknown scope":           {"iothubowner", "PUT /devices/x", `{"deviceScope":"ms-azure-iot-edge://x-1"}`, nil, 400, "InvalidDeviceScope"},
		"large body":              {"iothubowner", "PUT /devices/x", `{"deviceId":"` + big + `"}`, nil, 413, "MessageTooLarge"},
		"top zero":                {"iothubowner", "GET /devices?top=0", "", nil, 400, "ArgumentInvalid"},
		"twin of nobody":          {"iothubowner", "GET /twins/x", "", nil, 404, "DeviceNotFound"},
		"twin of no module":       {"iothubowner", "GET /twins/d/modules/x", "", nil, 404, "ModuleNotFound"},
		"twin with array":         {"iothubowner", "PATCH /twins/d", `{"tags":[]}`, nil, 400, "ArgumentInvalid"},
		"twin with bad key":       {"iothubowner", "PATCH /twins/d", `{"properties":{"desired":{"a.b":1}}}`, nil, 400, "ArgumentInvalid"},
		"twin too large":          {"iothubowner", "PATCH /twins/d", `{"tags":{"a":["` + strings.Repeat(strings.Repeat("x", 4000)+`","`, 3) + `"]}}`, nil, 400, "ArgumentInvalid"},
		"method of nobody":        {"service", "POST /twins/x/methods", `{"methodName":"m"}`, nil, 404, "DeviceNotFound"},
		"method of no module":     {"service", "POST /twins/d/modules/x/methods", `{"methodName":"m"}`, nil, 404, "ModuleNotFound"},
		"method offline":          {"service", "POST /twins/d/methods", `{"methodName":"offline"}`, nil, 404, "DeviceNotOnline"},
		"method gone":             {"service", "POST /twins/d/methods", `{"methodName":"gone"}`, nil, 404, "DeviceConnectionClosedRemotely"},
		"method slow":             {"service", "POST /twins/d/methods", `{"methodName":"slow"}`, nil, 504, "GatewayTimeout"},
		"method garbage":          {"service", "POST /twins/d/methods", `{"methodName":"garbage"}`, nil, 502, "GenericBadGateway"},
		"method busy":             {"service", "POST /twins/d/methods", `{"methodName":"busy"}`, nil, 403, "DeviceMaximumInflightMethodExceeded"},
		"method without name":     {"service", "POST /twins/d/methods", `{}`, nil, 400, "ArgumentNull"},
		"method time-out short":   {"service", "POST /twins/d/methods", `{"methodName":"m","responseTimeoutInSeconds":4}`, nil, 400, "ArgumentInvalid"},
		"method time-out long":    {"service", "POST /twins/d/methods", `{"methodName":"m","connectTimeoutInSeconds":301}`, nil, 400, "ArgumentInvalid"},
		"method payload":          {"service", "POST /twins/d/methods", `{"methodName":"m","payload":"` + big[:129<<10] + `"}`, nil, 400, "ArgumentInvalid"},
		"internal":                {"service", "POST /twins/d/methods", `{"methodName":"broken"}`, nil, 500, "ServerError"},
		"purge of nobody":         {"service", "DELETE /devices/x/commands", "", nil, 404, "DeviceNotFound"},
		"message to nobody":       {"service", "POST /messages/devicebound", "x", []string{"iothub-to", "/devices/x/messages/devicebound"}, 404, "DeviceNotFound"},
		"message to module":       {"service", "POST /messages/devicebound", "x", []string{"iothub-to", "/devices/d/modules/m/messages/devicebound"}, 400, "ArgumentInvalid"},
		"message without address": {"service", "POST /messages/devicebound", "x", nil, 400, "ArgumentInvalid"},
		"message with odd ack":    {"service", "POST /messages/devicebound", "x", []string{"iothub-to", "/devices/d/messages/devicebound", "iothub-ack", "yes"}, 400, "ArgumentInvalid"},
		"message expired":         {"service", "POST /messages/devicebound", "x", []string{"iothub-to", "/devices/d/messages/devicebound", "iothub-expiry", "2020-01-01T00:00:00Z"}, 403, "InvalidMessageExpiryTime"},
		"message too large":       {"service", "POST /messages/devicebound", big, []string{"iothub-to", "/devices/d/messages/devicebound"}, 413, "MessageTooLarge"},
		"events of odd time":      {"service", "GET /selvedge/events?since=yesterday", "", nil, 400, "ArgumentInvalid"},
		"events of no group":      {"service", "GET /selvedge/events?group=nobodys", "", nil, 404, "GenericNotFound"},
		"events of module alone":  {"service", "GET /selvedge/events?module=m", "", nil, 400, "ArgumentInvalid"},
	} {
		t.Run(name, func(t *testing.T) {
			r := h.ask(c.policy, c.what, c.body, c.header...)
			if code := r.code(t); r.StatusCode != c.status || code != c.code {
				t.Errorf("%d %s, want %d %s; %s", r.StatusCode, code, c.status, c.code, r.body)
			}
			nested := strings.Contains(c.what, " /twins/") && !strings.Contains(string(r.body), `"Message":"{`)
			if nested && r.StatusCode != 405 {
				t.Errorf("not in shape 2: %s", r.body)
			}
			if strings.Contains(string(r.body), "secret") {
				t.Errorf("inner trouble is shown: %s", r.body)
			}
		})
	}
}

// What is refused for who asks or what they send leaves a line with the cause and the
// tracking id of the answer; nobody fills the log with them, and no token is in it.
func TestRefusalsAreLogged(t *testing.T) {
	h := start(t)
	r := h.ask("hacker", "GET /devices/d", "")
	_, tracking, _ := strings.Cut(string(r.body), "Tracking ID:")
	tracking, _, _ = strings.Cut(tracking, `"`)
	h.must(200, "PUT /devices/d", "{}")
	h.must(400, "PATCH /twins/d", `{"properties":{"desired":{"a.b":1}}}`)
	h.must(404, "GET /devices/x", "") // which happens every day
	text := h.log.String()
	for _, want := range []string{"level=WARN", tracking, "does not allow this", "path=/twins/d", "a.b"} {
		if !strings.Contains(text, want) || want == "" {
			t.Errorf("%q is not in the log: %s", want, text)
		}
	}
	if strings.Contains(text, "sig=x") || strings.Contains(text, "path=/devices/x") {
		t.Errorf("log says too much: %s", text)
	}
	for range 100 {
		h.ask("hacker", "GET /"+strings.Repeat("x", 10_000), "")
		h.ask("hacker", "GET /devices/"+strings.Repeat("x", 10_000), "")
	}
	if n := strings.Count(h.log.String(), "level=WARN"); n > 50 || h.log.Len() > 50_000 {
		t.Errorf("%d lines of %d bytes for 100 refusals", n, h.log.Len())
	}
}

func TestMethodTimeoutsAreTold(t *testing.T) {
	h := start(t)
	h.must(200, "PUT /devices/d", `{}`)
	for what, want := range map[string]string{
		`{"methodName":"offline","connectTimeoutInSeconds":75}`: `\"info\":{\"timeout\":\"00:01:15\"}`,
		`{"methodName":"slow","responseTimeoutInSeconds":300}`:  `\"info\":{\"timeout\":\"00:05:00\"}`,
	} {
		if r := h.ask("service", "POST /twins/d/methods", what); !strings.Contains(string(r.body), want) {
			t.Errorf("%s: %s", what, r.body)
		}
	}
}

func TestIfMatchForms(t *testing.T) {
	h := start(t)
	doc := h.must(200, "PUT /devices/d", `{}`)
	for _, form := range []string{`*`, `"*"`, ` "*" `, `ETAG`, `"ETAG"`, `W/"ETAG"`} {
		match := strings.Replace(form, "ETAG", doc["etag"].(string), 1)
		doc = h.must(200, "PUT /devices/d", `{"status":"disabled","statusReason":"why"}`, "If-Match", match)
		if doc["status"] != "disabled" || doc["statusReason"] != "why" {
			t.Errorf("If-Match %s: %v", match, doc)
		}
	}
	if r := h.ask("iothubowner", "DELETE /devices/d", "", "If-Match", `"*"`); r.StatusCode != 204 || len(r.body) != 0 {
		t.Errorf("delete: %d %s", r.StatusCode, r.body)
	}
}

func TestModules(t *testing.T) {
	h := start(t)
	h.must(200, "PUT /devices/gw", `{"capabilities":{"iotEdge":true}}`)
	doc := h.must(200, "PUT /devices/gw/modules/filter", `{"moduleId":"filter","managedBy":"iotEdge","deviceId":"gw"}`)
	for path, want := range map[string]any{"moduleId": "filter", "managedBy": "iotEdge", "deviceId": "gw", "authentication/type": "sas", "status": nil} {
		if got := at(doc, path); got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	var all []map[string]any
	if err := json.Unmarshal(h.ask("registryRead", "GET /devices/gw/modules", "").body, &all); err != nil || len(all) != 3 {
		t.Fatalf("modules %v, %v", all, err)
	}
	if all[0]["moduleId"] != "$edgeAgent" || at(all[0], "authentication/type") != "none" || all[0]["managedBy"] != "iotEdge" {
		t.Errorf("first module: %v", all[0])
	}
	h.must(204, "DELETE /devices/gw/modules/filter", "", "If-Match", "*")
}

// The edge daemon manages its modules with its device's own key.
func TestRegistryCallsOfAnEdgeDevice(t *testing.T) {
	h := start(t)
	doc := h.must(200, "PUT /devices/gw", `{"capabilities":{"iotEdge":true}}`)
	h.must(200, "PUT /devices/other", `{"capabilities":{"iotEdge":true}}`)
	thumb := strings.Repeat("AB", 20)
	h.must(200, "PUT /devices/gw/modules/x509", `{"authentication":{"type":"selfSigned","x509Thumbprint":{"primaryThumbprint":"`+thumb+`"}}}`)
	token := []string{"Authorization", "SharedAccessSignature sr=localhost%2fdevices%2fgw&se=9&sig=" + at(doc, "authentication/symmetricKey/primaryKey").(string)}
	call := func(status int, what, body string, header ...string) []byte {
		t.Helper()
		r := h.ask("", strings.Replace(what, "VERSION", "api-version=2017-11-08-preview", 1), body, append(token, header...)...)
		if r.StatusCode != status {
			t.Errorf("%s: %d %s", what, r.StatusCode, r.body)
		}
		return r.body
	}
	call(200, "PUT /devices/gw/modules/m?VERSION", `{"moduleId":"m","managedBy":"iotEdge","deviceId":"gw","authentication":{"type":"none"}}`)
	var m map[string]any
	if err := json.Unmarshal(call(200, "PUT /devices/gw/modules/m?VERSION",
		`{"moduleId":"m","deviceId":"gw","authentication":{"type":"sas","symmetricKey":{"primaryKey":null,"secondaryKey":null}}}`, "If-Match", "*"), &m); err != nil ||
		at(m, "authentication/symmetricKey/primaryKey") == nil || m["generationId"] == "" {
		t.Errorf("module %v, %v", m, err)
	}
	call(200, "PUT /devices/gw/modules/%24edgeAgent?VERSION", `{"authentication":{"type":"sas"}}`, "If-Match", "*")
	if list := call(200, "GET /devices/gw/modules?VERSION", ""); !strings.Contains(string(list), `"type":"x509"`) || strings.Contains(string(list), "selfSigned") {
		t.Errorf("the daemon cannot read %s", list)
	}
	call(200, "GET /devices/gw/modules/m?VERSION", "")
	call(204, "DELETE /devices/gw/modules/m?VERSION", "", "If-Match", "*")
	call(401, "GET /devices/other/modules?VERSION", "")
	call(401, "GET /devices/gw?VERSION", "")
	call(401, "GET /twins/gw/modules/m?VERSION", "")
	if !strings.Contains(h.log.String(), `by="device gw"`) {
		t.Errorf("audit log: %s", h.log)
	}
}

func TestTwins(t *testing.T) {
	h := start(t)
	device := h.must(200, "PUT /devices/gw", `{"capabilities":{"iotEdge":true}}`)
	r := h.ask("service", "GET /twins/gw", "")
	var doc map[string]any
	if err := json.Unmarshal(r.body, &doc); err != nil || r.StatusCode != 200 {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	if r.Header.Get("ETag") != `"AAAAAAAAAAE="` || doc["tags"] == nil || doc["deviceEtag"] != device["etag"] || doc["generationId"] != nil {
		t.Errorf("ETag %s: %s", r.Header.Get("ETag"), r.body)
	}
	for path, want := range map[string]any{
		"deviceId": "gw", "moduleId": nil, "etag": "AAAAAAAAAAE=", "status": "enabled", "statusUpdateTime": "0001-01-01T00:00:00Z",
		"connectionState": "Disconnected", "lastActivityTime": "0001-01-01T00:00:00Z", "cloudToDeviceMessageCount": 0.0,
		"authenticationType": "sas", "x509Thumbprint/primaryThumbprint": nil, "modelId": "", "version": 2.0,
		"properties/desired/$version": 1.0, "properties/reported/$metadata/$lastUpdated": "0001-01-01T00:00:00Z",
		"capabilities/iotEdge": true, "deviceScope": device["deviceScope"],
	} {
		if got := at(doc, path); got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	// .NET posts the whole twin back.
	doc["tags"] = map[string]any{"site": "north"}
	at(doc, "properties/desired").(map[string]any)["interval"] = 5
	whole, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	doc = h.must(200, "PATCH /twins/gw", string(whole), "If-Match", `"AAAAAAAAAAE="`)
	if at(doc, "tags/site") != "north" || at(doc, "properties/desired/interval") != 5.0 || at(doc, "properties/desired/$version") != 2.0 ||
		at(doc, "properties/desired/$metadata/interval/$lastUpdatedVersion") != 2.0 || doc["version"] != 3.0 {
		t.Errorf("after PATCH: %v", doc)
	}
	doc = h.must(200, "PUT /twins/gw", `{"properties":{"desired":{"other":true}}}`)
	if at(doc, "tags/site") != "north" || at(doc, "properties/desired/interval") != nil || at(doc, "properties/desired/other") != true {
		t.Errorf("after PUT: %v", doc)
	}
	doc = h.must(200, "PATCH /twins/gw/modules/%24edgeAgent", `{"properties":{"desired":{"z":1,"a":{"y":2,"b":3}}}}`)
	if doc["moduleId"] != "$edgeAgent" || doc["authenticationType"] != "none" {
		t.Errorf("module twin: %v", doc)
	}
	r = h.ask("service", "GET /twins/gw/modules/$edgeAgent", "")
	if !strings.Contains(string(r.body), `"desired":{"z":1,"a":{"y":2,"b":3},"$metadata"`) {
		t.Errorf("order lost: %s", r.body)
	}
}

func TestMethods(t *testing.T) {
	h := start(t)
	h.must(200, "PUT /devices/d", `{}`)
	h.must(200, "PUT /devices/d/modules/m", `{}`)
	for body, want := range map[string]string{
		`{"methodName":"echo","payload":{"a":"2024-05-01T10:20:30.0000000Z","b":1.50}}`: `{"status":200,"payload":{"a":"2024-05-01T10:20:30.0000000Z","b":1.50}}`,
		`{"methodName":"echo","payload":null}`:                                          `{"status":200,"payload":null}`,
		`{"methodName":"echo","payload":""}`:                                            `{"status":200,"payload":""}`,
		`{"methodName":"echo"}`:                                                         `{"status":200,"payload":null}`,
		`{"methodName":"silent","timeoutInSeconds":10,"connectTimeoutInSeconds":5}`:     `{"status":501,"payload":null}`,
	} {
		for _, path := range []string{"/twins/d/methods", "/twins/d/modules/m/methods"} {
			if r := h.ask("service", "POST "+path, body); r.StatusCode != 200 || string(r.body) != want {
				t.Errorf("%s: %d %s, want %s", body, r.StatusCode, r.body, want)
			}
		}
	}
	for _, c := range h.dev.calls {
		if c.Name == "silent" && (c.ResponseTimeout != 10*time.Second || c.ConnectTimeout != 5*time.Second) ||
			c.Name == "echo" && (c.ResponseTimeout != 30*time.Second || c.ConnectTimeout != 0) {
			t.Errorf("call %+v", c)
		}
	}
}

func TestCloudToDevice(t *testing.T) {
	h := start(t)
	h.must(200, "PUT /devices/d%25", `{}`)
	for _, to := range []string{"/devices/d%/messages/devicebound", "/Devices/d%25/messages/deviceBound"} {
		r := h.ask("service", "POST /messages/deviceBound", "open", "iothub-to", to, "iothub-messageid", "m1", "iothub-ack", "Full",
			"iothub-expiry", "2100-01-01T00:00:00.0000000Z", "iothub-contenttype", "text/plain", "iothub-app-site", "north",
			"iothub-properties", "Level=%3E5&x=")
		if r.StatusCode != 204 {
			t.Fatalf("%s: %d %s", to, r.StatusCode, r.body)
		}
	}
	got := h.dev.inbox[ident.ID{Device: "d%"}]
	if len(got) != 2 {
		t.Fatalf("inbox %v", h.dev.inbox)
	}
	m := got[0]
	if string(m.Body) != "open" || m.System.MessageID != "m1" || m.System.Ack != "full" || m.System.ContentType != "text/plain" ||
		m.System.Expiry.Year() != 2100 || m.System.To != "/devices/d%/messages/devicebound" ||
		fmt.Sprint(m.Properties) != "[{Level >5} {site north} {x }]" {
		t.Errorf("message %+v", m)
	}
	if doc := h.must(200, "GET /devices/d%25", ""); doc["cloudToDeviceMessageCount"] != 2.0 {
		t.Errorf("count %v", doc["cloudToDeviceMessageCount"])
	}
	r := h.ask("service", "DELETE /devices/d%25/commands", "")
	if want := `{"totalMessagesPurged":2,"deviceId":"d%","moduleId":null}`; r.StatusCode != 200 || string(r.body) != want {
		t.Errorf("purge: %d %s", r.StatusCode, r.body)
	}
}

func TestListAndStatistics(t *testing.T) {
	h := start(t)
	if r := h.ask("registryRead", "GET /devices", ""); string(r.body) != "[]" {
		t.Errorf("empty list: %s", r.body)
	}
	for i := range 5 {
		h.must(200, fmt.Sprintf("PUT /devices/d%d", i), fmt.Sprintf(`{"status":%q}`, []string{"enabled", "disabled"}[i%2]))
	}
	h.reg.Seen(ident.ID{Device: "d0"}, true)
	var all []map[string]any
	if err := json.Unmarshal(h.ask("registryRead", "GET /devices?top=2", "").body, &all); err != nil || len(all) != 2 || all[0]["connectionState"] != "Connected" {
		t.Errorf("list %v, %v", all, err)
	}
	if r := h.ask("registryRead", "GET /statistics/devices", ""); string(r.body) != `{"totalDeviceCount":5,"enabledDeviceCount":3,"disabledDeviceCount":2}` {
		t.Errorf("statistics %s", r.body)
	}
	if r := h.ask("registryRead", "GET /statistics/service", ""); string(r.body) != `{"connectedDeviceCount":1}` {
		t.Errorf("statistics %s", r.body)
	}
}

func TestFollowEvents(t *testing.T) {
	h := start(t)
	h.dev.events = []string{`{"n":1}`, `{"n":2}`}
	r := h.ask("service", "GET /selvedge/events?device=d&module=m&since=10m&group=g&count=2", "")
	if r.StatusCode != 200 || string(r.body) != "{\"n\":1}\n{\"n\":2}\n" || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-ndjson") {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	q := h.dev.asked
	if q.Device != "d" || q.Module != "m" || q.Group != "g" || q.Count != 2 || time.Since(q.Since).Round(time.Minute) != 10*time.Minute {
		t.Errorf("asked %+v", q)
	}
	// Without a count it streams, and ends when the client goes.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", h.URL+"/selvedge/events?api-version=2021-04-12", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "SharedAccessSignature skn=service")
	resp, err := h.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for n := 1; n <= 2; n++ {
		if !lines.Scan() || lines.Text() != fmt.Sprintf(`{"n":%d}`, n) {
			t.Fatalf("line %d: %q, %v", n, lines.Text(), lines.Err())
		}
	}
}

func TestBulk(t *testing.T) {
	h := start(t)
	h.must(200, "PUT /devices/old", `{}`)
	r := h.ask("registryReadWrite", "POST /devices", `[
		{"id":"a","importMode":"create","status":"disabled","tags":{"x":1},"properties":{"desired":{"y":2}}},
		{"id":"gw","importMode":"Create","capabilities":{"iotEdge":true}},
		{"id":"gw","moduleId":"m","importMode":"create"},
		{"id":"old","importMode":"Update","status":"disabled"}]`)
	if want := `{"isSuccessful":true,"errors":[],"warnings":[]}`; r.StatusCode != 200 || string(r.body) != want {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	if doc := h.must(200, "GET /twins/a", ""); at(doc, "tags/x") != 1.0 || at(doc, "properties/desired/y") != 2.0 || doc["status"] != "disabled" {
		t.Errorf("twin %v", doc)
	}
	h.must(200, "GET /devices/gw/modules/m", "")
	r = h.ask("registryReadWrite", "POST /devices", `[
		{"id":"a","importMode":"create"},
		{"id":"a","importMode":"create"},
		{"id":"b"},
		{"id":"nobody","importMode":"deleteIfMatchETag","eTag":"AAAA"},
		{"id":"old","importMode":"updateIfMatchETag","eTag":"\"AAAA\""},
		{"id":"c d"},
		{"id":"e","importMode":"magic"},
		{"id":"gw","importMode":"updateTwin","tags":{"z":1}},
		{"id":"f","deviceScope":"ms-azure-iot-edge://none-1"}]`)
	if r.StatusCode != 400 || r.Header.Get("IotHubErrorCode") != "BulkRegistryOperationFailure" {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	var answer struct {
		IsSuccessful bool
		Errors       []struct{ DeviceID, ErrorCode, ErrorStatus, Operation string }
	}
	if err := json.Unmarshal(r.body, &answer); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range answer.Errors {
		got = append(got, e.DeviceID+" "+e.ErrorCode+" "+e.Operation)
	}
	want := []string{"a DeviceAlreadyExists create", "a DeviceDefinedMultipleTimes create", "nobody DeviceNotFound deleteifmatchetag",
		"old PreconditionFailed updateifmatchetag", "c d ArgumentInvalid create", "e ArgumentInvalid magic", "f ArgumentInvalid create"}
	if strings.Join(got, "|") != strings.Join(want, "|") || answer.IsSuccessful {
		t.Errorf("got %q\nwant %q", got, want)
	}
	h.must(200, "GET /devices/b", "")
	if r := h.ask("registryReadWrite", "POST /devices", "["+strings.Repeat(`{"id":"x"},`, 100)+`{"id":"x"}]`); r.code(t) != "TooManyDevices" {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
}

func TestManyCallersAtOnce(t *testing.T) {
	h := start(t)
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for i := range 10 {
				id := fmt.Sprintf("d%d-%d", w, i)
				for _, what := range []string{"PUT /devices/" + id, "PATCH /twins/" + id, "GET /devices/" + id} {
					if r := h.ask("iothubowner", what, `{"tags":{"a":1}}`); r.StatusCode != 200 {
						t.Errorf("%s: %d %s", what, r.StatusCode, r.body)
					}
				}
				if i%2 == 0 {
					if r := h.ask("iothubowner", "DELETE /devices/"+id, "", "If-Match", "*"); r.StatusCode != 204 {
						t.Errorf("delete %s: %d", id, r.StatusCode)
					}
				}
			}
		})
	}
	all.Wait()
	if r := h.ask("registryRead", "GET /statistics/devices", ""); !strings.HasPrefix(string(r.body), `{"totalDeviceCount":40,`) {
		t.Errorf("statistics %s", r.body)
	}
}
