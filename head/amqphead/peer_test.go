package amqphead

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	azure "github.com/Azure/go-amqp"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/trust/sas"
)

const host = "hub.example.com"

var (
	dev = ident.ID{Device: "dev"}
	mod = ident.ID{Device: "dev", Module: "mod"}
)

// lines keeps what is logged.
type lines struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{} // closed and replaced at each write
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
	return l.b.Write(b)
}

func (l *lines) read() (text string, changed chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String(), l.changed
}

// rig is a server on a loopback port with a fake behind it.
type rig struct {
	t    testing.TB
	b    *headtest.Backend
	s    *Server
	addr string
	log  *lines
	stop func() // ends Serve and waits for it
}

func serve(t testing.TB, b *headtest.Backend, change ...func(*Config)) *rig {
	t.Helper()
	return serveBackend(t, b, b, change...)
}

// serveBackend is serve with something around the fake.
func serveBackend(t testing.TB, backend head.Backend, b *headtest.Backend, change ...func(*Config)) *rig {
	t.Helper()
	log := &lines{changed: make(chan struct{})}
	cfg := Config{Backend: backend, Host: host, Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, c := range change {
		c(&cfg)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := New(cfg)
	go func() { done <- s.Serve(ctx, l) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve() = %v", err)
		}
	})
	t.Cleanup(stop)
	return &rig{t, b, s, l.Addr().String(), log, stop}
}

// awaitLog waits for a line that holds all of parts.
func (r *rig) awaitLog(level string, parts ...string) {
	r.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		text, changed := r.log.read()
		for line := range strings.SplitSeq(text, "\n") {
			ok := strings.Contains(line, "level="+level)
			for _, p := range parts {
				ok = ok && strings.Contains(line, p)
			}
			if ok {
				return
			}
		}
		select {
		case <-changed:
		case <-timeout:
			r.t.Fatalf("no log line at %s with %q in:\n%s", level, parts, text)
		}
	}
}

// soon is the context of one step of a test.
func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// client is a connection of the Go library that knows nothing of ours.
type client struct {
	t testing.TB
	*azure.Conn
	s *azure.Session
}

func (r *rig) dial(opts *azure.ConnOptions) *client {
	r.t.Helper()
	c, err := r.tryDial(opts)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (r *rig) tryDial(opts *azure.ConnOptions) (*client, error) {
	conn, err := azure.Dial(soon(r.t), "amqp://"+r.addr, opts)
	if err != nil {
		return nil, err
	}
	r.t.Cleanup(func() { conn.Close() })
	s, err := conn.NewSession(soon(r.t), nil)
	if err != nil {
		return nil, err
	}
	return &client{r.t, conn, s}, nil
}

// tokenFor is a token that the fake takes.
func tokenFor(id ident.ID) string {
	return sas.Sign(host+"/"+id.Resource(), []byte("key"), time.Now().Add(time.Hour), "")
}

// cbs is the links to $cbs of a client.
type cbs struct {
	t   testing.TB
	in  *azure.Receiver
	out *azure.Sender
}

func (c *client) cbs() *cbs {
	c.t.Helper()
	in, err := c.s.NewReceiver(soon(c.t), "$cbs", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := c.s.NewSender(soon(c.t), "$cbs", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return &cbs{c.t, in, out}
}

// put puts a token and gives what the server says.
func (x *cbs) put(id any, name, token string) (code int32, text string, answer *azure.Message) {
	x.t.Helper()
	return x.request(&azure.Message{
		Properties:            &azure.MessageProperties{MessageID: id},
		ApplicationProperties: map[string]any{"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": name},
		Value:                 token,
	})
}

func (x *cbs) request(m *azure.Message) (code int32, text string, answer *azure.Message) {
	x.t.Helper()
	if err := x.out.Send(soon(x.t), m, nil); err != nil {
		x.t.Fatal(err)
	}
	answer, err := x.in.Receive(soon(x.t), nil)
	if err != nil {
		x.t.Fatal(err)
	}
	if err := x.in.AcceptMessage(soon(x.t), answer); err != nil {
		x.t.Fatal(err)
	}
	code, _ = answer.ApplicationProperties["status-code"].(int32)
	text, _ = answer.ApplicationProperties["status-description"].(string)
	return code, text, answer
}

// connect dials and proves identities.
func (r *rig) connect(ids ...ident.ID) *client {
	r.t.Helper()
	c := r.dial(nil)
	x := c.cbs()
	for _, id := range ids {
		if code, text, _ := x.put("1", host+"/"+id.Resource(), tokenFor(id)); code != 200 {
			r.t.Fatalf("%d %s", code, text)
		}
	}
	return c
}

func (c *client) sender(address string, opts *azure.SenderOptions) *azure.Sender {
	c.t.Helper()
	s, err := c.s.NewSender(soon(c.t), address, opts)
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (c *client) receiver(address string, opts *azure.ReceiverOptions) *azure.Receiver {
	c.t.Helper()
	s, err := c.s.NewReceiver(soon(c.t), address, opts)
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (c *client) receive(from *azure.Receiver) *azure.Message {
	c.t.Helper()
	m, err := from.Receive(soon(c.t), nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}
