package amqphead

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/selvedge-io/selvedge/head/door"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

const (
	// backendTimeout bounds calls of the backend that a peer waits for.
	backendTimeout = 60 * time.Second
	// judging is how many proofs of one connection are judged at a time.
	judging = 32
	// idleTimeout is the silence that a peer is asked not to exceed (device-protocol 6.2).
	idleTimeout = 4 * time.Minute
	// maxMessage is the size of a message told to peers: the C SDK subtracts a
	// reserve, .NET refuses anything larger by itself. What is above the limit of
	// telemetry is refused when it comes (device-protocol 6.6.3).
	maxMessage = 1 << 20
)

// Ends of connections and identities that are no refusals.
var (
	errClosed   = fault.New(fault.ConnectionClosed, "the connection of the device ended before it answered")
	errUnproved = fault.New(fault.Unauthorized, "the connection has proved no identity in time")
	errNoLinks  = errors.New("the last link of the identity was closed")
)

// Conn is one connection.
type Conn struct {
	srv          *Server
	nc           net.Conn
	remote       string
	ctx          context.Context // ends with the connection
	cancel       context.CancelFunc
	amqp         *amqp.Conn // set by Open, before anything else runs
	certificates []*x509.Certificate
	work         sync.WaitGroup // all goroutines but the reader
	judges       chan struct{}  // holds one element for each proof being judged
	proved       atomic.Bool
	underway     underway
	dirty        []*telemetry // have a batch; owned by the reader

	mu     sync.Mutex
	over   bool
	tokens tokens
	puts   map[string]*put // being judged, by scope
	peers  map[ident.ID]*peer
	cbs    cbsLinks
	watch  map[*watching]struct{}
	timer  *time.Timer
	next   time.Time // when timer fires; zero: it does not
}

var _ amqp.IdleHandler = (*Conn)(nil)

func newConn(ctx context.Context, srv *Server, nc net.Conn) *Conn {
	c := &Conn{
		srv: srv, nc: nc, remote: nc.RemoteAddr().String(),
		peers:  map[ident.ID]*peer{},
		judges: make(chan struct{}, judging),
	}
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.underway.room.L = &c.underway.mu
	return c
}

// serve runs the connection until it is over.
func (c *Conn) serve(ctx context.Context) {
	defer c.cancel()
	stop := context.AfterFunc(c.ctx, c.underway.stop)
	defer stop()
	if err := c.greet(); err != nil {
		c.logEnd(err)
		return
	}
	err := amqp.Serve(ctx, c.nc, amqp.Config{
		ContainerID:      c.srv.name,
		MaxMessageSize:   maxMessage,
		MaxLinks:         c.srv.cfg.MaxLinks,
		IdleTimeout:      idleTimeout,
		HandshakeTimeout: c.srv.cfg.ConnectTimeout,
		SASL:             &amqp.SASLServer{Authenticate: c.login},
		Handler:          c,
	})
	c.cancel()
	for _, p := range c.all() {
		p.end(errClosed)
	}
	c.mu.Lock()
	c.over = true
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mu.Unlock()
	c.work.Wait()
	c.logEnd(err)
}

// greet completes TLS and remembers the certificates that come with it.
func (c *Conn) greet() (err error) {
	c.nc.SetDeadline(time.Now().Add(c.srv.cfg.ConnectTimeout)) // the handshake fails when this does
	stop := context.AfterFunc(c.ctx, func() { c.nc.SetDeadline(time.Unix(1, 0)) })
	c.certificates, err = door.Certificates(c.nc)
	c.proved.Store(len(c.certificates) > 0) // as far as that can be said before a link names an identity
	if stop() && err == nil {
		err = c.nc.SetDeadline(time.Time{})
	}
	return err
}

// Open implements amqp.Handler.
func (c *Conn) Open(conn *amqp.Conn, _ *amqp.Open) error {
	c.amqp = conn
	if !c.proved.Load() {
		c.mu.Lock()
		c.wake(time.Now().Add(c.srv.cfg.ConnectTimeout))
		c.mu.Unlock()
	}
	return nil
}

// Attach implements amqp.Handler.
func (c *Conn) Attach(in *amqp.Incoming) {
	var address string
	switch {
	case in.Role == amqp.RoleReceiver && in.Target != nil:
		address = in.Target.Address
	case in.Role == amqp.RoleSender && in.Source != nil:
		address = in.Source.Address
	}
	path := pathOf(address)
	if isCBS(path) {
		c.attachCBS(in)
		return
	}
	at, id := parseAddress(path)
	if at != nowhere && (at != events || in.Role == amqp.RoleReceiver || id.IsModule()) &&
		(at != deviceBound || in.Role == amqp.RoleSender) {
		c.attachDevice(at, id, in)
		return
	}
	if at == nowhere && c.srv.cfg.Links != nil && c.srv.cfg.Links.Attach(c, path, in) {
		return
	}
	c.refuse(in, fault.New(fault.AmqpAddressNotFound, "there is nothing at the address %.300q for a %v", address, !in.Role))
}

// refuse turns a link down and says why in the log.
func (c *Conn) refuse(in *amqp.Incoming, err error, who ...any) {
	told, tracking := tracked(err)
	in.Refuse(told)
	if c.ctx.Err() == nil {
		c.srv.refuse(c.remote, "AMQP link refused", append(who, "link", in.Name, "tracking", tracking, "err", err)...)
	}
}

// Idle implements amqp.IdleHandler: all that had arrived is worked through.
func (c *Conn) Idle(*amqp.Conn) {
	for i, t := range c.dirty {
		t.flush()
		c.dirty[i] = nil
	}
	c.dirty = c.dirty[:0]
	c.underway.wait(c.srv.cfg.WindowBytes)
}

// Closed implements amqp.Handler.
func (c *Conn) Closed(*amqp.Conn, error) {}

// Go runs f in a goroutine that the connection waits for when it ends; ctx ends with
// the connection.
func (c *Conn) Go(f func(ctx context.Context)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spawn(func() { f(c.ctx) })
}

// spawn starts a goroutine that the connection waits for, unless the connection is
// over. The caller holds c.mu.
func (c *Conn) spawn(f func()) {
	if !c.over {
		c.work.Go(f)
	}
}

// Remote is the network address of the peer.
func (c *Conn) Remote() string { return c.remote }

// AMQP is the connection as the protocol has it.
func (c *Conn) AMQP() *amqp.Conn { return c.amqp }

// all gives the identities on the connection.
func (c *Conn) all() []*peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	peers := make([]*peer, 0, len(c.peers))
	for _, p := range c.peers {
		peers = append(peers, p)
	}
	return peers
}

// judge takes part in the limit of proofs judged at a time. The caller calls done.
func (c *Conn) judge(ctx context.Context) (done func(), err error) {
	select {
	case c.judges <- struct{}{}:
		return func() { <-c.judges }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// wake makes the timer fire at t or before. The caller holds c.mu.
func (c *Conn) wake(t time.Time) {
	if t.IsZero() || c.over || !c.next.IsZero() && !t.Before(c.next) {
		return
	}
	c.next = t
	if c.timer == nil {
		c.timer = time.AfterFunc(time.Until(t), c.tick)
	} else {
		c.timer.Reset(time.Until(t))
	}
}

// tick looks for what has expired and sets the timer for what will.
func (c *Conn) tick() {
	if !c.proved.Load() {
		c.amqp.Close(ErrorOf(errUnproved))
		return
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next = time.Time{}
	for _, p := range c.peers {
		switch at := p.expires(); {
		case at.IsZero():
		case at.After(now):
			c.wake(at)
		default:
			c.spawn(p.renew)
		}
	}
	for w := range c.watch {
		switch {
		case w.asking:
		case w.expires.After(now):
			c.wake(w.expires)
		default:
			w.asking = true
			c.spawn(w.renew)
		}
	}
}

// logEnd tells why a connection ended: loudly when something was refused or went
// wrong here, quietly for what happens every day.
func (c *Conn) logEnd(err error) {
	if ordinary(err) {
		c.srv.cfg.Log.Debug("AMQP connection ended", "remote", c.remote, "err", err)
		return
	}
	c.srv.refuse(c.remote, "AMQP connection closed", "err", err)
}

// ordinary says whether a connection may end so without anyone having to look.
func ordinary(err error) bool {
	for _, e := range []error{nil, io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed, context.Canceled} {
		if errors.Is(err, e) {
			return true
		}
	}
	if e, ok := errors.AsType[*amqp.Error](err); ok {
		return e.Condition == amqp.ErrConnectionForced
	}
	_, network := errors.AsType[net.Error](err)
	return network
}
