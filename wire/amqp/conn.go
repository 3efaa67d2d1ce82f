package amqp

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"time"
)

// Protocol headers (2.2, 5.3.2): a name, the layer, and version 1.0.0.
var (
	headerAMQP = [headerSize]byte{'A', 'M', 'Q', 'P', 0, 1, 0, 0}
	headerSASL = [headerSize]byte{'A', 'M', 'Q', 'P', 3, 1, 0, 0}
)

// Conn is one connection, in either role.
type Conn struct {
	nc          net.Conn
	cfg         Config
	in          *reader
	idle        IdleHandler  // the Handler when it is one
	credentials *Credentials // set before the peer's open is read
	peer        Open         // set before Handler.Open is called
	frameSize   int          // of the largest frame sent
	done        chan struct{}
	err         error         // why it ended; for reading once done is closed
	armed       time.Time     // the read deadline set last; for the reader alone
	every       time.Duration // between heartbeats
	asked       bool          // Handler.Open was called
	client      bool

	mu        sync.Mutex
	out       output
	sessions  map[uint16]*Session // by the peer's channel
	begun     map[uint16]*Session // by our channel
	channels  ids
	links     int // attached or not yet done with
	partial   int // bytes of unfinished messages
	blocked   []*Sender
	beat      *time.Timer
	opened    bool // our open has been sent
	closing   bool // our close has been sent, or there was no use in one
	over      bool
	closeBy   time.Time
	cause     error // why we closed
	closeSeen bool
}

func newConn(nc net.Conn, cfg Config) *Conn {
	cfg = cfg.withDefaults()
	c := &Conn{
		nc:        nc,
		cfg:       cfg,
		in:        newReader(nc, maxSASLFrame),
		frameSize: minFrameSize,
		done:      make(chan struct{}),
		sessions:  map[uint16]*Session{},
		begun:     map[uint16]*Session{},
	}
	c.idle, _ = cfg.Handler.(IdleHandler)
	c.out.idle.L = &c.mu
	return c
}

// Serve is the server's side of a connection. It runs until the connection is over,
// then closes nc; when ctx ends first, it tells the peer connection:forced. The error
// is nil when both sides closed without one, and an *Error when the peer gave one.
func Serve(ctx context.Context, nc net.Conn, cfg Config) error {
	c := newConn(nc, cfg)
	stop := context.AfterFunc(ctx, func() {
		c.Close(errorf(ErrConnectionForced, "the server is shutting down"))
	})
	defer stop()
	c.armHandshake()
	err := c.handshake(ctx)
	if err == nil {
		err = c.run()
	}
	return c.finish(err)
}

// Connect is the client's side: it opens a connection over nc and returns when the
// server has opened it too. The connection owns nc from then on; on an error, nc is
// closed. ctx bounds only the opening.
func Connect(ctx context.Context, nc net.Conn, cfg Config) (*Conn, error) {
	c := newConn(nc, cfg)
	c.client = true
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	c.armHandshake()
	err := c.greet()
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("open AMQP connection: %w", c.finish(err))
	}
	go func() { c.finish(c.run()) }()
	return c, nil
}

func (c *Conn) armHandshake() {
	c.armed = time.Now().Add(c.cfg.HandshakeTimeout)
	c.nc.SetReadDeadline(c.armed) // a failure shows in the read
}

// handshake is the server's: headers, SASL, open.
func (c *Conn) handshake(ctx context.Context) error {
	h, err := c.in.header()
	if err != nil {
		return err
	}
	if h == headerSASL && c.cfg.SASL != nil {
		ctx, cancel := context.WithTimeout(ctx, c.cfg.HandshakeTimeout)
		err := c.saslServer(ctx)
		cancel()
		if err != nil {
			return err
		}
		if h, err = c.in.header(); err != nil {
			return err
		}
	}
	c.mu.Lock()
	c.raw(headerAMQP) // also tells those with another header what is spoken here
	c.mu.Unlock()
	if h != headerAMQP {
		return malformed("protocol header %x", h)
	}
	c.in.limit = int(c.cfg.MaxFrameSize)
	if err := c.readOpen(); err != nil {
		if _, ok := errors.AsType[*Error](err); ok || errors.Is(err, ErrMalformed) {
			c.sendOpen() // must come before the close that finish sends
		}
		return err
	}
	c.asked = true
	err = c.cfg.Handler.Open(c, &c.peer)
	c.sendOpen()
	if err == nil {
		return nil
	}
	told, ok := errors.AsType[*Error](err)
	if !ok {
		told = &Error{Condition: ErrUnauthorized}
	}
	c.mu.Lock()
	c.cause = err
	c.mu.Unlock()
	return told
}

// greet is the client's: headers, SASL, open.
func (c *Conn) greet() error {
	if c.cfg.Login != nil {
		if err := c.saslClient(); err != nil {
			return err
		}
	}
	c.mu.Lock()
	c.raw(headerAMQP)
	c.mu.Unlock()
	c.sendOpen()
	h, err := c.in.header()
	if err != nil {
		return err
	}
	if h != headerAMQP {
		return malformed("the server answers with header %x", h)
	}
	c.in.limit = int(c.cfg.MaxFrameSize)
	if err := c.readOpen(); err != nil {
		return err
	}
	c.asked = true
	return c.cfg.Handler.Open(c, &c.peer)
}

func (c *Conn) readOpen() error {
	f, err := c.in.next()
	if err != nil {
		return err
	}
	d := decoder{b: f.body}
	if n := d.descriptor(); f.kind != frameAMQP || n != descOpen {
		return malformed("the first frame is not open but 0x%02x", n)
	}
	fs := d.composite()
	c.peer.decode(&fs)
	if d.join(&fs.decoder); d.err != nil {
		return d.err
	}
	switch {
	case c.peer.MaxFrameSize < minFrameSize:
		return errorf(ErrInvalidField, "max-frame-size is %d, the least is %d", c.peer.MaxFrameSize, minFrameSize)
	case c.peer.IdleTimeout > 0 && c.peer.IdleTimeout < c.cfg.MinIdleTimeout:
		return errorf(ErrNotAllowed, "idle-time-out is %v, the least is %v", c.peer.IdleTimeout, c.cfg.MinIdleTimeout)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frameSize = int(min(c.peer.MaxFrameSize, c.cfg.MaxFrameSize))
	c.every = or(c.peer.IdleTimeout/2, c.cfg.Heartbeat)
	c.beat = time.AfterFunc(c.every, c.heartbeat)
	return nil
}

func (c *Conn) sendOpen() {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := Open{
		ContainerID:  c.cfg.ContainerID,
		Hostname:     c.cfg.Hostname,
		MaxFrameSize: c.cfg.MaxFrameSize,
		ChannelMax:   uint16(c.cfg.MaxSessions - 1),
		IdleTimeout:  min(c.cfg.IdleTimeout, math.MaxUint32*time.Millisecond),
		Properties:   c.cfg.Properties,
	}
	e, at := c.frame(frameAMQP, 0)
	o.encode(e)
	if c.send(at) != nil {
		o.Properties = nil // what the configuration holds no AMQP value for
		e, at = c.frame(frameAMQP, 0)
		o.encode(e)
		c.send(at)
	}
	c.opened = true
}

// heartbeat sends an empty frame when nothing else has been sent for half the time
// that the peer would wait.
func (c *Conn) heartbeat() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	wait := c.every
	if quiet := time.Since(c.out.wrote); quiet < c.every {
		wait = max(c.every-quiet, 10*time.Millisecond)
	} else if c.opened && c.buffered() == 0 {
		c.out.corked = false
		_, at := c.frame(frameAMQP, 0)
		c.send(at)
	}
	c.beat.Reset(wait)
}

// Peer is what the other side said when it opened.
func (c *Conn) Peer() *Open { return &c.peer }

// Credentials are what a client gave in SASL, nil when it began without.
func (c *Conn) Credentials() *Credentials { return c.credentials }

// NetConn is the connection underneath, for its addresses and TLS state.
func (c *Conn) NetConn() net.Conn { return c.nc }

// Done is closed when the connection is over and all events have been told.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err says why the connection ended, once Done is closed: nil when both sides closed
// without an error.
func (c *Conn) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// Close sends close, with err unless nil, and returns. The connection is over when the
// peer has answered or Config.CloseTimeout has passed; wait for Done.
func (c *Conn) Close(err *Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && c.cause == nil && !c.over {
		c.cause = err
	}
	c.close(err)
}

// endAll ends the sessions before a close. That is not asked of us, but the Node SDK
// needs it: told only that the connection closes, it tries to detach its links first,
// waits 45 s for answers that nobody may give any more, and only then sees that it is
// disconnected. A server that leaves says so in a condition for links, as Azure's
// does: SDKs come back after that one, and Node's does not after connection:forced.
func (c *Conn) endAll(err *Error) {
	if err != nil && err.Condition == ErrConnectionForced {
		err = &Error{Condition: ErrDetachForced, Description: err.Description}
	}
	for _, s := range c.begun {
		if s.state == sessionMapped {
			s.end(err)
		}
	}
}

// close is Close with the lock held.
func (c *Conn) close(err *Error) {
	if c.closing || c.over {
		return
	}
	if !c.closeSeen {
		c.endAll(err)
	}
	c.closing = true
	c.closeBy = time.Now()
	if c.opened {
		c.closeBy = c.closeBy.Add(c.cfg.CloseTimeout)
		e, at := c.frame(frameAMQP, 0)
		e.ending(descClose, err)
		if c.send(at) != nil {
			e, at = c.frame(frameAMQP, 0)
			e.ending(descClose, &Error{Condition: err.Condition, Description: err.Description})
			c.send(at)
		}
	}
	c.nc.SetReadDeadline(c.closeBy) // a failure shows in the read
}
