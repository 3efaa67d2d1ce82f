// Package wshead lets MQTT and AMQP come over WebSocket: it upgrades the request,
// chooses the server by the sub-protocol offered and hands it a net.Conn. Rules are
// those of device-protocol 1.4.
package wshead

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/coder/websocket"

	"github.com/selvedge-io/selvedge/head/door"
)

// Names of the sub-protocols that devices offer.
const (
	MQTT = "mqtt"
	AMQP = "AMQPWSB10"
)

// maxFrame is the largest frame sent: Java's AMQP layer buffers no more than
// 256 KiB, and smaller ones are kinder to everybody.
const maxFrame = 32 << 10

// Server serves one connection until it ends or ctx does, and closes it.
type Server interface {
	ServeConn(ctx context.Context, c net.Conn)
}

// Handler upgrades requests on any path. The connections live in its requests, so
// whoever runs the http.Server must Close the Handler too.
type Handler struct {
	servers  map[string]Server // by sub-protocol in lower case
	log      *slog.Logger
	refusals door.Refusals
	ctx      context.Context
	cancel   context.CancelFunc

	mu      sync.Mutex
	closed  bool
	serving sync.WaitGroup
}

// New makes a Handler that serves the sub-protocols named, in any case.
func New(servers map[string]Server, log *slog.Logger) *Handler {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	h := &Handler{servers: map[string]Server{}, log: log}
	for name, s := range servers {
		h.servers[strings.ToLower(name)] = s
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

// IsUpgrade says whether r asks for a WebSocket.
func IsUpgrade(r *http.Request) bool {
	return hasToken(r.Header["Connection"], "upgrade") && hasToken(r.Header["Upgrade"], "websocket")
}

// ServeHTTP implements http.Handler; it returns when the connection is over.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, server := h.choose(r.Header["Sec-Websocket-Protocol"])
	if server == nil {
		h.refuse(r, fmt.Errorf("it offers no sub-protocol that is served here, but %.200q", strings.Join(r.Header["Sec-Websocket-Protocol"], ",")))
		http.Error(w, "offer a sub-protocol that is served here, such as mqtt", http.StatusBadRequest)
		return
	}
	if !h.enter() {
		http.Error(w, "the server is shutting down", http.StatusServiceUnavailable)
		return
	}
	defer h.serving.Done()
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:       []string{name}, // in the client's spelling, which it compares
		InsecureSkipVerify: true,           // devices have no origin, and browsers no credentials here
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		h.refuse(r, err)
		return // Accept has answered
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(h.ctx, cancel)()
	// The conn has a context of its own: the server ends it, after saying goodbye.
	c := &conn{Conn: websocket.NetConn(context.WithoutCancel(ctx), ws, websocket.MessageBinary), remote: addr(r.RemoteAddr)}
	if r.TLS != nil {
		c.certificates = r.TLS.PeerCertificates
	}
	server.ServeConn(ctx, c)
}

// refuse writes a line about a peer that was turned away, unless that peer has caused
// too many lately.
func (h *Handler) refuse(r *http.Request, err error) {
	h.refusals.Warn(h.log, r.RemoteAddr, "WebSocket refused", "path", fmt.Sprintf("%.200s", r.URL.Path), "err", fmt.Sprintf("%.400v", err))
}

// enter counts a connection in, unless the handler is closed.
func (h *Handler) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.serving.Add(1)
	return true
}

// Close ends all connections and waits for them.
func (h *Handler) Close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.cancel()
	h.serving.Wait()
}

// choose picks the first sub-protocol offered that is served.
func (h *Handler) choose(offers []string) (name string, s Server) {
	for _, offer := range offers {
		for name := range strings.SplitSeq(offer, ",") {
			name = strings.TrimSpace(name)
			if s := h.servers[strings.ToLower(name)]; s != nil {
				return name, s
			}
		}
	}
	return "", nil
}

func hasToken(values []string, token string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// conn is a WebSocket as a stream of bytes.
type conn struct {
	net.Conn
	remote       addr
	certificates []*x509.Certificate
}

// Write sends b in frames of moderate size.
func (c *conn) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		m, err := c.Conn.Write(b[:min(len(b), maxFrame)])
		n += m
		if err != nil {
			return n, err
		}
		b = b[m:]
	}
	return n, nil
}

// RemoteAddr is the address of the HTTP peer.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// PeerCertificates is the chain the peer presented to TLS.
func (c *conn) PeerCertificates() []*x509.Certificate { return c.certificates }

type addr string

func (addr) Network() string  { return "websocket" }
func (a addr) String() string { return string(a) }
