package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/selvedge-io/selvedge/auth"
	"github.com/selvedge-io/selvedge/edge/agent"
	"github.com/selvedge-io/selvedge/edge/broker"
	"github.com/selvedge-io/selvedge/edge/identity"
	"github.com/selvedge-io/selvedge/edge/runtime/process"
	"github.com/selvedge-io/selvedge/edge/upstream"
	"github.com/selvedge-io/selvedge/edge/workload"
	"github.com/selvedge-io/selvedge/head/amqphead"
	"github.com/selvedge-io/selvedge/head/mqtthead"
	"github.com/selvedge-io/selvedge/head/wshead"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/manifest"
	"github.com/selvedge-io/selvedge/storage/kv"
	"github.com/selvedge-io/selvedge/storage/queue"
	"github.com/selvedge-io/selvedge/trust/cert"
	"github.com/selvedge-io/selvedge/trust/keys"
)

// Names below the data directory.
const (
	queueDir    = "queue"
	storeDir    = "state"
	keysDir     = "keys"
	caDir       = "edge-ca"
	modulesDir  = "modules"
	workloadDir = "workload"
)

// parts are the rooms of the house, made by start in the order in which they stand upon
// each other.
type parts struct {
	cfg     *Config
	log     *slog.Logger
	started time.Time

	keys       *keys.Keys
	store      *kv.Store
	queue      *queue.Queue
	roots      *x509.CertPool // who may vouch for the hub
	bundle     []byte         // PEM, of the configuration; may be empty
	authority  *cert.Authority
	certified  *cert.Server
	identities *identity.Directory
	link       *upstream.Link
	broker     *broker.Broker
	mqtt       *mqtthead.Server
	amqp       *amqphead.Server
	listeners  []listener
	sockets    *workload.Server
	agent      *agent.Agent

	linkSince atomic.Int64 // when the link came up or went down, in Unix nanoseconds
	outages   atomic.Int64
	online    chan struct{} // the link came up
}

// listener is an address where somebody can connect.
type listener struct{ name, addr string }

// start makes everything work. When it fails, l has what is to be undone.
func (p *parts) start(l *layers) error {
	for _, step := range []func(*layers) error{p.open, p.know, p.connect, p.serve, p.run, p.control} {
		if err := step(l); err != nil {
			return err
		}
	}
	return nil
}

func (p *parts) in(name string) string { return filepath.Join(p.cfg.DataDir, name) }

// open opens what is on disk.
func (p *parts) open(l *layers) error {
	if err := os.MkdirAll(p.cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	release, err := lock(p.cfg.DataDir)
	if err != nil {
		return err
	}
	l.onEnd(func() error { release(); return nil })
	if p.keys, err = keys.OpenBeside(p.in(keysDir), p.in(storeDir)); err != nil {
		return err
	}
	if p.store, err = kv.OpenWith(p.in(storeDir), kv.Options{Log: p.log}); err != nil {
		return err
	}
	l.onEnd(p.store.Close)
	p.queue, err = queue.Open(p.in(queueDir), queue.Options{
		MaxBytes: p.cfg.Store.MaxBytes, MaxAge: p.cfg.Store.MaxAge, Policy: p.cfg.Store.Policy, Log: p.log,
	})
	if err != nil {
		return err
	}
	l.onEnd(p.queue.Close)
	return nil
}

// know learns whom to trust and who the modules are.
func (p *parts) know(l *layers) (err error) {
	if p.roots, err = x509.SystemCertPool(); err != nil {
		p.roots = x509.NewCertPool() // some devices have none
	}
	if file := p.cfg.TrustBundle; file != "" {
		if p.bundle, err = os.ReadFile(file); err != nil {
			return fmt.Errorf("trust_bundle_cert: %w", err)
		}
		if !p.roots.AppendCertsFromPEM(p.bundle) {
			return fmt.Errorf("trust_bundle_cert: there is no certificate in PEM form in %s", file)
		}
	}
	if ca := p.cfg.EdgeCA; ca.CertFile != "" {
		p.authority, err = cert.LoadAuthority(ca.CertFile, ca.KeyFile, cert.Options{})
	} else {
		p.authority, err = cert.OpenAuthority(p.in(caDir), cert.Options{Name: "Selvedge edge CA " + p.cfg.Provisioning.Device})
	}
	if err != nil {
		return fmt.Errorf("edge_ca: %w", err)
	}
	hosts := []string{p.cfg.Hostname, "localhost", "127.0.0.1"}
	if p.certified, err = cert.NewServer(cert.ServerConfig{Authority: p.authority, Hosts: hosts, Log: p.log}); err != nil {
		return fmt.Errorf("server certificate: %w", err)
	}
	l.run("server certificate", p.certified.Run)

	who := identity.Config{
		Host: p.cfg.Provisioning.Hub, Address: p.cfg.Upstream.HTTPS,
		Device: p.cfg.Provisioning.Device, Key: p.cfg.Provisioning.Key,
		Roots: p.roots, Store: p.store, Seal: p.keys, Revoked: p.revoked, Gone: p.gone, Log: p.log,
	}
	if who.Certificates, err = p.cfg.Provisioning.certificates(); err != nil {
		return err
	}
	if p.identities, err = identity.New(l.ctx, who); err != nil {
		return err
	}
	l.onEnd(p.identities.Close)
	return nil
}

// certificates are what the device shows to the hub, if that is how it proves itself.
func (p *Provisioning) certificates() ([]tls.Certificate, error) {
	if p.CertFile == "" {
		return nil, nil
	}
	c, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("provisioning.authentication: %w", err)
	}
	return []tls.Certificate{c}, nil
}

// revoked ends the connection of a module that is no longer who it was.
func (p *parts) revoked(of ident.ID) {
	if b := p.broker; b != nil {
		b.Revoke(of)
	}
}

// gone drops what is kept of a module whose identity is no more.
func (p *parts) gone(of ident.ID) {
	if b := p.broker; b != nil {
		if err := b.Forget(context.Background(), of); err != nil {
			p.log.Error("what is kept of a deleted module is not all forgotten", "module", of.Module, "err", err)
		}
	}
}

// connect makes the broker and its link to the hub.
func (p *parts) connect(l *layers) (err error) {
	p.linkSince.Store(p.started.UnixNano())
	p.online = make(chan struct{}, 1)
	up := &uplink{
		hub: p.cfg.Provisioning.Hub, at: p.cfg.Upstream, roots: p.roots, product: "selvedge-edge " + p.cfg.Version,
		credentials: p.identities.Credentials, refresh: p.identities.Refresh, log: p.log,
	}
	up.ctx, up.cancel = context.WithCancel(context.Background())
	l.onEnd(up.close)
	p.link = upstream.New(upstream.Config{Device: p.cfg.Provisioning.Device, Queue: p.queue, Dial: up.dial, Log: p.log})
	p.link.Watch(func(online bool) {
		p.linkSince.Store(time.Now().UnixNano())
		if !online {
			p.outages.Add(1)
			return
		}
		select {
		case p.online <- struct{}{}:
		default:
		}
	})
	p.broker, err = broker.New(broker.Config{
		Device: p.cfg.Provisioning.Device,
		Auth: outsiders{&inquirer{
			Verifier: auth.New(auth.Config{
				Directory: p.identities, Hosts: []string{p.cfg.Provisioning.Hub, p.cfg.Hostname},
			}),
			device: p.cfg.Provisioning.Device, refresh: p.identities.Refresh, log: p.log,
		}},
		Queue: p.queue, Store: p.store, Seal: p.keys, Parent: p.link, Log: p.log,
		Window:  p.cfg.Broker.Window,
		Refresh: p.identities.Refresh,
		Version: p.cfg.Version,
	})
	if err != nil {
		return err
	}
	l.run("broker", p.broker.Run)
	return nil
}

// serve lets modules and devices in.
func (p *parts) serve(l *layers) error {
	b, secure := p.cfg.Broker, p.certified.TLS()
	p.mqtt = mqtthead.New(mqtthead.Config{Backend: p.broker, Log: p.log, MaxConnections: b.MaxConnections})
	p.amqp = amqphead.New(amqphead.Config{Backend: p.broker, Log: p.log, MaxConnections: b.MaxConnections})
	if b.MQTT+b.AMQP+b.PlainMQTT+b.PlainAMQP+b.HTTPS == "" {
		return errors.New("broker: all listeners are off, so no module could connect; set broker.mqtt")
	}
	for _, head := range []struct {
		protocol, name, key, addr string
		plain                     bool
		serve                     func(context.Context, net.Listener) error
	}{
		{"MQTT", "mqtt", "broker.mqtt", b.MQTT, false, p.mqtt.Serve},
		{"AMQP", "amqp", "broker.amqp", b.AMQP, false, p.amqp.Serve},
		{"MQTT", "plain-mqtt", "broker.plain_mqtt", b.PlainMQTT, true, p.mqtt.Serve},
		{"AMQP", "plain-amqp", "broker.plain_amqp", b.PlainAMQP, true, p.amqp.Serve},
	} {
		if head.addr == "" {
			continue
		}
		at, err := p.listen(head.name, head.key, head.addr)
		if err != nil {
			return err
		}
		if head.plain {
			p.log.Warn(head.protocol+" without TLS is on: for measurements only", "address", at.Addr())
		} else {
			at = tls.NewListener(at, secure)
		}
		l.run(head.name+" listener", func(ctx context.Context) error { return head.serve(ctx, at) })
	}
	if b.HTTPS == "" {
		return nil
	}
	at, err := p.listen("https", "broker.https", b.HTTPS)
	if err != nil {
		return err
	}
	heads := map[string]wshead.Server{wshead.MQTT: p.mqtt, wshead.AMQP: p.amqp}
	l.run("HTTPS listener", func(ctx context.Context) error {
		return serveWebSockets(ctx, tls.NewListener(at, secure), heads, p.log)
	})
	return nil
}

// listen opens an address of the configuration and remembers it.
func (p *parts) listen(name, key, addr string) (net.Listener, error) {
	at, err := listen(key, addr)
	if err != nil {
		return nil, err
	}
	p.listeners = append(p.listeners, listener{name, at.Addr().String()})
	return at, nil
}

// run starts the agent, which starts the modules.
func (p *parts) run(l *layers) (err error) {
	p.sockets, err = workload.New(workload.Config{
		Dir: p.in(workloadDir), Hub: p.cfg.Provisioning.Hub, Device: p.cfg.Provisioning.Device,
		Signer: p.identities, Issuer: p.authority, Derive: p.keys.Derive, Log: p.log,
		TrustBundle: func() ([]byte, error) { return slices.Concat(p.authority.RootPEM(), p.bundle), nil },
	})
	if err != nil {
		return err
	}
	l.onEnd(p.sockets.Close)
	drivers := map[string]agent.Driver{}
	driver, err := process.New(process.Config{Dir: p.in(modulesDir), Builtins: p.cfg.Builtins, Log: p.log})
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		p.log.Warn("no modules can run on this system", "err", err)
	case err != nil:
		return err
	default:
		l.onEnd(driver.Close)
		drivers[manifest.Process] = driver
	}
	self := ident.ID{Device: p.cfg.Provisioning.Device, Module: ident.EdgeAgent}
	p.agent = agent.New(agent.Config{
		Twin: agentTwin{p.broker, self}, Drivers: drivers, Identities: p.identities, Sockets: p.sockets,
		Store: p.store, Seal: p.keys, Log: p.log, Env: p.cfg.AgentEnv, Version: p.cfg.Version,
		Host: agent.Host{
			Device: self.Device, Hub: p.cfg.Provisioning.Hub, Gateway: p.cfg.Hostname, Extra: p.environment(),
		},
	})
	at, err := attachAgent(l.ctx, p.broker, self, p.agent)
	if err != nil {
		return fmt.Errorf("attach the agent to the broker: %w", err)
	}
	l.onEnd(func() error { at.Detach(); return nil })
	l.run("agent", p.agent.Run)
	l.run("link", p.resync)
	return nil
}

// environment is what modules are told beside the original's variables: where the
// broker is when its host name or port would not lead there.
func (p *parts) environment() map[string]string {
	told := map[string]string{}
	for _, l := range p.listeners {
		switch l.name {
		case "mqtt", "amqp", "https":
			told["SELVEDGE_GATEWAY_"+strings.ToUpper(l.name)] = near(l.addr)
		}
	}
	return told
}

// resync learns, each time the link comes up, what changed at the hub meanwhile.
func (p *parts) resync(ctx context.Context) error {
	for {
		select {
		case <-p.online:
		case <-ctx.Done():
			return nil
		}
		if err := p.identities.Refresh(ctx, nil); err != nil && ctx.Err() == nil {
			p.log.Warn("identities of modules are not brought up to date", "err", err)
		}
		p.agent.Changed()
	}
}

// control opens the control socket.
func (p *parts) control(l *layers) error {
	at, err := listenControl(p.cfg.DataDir)
	if err != nil {
		return err
	}
	l.onEnd(func() error { return os.Remove(p.in(ControlSocket)) })
	l.run("control socket", func(ctx context.Context) error {
		return serveHTTP(ctx, at, controlHandler(p.agent, p.status, p.log), p.log)
	})
	return nil
}

// operations opens the listener for health and metrics.
func (p *parts) operations(l *layers, ready <-chan struct{}) error {
	at, err := p.listen("ops", "ops", p.cfg.Ops)
	if err != nil {
		return err
	}
	l.run("operations listener", func(ctx context.Context) error {
		return serveHTTP(ctx, at, operations(ready, p.measure), p.log)
	})
	return nil
}
