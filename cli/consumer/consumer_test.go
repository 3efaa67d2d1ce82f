package consumer

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/client"
	"github.com/selvedge-io/selvedge/hub/server"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/trust/sas"
)

// hub is a whole hub in this process.
type hub struct {
	t    testing.TB
	at   server.Addresses
	pool *x509.CertPool
	cfg  Config // of a consumer with all rights
	data string
	stop func()
}

func startHub(t testing.TB) *hub {
	t.Helper()
	cfg := server.Default()
	cfg.DataDir, cfg.Hostnames, cfg.ConsumerGroups = t.TempDir(), []string{"localhost"}, []string{"second"}
	cfg.MQTT, cfg.AMQP, cfg.HTTPS, cfg.Ops = "127.0.0.1:0", "", "127.0.0.1:0", ""
	s, err := server.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	h := &hub{t: t, data: cfg.DataDir, pool: x509.NewCertPool()}
	h.stop = func() { cancel(); ended <- <-ended }
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the hub ended with %v", err)
		}
	})
	select {
	case <-s.Ready():
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	}
	h.at = s.Addresses()
	root, err := server.RootPEM(cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	h.pool.AppendCertsFromPEM(root)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: h.pool},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", h.at.HTTPS)
		}}
	t.Cleanup(transport.CloseIdleConnections)
	h.cfg = h.config("iothubowner", &http.Client{Transport: transport})
	return h
}

func (h *hub) config(policy string, over *http.Client) Config {
	h.t.Helper()
	text, err := server.ConnectionString(h.t.Context(), h.data, "", policy, false)
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
	return Config{Host: "localhost", Policy: policy, Key: key, HTTP: over}
}

// call makes a call of the service API.
func (h *hub) call(ctx context.Context, verb, path, body string) *http.Response {
	h.t.Helper()
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	r, err := http.NewRequestWithContext(ctx, verb, "https://localhost"+path+sep+"api-version=2021-04-12", strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	r.Header.Set("Authorization", sas.Sign("localhost", h.cfg.Key, time.Now().Add(time.Hour), "iothubowner"))
	resp, err := h.cfg.HTTP.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// device makes a device or module and connects it.
func (h *hub) device(id ident.ID) *client.Client {
	h.t.Helper()
	path := "/devices/" + id.Device
	if id.IsModule() {
		path += "/modules/" + id.Module
	}
	var made struct {
		Authentication struct {
			SymmetricKey struct{ PrimaryKey string } `json:"symmetricKey"`
		} `json:"authentication"`
	}
	if err := json.NewDecoder(h.call(h.t.Context(), "PUT", path, "{}").Body).Decode(&made); err != nil {
		h.t.Fatal(err)
	}
	key, err := base64.StdEncoding.DecodeString(made.Authentication.SymmetricKey.PrimaryKey)
	if err != nil || len(key) == 0 {
		h.t.Fatalf("no key: %v", err)
	}
	c, err := client.Dial(h.t.Context(), client.Config{Host: "localhost", Address: h.at.MQTT, ID: id, RootCAs: h.pool, Credentials: client.SharedKey(key, "")})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	return c
}

func (h *hub) send(c *client.Client, m *message.Message) {
	h.t.Helper()
	if err := c.Send(h.t.Context(), m); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hub) open(q Query) *Stream {
	h.t.Helper()
	s, err := Open(deadline(h.t), h.cfg, q)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(s.Close)
	return s
}

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// lines takes n events as lines of JSON.
func (h *hub) lines(s *Stream, n int) (lines []string) {
	h.t.Helper()
	for len(lines) < n {
		e, err := s.Next(deadline(h.t))
		if err != nil {
			h.t.Fatalf("after %d of %d: %v", len(lines), n, err)
		}
		lines = append(lines, strings.TrimSpace(string(e.AppendJSON(nil))))
	}
	return lines
}

func full(n int) *message.Message {
	return &message.Message{Body: fmt.Appendf(nil, `{"n":%d}`, n), Properties: []message.Property{{Name: "k", Value: "v ü"}, {Name: "empty", Value: ""}},
		System: message.System{MessageID: "m", CorrelationID: "c", UserID: "u", ContentType: "application/json", ContentEncoding: "utf-8",
			CreationTime: "2026-01-02T03:04:05Z", Component: "thermostat", Schema: "s"}}
}

// The hub writes the same lines by itself, from what it has stored.
func TestLinesAreTheHubsOwn(t *testing.T) {
	h := startHub(t)
	devices := []*client.Client{h.device(ident.ID{Device: "one"}), h.device(ident.ID{Device: "two"}), h.device(ident.ID{Device: "three"}),
		h.device(ident.ID{Device: "four"}), h.device(ident.ID{Device: "one", Module: "mod"})}
	const n = 500 // several windows
	for i := range n {
		h.send(devices[i%len(devices)], full(i))
	}
	plain := &message.Message{Body: []byte{0xff, 0}}
	plain.System.Output = "out"
	h.send(devices[4], plain)
	text := bufio.NewScanner(h.call(t.Context(), "GET", fmt.Sprintf("/selvedge/events?since=1h&count=%d", n+1), "").Body)
	var want []string
	for text.Scan() {
		want = append(want, text.Text())
	}
	since := time.Now().Add(-time.Hour)
	got := h.lines(h.open(Query{Since: since}), n+1)
	perPartition := func(lines []string) map[string][]string { // those of one millisecond have no order across partitions
		all := map[string][]string{}
		for _, line := range lines {
			partition, _, _ := strings.Cut(line, ",")
			all[partition] = append(all[partition], line)
		}
		return all
	}
	if fmt.Sprint(perPartition(got)) != fmt.Sprint(perPartition(want)) {
		t.Errorf("%d lines differ from the hub's %d; the first are\n%s\n%s", len(got), len(want), got[0], want[0])
	}
	last := ""
	for _, line := range got {
		_, at, _ := strings.Cut(line, `"enqueuedTime":"`)
		if at = at[:24]; at < last {
			t.Errorf("%s comes after %s", at, last)
		}
		last = at
	}
	for _, line := range h.lines(h.open(Query{Since: since, Device: "one", Group: "SECOND"}), n/len(devices)) {
		if !strings.Contains(line, `"deviceId":"one"`) {
			t.Error(line)
		}
	}
	for _, line := range h.lines(h.open(Query{Since: since, Device: "one", Module: "mod"}), n/len(devices)+1) {
		if !strings.Contains(line, `"moduleId":"mod"`) {
			t.Error(line)
		}
	}
}

func TestLive(t *testing.T) {
	h := startHub(t)
	one, two := h.device(ident.ID{Device: "one"}), h.device(ident.ID{Device: "two"})
	h.send(one, full(0))
	live, since := h.open(Query{}), h.open(Query{Since: time.Now()})
	for i := range 5 {
		h.send(one, full(2*i+1))
		h.send(two, full(2*i+2))
	}
	for _, s := range []*Stream{live, since} {
		for _, line := range h.lines(s, 10) {
			if strings.Contains(line, `{"n":0}`) {
				t.Error(line)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := live.Next(ctx); err == nil {
		t.Error("it gives more than there is")
	}
	h.stop()
	if _, err := since.Next(deadline(t)); !fault.Is(err, fault.Unavailable) {
		t.Errorf("after the hub's end: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	h := startHub(t)
	wrong := h.cfg
	wrong.Key = []byte("wrong")
	for what, c := range map[string]struct {
		cfg  Config
		q    Query
		want fault.Code
	}{
		"another key":   {wrong, Query{}, fault.UnauthorizedAccess},
		"without right": {h.config("device", h.cfg.HTTP), Query{}, fault.UnauthorizedAccess},
		"no such group": {h.cfg, Query{Group: "third"}, fault.GenericNotFound},
	} {
		s, err := Open(deadline(t), c.cfg, c.q)
		if !fault.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
		if err == nil {
			s.Close()
		}
	}
	away := h.cfg
	away.HTTP = &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return nil, fmt.Errorf("no road")
	}}}
	if _, err := Open(deadline(t), away, Query{}); err == nil || !strings.Contains(err.Error(), "no road") {
		t.Error(err)
	}
}

func FuzzReadEvent(f *testing.F) {
	f.Add([]byte{0, 0x53, 0x75, 0xa0, 1, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := readEvent(b); err == nil {
			e.AppendJSON(nil)
		}
	})
}
