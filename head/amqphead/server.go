// Package amqphead is the AMQP 1.0 side of Selvedge: it speaks to devices and modules
// as Azure IoT Hub and edgeHub do (device-protocol section 6) and turns what they say
// into calls of a head.Backend. Links to addresses that are no device's, those of
// services, it hands to a Links.
//
// Identity belongs to the link: a connection may carry the links of a thousand
// devices, each proved by its own token. A connection has one goroutine, its reader,
// which never waits for the backend; whatever may take time, such as judging a token,
// runs in a goroutine that lives only while there is something to do for one identity.
package amqphead

import (
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/head/door"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// Config is what a Server works with. Backend is required, all else has defaults.
type Config struct {
	// Backend authenticates, takes messages and answers.
	Backend head.Backend
	// Services judges the tokens of shared access policies; nil knows none.
	Services Services
	// Links serves addresses that are no device's; nil has none.
	Links Links
	// Host is a name that Services takes tokens for. Only clients that log in with
	// the key of a policy, as those of Event Hubs do, need it.
	Host string
	Log  *slog.Logger

	// MaxConnections is how many connections may be open at once; more are closed
	// at once. Zero means 100,000.
	MaxConnections int
	// MaxIdentities bounds the identities and the tokens of one connection. Zero
	// means 1000, as with the Hub.
	MaxIdentities int
	// MaxLinks bounds the links of one connection. Zero means 8192.
	MaxLinks int
	// ConnectTimeout is how long a peer may take to open the connection, and then to
	// prove anything at all. Zero means 60 s.
	ConnectTimeout time.Duration
	// Window is how many messages one sender may have on the way, WindowBytes how
	// many bytes all senders of a connection may have that are not durable yet;
	// beyond, nothing is read from it. Zero means 1000 messages and 4 MiB.
	Window      uint32
	WindowBytes int
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
	def(&c.MaxIdentities, 1000)
	def(&c.MaxLinks, 8192)
	def(&c.WindowBytes, 4<<20)
	if c.Window == 0 {
		c.Window = 1000
	}
	if c.ConnectTimeout <= 0 {
		c.ConnectTimeout = 60 * time.Second
	}
	return c
}

// Links serves addresses that are no device's.
type Links interface {
	// Attach is called when a peer wants a link to address: the path as it came,
	// without scheme, host and slashes at its ends. It answers by in's methods, at
	// once or later from any goroutine, and is true; it is false when there is no
	// such address. It is called by the connection's reader and must not block:
	// what has to wait, such as Conn.Service, belongs into Conn.Go.
	Attach(c *Conn, address string, in *amqp.Incoming) bool
}

// Right is what a service needs to be allowed, as Services understands it; a head only
// passes it on.
type Right uint8

// Services judges tokens of shared access policies.
type Services interface {
	// Service says which policy a token is of, when it is valid for a resource (a
	// decoded path without host and slashes at its ends) and holds the right need.
	Service(ctx context.Context, authorization, resource string, need Right) (policy string, err error)
}

// Server serves AMQP connections.
type Server struct {
	cfg      Config
	name     string // container id
	open     atomic.Int64
	refusals door.Refusals
}

// New makes a Server.
func New(cfg Config) *Server {
	return &Server{cfg: cfg.withDefaults(), name: "DeviceGateway_" + uuid.NewString()}
}

// Connections is the number of connections open now.
func (s *Server) Connections() int { return int(s.open.Load()) }

// Serve accepts TLS or plain connections from l and serves them until ctx ends or l
// fails. It closes l and returns when the last connection is gone.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return door.Serve(ctx, l, "AMQP", s.cfg.Log, s.ServeConn)
}

// ServeConn serves one connection until it ends or ctx does, and closes it. A
// connection that carries client certificates is a *tls.Conn or has a method
// PeerCertificates.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn) {
	defer nc.Close()
	defer s.open.Add(-1)
	if s.open.Add(1) > int64(s.cfg.MaxConnections) {
		s.refuse(nc.RemoteAddr().String(), "AMQP connection refused", "err", "too many connections are open")
		return
	}
	newConn(ctx, s, nc).serve(ctx)
}

// refuse writes a line about a peer that was turned away, unless that peer has
// caused too many lines lately.
func (s *Server) refuse(remote, msg string, args ...any) {
	s.refusals.Warn(s.cfg.Log, remote, msg, args...)
}
