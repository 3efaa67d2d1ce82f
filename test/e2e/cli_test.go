package e2e

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/selvedge-io/selvedge/test/rig"
)

// TestOperatorCommands walks through the operator's day with the real program.
func TestOperatorCommands(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	t.Run("hub", func(t *testing.T) { hubCommands(t, h) })
	t.Run("device", func(t *testing.T) { deviceCommands(t, h) })
	t.Run("module", func(t *testing.T) { moduleCommands(t, h) })
	t.Run("twin", func(t *testing.T) { twinCommands(t, h) })
	t.Run("message", func(t *testing.T) { messageCommands(t, h) })
	t.Run("deployment", func(t *testing.T) { deploymentCommands(t, h) })
	t.Run("refusals", func(t *testing.T) { refusals(t, h) })
	t.Run("local", func(t *testing.T) { localHub(t, h) })
}

func hubCommands(t *testing.T, h *rig.Hub) {
	block, rest := pem.Decode([]byte(rig.Run(t, nil, "hub", "ca", "--data", h.Dir).Must(t)))
	if block == nil || len(strings.TrimSpace(string(rest))) > 0 {
		t.Fatalf("hub ca does not print one PEM block")
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil || !root.IsCA || root.CheckSignatureFrom(root) != nil {
		t.Errorf("hub ca prints no root certificate: %v", err)
	}

	keys := map[string]bool{}
	for _, policy := range []string{"iothubowner", "service", "device", "registryRead", "registryReadWrite", "provisioningserviceowner"} {
		cs := rig.Run(t, nil, "hub", "connection-string", "--data", h.Dir, "--policy", policy).Must(t)
		m := regexp.MustCompile(`^HostName=localhost;SharedAccessKeyName=` + policy + `;SharedAccessKey=([^;]+)\n$`).FindStringSubmatch(cs)
		if m == nil {
			t.Errorf("connection string of %s is %q", policy, cs)
			continue
		}
		if key, err := base64.StdEncoding.DecodeString(m[1]); err != nil || len(key) < 16 || keys[m[1]] {
			t.Errorf("the key of %s is no key of its own: %v", policy, err)
		}
		keys[m[1]] = true
	}
	cs := rig.Run(t, nil, "hub", "connection-string", "--data", h.Dir, "--event-hub").Must(t)
	if !regexp.MustCompile(`^Endpoint=sb://localhost/;SharedAccessKeyName=iothubowner;SharedAccessKey=[^;]+;EntityPath=[^;]+\n$`).MatchString(cs) {
		t.Errorf("connection string for Event Hubs clients is %q", cs)
	}
	scope := rig.Run(t, nil, "hub", "id-scope", "--data", h.Dir).Must(t)
	if !regexp.MustCompile(`^0ne[0-9A-F]{8}\n$`).MatchString(scope) {
		t.Errorf("id scope is %q", scope)
	}
	if again := rig.Run(t, nil, "hub", "id-scope", "--data", h.Dir).Must(t); again != scope {
		t.Errorf("id scope changed from %q to %q", scope, again)
	}
}

func deviceCommands(t *testing.T, h *rig.Hub) {
	var d struct {
		DeviceID       string
		Status         string
		GenerationID   string
		Authentication struct {
			Type         string
			SymmetricKey struct{ PrimaryKey, SecondaryKey string }
		}
		Capabilities struct{ IotEdge bool }
	}
	h.Run(t, "device", "create", "pump-1", "-o", "json").JSON(t, &d)
	if d.DeviceID != "pump-1" || d.Status != "enabled" || d.Authentication.Type != "sas" || d.Capabilities.IotEdge {
		t.Errorf("device create printed %+v", d)
	}
	first := d.GenerationID
	h.Run(t, "device", "create", "pump-1").Refused(t, 1, "DeviceAlreadyExists")
	h.Run(t, "device", "create", "pump-1", "--if-missing", "-o", "json").JSON(t, &d)
	if d.GenerationID != first {
		t.Errorf("--if-missing made the device anew")
	}
	key := base64.StdEncoding.EncodeToString([]byte("a key of thirty-two bytes, truly"))
	h.Must(t, "device", "create", "pump-2", "--primary-key", key, "--secondary-key", key)
	if cs := h.Must(t, "device", "connection-string", "pump-2"); cs != "HostName=localhost;DeviceId=pump-2;SharedAccessKey="+key+"\n" {
		t.Errorf("connection string is %q", cs)
	}
	if cs := h.Must(t, "device", "connection-string", "pump-2", "--gateway", "gw.example"); cs != "HostName=localhost;DeviceId=pump-2;SharedAccessKey="+key+";GatewayHostName=gw.example\n" {
		t.Errorf("connection string through a gateway is %q", cs)
	}
	h.Must(t, "device", "create", "gateway-1", "--edge")
	h.Must(t, "device", "create", "leaf-1", "--parent", "gateway-1")
	h.Must(t, "device", "create", "cert-1", "--auth", "x509-thumbprint", "--primary-thumbprint", strings.Repeat("AB", 32))
	if cs := h.Must(t, "device", "connection-string", "cert-1"); cs != "HostName=localhost;DeviceId=cert-1;x509=true\n" {
		t.Errorf("connection string of a device with a certificate is %q", cs)
	}
	h.Run(t, "device", "create", "leaf-2", "--parent", "pump-1").Refused(t, 1, "pump-1 is no edge gateway")

	var list []struct{ DeviceID string }
	h.Run(t, "device", "list", "-o", "json").JSON(t, &list)
	var names []string
	for _, one := range list {
		names = append(names, one.DeviceID)
	}
	slices.Sort(names)
	if want := []string{"cert-1", "gateway-1", "leaf-1", "pump-1", "pump-2"}; !slices.Equal(names, want) {
		t.Errorf("device list gives %v, want %v", names, want)
	}
	h.Run(t, "device", "children", "gateway-1", "-o", "json").JSON(t, &list)
	if len(list) != 1 || list[0].DeviceID != "leaf-1" {
		t.Errorf("device children gives %v", list)
	}
	table := h.Must(t, "device", "list")
	aligned(t, table, "DEVICE", "EDGE", "STATUS", "CONNECTION", "AUTH", "WAITING", "LAST ACTIVITY")
	var fromYAML []map[string]any
	if err := yaml.Unmarshal([]byte(h.Must(t, "device", "list", "--output", "yaml")), &fromYAML); err != nil || len(fromYAML) != 5 {
		t.Errorf("device list as YAML: %v, %d devices", err, len(fromYAML))
	}
	h.Run(t, "device", "show", "pump-1").JSON(t, &d)
	if d.DeviceID != "pump-1" || d.Authentication.SymmetricKey.PrimaryKey == "" {
		t.Errorf("device show printed %+v", d)
	}
	a := h.Run(t, "device", "delete", "pump-2")
	if a.Must(t) != "" || a.Stderr != "deleted pump-2\n" {
		t.Errorf("device delete printed %q and %q", a.Stdout, a.Stderr)
	}
	h.Run(t, "device", "show", "pump-2").Refused(t, 1, "DeviceNotFound", "selvedge device list")
	h.Run(t, "device", "delete", "pump-2").Refused(t, 1, "DeviceNotFound")
	if a := h.Run(t, "device", "delete", "cert-1", "--quiet"); a.Must(t) != "" || a.Stderr != "" {
		t.Errorf("--quiet printed %q", a.Stderr)
	}
}

func moduleCommands(t *testing.T, h *rig.Hub) {
	h.Must(t, "device", "create", "host", "--if-missing")
	aligned(t, h.Must(t, "module", "create", "host", "m1"), "MODULE", "CONNECTION", "AUTH", "MANAGED BY", "LAST ACTIVITY")
	h.Run(t, "module", "create", "host", "m1").Refused(t, 1, "ModuleAlreadyExists")
	h.Run(t, "module", "create", "nobody", "m1").Refused(t, 1, "DeviceNotFound")
	var list []struct{ ModuleID string }
	h.Run(t, "module", "list", "host", "-o", "json").JSON(t, &list)
	if len(list) != 1 || list[0].ModuleID != "m1" {
		t.Errorf("module list gives %v", list)
	}
	cs := h.Must(t, "module", "connection-string", "host", "m1")
	if !regexp.MustCompile(`^HostName=localhost;DeviceId=host;ModuleId=m1;SharedAccessKey=[^;]+\n$`).MatchString(cs) {
		t.Errorf("connection string of a module is %q", cs)
	}
	h.Must(t, "module", "delete", "host", "m1")
	h.Run(t, "module", "show", "host", "m1").Refused(t, 1, "ModuleNotFound", "selvedge module list")
}

func twinCommands(t *testing.T, h *rig.Hub) {
	h.Must(t, "device", "create", "twin-1")
	type document struct {
		Version    int
		Tags       map[string]any
		Properties struct{ Desired, Reported map[string]any }
	}
	var d document
	h.Run(t, "twin", "update", "twin-1", "--desired", `{"a":{"b":1,"c":2}}`, "--tags", `{"site":"north"}`).JSON(t, &d)
	file := filepath.Join(t.TempDir(), "desired.json")
	if err := os.WriteFile(file, []byte(`{"a":{"b":null,"d":"é"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Run(t, "twin", "update", "twin-1", "--desired", "@"+file).JSON(t, &d)
	if got, _ := json.Marshal(d.Properties.Desired["a"]); string(got) != `{"c":2,"d":"é"}` || d.Tags["site"] != "north" {
		t.Errorf("twin update gives %s and tags %v", got, d.Tags)
	}
	before := d.Version
	d = document{}
	h.Run(t, "twin", "replace", "twin-1", "--desired", `{"only":true}`).JSON(t, &d)
	if _, kept := d.Properties.Desired["a"]; kept || d.Properties.Desired["only"] != true || d.Version <= before {
		t.Errorf("twin replace gives %+v", d)
	}
	a := rig.RunProgram(t, rig.Selvedge(), h.Env(), `{"from":"stdin"}`, "twin", "update", "twin-1", "--desired", "@-")
	d = document{}
	a.JSON(t, &d)
	if d.Properties.Desired["from"] != "stdin" {
		t.Errorf("twin update from standard input gives %v", d.Properties.Desired)
	}
	h.Run(t, "twin", "update", "twin-1").Refused(t, 2, "--desired")
	h.Run(t, "twin", "update", "twin-1", "--desired", "{nonsense").Refused(t, 1, "not valid JSON")
	h.Run(t, "twin", "update", "twin-1", "--desired", `[1]`).Refused(t, 1, "the hub refused")
	h.Run(t, "twin", "show", "nobody").Refused(t, 1, "DeviceNotFound")

	watch := rig.Start(t, rig.Selvedge(), h.Env(), "twin", "watch", "twin-1", "--every", "100ms", "-o", "json")
	rig.Eventually(t, "the twin is printed", func() bool { return watch.Out.Contains(`"from": "stdin"`) })
	h.Must(t, "twin", "update", "twin-1", "--desired", `{"from":"elsewhere"}`)
	rig.Eventually(t, "the change is printed", func() bool { return watch.Out.Contains(`"from": "elsewhere"`) })
	interrupt(t, watch)
}

func messageCommands(t *testing.T, h *rig.Hub) {
	h.Must(t, "device", "create", "box")
	var sent struct{ MessageID, DeviceID string }
	h.Run(t, "message", "send", "box", "hello", "--message-id", "m-1", "--ack", "full", "-o", "json").JSON(t, &sent)
	if sent.MessageID != "m-1" || sent.DeviceID != "box" {
		t.Errorf("message send printed %+v", sent)
	}
	h.Must(t, "message", "send", "box", "again", "--property", "a=b", "--ttl", "10m")
	var d struct{ CloudToDeviceMessageCount int }
	h.Run(t, "device", "show", "box").JSON(t, &d)
	if d.CloudToDeviceMessageCount != 2 {
		t.Errorf("%d messages wait, want 2", d.CloudToDeviceMessageCount)
	}
	h.Run(t, "message", "send", "box", "x", "--property", "nonsense").Refused(t, 2, "NAME=VALUE")
	h.Run(t, "message", "send", "box", "x", "--ack", "maybe").Refused(t, 1, "maybe")
	h.Run(t, "message", "send", "nobody", "x").Refused(t, 1, "DeviceNotFound")
	large := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(large, make([]byte, 70<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Run(t, "message", "send", "box", "@"+large).Refused(t, 1, "MessageTooLarge")
	for range 48 {
		h.Must(t, "message", "send", "box", "one of fifty")
	}
	h.Run(t, "message", "send", "box", "one too many").Refused(t, 1, "DeviceMaximumQueueDepthExceeded")

	h.Run(t, "method", "invoke", "box", "anything").Refused(t, 1, "DeviceNotOnline", "listening for methods")
	h.Run(t, "method", "invoke", "nobody", "anything").Refused(t, 1, "DeviceNotFound")
	h.Run(t, "method", "invoke", "box", "anything", "--response-timeout", "1s").Refused(t, 1, "ArgumentInvalid")
}

func deploymentCommands(t *testing.T, h *rig.Hub) {
	h.Must(t, "device", "create", "gw", "--edge")
	h.Must(t, "device", "create", "no-gw")
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good.json", rig.Manifest(`{"m": {"type": "process", "status": "running", "restartPolicy": "always", "settings": {"builtin": "sensor"}}}`,
		`{"up": "FROM /messages/* INTO $upstream"}`))
	if a := h.Run(t, "deployment", "set-modules", "gw", good); a.Must(t) != "" || !strings.Contains(a.Stderr, "gw has a new deployment") {
		t.Errorf("set-modules printed %q and %q", a.Stdout, a.Stderr)
	}
	version := func() int {
		var d struct {
			Properties struct{ Desired map[string]any }
		}
		h.Run(t, "twin", "show", "gw", "-m", "$edgeAgent").JSON(t, &d)
		return int(d.Properties.Desired["$version"].(float64))
	}
	before := version()
	for name, c := range map[string]struct{ modules, routes, says string }{
		"type":    {`{"m": {"status": "running", "restartPolicy": "always", "settings": {"builtin": "sensor"}}}`, `{}`, "type"},
		"policy":  {`{"m": {"type": "process", "status": "running", "restartPolicy": "sometimes", "settings": {"builtin": "sensor"}}}`, `{}`, "restartPolicy"},
		"name":    {`{"a b": {"type": "process", "status": "running", "restartPolicy": "always", "settings": {"builtin": "sensor"}}}`, `{}`, "a b"},
		"number":  {`{}`, `{"bad": 7}`, "bad"},
		"route":   {`{}`, `{"bad": "FROM nowhere INTO $upstream"}`, "bad"},
		"into":    {`{}`, `{"bad": "FROM /messages/* INTO nowhere"}`, "bad"},
		"unended": {`{}`, `{"bad": "FROM /messages/* WHERE"}`, "bad"},
	} {
		bad := file(name+".json", rig.Manifest(c.modules, c.routes))
		h.Run(t, "deployment", "set-modules", "gw", bad).Refused(t, 1, c.says)
	}
	h.Run(t, "deployment", "set-modules", "gw", file("empty.json", "")).Refused(t, 1)
	h.Run(t, "deployment", "set-modules", "gw", file("other.json", `{"deviceContent":{}}`)).Refused(t, 1)
	h.Run(t, "deployment", "set-modules", "gw", filepath.Join(dir, "absent.json")).Refused(t, 1, "absent.json")
	h.Run(t, "deployment", "set-modules", "no-gw", good).Refused(t, 1, "no edge device")
	h.Run(t, "deployment", "set-modules", "nobody", good).Refused(t, 1, "DeviceNotFound")
	if after := version(); after != before {
		t.Errorf("a refused deployment changed the twin from version %d to %d", before, after)
	}
}

// refusals are wrong command lines and hubs that cannot be reached.
func refusals(t *testing.T, h *rig.Hub) {
	for _, args := range [][]string{
		{"nonsense"}, {"device", "nonsense"}, {"device", "show"}, {"device", "show", "a", "b"},
		{"device", "list", "--nonsense"}, {"device", "list", "--output", "xml"}, {"device", "list", "--timeout", "soon"},
		{"device", "create", "x", "--auth", "password"}, {"device", "create", "x", "--auth", "x509-thumbprint"},
		{"device", "create", "x", "--auth", "x509-ca", "--primary-key", "AAAA"}, {"edge", "logs"}, {"hub", "run", "stray"},
	} {
		h.Run(t, args...).Refused(t, 2)
	}
	device := func(env ...string) rig.Answer { return rig.Run(t, env, "device", "list", "--hub-data", t.TempDir()) }
	device().Refused(t, 1, "--hub", "SELVEDGE_HUB")
	device("SELVEDGE_HUB=nonsense").Refused(t, 1, "connection string")
	device("SELVEDGE_HUB="+h.Service, "SELVEDGE_HUB_ADDRESS="+h.HTTPS).Refused(t, 1, "not trusted", "--ca")
	device("SELVEDGE_HUB="+h.Service, "SELVEDGE_HUB_ADDRESS="+rig.FreeAddress(t), "SELVEDGE_CA="+h.CA).Refused(t, 1, "is it running")
	other := regexp.MustCompile(`SharedAccessKey=.*`).ReplaceAllString(h.Service, "SharedAccessKey="+base64.StdEncoding.EncodeToString(make([]byte, 32)))
	device("SELVEDGE_HUB="+other, "SELVEDGE_HUB_ADDRESS="+h.HTTPS, "SELVEDGE_CA="+h.CA).Refused(t, 1, "the hub refused", "its key has changed")
	reader := strings.TrimSpace(rig.Run(t, nil, "hub", "connection-string", "--data", h.Dir, "--policy", "registryRead").Must(t))
	env := []string{"SELVEDGE_HUB=" + reader, "SELVEDGE_HUB_ADDRESS=" + h.HTTPS, "SELVEDGE_CA=" + h.CA}
	rig.Run(t, env, "device", "list").Must(t)
	rig.Run(t, env, "device", "create", "not-allowed").Refused(t, 1, "lacks the right")
	rig.Run(t, env, "twin", "show", "pump-1").Refused(t, 1, "lacks the right")
	rig.Run(t, nil, "edge", "list", "--data", t.TempDir()).Refused(t, 1, "no edge is running")
	rig.Run(t, nil, "hub", "ca", "--data", filepath.Join(t.TempDir(), "nowhere")).Refused(t, 1)
	rig.Run(t, nil, "edge", "run", "--config", filepath.Join(t.TempDir(), "absent.toml")).Refused(t, 1, "absent.toml")
}

// localHub is the hub whose data is at hand: no connection string is needed.
func localHub(t *testing.T, h *rig.Hub) {
	rig.Run(t, nil, "device", "create", "found", "--hub-data", h.Dir).Must(t)
	if out := rig.Run(t, nil, "device", "list", "--hub-data", h.Dir).Must(t); !strings.Contains(out, "found") {
		t.Errorf("device list without --hub printed %q", out)
	}
}

func TestVersion(t *testing.T) {
	for _, program := range []string{rig.Selvedge(), rig.SelvedgeEdge()} {
		a := rig.RunProgram(t, program, nil, "", "version")
		if !regexp.MustCompile(`^selvedge \S+ \(.*, go1\.\d+.*, linux/\w+\)\n$`).MatchString(a.Must(t)) {
			t.Errorf("version printed %q", a.Stdout)
		}
		var v struct{ Version, Commit, Go, System string }
		rig.RunProgram(t, program, nil, "", "version", "-o", "json").JSON(t, &v)
		if v.Version == "" || v.Commit == "" || v.Go == "" || v.System == "" {
			t.Errorf("version printed %+v", v)
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out := rig.Run(t, nil, "completion", shell).Must(t); !strings.Contains(out, "selvedge") || len(out) < 500 {
			t.Errorf("completion %s printed %d bytes", shell, len(out))
		}
	}
	h := rig.StartHub(t, rig.HubOptions{})
	for _, id := range []string{"pump-1", "pump-2", "valve"} {
		h.Must(t, "device", "create", id)
	}
	for _, c := range []struct {
		line []string
		want []string
	}{
		{[]string{"device", "show", "pu"}, []string{"pump-1", "pump-2"}},
		{[]string{"twin", "update", ""}, []string{"pump-1", "pump-2", "valve"}},
		{[]string{"device", "list", "--output", ""}, []string{"table", "json", "yaml"}},
		{[]string{"device", "create", "x", "--auth", ""}, []string{"sas", "x509-thumbprint", "x509-ca"}},
	} {
		out := h.Must(t, append([]string{"__complete"}, c.line...)...)
		offered := strings.Split(out[:strings.LastIndex(out, ":")], "\n")
		for _, want := range c.want {
			if !slices.Contains(offered, want) {
				t.Errorf("completing %q offers %q, want %q among them", c.line, offered, want)
			}
		}
	}
}

// aligned fails the test unless text is a table with these columns, each beginning at
// the same place in every line.
func aligned(t *testing.T, text string, columns ...string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) < 2 {
		t.Fatalf("the table has no lines: %q", text)
	}
	at := 0
	for _, c := range columns {
		i := strings.Index(lines[0][at:], c)
		if i < 0 {
			t.Fatalf("the header %q has no column %s", lines[0], c)
		}
		at += i
		for _, line := range lines[1:] {
			if len(line) <= at || line[at] == ' ' || at > 0 && line[at-1] != ' ' {
				t.Errorf("column %s does not begin at %d in %q", c, at, line)
			}
		}
		at += len(c)
	}
}
