package client

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/edge/upstream"
	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
)

var _ upstream.Conn = (*Client)(nil)

func TestDial(t *testing.T) {
	r := serve(t, &headtest.Backend{Judge: judge})
	c := r.dial(mod, func(c *Config) { c.ModelID, c.ProductInfo = "dtmi:a:b;1", "a test/1" })
	claim := r.b.Claims()[0]
	if claim.ID != mod || claim.Host != host || claim.APIVersion != apiVersion || claim.ModelID != "dtmi:a:b;1" || claim.ClientType != "a test/1" {
		t.Errorf("claim is %+v", claim)
	}
	select {
	case <-c.Done():
		t.Errorf("the connection ended: %v", c.Err())
	default:
	}
	if c.Err() != nil || c.ID() != mod {
		t.Errorf("Err() = %v, ID() = %v", c.Err(), c.ID())
	}
	c.Close()
	wait(t, "Done", c.Done())
	if c.Err() != ErrClosed {
		t.Errorf("Err() = %v after Close", c.Err())
	}
	r.b.AwaitGone(t, mod)
}

func TestDialRefused(t *testing.T) {
	for _, test := range []struct {
		name  string
		judge func(*ident.Claim) (*ident.Principal, error)
		want  fault.Code
	}{
		{"wrong key", judge, fault.Unauthorized},
		{"busy", func(*ident.Claim) (*ident.Principal, error) { return nil, fault.New(fault.Throttled, "later") }, fault.Unavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := serve(t, &headtest.Backend{Judge: test.judge})
			cfg := r.config(dev)
			cfg.Credentials = SharedKey([]byte("wrong"), "")
			if _, err := Dial(within(t), cfg); !fault.Is(err, test.want) {
				t.Errorf("Dial() = %v, want code %d", err, test.want)
			}
		})
	}
	for name, cfg := range map[string]Config{
		"no host":        {ID: dev, Credentials: SharedKey(key, "")},
		"no credentials": {Host: host, ID: dev},
		"no id":          {Host: host, Credentials: SharedKey(key, "")},
	} {
		if _, err := Dial(within(t), cfg); err == nil {
			t.Errorf("%s: Dial went through", name)
		}
	}
}

func TestDialEndsWithContext(t *testing.T) {
	entered, leave := make(chan bool, 1), make(chan bool)
	r := serve(t, &headtest.Backend{Judge: func(c *ident.Claim) (*ident.Principal, error) {
		entered <- true
		<-leave
		return nil, fault.New(fault.Unauthorized, "no")
	}})
	defer close(leave)
	ctx, cancel := context.WithCancel(within(t))
	go func() { <-entered; cancel() }()
	if _, err := Dial(ctx, r.config(dev)); !errors.Is(err, context.Canceled) {
		t.Errorf("Dial() = %v", err)
	}
}

func TestTLS(t *testing.T) { eachProtocol(t, testTLS) }

func testTLS(t *testing.T, p Protocol) {
	r, root := serveTLS(t, p, &headtest.Backend{Judge: judge}, "gateway.local")
	pool, err := poolOf(root)
	if err != nil {
		t.Fatal(err)
	}
	secure := func(c *Config) { c.Plain, c.Gateway, c.RootCAs = false, "gateway.local", pool }
	c := r.dial(mod, secure)
	m := text("x")
	if err := c.Send(within(t), &m); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"other name": func(c *Config) { c.Gateway = "other.local" },
		"other root": func(c *Config) { c.RootCAs = x509.NewCertPool() },
		"no roots": func(c *Config) {
			c.Roots = func(context.Context) (*x509.CertPool, error) { return nil, errors.New("none") }
		},
	} {
		cfg := r.config(mod)
		secure(&cfg)
		change(&cfg)
		if _, err := Dial(within(t), cfg); err == nil || errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: Dial() = %v", name, err)
		}
	}
}

// TestUnreachable tells a network that does not lead to the server, or to something
// else, from a server that refuses.
func TestUnreachable(t *testing.T) { eachProtocol(t, testUnreachable) }

func testUnreachable(t *testing.T, p Protocol) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	l.Close()
	for name, cfg := range map[string]Config{
		"nobody":         {Address: l.Addr().String(), Plain: true},
		"something else": {Address: web.Listener.Addr().String()},
		"silence":        {Address: silent.Addr().String(), ConnectTimeout: 50 * time.Millisecond},
	} {
		cfg.Protocol, cfg.Host, cfg.ID, cfg.Credentials = p, host, dev, SharedKey(key, "")
		if _, err := Dial(within(t), cfg); !errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: Dial() = %v", name, err)
		}
	}
	cfg := serveBy(t, p, &headtest.Backend{Judge: judge}).config(dev)
	cfg.Credentials = SharedKey([]byte("wrong"), "")
	if _, err := Dial(within(t), cfg); !fault.Is(err, fault.Unauthorized) || errors.Is(err, ErrUnreachable) {
		t.Errorf("Dial() = %v", err)
	}
}

func TestTwin(t *testing.T) { eachProtocol(t, testTwin) }

func testTwin(t *testing.T, p Protocol) {
	r := serveBy(t, p, &headtest.Backend{})
	c := r.dial(mod)
	r.b.Desire(t, mod, `{"a":{"b":1}}`)
	twin, err := c.Twin(within(t))
	if want := `{"desired":{"a":{"b":1},"$version":2},"reported":{"$version":1}}`; err != nil || string(twin) != want {
		t.Errorf("Twin() = %s, %v", twin, err)
	}
	version, err := c.Report(within(t), []byte(`{"x":1}`))
	if version != 2 || err != nil {
		t.Errorf("Report() = %d, %v", version, err)
	}
	if _, err := c.Report(within(t), []byte(`{"x":`)); !fault.Is(err, fault.ArgumentInvalid) && !fault.Is(err, fault.IotHubFormatError) {
		t.Errorf("Report() of broken JSON = %v", err)
	}

	changes := make(chan string, 10)
	if err := c.OnDesired(within(t), func(v int64, patch []byte) { changes <- fmt.Sprint(v, " ", string(patch)) }); err != nil {
		t.Fatal(err)
	}
	r.b.AwaitOpen(t, mod, head.Desired)
	r.b.Desire(t, mod, `{"a":null,"c":"ü"}`)
	if got := wait(t, "the change", changes); got != `3 {"a":null,"c":"ü","$version":3}` {
		t.Errorf("changed(%s)", got)
	}
	var many sync.WaitGroup // answers find their askers
	for i := range 50 {
		many.Go(func() {
			if i%2 == 0 {
				if _, err := c.Twin(within(t)); err != nil {
					t.Error(err)
				}
			} else if _, err := c.Report(within(t), fmt.Appendf(nil, `{"n%d":1}`, i)); err != nil {
				t.Error(err)
			}
		})
	}
	many.Wait()
	c.Close()
	if _, err := c.Twin(within(t)); !errors.Is(err, ErrClosed) {
		t.Errorf("Twin() after Close = %v", err)
	}
}

func TestMethods(t *testing.T) { eachProtocol(t, testMethods) }

func testMethods(t *testing.T, p Protocol) {
	r := serveBy(t, p, &headtest.Backend{})
	c := r.dial(mod)
	err := c.OnMethod(within(t), func(ctx context.Context, m *method.Call) method.Reply {
		switch m.Name {
		case "wait":
			<-ctx.Done()
		case "big":
			return method.Reply{Status: 200, Payload: json.RawMessage(`"` + strings.Repeat("x", method.MaxPayload) + `"`)}
		case "broken":
			return method.Reply{Status: 200, Payload: json.RawMessage(`{`)}
		}
		return method.Reply{Status: 201, Payload: append(json.RawMessage(`["`+m.Name+`",`), append(m.Payload, ']')...)}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.OnMethod(within(t), nil); !fault.Is(err, fault.InvalidOperation) {
		t.Errorf("a second OnMethod = %v", err)
	}
	a := r.b.AwaitOpen(t, mod, head.Methods)
	for name, want := range map[string]string{
		"echo":   `201 ["echo",{"x":1}]`,
		"big":    `500 {"message":"the payload of the reply is too large"}`,
		"broken": `500 {"message":"the payload of the reply is not JSON"}`,
	} {
		reply, err := a.Device.Invoke(within(t), &method.Call{Name: name, Payload: []byte(`{"x":1}`)})
		if got := fmt.Sprint(reply.Status, " ", string(reply.Payload)); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", name, got, err, want)
		}
	}
	gone := make(chan error)
	go func() {
		_, err := a.Device.Invoke(within(t), &method.Call{Name: "wait"})
		gone <- err
	}()
	if reply, err := a.Device.Invoke(within(t), &method.Call{Name: "quick"}); err != nil || string(reply.Payload) != `["quick",null]` {
		t.Errorf("a method waited for another: %v, %v", reply, err)
	}
	c.Close() // ends the handler's context
	wait(t, "the end of the call", gone)
}

// TestKeptSession checks that what a server sends before there are handlers waits.
func TestKeptSession(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	c := r.dial(mod)
	reply := func(context.Context, *method.Call) method.Reply { return method.Reply{Status: 200} }
	taken := make(chan string, 1)
	take := func(_ context.Context, m *message.Message) error { taken <- string(m.Body); return nil }
	if err := errors.Join(c.OnMethod(within(t), reply), c.OnMessage(within(t), take)); err != nil {
		t.Fatal(err)
	}
	r.b.AwaitOpen(t, mod, head.Inputs)
	c.Close()
	r.b.AwaitGone(t, mod)

	c = r.dial(mod)
	r.b.AwaitOpen(t, mod, head.Methods)
	a := r.b.AwaitOpen(t, mod, head.Inputs)
	m := text("early")
	m.System.Input = "in"
	a.Device.Deliver(head.Inputs, []head.Delivery{{Token: 1, Message: &m}})
	called := make(chan error)
	go func() {
		_, err := a.Device.Invoke(within(t), &method.Call{Name: "early"})
		called <- err
	}()
	if _, err := c.Twin(within(t)); err != nil { // all that came before is read by now
		t.Fatal(err)
	}
	if err := errors.Join(c.OnMethod(within(t), reply), c.OnMessage(within(t), take)); err != nil {
		t.Fatal(err)
	}
	if err := wait(t, "the method", called); err != nil {
		t.Error(err)
	}
	if got := wait(t, "the message", taken); got != "early" {
		t.Errorf("got %q", got)
	}
	a.Settled(t, 1)
}

func TestMessages(t *testing.T) { eachProtocol(t, testMessages) }

func testMessages(t *testing.T, p Protocol) {
	for _, test := range []struct {
		id   ident.ID
		flow head.Flow
	}{{dev, head.ToDevice}, {mod, head.Inputs}} {
		t.Run(test.id.String(), func(t *testing.T) {
			r := serveBy(t, p, &headtest.Backend{})
			c := r.dial(test.id)
			got := make(chan *message.Message, 10)
			err := c.OnMessage(within(t), func(ctx context.Context, m *message.Message) error {
				got <- m
				if string(m.Body) == "bad" {
					return errors.New("bad")
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.OnMessage(within(t), nil); !fault.Is(err, fault.InvalidOperation) {
				t.Errorf("a second OnMessage = %v", err)
			}
			a := r.b.AwaitOpen(t, test.id, test.flow)
			m := message.Message{
				Body:       []byte("one"),
				System:     message.System{MessageID: "m 1", CorrelationID: "c", ContentType: "text/plain", CreationTime: "2026-01-02T03:04:05.0000000Z"},
				Properties: []message.Property{{Name: "a&b", Value: "c=d"}, {Name: "e", Value: ""}},
			}
			want := m.Clone()
			if test.flow == head.Inputs {
				m.System.Input, m.System.ConnectionDevice, m.System.ConnectionModule = "input1", "dev", "sensor"
				want.System = m.System
			} else {
				want.System.To = "/devices/dev/messages/devicebound"
			}
			bad, two := text("bad"), text("two")
			bad.System.Input, two.System.Input = "input1", "input1"
			a.Device.Deliver(test.flow, []head.Delivery{{Token: 1, Message: &m}, {Token: 2, Message: &bad}, {Token: 3, Message: &two}})
			g := wait(t, "the message", got)
			if g.System.LockToken == "" == p.isAMQP() {
				t.Errorf("lock token %q", g.System.LockToken)
			}
			if g.System.LockToken = ""; fmt.Sprint(*g) != fmt.Sprint(want) {
				t.Errorf("got  %+v\nwant %+v", *g, want)
			}
			wait(t, "bad", got)
			wait(t, "two", got)
			// The bad one is not acknowledged, the others are.
			if s := fmt.Sprint(a.Settled(t, 2)); s != fmt.Sprintf("[{%d 1 0} {%d 3 0}]", test.flow, test.flow) {
				t.Errorf("settled %s", s)
			}
		})
	}
}

// TestHandlerMaySend checks that acknowledgements come through while a handler waits.
func TestHandlerMaySend(t *testing.T) { eachProtocol(t, testHandlerMaySend) }

func testHandlerMaySend(t *testing.T, p Protocol) {
	r := serveBy(t, p, &headtest.Backend{})
	c := r.dial(mod)
	err := c.OnMessage(within(t), func(ctx context.Context, m *message.Message) error {
		out := *m
		out.System = message.System{Output: "out"}
		return c.Send(ctx, &out)
	})
	if err != nil {
		t.Fatal(err)
	}
	a := r.b.AwaitOpen(t, mod, head.Inputs)
	m := text("x")
	m.System.Input = "in"
	a.Device.Deliver(head.Inputs, []head.Delivery{{Token: 1, Message: &m}})
	a.Settled(t, 1)
	if got := r.b.Messages(t, 1)[0]; string(got.Body) != "x" || got.System.Output != "out" {
		t.Errorf("sent %+v", got)
	}
}

func TestRenew(t *testing.T) {
	t.Parallel()
	r := serve(t, &headtest.Backend{Hold: true, Judge: judge})
	c := r.dial(dev, func(c *Config) { c.TokenLife = 2 * time.Second })
	acked := make(chan error, 2)
	c.Publish(texts("a"), func(err error) { acked <- err })
	r.b.Messages(t, 1)
	// The connection must outlive what is under way, and take nothing more.
	refused := make(chan error, 1)
	for len(refused) == 0 {
		out := &c.via.(*mqttConn).out
		out.mu.Lock()
		retiring := out.refused != nil
		out.mu.Unlock()
		if retiring {
			c.Publish(texts("b"), func(err error) { refused <- err })
			break
		}
		select {
		case <-c.Done():
			t.Fatalf("ended with %v while a message was under way", c.Err())
		case <-time.After(time.Millisecond):
		}
	}
	if len(acked)+len(refused) > 0 {
		t.Error("done was called before the server acknowledged")
	}
	r.b.Release(1, nil)
	if err := wait(t, "the acknowledgement", acked); err != nil {
		t.Error(err)
	}
	if err := wait(t, "the refusal", refused); !errors.Is(err, ErrRenew) {
		t.Errorf("after the token's end: %v", err)
	}
	wait(t, "Done", c.Done())
	if !errors.Is(c.Err(), ErrRenew) || fault.CodeOf(c.Err()).Status() == 401 || !fault.Temporary(c.Err()) {
		t.Errorf("Err() = %v", c.Err())
	}
	if got := bodies(r.b.Messages(t, 1)); got != "a" {
		t.Errorf("arrived: %s", got)
	}
}

func TestSecrets(t *testing.T) {
	r := serve(t, &headtest.Backend{Judge: judge})
	cfg := r.config(dev)
	cfg.Credentials = SharedKey([]byte("another key"), "")
	_, err := Dial(within(t), cfg)
	if s := fmt.Sprint(err); strings.Contains(s, "SharedAccessSignature") || strings.Contains(s, "sig=") {
		t.Errorf("an error shows the token: %s", s)
	}
}
