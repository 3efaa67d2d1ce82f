package client

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"time"

	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/trust/sas"
)

// Credentials makes a shared access signature for resource, as HOST/devices/… stands
// decoded in it, that is good until expiry.
type Credentials func(ctx context.Context, resource string, expiry time.Time) (token string, err error)

// SharedKey signs with a key in memory. policy names the shared access policy the key
// belongs to; it is empty for the key of a device or module.
func SharedKey(key []byte, policy string) Credentials {
	return func(_ context.Context, resource string, expiry time.Time) (string, error) {
		return sas.Sign(resource, key, expiry, policy), nil
	}
}

// Config says who connects where. Host, ID, and Credentials or Certificates are
// required, all else has defaults.
type Config struct {
	Protocol Protocol // MQTT when zero
	Host     string   // name of the hub, as in tokens and user names
	Gateway  string   // name to dial and to verify when it is not Host
	Address  string   // host:port to dial when it is not the Protocol's port of Gateway
	ID       ident.ID // who connects

	Credentials  Credentials       // makes tokens; nil with client certificates
	Certificates []tls.Certificate // client certificates

	// RootCAs are trusted to vouch for the server; nil means those of the system.
	// Roots, when not nil, is asked for them instead each time a connection is made.
	RootCAs *x509.CertPool
	Roots   func(ctx context.Context) (*x509.CertPool, error)
	// Plain leaves TLS out, for tests and benchmarks on one machine.
	Plain bool

	// TokenLife is how long tokens are good, 1 h when zero. After 80 to 95 % of it
	// an MQTT connection ends with ErrRenew, an AMQP connection shows a new one.
	TokenLife time.Duration
	// KeepAlive is the longest silence; 60 s when zero, at least 1 s, and over AMQP,
	// where servers refuse less, 10 s.
	KeepAlive time.Duration
	// CleanSession forgets the subscriptions of earlier connections. Leave it off
	// for devices that receive messages: a hub may drop what waits for a device
	// that is connected without a subscription (device-protocol 5.5.4). AMQP has
	// no sessions of that kind.
	CleanSession bool
	ModelID      string // IoT Plug and Play model, a DTMI
	ProductInfo  string // what the server's log calls this client

	// ConnectTimeout is how long the network may take to make a connection, before
	// anything is said of the identity; 30 s, as for all of Dial, when zero.
	ConnectTimeout time.Duration

	// Window and WindowBytes bound what is published and not acknowledged; 1024
	// messages and 4 MiB when zero.
	Window      int
	WindowBytes int

	Log *slog.Logger // nil for silence
}

func (c Config) withDefaults() Config {
	if c.TokenLife <= 0 {
		c.TokenLife = time.Hour
	}
	if c.KeepAlive <= 0 {
		c.KeepAlive = time.Minute
	}
	c.KeepAlive = min(max(c.KeepAlive, time.Second), 0xffff*time.Second)
	if c.ConnectTimeout <= 0 {
		c.ConnectTimeout = dialTimeout
	}
	if c.Window <= 0 {
		c.Window = 1024
	}
	c.Window = min(c.Window, maxWindow)
	if c.WindowBytes <= 0 {
		c.WindowBytes = 4 << 20
	}
	c.ProductInfo = cmp.Or(c.ProductInfo, "selvedge")
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// check says whether a connection can be tried at all.
func (c *Config) check() error {
	if err := c.checkServer(); err != nil {
		return err
	}
	switch {
	case c.Credentials == nil && len(c.Certificates) == 0 && !c.Plain:
		return errors.New("client: there are neither credentials nor client certificates")
	}
	return c.ID.Check()
}

func (c *Config) checkServer() error {
	switch {
	case c.Host == "":
		return errors.New("client: the host name of the hub is missing")
	case int(c.Protocol) >= len(protocols):
		return fmt.Errorf("client: there is no %s", c.Protocol)
	}
	return nil
}

// token makes a token for who connects.
func (c *Config) token(ctx context.Context) (string, error) {
	token, err := c.Credentials(ctx, c.Host+"/"+c.ID.Resource(), time.Now().Add(c.TokenLife))
	if err != nil {
		return "", fmt.Errorf("make a token for %s: %w", c.ID, err)
	}
	return token, nil
}

// renewal is when a new token is due: 80 to 95 % of its life, so that many do not come
// in step.
func (c *Config) renewal() time.Duration {
	return c.TokenLife/20*16 + rand.N(c.TokenLife/20*3+1)
}

// gateway is the name of the server that is dialled.
func (c *Config) gateway() string { return cmp.Or(c.Gateway, c.Host) }

func (c *Config) address() string {
	return cmp.Or(c.Address, net.JoinHostPort(c.gateway(), protocols[c.Protocol].port))
}
