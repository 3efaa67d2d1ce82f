package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/selvedge-io/selvedge/client"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
)

func TestUpstreamProtocols(t *testing.T) {
	for _, test := range []struct {
		name string
		in   Upstream
		want string
	}{
		{"nothing said", Upstream{}, "[amqp mqtt amqp-ws mqtt-ws]"},
		{"MQTT elsewhere", Upstream{MQTT: "h:1"}, "[mqtt]"},
		{"no AMQP", Upstream{MQTT: "h:1", HTTPS: "h:2"}, "[mqtt amqp-ws mqtt-ws]"},
		{"all elsewhere", Upstream{AMQP: "h:0", MQTT: "h:1", HTTPS: "h:2"}, "[amqp mqtt amqp-ws mqtt-ws]"},
		{"asked for", Upstream{Protocol: "mqtt-ws", MQTT: "h:1"}, "[mqtt-ws]"},
	} {
		got, err := test.in.protocols()
		if fmt.Sprint(got) != test.want || err != nil {
			t.Errorf("%s: %v, %v, want %s", test.name, got, err, test.want)
		}
	}
	if _, err := (&Upstream{Protocol: "http"}).protocols(); err == nil {
		t.Error("http is taken for a protocol")
	}
}

func TestUpstreamProtocolOfTheOriginal(t *testing.T) {
	text := "[provisioning]\nsource = \"manual\"\nconnection_string = \"HostName=h;DeviceId=d;SharedAccessKey=AAAA\"\n[agent.env]\nUpstreamProtocol = \"AmqpWs\"\n"
	cfg, err := Parse([]byte(text), "/")
	if err != nil || cfg.Upstream.Protocol != "amqp-ws" {
		t.Errorf("protocol %q, %v", cfg.Upstream.Protocol, err)
	}
	cfg, err = Parse([]byte(text+"[upstream]\nprotocol = \"mqtt\"\n"), "/")
	if err != nil || cfg.Upstream.Protocol != "mqtt" {
		t.Errorf("protocol %q, %v", cfg.Upstream.Protocol, err)
	}
}

// uplink connects to the fake hub at the addresses given.
func (h *fakeHub) uplink(t *testing.T, at Upstream) *uplink {
	t.Helper()
	root, err := os.ReadFile(h.root)
	if err != nil {
		t.Fatal(err)
	}
	u := &uplink{
		hub: "hub.test", at: at, roots: pool(t, root), product: "test",
		credentials: func(ident.ID) client.Credentials { return client.SharedKey([]byte("key"), "") },
		refresh:     func(context.Context, []string) error { return nil },
		log:         slog.New(slog.DiscardHandler),
	}
	u.ctx, u.cancel = context.WithCancel(context.Background())
	t.Cleanup(func() { u.close() })
	return u
}

// nobody is an address where nobody listens.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (u *uplink) protocolInUse() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.worked.String()
}

// TestUplinkFallsBack connects by what leads to the hub.
func TestUplinkFallsBack(t *testing.T) {
	h := newFakeHub(t)
	gone := nobody(t)
	web := "MQTT over WebSocket"
	for _, test := range []struct {
		name string
		at   Upstream
		want string
	}{
		{"all", Upstream{AMQP: h.amqp, MQTT: h.mqtt, HTTPS: h.https}, "amqp"},
		{"AMQP is blocked", Upstream{AMQP: gone, MQTT: h.mqtt, HTTPS: h.https}, "mqtt"},
		{"only the web", Upstream{AMQP: gone, MQTT: gone, HTTPS: h.https}, "amqp-ws"},
		{web, Upstream{Protocol: "mqtt-ws", HTTPS: h.https}, "mqtt-ws"},
		{"something else at AMQP's", Upstream{AMQP: h.https, MQTT: h.mqtt}, "mqtt"},
	} {
		t.Run(test.name, func(t *testing.T) {
			u := h.uplink(t, test.at)
			c, err := u.dial(t.Context(), module("a"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Twin(t.Context()); err != nil {
				t.Error(err)
			}
			if got := u.protocolInUse(); got != test.want {
				t.Errorf("connected by %s, want %s", got, test.want)
			}
		})
	}
	for _, at := range []Upstream{{Protocol: "amqp", AMQP: gone, MQTT: h.mqtt}, {AMQP: gone, MQTT: gone, HTTPS: gone}} {
		u := h.uplink(t, at)
		if c, err := u.dial(t.Context(), module("a")); err == nil {
			c.Close()
			t.Errorf("connected by %s although that was not asked for", u.protocolInUse())
		} else if !strings.Contains(err.Error(), "by amqp: connect to hub.test") {
			t.Errorf("dial() = %v", err)
		}
	}
}

// TestUplinkShares wants one connection for all, and a refusal to be the end of nobody
// else, nor a reason to try another protocol.
func TestUplinkShares(t *testing.T) {
	h := newFakeHub(t)
	h.Judge = func(c *ident.Claim) (*ident.Principal, error) {
		if c.ID == module("bad") {
			return nil, fault.New(fault.Unauthorized, "no")
		}
		return &ident.Principal{ID: c.ID}, nil
	}
	u := h.uplink(t, Upstream{AMQP: h.amqp, MQTT: h.mqtt})
	var refreshed []string
	u.refresh = func(_ context.Context, ids []string) error {
		refreshed = append(refreshed, ids...)
		return nil
	}
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if _, err := u.dial(t.Context(), module(fmt.Sprint("m", i))); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	first := u.shared[0]
	if _, err := u.dial(t.Context(), module("bad")); !fault.Is(err, fault.Unauthorized) || fmt.Sprint(refreshed) != "[gw-1/bad]" {
		t.Errorf("dial() = %v after looking up %v", err, refreshed)
	}
	if len(u.shared) != 1 || first.Len() != 20 || first.Err() != nil {
		t.Errorf("the connection was not shared: %d connections, %d on the first: %v", len(u.shared), first.Len(), first.Err())
	}
	h.stop()
	<-first.Done()
	h.start(t)
	c, err := u.dial(t.Context(), module("m1"))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if len(u.shared) != 1 || u.shared[0] == first || u.protocolInUse() != "amqp" {
		t.Errorf("connected again by %s", u.protocolInUse())
	}
}

// TestUplinkFull makes another connection when the hub finds the first one full, but
// not when it will not have a single identity.
func TestUplinkFull(t *testing.T) {
	h := newFakeHub(t)
	h.stop()
	h.most = 2
	h.start(t)
	u := h.uplink(t, Upstream{AMQP: h.amqp})
	for i := range 5 {
		if _, err := u.dial(t.Context(), module(fmt.Sprint("m", i))); err != nil {
			t.Fatal(err)
		}
	}
	if len(u.shared) != 3 || u.shared[0].Len() != 2 || u.shared[2].Len() != 1 {
		t.Errorf("%d connections", len(u.shared))
	}
	h.Judge = func(*ident.Claim) (*ident.Principal, error) { return nil, fault.New(fault.MaxCbsTokens, "no") }
	if _, err := u.dial(t.Context(), module("x")); !fault.Is(err, fault.MaxCbsTokens) {
		t.Errorf("dial() = %v", err)
	}
}
