package sdk

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/test/rig"
)

// The SDKs insist on ports 8883 and 443, so hub and gateway have an address each.
const (
	hubName     = "hub.test"
	hubIP       = "127.0.0.1"
	gatewayName = "gateway.test"
	gatewayIP   = "127.0.0.3"
	hosts       = hubName + "=" + hubIP + " " + gatewayName + "=" + gatewayIP
)

func TestMain(m *testing.M) {
	if err := prepared(); err != nil {
		fmt.Fprintln(os.Stderr, "test/sdk:", err)
		os.Exit(1)
	}
	os.Exit(rig.Main(m))
}

// prepared says what is missing, before tests fail in ways that are hard to read.
func prepared() error {
	for _, program := range []string{"node", "mosquitto_pub", "mosquitto_sub"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w; install it with scripts/setup-test.sh", err)
		}
	}
	if _, err := os.Stat("node_modules/azure-iot-device-amqp"); err != nil {
		return fmt.Errorf("the SDKs are not installed: run scripts/setup-test.sh, or npm ci in test/sdk")
	}
	for _, address := range []string{hubIP + ":8883", hubIP + ":5671", hubIP + ":443", gatewayIP + ":8883", gatewayIP + ":5671", gatewayIP + ":443"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("%w: the SDKs insist on this port; run the tests as root and stop what has it", err)
		}
		l.Close()
	}
	return nil
}

func startHub(t *testing.T) *rig.Hub {
	t.Helper()
	h := rig.StartHub(t, rig.HubOptions{Host: hubName, MQTT: hubIP + ":8883", AMQP: hubIP + ":5671", HTTPS: hubIP + ":443",
		Args: []string{"--hostname", "localhost"}})
	return h
}

func TestDevice(t *testing.T) {
	h := startHub(t)
	certificate := selfSigned(t)
	for _, transport := range []string{"mqtt", "mqtt-ws"} {
		for _, auth := range []string{"sas", "x509"} {
			for _, name := range []string{"connect", "telemetry", "c2d", "twin", "method", "takeover", "names", "service"} {
				if auth == "x509" && name != "connect" && name != "telemetry" && name != "c2d" {
					continue // the rest is the same once connected
				}
				if name == "service" && transport != "mqtt" {
					continue // the service SDK knows HTTPS only
				}
				t.Run(name+"/"+transport+"/"+auth, func(t *testing.T) {
					s := start(t, h, name+".js", append(certificate, "TRANSPORT="+transport, "AUTH="+auth)...)
					s.finish(t)
				})
			}
		}
	}
}

func TestReconnect(t *testing.T) {
	h := startHub(t)
	again := func(end func(testing.TB)) func() { // the hub outlives the subtest
		return func() {
			end(t)
			h.Start(t)
		}
	}
	for _, transport := range []string{"mqtt", "mqtt-ws", "amqp", "amqp-ws"} {
		t.Run(transport, func(t *testing.T) {
			s := start(t, h, "reconnect.js", "TRANSPORT="+transport, "AUTH=sas")
			s.answer = map[string]func(){
				"kill the hub and start it again": again(func(t testing.TB) { h.Kill(t) }),
				"stop the hub and start it again": again(func(t testing.TB) { h.Terminate(t) }),
			}
			s.finish(t)
		})
	}
}

func TestModule(t *testing.T) {
	h := startHub(t)
	h.Device(t, "gateway-1", "--edge")
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	transports := []string{"mqtt", "mqtt-ws", "amqp", "amqp-ws"}
	var modules, routes []string
	for _, transport := range transports {
		for _, name := range []string{"probe-" + transport, "echo-" + transport} {
			modules = append(modules, fmt.Sprintf(`%q: {"type": "process", "status": "running", "restartPolicy": "always",
				"settings": {"command": "node", "args": [%q]},
				"env": {"TRANSPORT": {"value": %q}, "TEST_HOSTS": {"value": %q}, "NODE_OPTIONS": {"value": %q}}}`,
				name, filepath.Join(here, "module.js"), transport, hosts, "--require="+filepath.Join(here, "hosts.js")))
		}
		routes = append(routes,
			fmt.Sprintf(`"ask-%s": "FROM /messages/modules/probe-%s/outputs/ask INTO BrokeredEndpoint(\"/modules/echo-%s/inputs/in\")"`, transport, transport, transport),
			fmt.Sprintf(`"up-%s": "FROM /messages/modules/echo-%s/outputs/out INTO $upstream"`, transport, transport))
	}
	h.Deploy(t, "gateway-1", "{"+strings.Join(modules, ",")+"}", "{"+strings.Join(routes, ",")+"}")
	e := rig.StartEdge(t, h, rig.EdgeOptions{Device: "gateway-1", Host: gatewayName,
		MQTT: gatewayIP + ":8883", AMQP: gatewayIP + ":5671", HTTPS: gatewayIP + ":443"})
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			defer func() {
				for _, name := range []string{"probe-", "echo-"} {
					if a := e.Run(t, "logs", name+transport); t.Failed() {
						t.Logf("log of %s%s:\n%s%s", name, transport, a.Stdout, a.Stderr)
					}
				}
			}()
			s := start(t, h, "edge.js", "TRANSPORT="+transport, "AUTH=sas", "GATEWAY=gateway-1")
			s.finish(t)
		})
	}
}

// script is a node script that runs.
type script struct {
	name   string
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    io.Reader
	errs   rig.Output
	answer map[string]func() // what the script may ask for
}

func start(t *testing.T, h *rig.Hub, name string, env ...string) *script {
	t.Helper()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	s := &script{name: name, cmd: exec.CommandContext(t.Context(), "node", name)}
	s.cmd.Env = append(append(os.Environ(), h.Env()...), "SELVEDGE="+rig.Selvedge(), "TEST_HOSTS="+hosts,
		"NODE_OPTIONS=--require="+filepath.Join(here, "hosts.js"), "NODE_EXTRA_CA_CERTS="+h.CA)
	s.cmd.Env = append(s.cmd.Env, env...)
	s.cmd.Stderr = &s.errs
	s.cmd.WaitDelay = time.Second
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if s.out, err = s.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return s
}

// finish does what the script asks for until it ends, and logs what it proved.
func (s *script) finish(t *testing.T) {
	t.Helper()
	proved := 0
	for lines := bufio.NewScanner(s.out); lines.Scan(); {
		line := lines.Text()
		what, asks := strings.CutPrefix(line, "@")
		if !asks {
			if strings.HasPrefix(line, "proved: ") {
				proved++
			}
			t.Log(line)
			continue
		}
		do := s.answer[what]
		if do == nil {
			t.Fatalf("%s asks for %q, which this test does not do", s.name, what)
		}
		do()
		if _, err := fmt.Fprintln(s.in, what); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.cmd.Wait(); err != nil {
		t.Fatalf("%s: %v\n%s", s.name, err, s.errs.String())
	}
	if proved == 0 {
		t.Errorf("%s proved nothing", s.name)
	}
}

// selfSigned makes a device's own certificate and gives it as environment.
func selfSigned(t *testing.T) []string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	plan := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "some device"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	cert, err := x509.CreateCertificate(rand.Reader, &plan, &plan, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	digest := sha256.Sum256(cert)
	return []string{"CERT_FILE=" + write("cert.pem", "CERTIFICATE", cert), "CERT_KEY=" + write("key.pem", "PRIVATE KEY", der),
		"CERT_THUMBPRINT=" + strings.ToUpper(hex.EncodeToString(digest[:]))}
}
