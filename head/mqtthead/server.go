// Package mqtthead is the MQTT 3.1.1 side of Selvedge: it speaks to devices and
// modules as Azure IoT Hub and edgeHub do (device-protocol section 5) and turns
// what they say into calls of a head.Backend.
//
// A connection has one goroutine, its reader. It collects the telemetry that has
// already arrived into one batch, hands that to the backend and goes on reading;
// PUBACKs follow when the backend calls back, in the order of the publishes. Twin
// requests go to a worker that exists only while there are some, so that telemetry
// never waits for them. All output goes through the connection's mqtt.Writer.
package mqtthead

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/head/door"
)

// Config is what a Server works with. Backend is required, all else has defaults.
type Config struct {
	// Backend authenticates, takes messages and answers. When it is also a
	// head.Sessions, subscriptions outlive connections.
	Backend head.Backend
	Log     *slog.Logger
	// MaxConnections is how many connections may be open at once; more are closed
	// at once. Zero means 100,000.
	MaxConnections int
	// ConnectTimeout is how long a peer may take, from the transport's first byte,
	// until its CONNECT has arrived. Zero means 60 s.
	ConnectTimeout time.Duration
	// MaxKeepAlive is how long a connection may be silent at most, also when the
	// client asks for no keep-alive. Zero means 1767 s, as the Hub does.
	MaxKeepAlive time.Duration
	// Window and WindowBytes bound the messages of one connection that the backend
	// has not made durable yet; beyond, nothing is read from it. Zero means 1024
	// messages and 4 MiB.
	Window, WindowBytes int
}

func (c Config) withDefaults() Config {
	def := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	def(&c.MaxConnections, 100_000)
	def(&c.Window, 1024)
	def(&c.WindowBytes, 4<<20)
	if c.ConnectTimeout <= 0 {
		c.ConnectTimeout = 60 * time.Second
	}
	if c.MaxKeepAlive <= 0 {
		c.MaxKeepAlive = 1767 * time.Second
	}
	return c
}

// Server serves MQTT connections.
type Server struct {
	cfg      Config
	sessions head.Sessions // nil when the backend keeps none
	open     atomic.Int64
	refusals door.Refusals
}

// New makes a Server.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg.withDefaults()}
	s.sessions, _ = cfg.Backend.(head.Sessions)
	return s
}

// errShutdown ends connections when the server does.
var errShutdown = errors.New("the server is shutting down")

// Connections is the number of connections open now.
func (s *Server) Connections() int { return int(s.open.Load()) }

// Serve accepts TLS or plain connections from l and serves them until ctx ends or l
// fails. It closes l and returns when the last connection is gone.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return door.Serve(ctx, l, "MQTT", s.cfg.Log, s.ServeConn)
}

// ServeConn serves one connection until it ends or ctx does, and closes it. A
// connection that carries client certificates is a *tls.Conn or has a method
// PeerCertificates.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn) {
	defer nc.Close()
	defer s.open.Add(-1)
	if s.open.Add(1) > int64(s.cfg.MaxConnections) {
		s.refuse(nc.RemoteAddr().String(), "MQTT connection refused", "err", "too many connections are open")
		return
	}
	c := newSession(ctx, s, nc)
	stop := context.AfterFunc(ctx, func() { c.end(errShutdown) })
	defer stop()
	c.run()
}

// refuse writes a line about a peer that was turned away, unless that peer has
// caused too many lines lately.
func (s *Server) refuse(remote, msg string, args ...any) {
	s.refusals.Warn(s.cfg.Log, remote, msg, args...)
}
