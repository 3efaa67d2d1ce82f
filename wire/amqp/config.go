package amqp

import (
	"context"
	"time"
)

// Config is how a connection behaves. The zero value of each field means the default
// named with it.
type Config struct {
	ContainerID string // how this side names itself; "selvedge"
	Hostname    string // of the server, told by a client
	Properties  Map    // told in open

	MaxFrameSize   uint32 // bytes, what this side takes and the most it sends; 65536
	MaxMessageSize uint64 // bytes, of one message received, unless its link says otherwise; 1 MiB
	MaxPartial     int    // bytes of unfinished messages on all links together; 16 MiB
	MaxSessions    int    // 8192
	MaxLinks       int    // on all sessions together; 8192
	MaxUnsettled   int    // deliveries sent on one link and not settled; 5000
	MaxBuffered    int    // bytes that wait for a slow peer before links stop being ready; 1 MiB
	Window         uint32 // frames the peer may send on a session before it hears from us; 8192

	IdleTimeout      time.Duration // asked of the peer; enforced at twice that; 4 minutes
	MinIdleTimeout   time.Duration // a peer that asks for less is refused; 1 second
	Heartbeat        time.Duration // between empty frames when the peer asks for none; 2 minutes
	HandshakeTimeout time.Duration // until the peer's open; 30 seconds
	WriteTimeout     time.Duration // of one write; 30 seconds
	CloseTimeout     time.Duration // for the peer to answer our close; 2 seconds

	// SASL says how a server authenticates. With nil it has no SASL layer. A client
	// that begins without one is let through either way; Handler.Open decides.
	SASL *SASLServer
	// Login is a client's SASL. With nil it has no SASL layer.
	Login *Login

	Handler Handler
}

// Handler decides what the peer may do. Its methods are called one at a time by the
// connection's reader and must not block.
type Handler interface {
	// Open is called when the peer's open has come, before ours is sent. An error
	// refuses the connection; an *Error is told as it is, others as
	// unauthorized-access without their text.
	Open(c *Conn, o *Open) error
	// Attach is called when the peer wants a link. It answers by in.Sender,
	// in.Receiver or in.Refuse, at once or later from any goroutine.
	Attach(in *Incoming)
	// Closed is called last, after every link's Detached. err is nil when both
	// sides closed without an error, an *Error when the peer gave one.
	Closed(c *Conn, err error)
}

// IdleHandler is a Handler that wants to know when all frames read so far have been
// handled and the reader is about to wait for more. Payloads and tags delivered
// since the last call stay valid until it returns, so that a batch can be worked
// through without copies. It may block, at the cost of the whole connection.
type IdleHandler interface {
	Handler
	Idle(c *Conn)
}

// Deny is a Handler that lets the peer open and attach nothing: that of a client
// whose server has no business opening links.
type Deny struct{}

var _ Handler = Deny{}

// Open implements Handler.
func (Deny) Open(*Conn, *Open) error { return nil }

// Attach implements Handler.
func (Deny) Attach(in *Incoming) { in.Refuse(errorf(ErrNotAllowed, "links are opened from here only")) }

// Closed implements Handler.
func (Deny) Closed(*Conn, error) {}

func or[T comparable](v, absent T) T {
	var zero T
	if v == zero {
		return absent
	}
	return v
}

func (c Config) withDefaults() Config {
	c.ContainerID = or(c.ContainerID, "selvedge")
	c.MaxFrameSize = max(or(c.MaxFrameSize, 64<<10), minFrameSize)
	c.MaxMessageSize = or(c.MaxMessageSize, 1<<20)
	c.MaxPartial = or(c.MaxPartial, 16<<20)
	c.MaxSessions = min(or(c.MaxSessions, 8192), 1<<16)
	c.MaxLinks = or(c.MaxLinks, 8192)
	c.MaxUnsettled = or(c.MaxUnsettled, 5000)
	c.MaxBuffered = or(c.MaxBuffered, 1<<20)
	c.Window = max(or(c.Window, 8192), 2)
	c.IdleTimeout = or(c.IdleTimeout, 4*time.Minute)
	c.MinIdleTimeout = or(c.MinIdleTimeout, time.Second)
	c.Heartbeat = or(c.Heartbeat, 2*time.Minute)
	c.HandshakeTimeout = or(c.HandshakeTimeout, 30*time.Second)
	c.WriteTimeout = or(c.WriteTimeout, 30*time.Second)
	c.CloseTimeout = or(c.CloseTimeout, 2*time.Second)
	if c.Handler == nil {
		c.Handler = Deny{}
	}
	return c
}

// SASLServer is the server's side of SASL.
type SASLServer struct {
	// Mechanisms are offered in this order, which matters: some clients take the
	// first that they know. Those understood are ANONYMOUS, MSSBCBS (the same),
	// PLAIN and EXTERNAL. With none, DefaultMechanisms.
	Mechanisms []Symbol
	// Authenticate decides; an error refuses. It may block until ctx ends. With
	// nil, everyone is let in.
	Authenticate func(ctx context.Context, who Credentials) error
}

// Credentials are what a client said in SASL.
type Credentials struct {
	Mechanism Symbol
	Hostname  string
	Authzid   string // whom to act as, of PLAIN and EXTERNAL; empty as a rule
	Username  string // of PLAIN
	Password  string // of PLAIN
	Trace     string // of ANONYMOUS
}

// Login is the client's side of SASL.
type Login struct {
	Mechanism          Symbol
	Username, Password string // of PLAIN
}
