package workload

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/trust/cert"
	"github.com/selvedge-io/selvedge/trust/keys"
)

// key is the module's key of edge-runtime 9.4.
var key, _ = base64.StdEncoding.DecodeString("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")

type signer struct{}

func (signer) Sign(_ context.Context, module string, data []byte) ([]byte, error) {
	switch module {
	case "unknown":
		return nil, fault.New(fault.ModuleNotFound, "module unknown is not known")
	case "broken":
		return nil, errors.New("secret inner trouble")
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(data)
	return mac.Sum(nil), nil
}

func config(t testing.TB, dir string) Config {
	t.Helper()
	k, err := keys.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	a, err := cert.OpenAuthority(dir, cert.Options{Name: "test CA"})
	if err != nil {
		t.Fatal(err)
	}
	return Config{Dir: filepath.Join(dir, "run"), Hub: "hub.example.net", Device: "edge1", Signer: signer{}, Issuer: a,
		TrustBundle: func() ([]byte, error) { return a.RootPEM(), nil }, Derive: k.Derive,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

// server has sockets for modules sensor and $edgeHub, of generation 7.
func start(t testing.TB, cfg Config) (s *Server, path string) {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, ensure(t, s, "sensor", "7")
}

func ensure(t testing.TB, s *Server, module, generation string) (path string) {
	t.Helper()
	uri, err := s.Ensure(t.Context(), module, generation)
	if err != nil {
		t.Fatal(err)
	}
	path, ok := strings.CutPrefix(uri, "unix://")
	if !ok || !filepath.IsAbs(path) {
		t.Fatalf("URI %q", uri)
	}
	return path
}

// exchange writes raw bytes and gives what comes back until the end.
func exchange(t testing.TB, path, request string) string {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	// A refusal may come before the request is out, and what is then not read resets
	// the connection behind it.
	if _, err := io.WriteString(c, request); err != nil && !errors.Is(err, syscall.EPIPE) {
		t.Fatal(err)
	}
	all, err := io.ReadAll(c)
	if err != nil && !(errors.Is(err, syscall.ECONNRESET) && len(all) > 0) {
		t.Fatalf("%v after %q", err, all)
	}
	return string(all)
}

// call makes one call as most clients do.
func call(t testing.TB, path, method, target, body string) (status int, answer map[string]any) {
	t.Helper()
	raw := exchange(t, path, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s",
		method, target, len(body), body))
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(raw)), nil)
	if err != nil {
		t.Fatalf("%v in %q", err, raw)
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Header.Get("Content-Type") != "application/json" || resp.ContentLength != int64(len(text)) || strings.Contains(string(text), "\n") {
		t.Errorf("answer %q", raw)
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return resp.StatusCode, answer
}

const version = "?api-version=2018-06-28"

// vector is a sign request of edge-runtime 9.4 and its digest.
const (
	vector = `{"keyId":"primary","algo":"HMACSHA256","data":"aHViLmV4YW1wbGUubmV0JTJGZGV2aWNlcyUyRmVkZ2UxJTJGbW9kdWxlcyUyRnNlbnNvcgoxOTAwMDAwMDAw"}`
	digest = `yx88Z0+RLHTSTbGOgz2lctxiCDbXI7zmGweNwbbPE4s=`
)

func TestSign(t *testing.T) {
	_, path := start(t, config(t, t.TempDir()))
	for v := range versions {
		status, a := call(t, path, "POST", "/modules/sensor/genid/7/sign?api-version="+v, vector)
		if status != 200 || a["digest"] != digest {
			t.Errorf("version %s: %d %v", v, status, a)
		}
	}
}

// What the SDKs' own HTTP clients send (edge-runtime 3.2.6): nothing of it is usual.
func TestClientsOfTheSDKs(t *testing.T) {
	_, path := start(t, config(t, t.TempDir()))
	post := "POST /modules/sensor/genid/7/sign" + version + " HTTP/1.1\r\n"
	length := fmt.Sprintf("Content-Length: %d\r\n", len(vector))
	for name, request := range map[string]string{
		"C#": post + "Host: " + filepath.Base(path) + ":80\r\nConnection: close\r\nContent-Type: application/json\r\n" + length + "\r\n" + vector,
		"Java": post + "Host: " + path + "\r\nAccept: application/json\r\nContent-Type: application/json\r\nConnection: close\r\n" +
			length + "\r\n" + vector,
		"Python": post + "Host: localhost\r\nUser-Agent: py\r\nAccept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: close\r\n" +
			length + "\r\n" + vector,
		"Node, chunked": post + "Host: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" +
			fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(vector), vector),
		"curl": post + "Host: localhost\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\n" +
			length + "\r\n" + vector,
		"HTTP/1.0": strings.Replace(post, "HTTP/1.1", "HTTP/1.0", 1) + length + "\r\n" + vector,
	} {
		got := strings.TrimPrefix(exchange(t, path, request), "HTTP/1.1 100 Continue\r\n\r\n")
		head, body, _ := strings.Cut(got, "\r\n\r\n")
		if !strings.HasPrefix(head, "HTTP/1.1 200 OK\r\n") || body != `{"digest":"`+digest+`"}` || strings.Contains(strings.ToLower(head), "chunked") ||
			!strings.Contains(head, fmt.Sprintf("Content-Length: %d", len(body))) {
			t.Errorf("%s got %q", name, got)
		}
	}
	// C keeps the connection, closes it itself, and names path and port as Host.
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	r := bufio.NewReader(c)
	for range 3 {
		fmt.Fprintf(c, "%sContent-Type: application/json; charset=utf-8\r\nHost: %s:0\r\ncontent-length: %d\r\n\r\n%s", post, path, len(vector), vector)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		io.Copy(io.Discard, resp.Body)
	}
	// And an ordinary client.
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return net.Dial("unix", path)
	}}}
	defer client.CloseIdleConnections()
	for range 2 {
		resp, err := client.Get("http://localhost/trust-bundle?api-version=2019-11-05")
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

func TestOnlyItsOwnModule(t *testing.T) {
	cfg := config(t, t.TempDir())
	s, path := start(t, cfg)
	hub := ensure(t, s, "$edgeHub", "8")
	odd := ensure(t, s, "a%2F:b", "9")
	for _, c := range []struct {
		socket, target string
		status         int
	}{
		{path, "/modules/sensor/genid/7/sign", 200},
		{path, "//modules/sensor/genid/7/sign/", 200},
		{path, "/modules/Sensor/genid/7/sign", 403},
		{path, "/modules/%24edgeHub/genid/8/sign", 403},
		{path, "/modules/$edgeHub/genid/7/sign", 403},
		{path, "/modules/sensor/genid/8/sign", 403},
		{path, "/modules/sensor%2Fx/genid/7/sign", 404},
		{path, "/modules/sensor/genid/sign", 404},
		{path, "/modules/sensor/../sensor/genid/7/sign", 404},
		{path, "/modules/sensor/sign", 404},
		{path, "/modules/sensor/genid/7/sign/more", 404},
		{path, "/", 404},
		{hub, "/modules/%24edgeHub/genid/8/sign", 200},
		{hub, "/modules/$edgeHub/genid/8/sign", 200},
		{hub, "/modules/sensor/genid/7/sign", 403},
		{odd, "/modules/a%252F:b/genid/9/sign", 200},
	} {
		if status, a := call(t, c.socket, "POST", c.target+version, vector); status != c.status {
			t.Errorf("%s: %d %v, want %d", c.target, status, a, c.status)
		}
	}
	// A new generation counts at once.
	if again := ensure(t, s, "sensor", "70"); again != path {
		t.Errorf("socket moved from %s to %s", path, again)
	}
	for gen, want := range map[string]int{"7": 403, "70": 200} {
		if status, _ := call(t, path, "POST", "/modules/sensor/genid/"+gen+"/sign"+version, vector); status != want {
			t.Errorf("generation %s: %d, want %d", gen, status, want)
		}
	}
}

func TestRefusals(t *testing.T) {
	cfg := config(t, t.TempDir())
	bundle, trouble := []byte(nil), error(nil)
	cfg.TrustBundle = func() ([]byte, error) { return bundle, trouble }
	s, path := start(t, cfg)
	for _, c := range []struct {
		method, target, body string
		status               int
		text                 string
	}{
		{"POST", "/modules/sensor/genid/7/sign", vector, 400, "api-version not specified"},
		{"POST", "/modules/sensor/genid/7/sign?api-version=2017-01-01", vector, 400, "api-version not known"},
		{"GET", "/modules/sensor/genid/7/sign" + version, "", 400, "method"},
		{"POST", "/trust-bundle" + version, "", 400, "method"},
		{"GET", "/nothing" + version, "", 404, "not found"},
		{"GET", "/trust-bundle" + version, "", 404, "not found"},
		{"POST", "/modules/sensor/genid/7/sign" + version, `{"data":"!"}`, 400, "data is not base64"},
		{"POST", "/modules/sensor/genid/7/sign" + version, `{}`, 422, "data is missing"},
		{"POST", "/modules/sensor/genid/7/sign" + version, ``, 422, "JSON"},
		{"POST", "/modules/sensor/genid/7/sign" + version, `{"data":1}`, 422, "JSON"},
		{"POST", "/modules/sensor/genid/7/encrypt" + version, `{"plaintext":"AA=="}`, 422, "initializationVector is missing"},
		{"POST", "/modules/sensor/genid/7/decrypt" + version, `{"ciphertext":"","initializationVector":""}`, 400, "not made here"},
		{"POST", "/modules/sensor/genid/7/certificate/server" + version, `{}`, 422, "commonName"},
		{"POST", "/modules/sensor/genid/7/certificate/server" + version, `{"commonName":"a b"}`, 400, "commonName"},
		{"POST", "/modules/sensor/genid/7/certificate/server" + version, `{"commonName":"a","expiration":"soon"}`, 400, "RFC 3339"},
		{"POST", "/modules/sensor/certificate/identity" + version, `{"expiration":"2001-01-01T00:00:00Z"}`, 400, "past"},
		{"POST", "/modules/other/certificate/identity" + version, `{}`, 403, "forbidden"},
	} {
		status, a := call(t, path, c.method, c.target, c.body)
		if text, _ := a["message"].(string); status != c.status || !strings.Contains(text, c.text) {
			t.Errorf("%s %s %s: %d %q, want %d %q", c.method, c.target, c.body, status, text, c.status, c.text)
		}
	}
	trouble = errors.New("secret inner trouble")
	for module, c := range map[string]struct {
		method, target string
		status         int
	}{
		"sensor":  {"GET", "/trust-bundle", 500},
		"unknown": {"POST", "/modules/unknown/genid/7/sign", 404},
		"broken":  {"POST", "/modules/broken/genid/7/sign", 500},
	} {
		status, a := call(t, ensure(t, s, module, "7"), c.method, c.target+version, vector)
		if text := fmt.Sprint(a["message"]); status != c.status || strings.Contains(text, "secret") {
			t.Errorf("%s: %d %q, want %d", module, status, text, c.status)
		}
	}
	if got := exchange(t, path, "nonsense\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 400 Bad Request\r\n") {
		t.Errorf("nonsense got %q", got)
	}
	if got := exchange(t, path, "GET /"+strings.Repeat("x", maxHeader-5)); !strings.Contains(got, "header is too long") {
		t.Errorf("long header got %q", got)
	}
	long := fmt.Sprintf("POST /modules/sensor/genid/7/sign%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", version, maxBody+1,
		strings.Repeat("x", maxBody+1))
	if got := exchange(t, path, long); !strings.HasPrefix(got, "HTTP/1.1 413 ") {
		t.Errorf("long body got %q", got)
	}
}

func TestEncryption(t *testing.T) {
	cfg := config(t, t.TempDir())
	s, path := start(t, cfg)
	other := ensure(t, s, "other", "7")
	seal := func(plain, iv string) string {
		t.Helper()
		body := fmt.Sprintf(`{"plaintext":%q,"initializationVector":%q}`, b64(plain), b64(iv))
		status, a := call(t, path, "POST", "/modules/sensor/genid/7/encrypt"+version, body)
		text, _ := a["ciphertext"].(string)
		if status != 200 || text == "" {
			t.Fatal(status, a)
		}
		return text
	}
	open := func(path, module, gen, sealed, iv string) (int, string) {
		t.Helper()
		body := fmt.Sprintf(`{"ciphertext":%q,"initializationVector":%q}`, sealed, b64(iv))
		status, a := call(t, path, "POST", "/modules/"+module+"/genid/"+gen+"/decrypt"+version, body)
		text, _ := a["plaintext"].(string)
		plain, _ := base64.StdEncoding.DecodeString(text)
		return status, string(plain)
	}
	sealed := seal("secret", "iv")
	if again := seal("secret", "iv"); again == sealed {
		t.Error("the same twice gives the same")
	}
	if status, plain := open(path, "sensor", "7", sealed, "iv"); status != 200 || plain != "secret" {
		t.Errorf("%d %q", status, plain)
	}
	if status, plain := open(path, "sensor", "7", seal("", ""), ""); status != 200 || plain != "" {
		t.Errorf("empty: %d %q", status, plain)
	}
	if status, _ := open(path, "sensor", "7", sealed, "another"); status != 400 {
		t.Errorf("with another vector: %d", status)
	}
	if status, _ := open(other, "other", "7", sealed, "iv"); status != 400 {
		t.Errorf("by another module: %d", status)
	}
	raw, _ := base64.StdEncoding.DecodeString(sealed)
	raw[len(raw)-1] ^= 1
	if status, _ := open(path, "sensor", "7", base64.StdEncoding.EncodeToString(raw), "iv"); status != 400 {
		t.Errorf("damaged: %d", status)
	}
	ensure(t, s, "sensor", "8")
	if status, _ := open(path, "sensor", "8", sealed, "iv"); status != 400 {
		t.Errorf("by another generation: %d", status)
	}
	// After a restart it still can be read.
	s.Close()
	_, path = start(t, cfg)
	if status, plain := open(path, "sensor", "7", sealed, "iv"); status != 200 || plain != "secret" {
		t.Errorf("after a restart: %d %q", status, plain)
	}
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// parse reads a certificate answer and checks that it hangs together.
func parse(t *testing.T, cfg Config, a map[string]any, usage x509.ExtKeyUsage) *x509.Certificate {
	t.Helper()
	private, _ := a["privateKey"].(map[string]any)
	keyPEM, _ := private["bytes"].(string)
	certPEM, _ := a["certificate"].(string)
	pair, err := tls.X509KeyPair([]byte(certPEM), []byte(keyPEM))
	if err != nil || private["type"] != "key" || !strings.HasPrefix(keyPEM, "-----BEGIN PRIVATE KEY-----") {
		t.Fatalf("%v in %v", err, a)
	}
	rest := []byte(certPEM)
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for block, rest := pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			between.AddCert(c)
		}
	}
	bundle, _ := cfg.TrustBundle()
	roots.AppendCertsFromPEM(bundle)
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		t.Error(err)
	}
	if end, err := time.Parse(time.RFC3339, a["expiration"].(string)); err != nil || !end.Equal(pair.Leaf.NotAfter) {
		t.Errorf("expiration %v, certificate ends %v", a["expiration"], pair.Leaf.NotAfter)
	}
	return pair.Leaf
}

func TestCertificates(t *testing.T) {
	cfg := config(t, t.TempDir())
	s, path := start(t, cfg)
	end := time.Now().Add(48 * time.Hour).UTC().Truncate(time.Second)
	status, a := call(t, path, "POST", "/modules/sensor/genid/7/certificate/server"+version,
		fmt.Sprintf(`{"commonName":"Gateway.local","expiration":%q}`, end.Format(time.RFC3339)))
	if status != 201 {
		t.Fatal(status, a)
	}
	c := parse(t, cfg, a, x509.ExtKeyUsageServerAuth)
	if c.Subject.CommonName != "Gateway.local" || strings.Join(c.DNSNames, " ") != "gateway.local sensor" || c.NotAfter.Sub(end).Abs() > time.Minute {
		t.Errorf("server certificate for %v, %v until %v", c.Subject, c.DNSNames, c.NotAfter)
	}
	status, a = call(t, ensure(t, s, "$odd:name", "7"), "POST", "/modules/$odd:name/genid/7/certificate/server"+version, `{"commonName":"10.0.0.7"}`)
	if status != 201 {
		t.Fatal(status, a)
	}
	c = parse(t, cfg, a, x509.ExtKeyUsageServerAuth)
	if len(c.IPAddresses) != 1 || len(c.DNSNames) != 0 || time.Until(c.NotAfter) > certificateLife {
		t.Errorf("server certificate for %v, %v until %v", c.IPAddresses, c.DNSNames, c.NotAfter)
	}
	status, a = call(t, path, "POST", "/modules/sensor/certificate/identity"+version, "")
	if status != 201 {
		t.Fatal(status, a)
	}
	c = parse(t, cfg, a, x509.ExtKeyUsageClientAuth)
	if c.Subject.CommonName != "sensor" || len(c.URIs) != 1 || c.URIs[0].String() != "azureiot://hub.example.net/devices/edge1/modules/sensor" {
		t.Errorf("identity certificate for %v, %v", c.Subject, c.URIs)
	}
	status, a = call(t, path, "GET", "/trust-bundle"+version, "")
	if text, _ := a["certificate"].(string); status != 200 || !strings.HasPrefix(text, "-----BEGIN CERTIFICATE-----") {
		t.Errorf("trust bundle %d %v", status, a)
	}
	if status, a = call(t, path, "GET", "/manifest-trust-bundle"+version, ""); status != 200 || a["certificate"] != "" {
		t.Errorf("bundle for manifests %d %v", status, a)
	}
}

func TestSockets(t *testing.T) {
	cfg := config(t, t.TempDir())
	s, path := start(t, cfg)
	for p, want := range map[string]fs.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != want {
			t.Errorf("mode of %s is %v (%v), want %v", p, info.Mode(), err, want)
		}
	}
	// Somebody removes the file: it is made again.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if again := ensure(t, s, "sensor", "7"); again != path {
		t.Errorf("socket moved to %s", again)
	}
	if status, _ := call(t, path, "GET", "/trust-bundle"+version, ""); status != 200 {
		t.Errorf("made again: %d", status)
	}
	// An idle connection does not outlive the socket.
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s.Drop("sensor")
	s.Drop("sensor")
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if n, err := c.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("connection lives on: %v", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("file is left: %v", err)
	}
	s.Close()
	if _, err := s.Ensure(t.Context(), "sensor", "7"); err == nil {
		t.Error("closed server listens")
	}
	// What a kill leaves is replaced; what is no socket is not.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if s, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) > 0 {
		t.Errorf("a new start leaves %v", left)
	}
	s.Close()
	s, path2 := start(t, cfg)
	if path2 != path {
		t.Errorf("socket moved to %s", path2)
	}
	if status, _ := call(t, path, "GET", "/trust-bundle"+version, ""); status != 200 {
		t.Errorf("after a kill: %d", status)
	}
	if err := os.Mkdir(s.path("blocked"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Ensure(t.Context(), "blocked", "7"); err == nil || !strings.Contains(err.Error(), "in the way") {
		t.Errorf("folder in the way: %v", err)
	}
}

func TestLongPaths(t *testing.T) {
	cfg := config(t, t.TempDir())
	cfg.Dir = filepath.Join(cfg.Dir, strings.Repeat("long/", 30))
	_, path := start(t, cfg)
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(path)) })
	if len(path) > maxPath {
		t.Errorf("path %s has %d bytes", path, len(path))
	}
	if status, _ := call(t, path, "GET", "/trust-bundle"+version, ""); status != 200 {
		t.Error(status)
	}
	_, again := start(t, cfg)
	if again != path {
		t.Errorf("it moved from %s to %s", path, again)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	_, path := start(t, config(t, t.TempDir()))
	var held []net.Conn
	for range maxConns {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		held = append(held, c)
	}
	if got := exchange(t, path, ""); !strings.HasPrefix(got, "HTTP/1.1 503 Service Unavailable\r\n") || !strings.Contains(got, "too many connections") {
		t.Errorf("one too many got %q", got)
	}
	held[0].Close()
	deadline := time.Now().Add(10 * time.Second)
	for {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "GET /trust-bundle%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", version)
		got, _ := io.ReadAll(c)
		c.Close()
		if strings.HasPrefix(string(got), "HTTP/1.1 200 OK\r\n") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("its place is not free again: %q", got)
		}
	}
}

// FuzzRequest has a socket answer anything: each answer is one that clients can read.
func FuzzRequest(f *testing.F) {
	s, _ := start(f, config(f, f.TempDir()))
	k := s.sockets["sensor"]
	f.Add([]byte("POST /modules/sensor/genid/7/sign?api-version=2018-06-28 HTTP/1.1\r\nHost: /a/b.sock\r\nContent-Length: 18\r\n\r\n{\"data\":\"AAAA\"   }"))
	f.Add([]byte("GET /trust-bundle?api-version=2018-06-28 HTTP/1.1\r\n\r\nGET / HTTP/1.0\r\n\r\n"))
	f.Add([]byte("POST /modules/%24edgeHub/certificate/identity HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"))
	f.Add([]byte("\x00\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		c := &script{in: bytes.NewReader(in)}
		k.serve(c)
		r := bufio.NewReader(&c.out)
		for {
			if _, err := r.Peek(1); err == io.EOF {
				return
			}
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("%q: %v", in, err)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != 100 && (resp.ContentLength != int64(len(body)) || !json.Valid(body)) {
				t.Errorf("%q is answered %d with %q (%v)", in, resp.StatusCode, body, err)
			}
		}
	})
}

// script is a connection on which everything has been said already.
type script struct {
	net.Conn
	in  *bytes.Reader
	out bytes.Buffer
}

func (s *script) Read(b []byte) (int, error)     { return s.in.Read(b) }
func (s *script) Write(b []byte) (int, error)    { return s.out.Write(b) }
func (*script) SetReadDeadline(time.Time) error  { return nil }
func (*script) SetWriteDeadline(time.Time) error { return nil }
