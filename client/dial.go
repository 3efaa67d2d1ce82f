package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/percent"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

const (
	apiVersion  = "2021-04-12"
	dialTimeout = 30 * time.Second
	// maxPacket is the largest packet taken from a server: a message with the
	// longest topic.
	maxPacket = message.MaxTelemetry + mqtt.MaxString + 16
)

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
	nc, err := cfg.connect(ctx)
	if err != nil {
		return nil, err
	}
	c := newClient(cfg, nc)
	life, err := c.open(ctx)
	if err != nil {
		c.cancel()
		c.w.Abort()
		nc.Close()
		c.r.Release()
		return nil, err
	}
	c.joined.Go(c.run)
	c.joined.Go(func() {
		var renew <-chan time.Time
		if life > 0 {
			t := time.NewTimer(life)
			defer t.Stop()
			renew = t.C
		}
		c.keep(renew)
	})
	return c, nil
}

func newClient(cfg Config, nc net.Conn) *Client {
	c := &Client{cfg: cfg, id: cfg.ID, nc: nc, r: mqtt.NewReader(nc, maxPacket), w: mqtt.NewWriter(nc, 0), done: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.out.init(c)
	c.in.init()
	return c
}

// connect makes the transport.
func (c *Config) connect(ctx context.Context) (net.Conn, error) {
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
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", c.address())
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", c.gateway(), err)
	}
	if c.Plain {
		return nc, nil
	}
	tc := tls.Client(nc, tlsConfig)
	if err := tc.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, fmt.Errorf("TLS handshake with %s at %s: %w", c.gateway(), c.address(), err)
	}
	return tc, nil
}

// open exchanges CONNECT and CONNACK. life is when to renew the token, zero for never.
func (c *Client) open(ctx context.Context) (life time.Duration, err error) {
	stop := context.AfterFunc(ctx, func() { c.nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	p := mqtt.Connect{
		Version: mqtt.V311, ClientID: c.id.String(), CleanSession: c.cfg.CleanSession,
		KeepAlive: uint16(c.cfg.KeepAlive / time.Second), Username: c.cfg.userName(), HasUsername: true,
	}
	if c.cfg.Credentials != nil {
		token, err := c.cfg.Credentials(ctx, c.cfg.Host+"/"+c.id.Resource(), time.Now().Add(c.cfg.TokenLife))
		if err != nil {
			return 0, fmt.Errorf("make a token for %s: %w", c.id, err)
		}
		p.Password, p.HasPassword = []byte(token), true
		life = c.cfg.TokenLife/20*16 + rand.N(c.cfg.TokenLife/20*3+1) // so that many do not come back in step
	}
	if err := p.Check(); err != nil {
		return 0, fmt.Errorf("connect %s: %w", c.id, err)
	}
	if err := c.w.Append(p.Append); err != nil {
		return 0, c.openError(ctx, err)
	}
	f, err := c.r.Next()
	if err != nil {
		return 0, c.openError(ctx, err)
	}
	var ack mqtt.Connack
	if err := ack.Decode(f); err != nil {
		return 0, c.openError(ctx, err)
	}
	if err := refusal(ack.Code, c); err != nil {
		return 0, err
	}
	if !stop() { // the deadline is spoilt
		return 0, c.openError(ctx, ctx.Err())
	}
	return life, nil
}

func (c *Client) openError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if errors.Is(err, io.EOF) {
		return fault.Wrap(err, fault.ConnectionClosed, "%s closed the connection instead of answering CONNECT", c.cfg.gateway())
	}
	return fmt.Errorf("exchange CONNECT with %s: %w", c.cfg.gateway(), err)
}

// refusal is what a code of CONNACK means (device-protocol 5.4).
func refusal(code mqtt.Code, c *Client) error {
	switch code {
	case mqtt.Accepted:
		return nil
	case mqtt.RefusedVersion:
		return fault.New(fault.InvalidProtocolVersion, "%s does not speak MQTT 3.1.1", c.cfg.gateway())
	case mqtt.RefusedUnavailable:
		return fault.New(fault.Unavailable, "%s cannot serve %s now", c.cfg.gateway(), c.id)
	case mqtt.RefusedClientID, mqtt.RefusedCredentials, mqtt.RefusedNotAuthorized:
		return fault.New(fault.Unauthorized, "%s refuses %s: it is unknown or disabled there, or its key is wrong, or the clocks differ", c.cfg.gateway(), c.id)
	}
	return fault.New(fault.BadGateway, "%s answered CONNECT with the unknown code %d", c.cfg.gateway(), code)
}

// userName is that of CONNECT (device-protocol 5.3).
func (c *Config) userName() string {
	b := append([]byte(nil), c.Host+"/"+c.ID.String()+"/?api-version="+apiVersion+"&DeviceClientType="...)
	b = percent.AppendEscaped(b, c.ProductInfo)
	if c.ModelID != "" {
		b = percent.AppendEscaped(append(b, "&model-id="...), c.ModelID)
	}
	return string(b)
}
