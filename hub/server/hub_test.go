package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/client"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/trust/sas"
)

// testHub is a whole hub on free ports of the loopback address.
type testHub struct {
	t    testing.TB
	cfg  Config
	at   Addresses
	log  *buffer
	http *http.Client
	pool *x509.CertPool
	stop func() error // ends it and gives what Run gave
}

// buffer is a log that may be read meanwhile.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func startHub(t testing.TB, change func(*Config)) *testHub {
	t.Helper()
	cfg := Default()
	cfg.DataDir = t.TempDir()
	cfg.Hostnames = []string{"localhost", "hub.example.test"}
	cfg.MQTT, cfg.AMQP, cfg.HTTPS, cfg.Ops = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	if change != nil {
		change(&cfg)
	}
	h := &testHub{t: t, cfg: cfg, log: &buffer{}}
	h.start()
	return h
}

// start starts the hub, again too.
func (h *testHub) start() {
	h.t.Helper()
	s, err := New(h.cfg, slog.New(slog.NewTextHandler(h.log, nil)))
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	h.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(10 * time.Second):
			h.t.Error("the hub does not stop")
			return nil
		}
	})
	h.t.Cleanup(func() {
		if err := h.stop(); err != nil {
			h.t.Errorf("the hub ended with %v", err)
		}
		if h.t.Failed() {
			h.t.Log(h.log.String())
		}
	})
	select {
	case <-s.Ready():
	case err := <-ended:
		ended <- nil
		h.t.Fatal(err)
	}
	h.at = s.Addresses()
	pem, err := RootPEM(h.cfg.DataDir)
	if err != nil {
		h.t.Fatal(err)
	}
	h.pool = x509.NewCertPool()
	h.pool.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: h.pool},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", h.at.HTTPS)
		}}
	h.t.Cleanup(transport.CloseIdleConnections)
	h.http = &http.Client{Transport: transport}
}

// token is a token of a policy, as a service client makes it from the hub's
// connection string.
func (h *testHub) token(policy string) string {
	h.t.Helper()
	text, err := ConnectionString(h.t.Context(), h.cfg.DataDir, "", policy, false)
	if err != nil {
		h.t.Fatal(err)
	}
	cs, err := sas.ParseConnectionString(text)
	if err != nil {
		h.t.Fatal(err)
	}
	key, err := cs.Key()
	if err != nil {
		h.t.Fatal(err)
	}
	return sas.Sign(cs.HostName, key, time.Now().Add(time.Hour), policy)
}

// request makes "VERB /path" as a policy; header pairs follow.
func (h *testHub) request(ctx context.Context, policy, what, body string, header ...string) (*http.Response, error) {
	h.t.Helper()
	verb, path, _ := strings.Cut(what, " ")
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	r, err := http.NewRequestWithContext(ctx, verb, "https://localhost"+path+sep+"api-version=2021-04-12", strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	r.Header.Set("Authorization", h.token(policy))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return h.http.Do(r)
}

// must makes a request as the owner, wants a status and gives the answer.
func (h *testHub) must(status int, what, body string, header ...string) map[string]any {
	h.t.Helper()
	resp, err := h.request(h.t.Context(), "iothubowner", what, body, header...)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status {
		h.t.Fatalf("%s: %d %s (%v)", what, resp.StatusCode, text, err)
	}
	var doc map[string]any
	if len(text) > 0 {
		if err := json.Unmarshal(text, &doc); err != nil {
			h.t.Fatalf("%s: %v in %s", what, err, text)
		}
	}
	return doc
}

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

// create registers a device or module and gives its key.
func (h *testHub) create(id ident.ID, body string) []byte {
	h.t.Helper()
	path := "/devices/" + id.Device
	if id.IsModule() {
		path += "/modules/" + id.Module
	}
	text, _ := at(h.must(200, "PUT "+path, body), "authentication/symmetricKey/primaryKey").(string)
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		h.t.Fatal(err)
	}
	return key
}

// config is how a device or module connects.
func (h *testHub) config(id ident.ID, key []byte) client.Config {
	return client.Config{Host: "localhost", Address: h.at.MQTT, ID: id, RootCAs: h.pool, Credentials: client.SharedKey(key, "")}
}

// connect connects, until the test ends.
func (h *testHub) connect(cfg client.Config) *client.Client {
	h.t.Helper()
	c, err := client.Dial(h.t.Context(), cfg)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	return c
}

// refused wants a connection to fail with a code.
func (h *testHub) refused(cfg client.Config, code fault.Code) {
	h.t.Helper()
	c, err := client.Dial(h.t.Context(), cfg)
	if err == nil {
		c.Close()
	}
	if !fault.Is(err, code) {
		h.t.Errorf("connecting as %s gave %v, want %s", cfg.ID, err, code.Name())
	}
}

// event is a line of the event stream.
type event struct {
	Device string         `json:"deviceId"`
	Module string         `json:"moduleId"`
	Source string         `json:"messageSource"`
	System map[string]any `json:"systemProperties"`
	Body   any            `json:"body"`
}

// follow reads the event stream over HTTPS. The channel is closed when it ends.
func (h *testHub) follow(query string) <-chan event {
	h.t.Helper()
	resp, err := h.request(h.t.Context(), "service", "GET /selvedge/events"+query, "")
	if err != nil {
		h.t.Fatal(err)
	}
	if resp.StatusCode != 200 {
		h.t.Fatalf("events: %s", resp.Status)
	}
	all := make(chan event, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(all)
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var e event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				h.t.Errorf("event %s: %v", lines.Bytes(), err)
				return
			}
			all <- e
		}
	}()
	h.t.Cleanup(func() { resp.Body.Close(); <-done })
	return all
}

// next takes one of what comes.
func next[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-from:
		if !ok {
			t.Fatalf("%s: the stream ended", what)
		}
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("waited in vain for %s", what)
		panic("not reached")
	}
}

// eventually waits until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(10 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// ended waits until a connection is over.
func ended(t testing.TB, c *client.Client) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(10 * time.Second):
		t.Fatalf("the connection of %s goes on", c.ID())
	}
}

func text(body string) *message.Message { return &message.Message{Body: []byte(body)} }

var (
	pump  = ident.ID{Device: "pump"}
	valve = ident.ID{Device: "pump", Module: "valve"}
)
