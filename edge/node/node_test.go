package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/client"
	"github.com/selvedge-io/selvedge/edge/agent"
	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
	"github.com/selvedge-io/selvedge/trust/cert"
)

// TestMain is also the modules of the tests: the edge starts this program for them.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "module" {
		if err := tell(context.Background()); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// tell is the module "teller": it sends COUNT numbered messages, or what comes to its
// input, and answers methods, until it is killed.
func tell(ctx context.Context) error {
	s, err := client.FromEnvironment(os.Getenv)
	if err != nil {
		return err
	}
	s.OnMethod(func(_ context.Context, c *method.Call) method.Reply {
		return method.Reply{Status: 200, Payload: c.Payload}
	})
	s.OnMessage(func(ctx context.Context, m *message.Message) error {
		return s.SendOutput(ctx, "told", &message.Message{Body: append([]byte("again "), m.Body...)})
	})
	count, _ := strconv.Atoi(os.Getenv("COUNT"))
	go func() {
		for i := range count {
			body := os.Getenv("WORD") + strconv.Itoa(i)
			if err := s.SendOutput(ctx, "out", &message.Message{Body: []byte(body)}); err != nil {
				fmt.Println("not sent:", err)
			}
			fmt.Println("sent", body)
		}
	}()
	return s.Run(ctx)
}

// teller is a deployment's module that sends count messages beginning with word.
func teller(count int, word string) string {
	return fmt.Sprintf(`{"type":"process","status":"running","restartPolicy":"always","settings":{"builtin":"teller"},
		"env":{"COUNT":{"value":"%d"},"WORD":{"value":%q}}}`, count, word)
}

// running is a node that runs.
type running struct {
	*Node
	ctl   *http.Client
	stop  context.CancelFunc
	ended chan error
}

func run(t *testing.T, cfg Config) *running {
	t.Helper()
	cfg.Builtins = []string{"teller"}
	n, err := New(cfg, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &running{Node: n, stop: stop, ended: make(chan error, 1)}
	go func() { r.ended <- n.Run(ctx) }()
	t.Cleanup(func() { r.end(t) })
	select {
	case <-n.Ready():
	case err := <-r.ended:
		t.Fatalf("the node ended: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("the node is not ready")
	}
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(cfg.DataDir, ControlSocket))
	}}
	r.ctl = &http.Client{Transport: tr, Timeout: 20 * time.Second}
	return r
}

// end stops the node and wants that to work; again it does nothing.
func (r *running) end(t *testing.T) {
	t.Helper()
	if r.ctl != nil {
		r.ctl.CloseIdleConnections()
	}
	r.stop()
	select {
	case err := <-r.ended:
		r.ended <- nil
		if err != nil {
			t.Errorf("the node stopped with: %v", err)
		}
	case <-time.After(40 * time.Second):
		t.Fatal("the node does not stop")
	}
}

func (r *running) modules(t *testing.T) map[string]agent.ModuleState {
	t.Helper()
	_, body := ask(t, r.ctl, "GET", "/modules")
	var all []agent.ModuleState
	if err := json.Unmarshal([]byte(body), &all); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	by := map[string]agent.ModuleState{}
	for _, m := range all {
		by[m.Name] = m
	}
	return by
}

func (r *running) status(t *testing.T) (s Status) {
	t.Helper()
	_, body := ask(t, r.ctl, "GET", "/status")
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return s
}

const upstreamRoute = `{"up":"FROM /messages/modules/talk/* INTO $upstream"}`

func TestDeploymentAndControl(t *testing.T) {
	h := newFakeHub(t)
	h.deploy(t, `{"talk":`+teller(3, "a")+`,"echo":`+teller(0, "")+`}`,
		`{"through":"FROM /messages/modules/talk/outputs/out INTO BrokeredEndpoint(\"/modules/echo/inputs/in\")",
		"up":"FROM /messages/modules/echo/* INTO $upstream"}`)
	cfg := h.config(t)
	cfg.Version = "1.2.3"
	before := goruntime.NumGoroutine()
	r := run(t, cfg)

	if got := h.bodies(t, 3); !slices.Equal(got, []string{"again a0", "again a1", "again a2"}) {
		t.Errorf("the hub got %q", got)
	}
	for _, m := range h.Messages(t, 3) {
		if m.From != module("echo") {
			t.Errorf("message %s is from %v", m.Body, m.From)
		}
	}
	eventually(t, "the agent reports the modules", func() bool {
		twin, _ := h.Twin(t.Context(), module(ident.EdgeAgent))
		return strings.Contains(string(twin), `"runtimeStatus":"running"`) && strings.Contains(string(twin), `"talk"`)
	})

	// A direct method of a module and one of the agent, from the hub.
	talk := h.AwaitOpen(t, module("talk"), head.Methods)
	reply, err := talk.Device.Invoke(t.Context(), &method.Call{Name: "echo", Payload: []byte(`{"x":1}`)})
	if err != nil || reply.Status != 200 || string(reply.Payload) != `{"x":1}` {
		t.Errorf("the module answers %d %s, %v", reply.Status, reply.Payload, err)
	}
	self := h.AwaitOpen(t, module(ident.EdgeAgent), head.Methods)
	if reply, err := self.Device.Invoke(t.Context(), &method.Call{Name: "ping"}); err != nil || reply.Status != 200 {
		t.Errorf("the agent answers %d %s, %v", reply.Status, reply.Payload, err)
	}

	// The commands of the device.
	ms := r.modules(t)
	if len(ms) != 4 || ms["talk"].Status != "running" || ms["talk"].Source != "builtin teller" || ms["edgeAgent"].Status != "running" {
		t.Errorf("modules are %+v", ms)
	}
	s := r.status(t)
	if s.Version != "1.2.3" || s.Device != testDevice || s.Hub != "hub.test" || !s.Link.Up || s.Link.Sent != 3 ||
		s.Modules != (Modules{Deployed: 2, Running: 2, Connected: 2}) || time.Since(s.Link.Since) > time.Minute {
		t.Errorf("status is %+v", s)
	}
	_, log := ask(t, r.ctl, "GET", "/modules/talk/logs?tail=2")
	if log != "sent a1\nsent a2" {
		t.Errorf("the log's end is %q", log)
	}
	if code, body := ask(t, r.ctl, "GET", "/modules/nobody/logs"); code != 404 {
		t.Errorf("the log of nobody gives %d %s", code, body)
	}
	if code, body := ask(t, r.ctl, "POST", "/modules/talk/restart"); code != 204 {
		t.Errorf("restart gives %d %s", code, body)
	}
	h.bodies(t, 6)
	if again := r.modules(t)["talk"]; !again.Started.After(ms["talk"].Started) {
		t.Errorf("restarted, but started at %v and %v", ms["talk"].Started, again.Started)
	}

	// A new deployment without one of them.
	h.Desire(t, module(ident.EdgeAgent), `{"modules":{"talk":null}}`)
	eventually(t, "the module is removed", func() bool { return len(r.modules(t)) == 3 })

	r.end(t)
	if _, err := os.Stat(filepath.Join(cfg.DataDir, ControlSocket)); !os.IsNotExist(err) {
		t.Errorf("the control socket is left behind: %v", err)
	}
	if left := processesOf(t, cfg.DataDir); len(left) > 0 {
		t.Errorf("processes are left behind: %v", left)
	}
	eventually(t, "all goroutines end", func() bool { return goruntime.NumGoroutine() <= before+1 })
}

// processesOf finds processes that work below a directory.
func processesOf(t *testing.T, dir string) (pids []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range all {
		if cwd, err := os.Readlink(link); err == nil && strings.HasPrefix(cwd, dir) {
			pids = append(pids, link)
		}
	}
	return pids
}

func TestOfflineStart(t *testing.T) {
	h := newFakeHub(t)
	h.deploy(t, `{"talk":`+teller(2, "b")+`}`, upstreamRoute)
	cfg := h.config(t)
	r := run(t, cfg)
	h.bodies(t, 2)
	eventually(t, "the deployment is on disk", func() bool { return r.status(t).Modules.Running == 1 })
	r.end(t)

	h.stop()
	start := time.Now()
	r = run(t, cfg)
	eventually(t, "the module runs", func() bool { return r.status(t).Modules.Running == 1 })
	if took := time.Since(start); took > time.Second && !raceEnabled {
		t.Errorf("the first module ran after %v, want at most a second", took)
	}
	eventually(t, "the messages are kept", func() bool { return r.status(t).Queue.Messages == 2 })
	if s := r.status(t); s.Link.Up {
		t.Errorf("without a hub the status is %+v", s)
	}

	// Nothing is lost by a restart of the gateway while the hub is away.
	r.end(t)
	r = run(t, cfg)
	eventually(t, "the module tells again", func() bool { return r.status(t).Queue.Messages == 4 })
	h.start(t)
	if got := h.bodies(t, 6); !slices.Equal(got, []string{"b0", "b1", "b0", "b1", "b0", "b1"}) {
		t.Errorf("the hub got %q", got)
	}
	eventually(t, "the queue is empty and the link up", func() bool { s := r.status(t); return s.Queue.Messages == 0 && s.Link.Up })
}

func TestOneAtATime(t *testing.T) {
	h := newFakeHub(t)
	cfg := h.config(t)
	run(t, cfg)
	n, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "in use by another edge") {
		t.Errorf("a second edge in one data directory gives %v", err)
	}
}

func TestWhatCannotStart(t *testing.T) {
	h := newFakeHub(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, tc := range map[string]struct {
		bend func(*Config)
		want string
	}{
		"port taken":        {func(c *Config) { c.Broker.MQTT = taken.Addr().String() }, "broker.mqtt: "},
		"all off":           {func(c *Config) { c.Broker.MQTT = "" }, "all listeners are off"},
		"ops port taken":    {func(c *Config) { c.Ops = taken.Addr().String() }, "ops: "},
		"no bundle":         {func(c *Config) { c.TrustBundle = "/nowhere.pem" }, "trust_bundle_cert: open /nowhere.pem"},
		"odd bundle":        {func(c *Config) { c.TrustBundle = os.Args[0] }, "there is no certificate in PEM form"},
		"no CA":             {func(c *Config) { c.EdgeCA = EdgeCA{CertFile: "/nowhere.pem", KeyFile: "/nowhere.key"} }, "edge_ca: "},
		"no certificate":    {func(c *Config) { c.Provisioning.CertFile, c.Provisioning.KeyFile = "/no.pem", "/no.key" }, "provisioning.authentication: "},
		"data is no folder": {func(c *Config) { c.DataDir = filepath.Join(h.root, "data") }, "make the data directory"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := h.config(t)
			before := goruntime.NumGoroutine()
			good := cfg
			tc.bend(&cfg)
			n, err := New(cfg, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := n.Run(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %s", err, tc.want)
			}
			eventually(t, "all goroutines end", func() bool { return goruntime.NumGoroutine() <= before+1 })
			run(t, good).end(t) // nothing is left in the way
		})
	}
}

func TestConfigMustBeWhole(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{DataDir: "a"},
		{DataDir: "a", Provisioning: Provisioning{Hub: "h", Device: "d"}},
		{DataDir: "a", Provisioning: Provisioning{Hub: "h", Device: "d", CertFile: "c"}},
	} {
		if _, err := New(cfg, nil); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
}

func TestListenersAndOperations(t *testing.T) {
	h := newFakeHub(t)
	cfg := h.config(t)
	cfg.Broker.AMQP, cfg.Broker.HTTPS, cfg.Ops = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Broker.PlainMQTT, cfg.Broker.PlainAMQP = "127.0.0.1:0", "127.0.0.1:0"
	h.deploy(t, `{"talk":`+teller(1, "c")+`}`, upstreamRoute)
	r := run(t, cfg)
	h.bodies(t, 1)
	at := map[string]string{}
	for field := range strings.FieldsSeq(r.Summary()) {
		name, value, _ := strings.Cut(field, "=")
		at[name] = value
	}
	if at["device"] != testDevice || at["mqtt"] == "" || at["plain-mqtt"] == "" || at["amqp"] == "" || at["plain-amqp"] == "" {
		t.Errorf("the summary is %q", r.Summary())
	}

	roots := r.parts.Load().authority.RootPEM()
	web := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: clientTLS(t, roots)}}
	defer web.CloseIdleConnections()
	resp, err := web.Get("https://" + strings.Replace(at["https"], "127.0.0.1", "localhost", 1) + "/devices/x")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 404 || !strings.Contains(string(body), "MQTT and AMQP over WebSocket") {
		t.Errorf("HTTPS answers %d %s", resp.StatusCode, body)
	}

	for path, want := range map[string]string{
		"/healthz": "ok", "/readyz": "ready",
		"/metrics": `selvedge_module_running{iothub="hub.test",edge_device="gw-1",module_name="talk"} 1`,
	} {
		resp, err := http.Get("http://" + at["ops"] + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || !strings.Contains(string(body), want) {
			t.Errorf("%s gives %d %s", path, resp.StatusCode, body)
		}
		if path == "/metrics" {
			checkMetrics(t, string(body))
		}
	}
}

// checkMetrics wants each name described once, its samples together, and those that
// others build upon.
func checkMetrics(t *testing.T, text string) {
	t.Helper()
	seen, last := map[string]bool{}, ""
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, _, _ := strings.Cut(line, "{")
		if name != last && seen[name] {
			t.Errorf("samples of %s are apart", name)
		}
		seen[name], last = true, name
		if strings.Count(text, "# TYPE "+name+" ") != 1 {
			t.Errorf("%s is not described once", name)
		}
	}
	for _, name := range []string{"edgehub_messages_received_total", "edgehub_messages_sent_total", "edgehub_queue_length",
		"edgehub_connected_clients", "selvedge_link_up", "selvedge_store_bytes"} {
		if !seen[name] {
			t.Errorf("%s is missing", name)
		}
	}
}

// TestSystemModulesCannotConnect: they live in the program.
func TestSystemModulesCannotConnect(t *testing.T) {
	h := newFakeHub(t)
	r := run(t, h.config(t))
	p := r.parts.Load()
	eventually(t, "the link is up", func() bool { return p.link.Online() })
	_, err := client.Dial(t.Context(), client.Config{
		Host: "hub.test", Gateway: "localhost", Address: near(p.listeners[0].addr), ID: module(ident.EdgeAgent),
		Credentials: p.identities.Credentials(module(ident.EdgeAgent)), RootCAs: pool(t, p.authority.RootPEM()),
	})
	if err == nil {
		t.Error("somebody else connected as the agent")
	}
}

// TestCertificateInsteadOfKey: the device proves itself to the hub by a certificate.
func TestCertificateInsteadOfKey(t *testing.T) {
	h := newFakeHub(t)
	h.deploy(t, `{"talk":`+teller(1, "e")+`}`, upstreamRoute)
	ca, err := cert.OpenAuthority(t.TempDir(), cert.Options{})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.Issue(cert.Request{CommonName: testDevice, Usage: cert.ForClient})
	if err != nil {
		t.Fatal(err)
	}
	key, err := leaf.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	cfg := h.config(t)
	dir := t.TempDir()
	cfg.Provisioning = Provisioning{Hub: "hub.test", Device: testDevice, CertFile: filepath.Join(dir, "c.pem"), KeyFile: filepath.Join(dir, "k.pem")}
	write(t, cfg.Provisioning.CertFile, string(leaf.CertificatePEM()))
	write(t, cfg.Provisioning.KeyFile, string(key))
	run(t, cfg)
	if got := h.bodies(t, 1); got[0] != "e0" {
		t.Errorf("the hub got %q", got)
	}
}

// TestRevoked: a module whose identity is deleted at the hub is let go.
func TestRevoked(t *testing.T) {
	h := newFakeHub(t)
	h.deploy(t, `{"talk":`+teller(1, "d")+`}`, upstreamRoute)
	r := run(t, h.config(t))
	h.bodies(t, 1)
	h.mu.Lock()
	delete(h.modules, "talk")
	h.mu.Unlock()
	hub := h.AwaitOpen(t, module(ident.EdgeHub), head.Methods)
	reply, err := hub.Device.Invoke(t.Context(), &method.Call{Name: "RefreshDeviceScopeIdentityCache", Payload: []byte(`{"deviceIds":["gw-1/talk"]}`)})
	if err != nil || reply.Status != 200 {
		t.Fatalf("refresh gives %d %s, %v", reply.Status, reply.Payload, err)
	}
	eventually(t, "the module is out", func() bool { return r.status(t).Modules.Connected == 0 })
}

// TestStopWhileStarting: a start that is called off leaves nothing and is not ready.
func TestStopWhileStarting(t *testing.T) {
	h := newFakeHub(t)
	cfg := h.config(t)
	n, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	before := goruntime.NumGoroutine()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	select {
	case <-n.Ready():
		t.Error("it said that it is ready")
	default:
	}
	eventually(t, "all goroutines end", func() bool { return goruntime.NumGoroutine() <= before+1 })
	run(t, cfg).end(t)
}

// TestLayers: they end in reverse, and one that fails takes the others with it.
func TestLayers(t *testing.T) {
	var order []string
	l := newLayers(t.Context())
	l.onEnd(func() error { order = append(order, "first"); return nil })
	l.run("second", func(ctx context.Context) error {
		<-ctx.Done()
		order = append(order, "second")
		return ctx.Err()
	})
	l.run("third", func(context.Context) error { return io.ErrUnexpectedEOF })
	l.run("fourth", func(ctx context.Context) error {
		<-ctx.Done()
		order = append(order, "fourth")
		return io.ErrNoProgress
	})
	<-l.ctx.Done()
	err := l.end(nil)
	if err == nil || err.Error() != "third: unexpected EOF\nstop fourth: multiple Read calls return no data or error" {
		t.Errorf("it ended with %v", err)
	}
	if !slices.Equal(order, []string{"fourth", "second", "first"}) {
		t.Errorf("they ended as %q", order)
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	l = newLayers(ctx)
	l.run("only", func(ctx context.Context) error { <-ctx.Done(); return nil })
	cancel(syscall.EINTR)
	<-l.ctx.Done()
	if err := l.end(nil); err != nil {
		t.Errorf("an end from outside is an error: %v", err)
	}
}
