package identity

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/storage/kv"
	"github.com/selvedge-io/selvedge/trust/keys"
	"github.com/selvedge-io/selvedge/trust/sas"
)

// host is in the certificate of httptest.
const host, device = "example.com", "gw:1"

var deviceKey = []byte("0123456789abcdef0123456789abcdef")

// registry is a hub's registry for one device, over TLS.
type registry struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex
	modules map[string]document
	calls   []string
	serial  int
	refuse  func(method, module string) (status int, body string) // nil lets all pass
}

func str(s string) *string { return &s }

// newRegistry has the system modules of an edge device, without keys.
func newRegistry(t *testing.T) *registry {
	r := &registry{t: t, modules: map[string]document{}}
	for _, name := range []string{ident.EdgeAgent, ident.EdgeHub} {
		r.modules[name] = r.make(name, "none", "iotEdge")
	}
	r.Server = httptest.NewUnstartedServer(r)
	r.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	r.StartTLS()
	t.Cleanup(r.Close)
	return r
}

func (r *registry) make(name, kind, by string) document {
	r.serial++
	m := document{Module: name, Device: device, Generation: fmt.Sprint(1000 + r.serial)}
	m.Authentication.Type = kind
	if by != "" {
		m.ManagedBy = &by
	}
	if kind == "sas" {
		k := newKeys()
		m.Authentication.SymmetricKey.Primary, m.Authentication.SymmetricKey.Secondary = &k[0], &k[1]
	}
	return m
}

func (r *registry) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// took gives the calls since the last time, sorted.
func (r *registry) took() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.Sort(r.calls)
	s := strings.Join(r.calls, ", ")
	r.calls = nil
	return s
}

func (r *registry) names() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(r.modules)), " ")
}

func (r *registry) key(module string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return deref(r.modules[module].Authentication.SymmetricKey.Primary)
}

func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rest, ok := strings.CutPrefix(req.URL.EscapedPath(), "/devices/"+url.PathEscape(device)+"/modules")
	name, err := url.PathUnescape(strings.TrimPrefix(rest, "/"))
	if !ok || err != nil || req.Host != host || req.URL.Query().Get("api-version") != "2017-11-08-preview" {
		r.t.Errorf("call to %s %s %s", req.Host, req.Method, req.URL)
	}
	r.calls = append(r.calls, strings.TrimSpace(req.Method+" "+name))
	fail := func(status int, text string) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"Message":"ErrorCode:%s","ExceptionMessage":"Tracking ID:x"}`, text)
	}
	if !r.knows(req) {
		fail(401, "IotHubUnauthorized;no")
		return
	}
	if r.refuse != nil {
		if status, body := r.refuse(req.Method, name); status != 0 {
			w.WriteHeader(status)
			fmt.Fprint(w, body)
			return
		}
	}
	m, exists := r.modules[name]
	switch {
	case name == "":
		json.NewEncoder(w).Encode(slices.Collect(maps.Values(r.modules)))
		return
	case !exists && (req.Method != "PUT" || req.Header.Get("If-Match") != ""):
		fail(404, "ModuleNotFound;no such module")
		return
	case req.Method == "DELETE":
		if req.Header.Get("If-Match") != "*" {
			r.t.Error("delete without If-Match")
		}
		delete(r.modules, name)
		w.WriteHeader(204)
		return
	case req.Method == "PUT" && exists && req.Header.Get("If-Match") == "":
		fail(409, "ModuleAlreadyExistsOnDevice;it is there")
		return
	case req.Method == "PUT":
		var put document
		if err := json.NewDecoder(req.Body).Decode(&put); err != nil || put.Module != name || put.Device != "" && put.Device != device {
			r.t.Errorf("body of %s: %+v %v", name, put, err)
		}
		if !exists {
			m = r.make(name, "sas", deref(put.ManagedBy))
		}
		m.Authentication = put.Authentication
		r.modules[name] = m
	}
	json.NewEncoder(w).Encode(m)
}

// knows says whether the call is the device's own.
func (r *registry) knows(req *http.Request) bool {
	text := req.Header.Get("Authorization")
	if text == "" {
		return len(req.TLS.PeerCertificates) > 0
	}
	token, err := sas.Parse(text)
	return err == nil && strings.EqualFold(token.Audience(), host+"/devices/"+device) && token.Policy == "" && token.Verify(deviceKey)
}

func (r *registry) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(r.Certificate())
	return pool
}

// setup is one device's disk.
type setup struct {
	t       *testing.T
	hub     *registry
	store   *kv.Store
	seal    *keys.Keys
	mu      sync.Mutex
	revoked []string
	gone    []string
}

func newSetup(t *testing.T) *setup {
	dir := t.TempDir()
	store, err := kv.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	seal, err := keys.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &setup{t: t, hub: newRegistry(t), store: store, seal: seal}
}

func (s *setup) config() Config {
	return Config{Host: host, Address: s.hub.Listener.Addr().String(), Device: device, Key: deviceKey,
		Roots: s.hub.roots(), Store: s.store, Seal: s.seal, Log: slog.New(slog.NewTextHandler(s.t.Output(), nil)),
		Revoked: func(id ident.ID) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.revoked = append(s.revoked, id.String())
		},
		Gone: func(id ident.ID) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.gone = append(s.gone, id.String())
		}}
}

// boot starts anew with what is on disk.
func (s *setup) boot(change ...func(*Config)) *Directory {
	s.t.Helper()
	cfg := s.config()
	for _, f := range change {
		f(&cfg)
	}
	d, err := New(s.t.Context(), cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *setup) tookRevoked() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.revoked)
	text := strings.Join(s.revoked, " ")
	s.revoked = nil
	return text
}

func (s *setup) tookGone() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.gone)
	text := strings.Join(s.gone, " ")
	s.gone = nil
	return text
}

// mac is what a module's signature of data is.
func mac(key, data string) string {
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(raw) == 0 {
		return "no key"
	}
	return string(sas.Derive(raw, data))
}
