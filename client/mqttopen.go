package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/percent"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

// startMQTT makes a Client over nc, which it owns from then on.
func startMQTT(ctx context.Context, cfg Config, nc net.Conn) (*Client, error) {
	c := newClient(cfg)
	m := newMQTT(c, nc)
	life, err := m.open(ctx)
	if err != nil {
		c.cancel()
		m.w.Abort()
		nc.Close()
		m.r.Release()
		return nil, err
	}
	c.joined.Go(m.run)
	c.joined.Go(func() {
		var renew <-chan time.Time
		if life > 0 {
			t := time.NewTimer(life)
			defer t.Stop()
			renew = t.C
		}
		m.keep(renew)
	})
	return c, nil
}

// open exchanges CONNECT and CONNACK. life is when to renew the token, zero for never.
func (m *mqttConn) open(ctx context.Context) (life time.Duration, err error) {
	stop := context.AfterFunc(ctx, func() { m.nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	p := mqtt.Connect{
		Version: mqtt.V311, ClientID: m.c.id.String(), CleanSession: m.c.cfg.CleanSession,
		KeepAlive: uint16(m.c.cfg.KeepAlive / time.Second), Username: m.c.cfg.userName(), HasUsername: true,
	}
	if m.c.cfg.Credentials != nil {
		token, err := m.c.cfg.token(ctx)
		if err != nil {
			return 0, err
		}
		p.Password, p.HasPassword = []byte(token), true
		life = m.c.cfg.renewal()
	}
	if err := p.Check(); err != nil {
		return 0, fmt.Errorf("connect %s: %w", m.c.id, err)
	}
	if err := m.w.Append(p.Append); err != nil {
		return 0, m.openError(ctx, err)
	}
	f, err := m.r.Next()
	if err != nil {
		return 0, m.openError(ctx, err)
	}
	var ack mqtt.Connack
	if err := ack.Decode(f); err != nil {
		return 0, m.openError(ctx, err)
	}
	if err := refusal(ack.Code, m.c); err != nil {
		return 0, err
	}
	if !stop() { // the deadline is spoilt
		return 0, m.openError(ctx, ctx.Err())
	}
	return life, nil
}

func (m *mqttConn) openError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if errors.Is(err, io.EOF) {
		return fault.Wrap(err, fault.ConnectionClosed, "%s closed the connection instead of answering CONNECT", m.c.cfg.gateway())
	}
	return fmt.Errorf("exchange CONNECT with %s: %w", m.c.cfg.gateway(), err)
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
