package node

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/storage/queue"
)

const (
	goodString = `connection_string = "HostName=hub.example.net;DeviceId=gw-1;SharedAccessKey=AAECAwQFBgc="`
	manual     = "[provisioning]\nsource = \"manual\"\n" + goodString + "\n"
	byHand     = "[provisioning]\nsource = \"manual\"\niothub_hostname = \"hub.example.net\"\ndevice_id = \"gw-1\"\n[provisioning.authentication]\n"
)

func TestDefaults(t *testing.T) {
	got, err := Parse([]byte("hostname = \"gw\"\n"+manual), "/etc/aziot")
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Hostname = "gw"
	want.Provisioning = Provisioning{Hub: "hub.example.net", Device: "gw-1", Key: []byte{0, 1, 2, 3, 4, 5, 6, 7}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestHostnameDefaultsToTheMachines(t *testing.T) {
	got, err := Parse([]byte(manual), "/")
	if err != nil {
		t.Fatal(err)
	}
	if name, _ := os.Hostname(); name != "" && got.Hostname != strings.ToLower(name) {
		t.Errorf("hostname is %q, the machine's is %q", got.Hostname, name)
	}
}

func TestEveryKey(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "key"), "AAECAwQFBgc=\n")
	got, err := Parse([]byte(`
hostname = "gw.example.net"
data_dir = "data"
ops = "127.0.0.1:9601"
trust_bundle_cert = "file:///etc/roots.pem"
[provisioning]
source = "manual"
iothub_hostname = "hub.example.net"
device_id = "gw-1"
[provisioning.authentication]
method = "sas"
device_id_pk = { uri = "file://`+dir+`/key" }
[edge_ca]
cert = "file:///etc/ca.pem"
pk = "file:///etc/ca.key"
[agent]
name = "edgeAgent"
[agent.env]
RuntimeLogLevel = "debug"
[runtime]
engine = "process"
[broker]
mqtt = "127.0.0.1:18883"
amqp = "127.0.0.1:15671"
https = ""
plain_mqtt = "127.0.0.1:11883"
plain_amqp = "127.0.0.1:15672"
max_connections = 50
window = 8
[store]
max_bytes = "1.5GiB"
policy = "drop-oldest"
max_age = "7d"
[upstream]
protocol = "amqp-ws"
amqp = "10.0.0.1:5671"
mqtt = "10.0.0.1:8883"
https = "10.0.0.1:443"
[watchdog]
max_retries = "infinite"
`), dir)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		DataDir: filepath.Join(dir, "data"), Hostname: "gw.example.net", Ops: "127.0.0.1:9601", TrustBundle: "/etc/roots.pem",
		Provisioning: Provisioning{Hub: "hub.example.net", Device: "gw-1", Key: []byte{0, 1, 2, 3, 4, 5, 6, 7}},
		EdgeCA:       EdgeCA{CertFile: "/etc/ca.pem", KeyFile: "/etc/ca.key"},
		AgentEnv:     map[string]string{"RuntimeLogLevel": "debug"},
		Broker:       Broker{MQTT: "127.0.0.1:18883", AMQP: "127.0.0.1:15671", PlainMQTT: "127.0.0.1:11883", PlainAMQP: "127.0.0.1:15672", MaxConnections: 50, Window: 8},
		Store:        Store{MaxBytes: 3 << 29, Policy: queue.DropOldest, MaxAge: 7 * day},
		Upstream:     Upstream{Protocol: "amqp-ws", AMQP: "10.0.0.1:5671", MQTT: "10.0.0.1:8883", HTTPS: "10.0.0.1:443"},
		Warnings:     []string{"agent.name has no effect here", "watchdog has no effect here"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestCertificateAndRawKeyFile(t *testing.T) {
	got, err := Parse([]byte(byHand+"method = \"x509\"\nidentity_cert = \"file:///a.pem\"\nidentity_pk = \"file:///a.key\"\n"), "/")
	if err != nil || got.Provisioning.CertFile != "/a.pem" || got.Provisioning.KeyFile != "/a.key" {
		t.Errorf("got %+v, %v", got.Provisioning, err)
	}
	name := filepath.Join(t.TempDir(), "key")
	write(t, name, "\x00\xffraw")
	got, err = Parse([]byte(byHand+"method = \"sas\"\ndevice_id_pk = { uri = \"file://"+name+"\" }\n"), "/")
	if err != nil || string(got.Provisioning.Key) != "\x00\xffraw" {
		t.Errorf("got %q, %v", got.Provisioning.Key, err)
	}
}

func TestBadFiles(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"no TOML", "hostname = ", "line 1"},
		{"no TOML further down", manual + "what is this", "line 4"},
		{"misspelled", manual + "[broker]\nmqt = \"\"", "line 5: unknown key broker.mqt; did you mean broker.mqtt?"},
		{"misspelled table", manual + "[brokers]\nmqtt = \"\"", "line 4: unknown key brokers; did you mean broker?"},
		{"wrong table", "max_bytes = 1\n" + manual, "line 1: unknown key max_bytes; did you mean store.max_bytes?"},
		{"unheard of", "colour = \"red\"\n" + manual, "line 1: unknown key colour; docs/edge-config.md lists all keys"},
		{"two at once", "colour = 1\nhostnam = \"a\"\n" + manual, "line 2: unknown key hostnam; did you mean hostname?"},
		{"number for text", "hostname = 5\n" + manual, "line 1: hostname: a value of another type is wanted here, not integer"},
		{"text for number", manual + "[broker]\nwindow = \"8\"", "line 5: broker.window: a value of another type is wanted here, not string"},
		{"table for text", manual + "[hostname]\n", "line 4"},
		{"twice", "hostname = \"a\"\nhostname = \"b\"\n" + manual, "line 2"},
		{"env is no text", manual + "[agent.env]\nA = 1", "line 5: agent.env.A"},

		{"nothing", "", "provisioning.source: missing; write"},
		{"dps", "[provisioning]\nsource = \"dps\"\nid_scope = \"0ne\"", `provisioning.source: "dps" is not supported yet; use "manual"`},
		{"dps key", "[provisioning]\nsource = \"dps\"\nid_scope = \"0ne\"", `provisioning.id_scope: belongs to source = "dps"`},
		{"odd source", "[provisioning]\nsource = \"usb\"", `provisioning.source: "usb" is not known; use "manual"`},
		{"nested", "parent_hostname = \"up\"\n" + manual, "parent_hostname: a gateway below a gateway is not supported yet"},
		{"nested by its other name", "local_gateway_hostname = \"up\"\n" + manual, "local_gateway_hostname: a gateway below"},
		{"signed manifests", "manifest_trust_bundle_cert = \"file:///a\"\n" + manual, "manifest_trust_bundle_cert: signed manifests are not"},
		{"est", manual + "[cert_issuance.est]\n", "cert_issuance: certificates from EST"},
		{"edge CA by est", manual + "[edge_ca]\nmethod = \"est\"", "edge_ca.method: only files are supported yet"},
		{"hardware", manual + "[aziot_keys]\npkcs11_lib_path = \"x\"", "aziot_keys: keys in hardware"},

		{"both ways", manual + "device_id = \"b\"", "provisioning.connection_string: it says all; remove"},
		{"neither way", "[provisioning]\nsource = \"manual\"", "provisioning: set connection_string, or iothub_hostname"},
		{"of a service", connect("HostName=h;SharedAccessKeyName=iothubowner;SharedAccessKey=AAAA"), "selvedge device connection-string"},
		{"of a module", connect("HostName=h;DeviceId=d;ModuleId=m;SharedAccessKey=AAAA"), "this one is of a module"},
		{"behind a gateway", connect("HostName=h;DeviceId=d;SharedAccessKey=AAAA;GatewayHostName=g"), "remove GatewayHostName"},
		{"with x509", connect("HostName=h;DeviceId=d;x509=true"), `method = "x509"`},
		{"without a key", connect("HostName=h;DeviceId=d"), "HostName, DeviceId and SharedAccessKey are needed"},
		{"no pairs", connect("h"), "a part that is not Name=Value"},
		{"bad key", connect("HostName=h;DeviceId=d;SharedAccessKey=?"), "the key is not in base64"},
		{"port", connect("HostName=h:8443;DeviceId=d;SharedAccessKey=AAAA"), "without a port (:8443); say where to connect in [upstream]"},
		{"bad host", connect("HostName=h h;DeviceId=d;SharedAccessKey=AAAA"), `provisioning.connection_string: "h h" is no host name`},
		{"bad device", connect("HostName=h;DeviceId=d d;SharedAccessKey=AAAA"), "provisioning.connection_string: device id"},

		{"no method", strings.TrimSuffix(byHand, "[provisioning.authentication]\n"), "provisioning.authentication.method: missing"},
		{"odd method", byHand + "method = \"pin\"", `provisioning.authentication.method: "pin" is not known`},
		{"no key", byHand + "method = \"sas\"", "provisioning.authentication.device_id_pk: write"},
		{"two keys", byHand + "method = \"sas\"\ndevice_id_pk = { value = \"AAAA\", uri = \"file:///a\" }", "device_id_pk: write"},
		{"key no base64", byHand + "method = \"sas\"\ndevice_id_pk = { value = \"#\" }", "device_id_pk.value: the key is not in base64"},
		{"key file missing", byHand + "method = \"sas\"\ndevice_id_pk = { uri = \"file:///nowhere/key\" }", "device_id_pk.uri: open /nowhere/key"},
		{"key in hardware", byHand + "method = \"sas\"\ndevice_id_pk = { uri = \"pkcs11:object=a\" }", "device_id_pk.uri: keys in hardware"},
		{"half a certificate", byHand + "method = \"x509\"\nidentity_cert = \"file:///a\"", "identity_cert, identity_pk: both are needed"},
		{"certificate to get", byHand + "method = \"x509\"\nidentity_pk = \"file:///a\"\nidentity_cert = { method = \"est\" }", "from EST or a local CA are not supported yet"},
		{"hub with port", strings.ReplaceAll(byHand, "example.net", "example.net:443") + "method = \"sas\"", "provisioning.iothub_hostname: the host name must be without a port"},

		{"path for URI", "trust_bundle_cert = \"/etc/root.pem\"\n" + manual, `trust_bundle_cert: "/etc/root.pem" is no file URI; write "file:///etc/root.pem"`},
		{"relative path for URI", "trust_bundle_cert = \"root.pem\"\n" + manual, `write "file:///here/root.pem"`},
		{"web URI", "trust_bundle_cert = \"https://a/b\"\n" + manual, "is no file URI"},
		{"bad hostname", "hostname = \"a b\"\n" + manual, `hostname: "a b" is no host name`},
		{"half an edge CA", manual + "[edge_ca]\ncert = \"file:///a\"", "edge_ca: cert and pk belong together"},
		{"engine", manual + "[runtime]\nengine = \"docker\"", `runtime.engine: "docker" is not supported yet`},
		{"address", manual + "[broker]\nmqtt = \"8883\"", `broker.mqtt: "8883" is no address; write it as "host:port"`},
		{"port too high", manual + "[broker]\nhttps = \":70000\"", `broker.https: ":70000" is no address`},
		{"upstream protocol", manual + "[upstream]\nprotocol = \"http\"", `upstream.protocol: "http" is no protocol; known are mqtt, amqp`},
		{"upstream without host", manual + "[upstream]\nmqtt = \":8883\"", `upstream.mqtt: ":8883" is no address`},
		{"ops", "ops = \"on\"\n" + manual, `ops: "on" is no address`},
		{"connections", manual + "[broker]\nmax_connections = 0", "broker.max_connections: must be at least 1"},
		{"window", manual + "[broker]\nwindow = -1", "broker.window: must be 1 to 65535"},
		{"size", manual + "[store]\nmax_bytes = \"much\"", `"much" is no size; write it as`},
		{"size too small", manual + "[store]\nmax_bytes = \"1kB\"", "line 5"},
		{"size too small but well written", manual + "[store]\nmax_bytes = 1024", "store.max_bytes: must be at least"},
		{"policy", manual + "[store]\npolicy = \"hope\"", `store.policy: "hope" is not known; use "refuse" or "drop-oldest"`},
		{"age", manual + "[store]\nmax_age = \"old\"", `"old" is no duration; write it as "90m", "36h" or "7d"`},
		{"negative age", manual + "[store]\nmax_age = \"-1h\"", "is no duration"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse([]byte(tc.text), "/here")
			if err == nil {
				t.Fatalf("accepted, want %q", tc.want)
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
			if strings.Contains(err.Error(), "AAAA") || strings.Contains(err.Error(), "AAECAwQFBgc") {
				t.Errorf("the error shows a key: %v", err)
			}
		})
	}
}

func connect(text string) string {
	return "[provisioning]\nsource = \"manual\"\nconnection_string = \"" + text + "\"\n"
}

func TestForeignKeysAreKnown(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range foreignKeys {
		isSet(&document{}, f.key) // panics when the key does not exist
		seen[f.key] = true
	}
	var walk func(typ reflect.Type, prefix string)
	walk = func(typ reflect.Type, prefix string) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			key := prefix + f.Tag.Get("toml")
			switch f.Type.Kind() {
			case reflect.Struct:
				walk(f.Type, key+".")
			case reflect.Interface:
				if !seen[key] && key != "provisioning.authentication.identity_cert" {
					t.Errorf("%s is accepted in silence", key)
				}
			}
		}
	}
	walk(reflect.TypeFor[document](), "")
}

func TestSizesAndLengths(t *testing.T) {
	for in, want := range map[string]size{"0": 0, "17": 17, "4_096": 4096, "1 KB": 1000, "1KiB": 1024, "512MiB": 512 << 20, "1.5GiB": 3 << 29, "2TB": 2e12} {
		var got size
		if err := got.UnmarshalText([]byte(in)); err != nil || got != want {
			t.Errorf("size %q is %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "MiB", "-1", "1XB", "1e300", "9999999TiB", "NaN", "Inf"} {
		var got size
		if err := got.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("size %q is accepted as %d", in, got)
		}
	}
	for in, want := range map[string]time.Duration{"0s": 0, "90m": 90 * time.Minute, "7d": 7 * day, "1h30m": 90 * time.Minute} {
		var got length
		if err := got.UnmarshalText([]byte(in)); err != nil || time.Duration(got) != want {
			t.Errorf("duration %q is %v, %v; want %v", in, time.Duration(got), err, want)
		}
	}
	for _, in := range []string{"", "d", "3600", "-1h", "40000d", "1w"} {
		var got length
		if err := got.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("duration %q is accepted as %v", in, time.Duration(got))
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "config.toml")
	if _, err := Load(name); err == nil || !strings.Contains(err.Error(), "pass --config") {
		t.Errorf("a missing file gives %v", err)
	}
	write(t, name, "data_dir = \"state\"\n"+manual)
	cfg, err := Load(name)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.DataDir != filepath.Join(dir, "state") || len(cfg.Warnings) != 0 {
		t.Errorf("data in %s, warnings %q", cfg.DataDir, cfg.Warnings)
	}
	if err := os.Chmod(name, 0o644); err != nil {
		t.Fatal(err)
	}
	if cfg, err = Load(name); err != nil || len(cfg.Warnings) != 1 || !strings.Contains(cfg.Warnings[0], "chmod 600 "+name) {
		t.Errorf("a readable file with a secret gives %q, %v", cfg.Warnings, err)
	}
	write(t, name, "nonsense = 1\n")
	if _, err := Load(name); err == nil || !strings.Contains(err.Error(), name+": line 1") {
		t.Errorf("a bad file gives %v", err)
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(manual))
	f.Add([]byte(byHand + "method = \"sas\"\ndevice_id_pk = { value = \"AAAA\" }\n[store]\nmax_bytes = 12\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := Parse(text, "/")
		if err == nil && (cfg.Provisioning.Hub == "" || cfg.Hostname == "" || cfg.Store.MaxBytes <= 0) {
			t.Errorf("%q gives %+v", text, cfg)
		}
	})
}
