package server

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/selvedge-io/selvedge/client"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

// peer is an MQTT client that does only what it is told.
type peer struct {
	net.Conn
	r       *mqtt.Reader
	present bool
}

// dialRaw connects with clean session 0 and nothing else.
func dialRaw(t testing.TB, h *testHub, cfg client.Config) *peer {
	t.Helper()
	c, err := tls.Dial("tcp", cfg.Address, &tls.Config{RootCAs: h.pool, ServerName: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	return greet(t, c, cfg)
}

// greet sends CONNECT and reads CONNACK.
func greet(t testing.TB, c net.Conn, cfg client.Config) *peer {
	t.Helper()
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	token, err := cfg.Credentials(t.Context(), cfg.Host+"/"+cfg.ID.Resource(), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	hello := mqtt.Connect{Version: mqtt.V311, ClientID: cfg.ID.String(), KeepAlive: 60, HasUsername: true, HasPassword: true,
		Username: cfg.Host + "/" + cfg.ID.String() + "/?api-version=2021-04-12", Password: []byte(token)}
	if _, err := c.Write(hello.Append(nil)); err != nil {
		t.Fatal(err)
	}
	p := &peer{Conn: c, r: mqtt.NewReader(c, 0)}
	f, err := p.r.Next()
	if err != nil {
		t.Fatal(err)
	}
	var ack mqtt.Connack
	if err := ack.Decode(f); err != nil || ack.Code != mqtt.Accepted {
		t.Fatalf("CONNACK %v, %v", ack.Code, err)
	}
	p.present = ack.SessionPresent
	return p
}

// publish waits for a PUBLISH.
func (p *peer) publish(t testing.TB) (topic, body string) {
	t.Helper()
	f, err := p.r.Next()
	if err != nil {
		t.Fatal(err)
	}
	var m mqtt.Publish
	if err := m.Decode(f); err != nil {
		t.Fatal(err)
	}
	return string([]byte(m.Topic)), string(m.Payload)
}

func TestWebSocket(t *testing.T) {
	h := startHub(t, nil)
	cfg := h.config(pump, h.create(pump, `{}`))
	events := h.follow("")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ws, resp, err := websocket.Dial(ctx, "wss://localhost/$iothub/websocket?iothub-no-client-cert=true", &websocket.DialOptions{
		HTTPClient: h.http, Subprotocols: []string{"mqtt"}, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Header.Get("Sec-WebSocket-Protocol") != "mqtt" || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("upgraded with %v", resp.Header)
	}
	p := greet(t, websocket.NetConn(ctx, ws, websocket.MessageBinary), cfg)
	m := mqtt.Publish{Topic: "devices/pump/messages/events/", QoS: 1, ID: 7, Payload: []byte("through the web")}
	if _, err := p.Write(m.Append(nil, mqtt.V311)); err != nil {
		t.Fatal(err)
	}
	f, err := p.r.Next()
	if err != nil || f.Type != mqtt.TypePuback {
		t.Fatalf("answer %v, %v", f.Type, err)
	}
	if e := next(t, "event", events); e.Body != "through the web" {
		t.Errorf("event %+v", e)
	}
	// The REST API is at the same port.
	h.must(200, "GET /devices/pump", "")
	if err := h.stop(); err != nil {
		t.Error(err)
	}
	if _, err := p.r.Next(); err == nil {
		t.Error("the connection outlives the hub")
	}
}
