package wshead

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// echo sends back all it reads.
type echo struct{ conns chan net.Conn }

func (e echo) ServeConn(ctx context.Context, c net.Conn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	e.conns <- c
	io.Copy(c, c)
}

func start(t *testing.T) (url string, e echo, h *Handler, client *http.Client) {
	e = echo{make(chan net.Conn, 1)}
	h = New(map[string]Server{MQTT: e}, nil)
	srv := httptest.NewTLSServer(h)
	t.Cleanup(func() { h.Close(); srv.Close() })
	return srv.URL, e, h, srv.Client()
}

func dial(t *testing.T, client *http.Client, url string, offers ...string) *websocket.Conn {
	t.Helper()
	c, _, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{HTTPClient: client, Subprotocols: offers})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	return c
}

func TestUpgrade(t *testing.T) {
	url, e, _, client := start(t)
	for _, test := range []struct {
		path   string
		offers []string
		want   string
	}{
		{"/$iothub/websocket", []string{"mqtt"}, "mqtt"},
		{"/$iothub/websocket?iothub-no-client-cert=true", []string{"MQTT"}, "MQTT"},
		{"/", []string{"soap", "mqtt"}, "mqtt"},
	} {
		c := dial(t, client, url+test.path, test.offers...)
		if got := c.Subprotocol(); got != test.want {
			t.Errorf("offered %v: chose %q, want %q", test.offers, got, test.want)
		}
		if got := (<-e.conns).RemoteAddr().String(); !strings.HasPrefix(got, "127.0.0.1:") {
			t.Errorf("remote address is %q", got)
		}
	}
}

func TestRefused(t *testing.T) {
	url, _, _, client := start(t)
	for _, offers := range [][]string{nil, {"soap"}, {"AMQPWSB10"}} {
		_, resp, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{HTTPClient: client, Subprotocols: offers})
		if err == nil || resp == nil || resp.StatusCode != http.StatusBadRequest {
			t.Errorf("offered %v: %v, want status 400", offers, err)
		}
	}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("plain request: %s, want 400", resp.Status)
	}
}

// Strangers decide what and how often they offer: neither may fill the log.
func TestRefusalsInTheLog(t *testing.T) {
	var text bytes.Buffer
	h := New(map[string]Server{MQTT: echo{}}, slog.New(slog.NewTextHandler(&text, nil)))
	t.Cleanup(h.Close)
	for n := range 100 {
		r := httptest.NewRequest("GET", "/"+strings.Repeat("x", 10_000), nil)
		r.Header.Set("Sec-WebSocket-Protocol", strings.Repeat("soap,", 10_000))
		if n%2 == 1 {
			r.Header.Set("Sec-WebSocket-Protocol", "mqtt") // but it is no upgrade
		}
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	if lines := bytes.Count(text.Bytes(), []byte("\n")); lines == 0 || lines > 50 || text.Len() > lines*1000 {
		t.Errorf("100 refusals make %d lines of %d bytes in the log", lines, text.Len())
	}
}

// TestBytes cuts and joins at will: frame boundaries carry no meaning.
func TestBytes(t *testing.T) {
	url, _, _, client := start(t)
	c := websocket.NetConn(t.Context(), dial(t, client, url, "mqtt"), websocket.MessageBinary)
	want := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	go func() {
		for rest, n := want, 1; len(rest) > 0; n = n*3 + 1 {
			n = min(n, len(rest))
			if _, err := c.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
		}
	}()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("bytes changed on the way")
	}
}

func TestTextIsRefused(t *testing.T) {
	url, _, _, client := start(t)
	c := dial(t, client, url, "mqtt")
	if err := c.Write(t.Context(), websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	_, _, err := c.Read(t.Context())
	if got := websocket.CloseStatus(err); got != websocket.StatusUnsupportedData {
		t.Errorf("after a text frame: %v, want status %v", err, websocket.StatusUnsupportedData)
	}
}

func TestCloseEndsConnections(t *testing.T) {
	url, e, h, client := start(t)
	c := dial(t, client, url, "mqtt")
	<-e.conns
	go h.Close()
	if _, _, err := c.Read(t.Context()); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Read after Close: %v, want an end", err)
	}
	h.serving.Wait()
}
