package node

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/client"
	"github.com/selvedge-io/selvedge/edge/upstream"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
)

const (
	// reachTimeout is how long one protocol may take to connect when there is
	// another to try.
	reachTimeout = 8 * time.Second
	// preferAgain is when what was better, and could not be reached, is tried again.
	preferAgain = 15 * time.Minute
	// sharers is how many identities a connection is given before another is made;
	// hubs take 1,000, and fewer over WebSocket.
	sharers = 900
	// fullFor is how long no more are tried on a connection that the hub finds full:
	// it also counts the tokens of those who have left, until they expire.
	fullFor = 15 * time.Minute
)

// preferred are the protocols to the hub, the best first: AMQP takes all identities on
// one connection, WebSockets pass where only the web is let through.
var preferred = []client.Protocol{client.AMQP, client.MQTT, client.AMQPWS, client.MQTTWS}

// protocols are those to try, in order: the one that was asked for, or all of them.
// Where the hub is said to be at other addresses than its own, others are not tried.
func (u *Upstream) protocols() ([]client.Protocol, error) {
	if u.Protocol != "" {
		p, err := client.ParseProtocol(u.Protocol)
		return []client.Protocol{p}, err
	}
	if *u == (Upstream{}) {
		return preferred, nil
	}
	known := slices.DeleteFunc(slices.Clone(preferred), func(p client.Protocol) bool { return u.address(p) == "" })
	if len(known) == 0 {
		return preferred, nil
	}
	return known, nil
}

// address is where to connect for p; empty is the hub's own.
func (u *Upstream) address(p client.Protocol) string {
	switch p {
	case client.MQTT:
		return u.MQTT
	case client.AMQP:
		return u.AMQP
	default:
		return u.HTTPS
	}
}

// uplink connects identities to the hub, by the first protocol that leads there, and
// stays with it. Over AMQP they share one connection, as far as hubs let them.
type uplink struct {
	hub         string
	at          Upstream
	roots       *x509.CertPool
	product     string
	credentials func(of ident.ID) client.Credentials
	refresh     func(ctx context.Context, ids []string) error
	log         *slog.Logger

	ctx    context.Context // ends when the link is closed
	cancel context.CancelFunc

	mu       sync.Mutex
	worked   client.Protocol // the one that led there last
	since    time.Time       // when it first did; zero for never
	shared   []*shared       // the AMQP connections
	dialling *dialling       // under way
}

// shared is an AMQP connection.
type shared struct {
	*client.Mux
	full time.Time // when the hub found it so; zero for never
}

// dialling is an attempt at the shared connection, for all who wait for it.
type dialling struct {
	by   client.Protocol
	done chan struct{}
	m    *shared
	err  error
}

// dial connects one identity. A refusal may mean that its key was changed at the hub,
// so that is looked up.
func (u *uplink) dial(ctx context.Context, of ident.ID) (upstream.Conn, error) {
	c, err := u.reach(ctx, of)
	if fault.Is(err, fault.Unauthorized) {
		if again := u.refresh(ctx, []string{of.String()}); again != nil {
			return nil, errors.Join(err, again)
		}
		c, err = u.reach(ctx, of)
	}
	if err != nil {
		return nil, err // not a nil *client.Client in an interface
	}
	return c, nil
}

// reach tries the protocols until one leads to the hub, whatever that then says.
func (u *uplink) reach(ctx context.Context, of ident.ID) (*client.Client, error) {
	order, err := u.order()
	if err != nil {
		return nil, err
	}
	var failures []error
	for i, p := range order {
		c, err := u.by(ctx, p, of, i < len(order)-1)
		if !errors.Is(err, client.ErrUnreachable) {
			if err == nil {
				u.reached(p, failures)
			}
			return c, err
		}
		failures = append(failures, fmt.Errorf("by %s: %w", p, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(failures...)
}

// order are the protocols to try now.
func (u *uplink) order() ([]client.Protocol, error) {
	all, err := u.at.protocols()
	if err != nil {
		return nil, fmt.Errorf("upstream.protocol: %w", err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	i := slices.Index(all, u.worked)
	if u.since.IsZero() || i <= 0 || time.Since(u.since) > preferAgain {
		return all, nil
	}
	return append([]client.Protocol{u.worked}, slices.Delete(slices.Clone(all), i, i+1)...), nil
}

// reached remembers that p leads to the hub, where others did not.
func (u *uplink) reached(p client.Protocol, failures []error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.since.IsZero() && u.worked == p && len(failures) == 0 {
		return
	}
	if u.worked != p || u.since.IsZero() {
		args := []any{"hub", u.hub, "protocol", p.String()}
		if len(failures) > 0 {
			args = append(args, "instead", errors.Join(failures...))
		}
		u.log.Info("the hub is reached", args...)
	}
	u.worked, u.since = p, time.Now()
}

// by connects an identity by one protocol. With hurry there is another to try.
func (u *uplink) by(ctx context.Context, p client.Protocol, of ident.ID, hurry bool) (*client.Client, error) {
	cfg := u.config(p)
	cfg.ID, cfg.Credentials = of, u.credentials(of)
	if p == client.MQTT || p == client.MQTTWS {
		if hurry {
			cfg.ConnectTimeout = reachTimeout
		}
		return client.Dial(ctx, cfg)
	}
	for {
		m, err := u.connection(ctx, p, hurry)
		if err != nil {
			return nil, err
		}
		c, err := m.Dial(ctx, cfg)
		if !fault.Is(err, fault.MaxCbsTokens) || !u.isFull(m) {
			return c, err
		}
	}
}

// isFull takes note that the hub wants nobody more on m; false means that nobody is on
// it, so that another would be no better.
func (u *uplink) isFull(m *shared) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	m.full = time.Now()
	return m.Len() > 0
}

func (u *uplink) config(p client.Protocol) client.Config {
	return client.Config{
		Protocol: p, Host: u.hub, Address: u.at.address(p), RootCAs: u.roots,
		CleanSession: true, // the link subscribes to what an identity needs now
		ProductInfo:  u.product, Log: u.log,
	}
}

// connection gives an AMQP connection that has room, and makes one when there is none. Who comes meanwhile waits for the same.
func (u *uplink) connection(ctx context.Context, p client.Protocol, hurry bool) (*shared, error) {
	for {
		d, m := u.joinDial(p, hurry)
		if m != nil {
			return m, nil
		}
		select {
		case <-d.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if d.err == nil || d.by == p {
			return d.m, d.err
		}
	}
}

// joinDial gives the connection, or else the attempt under way, which it begins if need
// be.
func (u *uplink) joinDial(p client.Protocol, hurry bool) (*dialling, *shared) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.shared = slices.DeleteFunc(u.shared, func(m *shared) bool { return m.Err() != nil })
	for _, m := range u.shared {
		if m.Len() < sharers && time.Since(m.full) > fullFor {
			return nil, m
		}
	}
	if u.dialling == nil {
		u.dialling = &dialling{by: p, done: make(chan struct{})}
		go u.connect(u.dialling, hurry)
	}
	return u.dialling, nil
}

// connect makes a shared connection.
func (u *uplink) connect(d *dialling, hurry bool) {
	defer close(d.done)
	cfg := u.config(d.by)
	if hurry {
		cfg.ConnectTimeout = reachTimeout
	}
	m, err := client.DialAMQP(u.ctx, cfg)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.dialling = nil
	if d.err = err; err == nil {
		d.m = &shared{Mux: m}
		u.shared = append(u.shared, d.m)
	}
}

// close ends the shared connections. The link has stopped dialling by then.
func (u *uplink) close() error {
	u.cancel()
	u.mu.Lock()
	d := u.dialling
	u.mu.Unlock()
	if d != nil {
		<-d.done
	}
	u.mu.Lock()
	all := u.shared
	u.mu.Unlock()
	var errs []error
	for _, m := range all {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}
