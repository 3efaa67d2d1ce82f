package client

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/model/ident"
)

// workloadAPI serves the workload API of module mod on a Unix socket and gives the
// environment of the module.
func workloadAPI(t *testing.T, root []byte) map[string]string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "w.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	version := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("api-version") != "2018-06-28" {
				http.Error(w, `{"message":"api-version"}`, http.StatusBadRequest)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			h(w, r)
		}
	}
	mux.HandleFunc("POST /modules/mod/genid/g1/sign", version(func(w http.ResponseWriter, r *http.Request) {
		var in struct{ KeyID, Algo, Data string }
		data, err := []byte(nil), json.NewDecoder(r.Body).Decode(&in)
		if err == nil {
			data, err = base64.StdEncoding.DecodeString(in.Data)
		}
		if err != nil || in.KeyID != "primary" || in.Algo != "HMACSHA256" {
			http.Error(w, `{"message":"bad"}`, http.StatusBadRequest)
			return
		}
		mac := hmac.New(sha256.New, key)
		mac.Write(data)
		json.NewEncoder(w).Encode(map[string]string{"digest": base64.StdEncoding.EncodeToString(mac.Sum(nil))})
	}))
	mux.HandleFunc("GET /trust-bundle", version(func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(map[string]string{"certificate": string(root)})
	}))
	server := &http.Server{Handler: mux}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return map[string]string{
		"IOTEDGE_WORKLOADURI": "unix://" + socket, "IOTEDGE_DEVICEID": "dev", "IOTEDGE_MODULEID": "mod",
		"IOTEDGE_MODULEGENERATIONID": "g1", "IOTEDGE_IOTHUBHOSTNAME": host, "IOTEDGE_AUTHSCHEME": "SasToken",
		"IOTEDGE_GATEWAYHOSTNAME": "gateway.local", "IOTEDGE_APIVERSION": "2022-08-03",
	}
}

func getenv(env map[string]string) func(string) string {
	return func(name string) string { return env[name] }
}

func TestFromWorkload(t *testing.T) {
	r, root := serveTLS(t, MQTT, &headtest.Backend{Judge: judge}, "gateway.local")
	env := workloadAPI(t, root)
	env["SELVEDGE_GATEWAY_MQTT"] = r.addr
	s, err := FromEnvironment(getenv(env), func(c *Config) { c.ProductInfo = "test" })
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	m := text("x")
	if err := s.SendOutput(within(t), "out", &m); err != nil {
		t.Fatal(err)
	}
	if got := r.b.Messages(t, 1)[0]; got.From != mod || got.System.Output != "out" {
		t.Errorf("arrived: %+v", got)
	}
	if claim := r.b.Claims()[0]; claim.Host != host || claim.ClientType != "test" {
		t.Errorf("claim %+v", claim)
	}
}

func TestWorkloadFails(t *testing.T) {
	env := workloadAPI(t, []byte("no certificate"))
	change := func(name, value string) map[string]string {
		out := map[string]string{name: value}
		for n, v := range env {
			if n != name {
				out[n] = v
			}
		}
		return out
	}
	cfg, err := fromEnvironment(getenv(change("IOTEDGE_MODULEGENERATIONID", "other")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cfg.Credentials(within(t), "r", testTime); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a token for another generation: %v", err)
	}
	if _, err := cfg.Roots(within(t)); err == nil {
		t.Error("a trust bundle without certificates is accepted")
	}
	for name, value := range map[string]string{
		"IOTEDGE_AUTHSCHEME": "x509", "IOTEDGE_WORKLOADURI": "ftp://x", "IOTEDGE_DEVICEID": "", "IOTEDGE_MODULEID": "a b",
	} {
		if _, err := FromEnvironment(getenv(change(name, value))); err == nil {
			t.Errorf("%s=%q is accepted", name, value)
		}
	}
	if cfg, err := fromEnvironment(getenv(change("IOTEDGE_GATEWAYHOSTNAME", ""))); err != nil || cfg.Roots != nil || cfg.gateway() != host {
		t.Errorf("without a gateway: %+v, %v", cfg, err)
	}
}

func TestFromEdgeHubConnectionString(t *testing.T) { eachProtocol(t, testFromEdgeHubConnectionString) }

func testFromEdgeHubConnectionString(t *testing.T, p Protocol) {
	r, root := serveTLS(t, p, &headtest.Backend{Judge: judge}, "gateway.local")
	file := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(file, root, 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{
		"EdgeHubConnectionString": "HostName=" + host + ";GatewayHostName=gateway.local;DeviceId=dev;ModuleId=mod;SharedAccessKey=" +
			base64.StdEncoding.EncodeToString(key),
		"EdgeModuleCACertificateFile": file,
		"ClientTransportType": map[Protocol]string{
			MQTT: "", AMQP: "Amqp_Tcp_Only", MQTTWS: "Mqtt_WebSocket_Only", AMQPWS: "Amqp_WebSocket_Only",
		}[p],
		"SELVEDGE_GATEWAY_" + protocols[p].env: r.addr,
	}
	s, err := FromEnvironment(getenv(env))
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	m := text("x")
	if err := s.Send(within(t), &m); err != nil {
		t.Fatal(err)
	}
	env["EdgeModuleCACertificateFile"] = file + ".missing"
	if _, err := FromEnvironment(getenv(env)); err == nil {
		t.Error("a missing file of roots is accepted")
	}
	env["EdgeModuleCACertificateFile"], env["ClientTransportType"] = "", "Http1"
	if _, err := FromEnvironment(getenv(env)); err == nil {
		t.Error("Http1 is taken for a protocol")
	}
}

func TestFromConnectionString(t *testing.T) {
	k := base64.StdEncoding.EncodeToString(key)
	s, err := FromConnectionString("HostName=h;DeviceId=d;SharedAccessKeyName=p;SharedAccessKey=" + k)
	if err != nil {
		t.Fatal(err)
	}
	token, err := s.cfg.Credentials(context.Background(), "h/devices/d", testTime)
	if err != nil || !strings.HasSuffix(token, "&skn=p") || s.cfg.ID != (ident.ID{Device: "d"}) || s.cfg.address() != "h:8883" {
		t.Errorf("token %q, %v, config %+v", token, err, s.cfg)
	}
	for _, text := range []string{
		"", "HostName=h", "HostName=h;DeviceId=d", "HostName=h;DeviceId=d;SharedAccessKey=?", "HostName=h;DeviceId=d;x509=true",
		"Endpoint=sb://h/;SharedAccessKeyName=p;SharedAccessKey=" + k,
	} {
		if _, err := FromConnectionString(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}
