package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

const (
	// leastIdle is the shortest time-out of a connection that edgeHub does not
	// refuse.
	leastIdle = 5 * time.Second
	// muxSessions is the most sessions on a connection: one for each identity,
	// of which servers take 1,000, and one for tokens.
	muxSessions = 4096
	// muxLinks is the most links: an identity has six at most.
	muxLinks = 6*muxSessions + 2
)

// Mux is an AMQP connection that many identities share. Each has a session of its own
// on it, so that one in trouble leaves the others alone. Servers take about 1,000 on one
// connection, and answer fault.MaxCbsTokens to more.
type Mux struct {
	cfg    Config
	conn   *amqp.Conn
	tokens tokens

	mu      sync.Mutex
	clients map[*Client]struct{}
	closed  bool
}

// DialAMQP makes a connection without any identity. Of cfg it takes what concerns the
// connection: Protocol (AMQPWS, or else AMQP), Host, Gateway, Address, Certificates,
// RootCAs, Roots, Plain, KeepAlive, ConnectTimeout and Log.
func DialAMQP(ctx context.Context, cfg Config) (*Mux, error) {
	if !cfg.Protocol.isAMQP() {
		cfg.Protocol = AMQP
	}
	cfg = cfg.withDefaults()
	if err := cfg.checkServer(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	nc, err := cfg.connect(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel = context.WithTimeout(ctx, cfg.ConnectTimeout)
	defer cancel()
	return openMux(ctx, cfg, nc)
}

func openMux(ctx context.Context, cfg Config, nc net.Conn) (*Mux, error) {
	m := &Mux{cfg: cfg, clients: make(map[*Client]struct{})}
	m.tokens.m = m
	conn, err := amqp.Connect(ctx, nc, amqp.Config{
		ContainerID:    rand.Text(),
		Hostname:       cfg.gateway(),
		MaxMessageSize: maxPacket,
		MaxSessions:    muxSessions,
		MaxLinks:       muxLinks,
		MaxUnsettled:   maxWindow,
		IdleTimeout:    max(cfg.KeepAlive*3/4, leastIdle), // it is enforced at twice that
		Heartbeat:      cfg.KeepAlive / 2,
		CloseTimeout:   closeGrace,
	})
	if err != nil {
		if e, ok := errors.AsType[*amqp.Error](err); ok {
			return nil, faultOf(e)
		}
		return nil, unreachable{fmt.Errorf("%s: %w", cfg.gateway(), err)}
	}
	m.conn = conn
	return m, nil
}

// Dial adds an identity to the connection and returns when the server has accepted it.
// cfg says who: ID, Credentials (unless the connection's certificates are theirs),
// TokenLife, ModelID, ProductInfo, Window, WindowBytes and Log; the rest is that of the
// connection. Close of the Client leaves the connection alone.
func (m *Mux) Dial(ctx context.Context, cfg Config) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return m.dial(ctx, cfg, false)
}

// dialAlone gives an identity a connection of its own.
func dialAlone(ctx context.Context, cfg Config) (*Client, error) {
	m, err := DialAMQP(ctx, cfg)
	if err != nil {
		return nil, err
	}
	c, err := m.dial(ctx, cfg, true)
	if err != nil {
		m.Close()
		return nil, err
	}
	return c, nil
}

func (m *Mux) dial(ctx context.Context, cfg Config, alone bool) (*Client, error) {
	on := &m.cfg
	cfg.Protocol, cfg.Host, cfg.Gateway, cfg.Address = on.Protocol, on.Host, on.Gateway, on.Address
	cfg.Certificates, cfg.Plain, cfg.KeepAlive = on.Certificates, on.Plain, on.KeepAlive
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	c := newClient(cfg)
	a := &amqpConn{c: c, mux: m, alone: alone, gone: make(chan struct{})}
	a.out.init(a)
	c.via = a
	if err := a.open(ctx); err != nil {
		c.cancel()
		return nil, fmt.Errorf("connect %s: %w", cfg.ID, err)
	}
	if !m.add(c) {
		c.Close()
		return nil, fmt.Errorf("connect %s: %w", cfg.ID, ErrClosed)
	}
	return c, nil
}

// add counts a client in, for Close to wait for; false when Close was called. One that
// has ended meanwhile will not take itself out any more.
func (m *Mux) add(c *Client) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed && c.Err() == nil {
		m.clients[c] = struct{}{}
	}
	return !m.closed
}

// Len is the number of identities on the connection.
func (m *Mux) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.clients)
}

func (m *Mux) remove(c *Client) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.clients, c)
}

func (m *Mux) over() bool {
	select {
	case <-m.conn.Done():
		return true
	default:
		return false
	}
}

// Done is closed when the connection is over, and with it all Clients on it.
func (m *Mux) Done() <-chan struct{} { return m.conn.Done() }

// Err is why the connection is over, nil while it lives: ErrClosed, a fault, or the
// error of the network.
func (m *Mux) Err() error {
	if !m.over() {
		return nil
	}
	return m.because(m.conn.Err())
}

// because is ErrClosed when we closed the connection, or what err means for it.
func (m *Mux) because(err error) error {
	m.mu.Lock()
	closed := m.closed
	m.mu.Unlock()
	if closed {
		return ErrClosed
	}
	return m.reason(err)
}

// Close ends all Clients on the connection, and then it. It must not be called from a
// handler or a done function.
func (m *Mux) Close() error {
	m.mu.Lock()
	m.closed = true
	clients := slices.Collect(maps.Keys(m.clients))
	m.mu.Unlock()
	for _, c := range clients {
		c.end(ErrClosed)
	}
	m.conn.Close(nil)
	<-m.conn.Done()
	for _, c := range clients {
		c.joined.Wait()
	}
	return nil
}

// reason says what the end of a link, a session or the connection means.
func (m *Mux) reason(err error) error {
	if e, ok := errors.AsType[*amqp.Error](err); ok {
		return endingOf(e)
	}
	for _, end := range []error{amqp.ErrDetached, amqp.ErrEnded, amqp.ErrClosed, io.EOF, io.ErrUnexpectedEOF} {
		if err == nil || errors.Is(err, end) {
			return fault.Wrap(err, fault.ConnectionClosed, "%s closed the connection", m.cfg.gateway())
		}
	}
	return fmt.Errorf("connection to %s: %w", m.cfg.gateway(), err)
}
