package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

const (
	apiVersion  = "2021-04-12"
	dialTimeout = 30 * time.Second
)

// ErrUnreachable is that no connection could be made in the protocol asked for: nobody
// answers at the address, or something else than the protocol. Another protocol may
// find a way. It is no refusal of an identity, and no doubt about the server's
// certificate.
var ErrUnreachable = errors.New("the server cannot be reached in this protocol")

// unreachable marks err as ErrUnreachable.
type unreachable struct{ error }

func (u unreachable) Unwrap() error      { return u.error }
func (unreachable) Is(target error) bool { return target == ErrUnreachable }

// Dial connects and returns when the server has accepted the identity. A refusal is a
// fault: Unauthorized for bad credentials, Unavailable when the server asks to try
// again later.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if cfg.Protocol.isAMQP() {
		return dialAlone(ctx, cfg)
	}
	nc, err := cfg.connect(ctx)
	if err != nil {
		return nil, err
	}
	return startMQTT(ctx, cfg, nc)
}

// connect makes the transport. What fails because of the network is ErrUnreachable.
func (c *Config) connect(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.ConnectTimeout)
	defer cancel()
	tlsConfig := &tls.Config{
		ServerName: c.gateway(), RootCAs: c.RootCAs, Certificates: c.Certificates, MinVersion: tls.VersionTLS12,
	}
	if c.Roots != nil && !c.Plain {
		roots, err := c.Roots(ctx)
		if err != nil {
			return nil, fmt.Errorf("learn whom to trust: %w", err)
		}
		tlsConfig.RootCAs = roots
	}
	if c.Protocol.isWebSocket() {
		return c.upgrade(ctx, tlsConfig)
	}
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", c.address())
	if err != nil {
		return nil, unreachable{fmt.Errorf("connect to %s: %w", c.gateway(), err)}
	}
	if c.Plain {
		return nc, nil
	}
	tc := tls.Client(nc, tlsConfig)
	if err := tc.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, network(fmt.Errorf("TLS handshake with %s at %s: %w", c.gateway(), c.address(), err))
	}
	return tc, nil
}

// network marks err as unreachable unless it is that the server is not to be trusted.
func network(err error) error {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return err
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return err // the server's doubts about us, in TLS's own words
	}
	return unreachable{err}
}
