package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/auth"
	"github.com/selvedge-io/selvedge/head/amqphead"
	"github.com/selvedge-io/selvedge/head/mqtthead"
	"github.com/selvedge-io/selvedge/head/wshead"
	"github.com/selvedge-io/selvedge/hub/api"
	"github.com/selvedge-io/selvedge/hub/events"
	"github.com/selvedge-io/selvedge/hub/inbox"
	"github.com/selvedge-io/selvedge/hub/methods"
	"github.com/selvedge-io/selvedge/hub/registry"
	"github.com/selvedge-io/selvedge/hub/store"
	"github.com/selvedge-io/selvedge/hub/twins"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/trust/cert"
	"github.com/selvedge-io/selvedge/trust/keys"
)

// Server is one hub. It runs once.
type Server struct {
	cfg   Config
	log   *slog.Logger
	ready chan struct{}
	at    Addresses // set before ready is closed
}

// New makes a hub of a checked configuration; Run opens everything.
func New(cfg Config, log *slog.Logger) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("hub configuration: %w", err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, log: log, ready: make(chan struct{})}, nil
}

// Ready is closed when the hub accepts connections.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Addresses are where it listens. They are known once it is ready.
func (s *Server) Addresses() Addresses { return s.at }

// Summary says in a line, once the hub is ready, what it is called and where it
// listens.
func (s *Server) Summary() string {
	text := "as " + strings.Join(s.cfg.Hostnames, ", ")
	for _, l := range []struct{ what, at string }{
		{"MQTT", s.at.MQTT}, {"AMQP", s.at.AMQP}, {"HTTPS", s.at.HTTPS}, {"operations", s.at.Ops},
		{"plain MQTT", s.at.PlainMQTT}, {"plain AMQP", s.at.PlainAMQP},
	} {
		if l.at != "" {
			text += "; " + l.what + " at " + l.at
		}
	}
	return text
}

// RootPEM is the certificate that clients of the hub in a data directory have to
// trust, in PEM.
func RootPEM(data string) ([]byte, error) {
	pem, err := cert.ReadRoot(filepath.Join(data, caName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noHub(data)
	}
	return pem, err
}

// Run opens the hub, serves until ctx ends, and leaves nothing running behind. It
// gives nil when it was told to stop.
func (s *Server) Run(ctx context.Context) (err error) {
	lock, err := lockDir(s.cfg.DataDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	identity, err := s.certificate()
	if err != nil {
		return err
	}
	opening := context.WithoutCancel(ctx) // it is short, and half of it is of no use
	rooms, err := s.open(opening)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rooms.close()) }()
	sockets, err := listen(opening, &s.cfg)
	if err != nil {
		return err
	}
	defer sockets.close()
	for _, l := range []struct{ what, address string }{{"MQTT", s.cfg.PlainMQTT}, {"AMQP", s.cfg.PlainAMQP}} {
		if l.address != "" {
			s.log.Warn("serving "+l.what+" without TLS: credentials and messages can be read on the network", "address", l.address)
		}
	}

	// What the listeners need outlives them; whatever fails ends all.
	below := newGroup(opening)
	serving := newGroup(ctx)
	context.AfterFunc(below.ctx, serving.cancel)
	below.run(identity.Run)
	below.run(rooms.backend.registry.Run)
	o := &ops{b: rooms.backend, db: rooms.db.Read(), started: time.Now()}
	if sockets.ops != nil {
		below.run(func(ctx context.Context) error { return o.serve(ctx, sockets.ops, s.log) })
	}
	s.serve(serving, sockets, rooms, identity.TLS())

	s.at = sockets.addresses()
	o.ready.Store(true)
	close(s.ready)
	s.log.Info("hub ready", "hostnames", s.cfg.Hostnames, "mqtt", s.at.MQTT, "amqp", s.at.AMQP, "https", s.at.HTTPS, "ops", s.at.Ops)

	<-serving.ctx.Done()
	s.log.Info("hub stopping")
	o.ready.Store(false)
	rooms.backend.stop()
	return errors.Join(serving.wait(), below.end())
}

// certificate opens the private authority and gets the server its certificate.
func (s *Server) certificate() (*cert.Server, error) {
	authority, err := cert.OpenAuthority(filepath.Join(s.cfg.DataDir, caName), cert.Options{Name: "Selvedge hub"})
	if err != nil {
		return nil, err
	}
	return cert.NewServer(cert.ServerConfig{Authority: authority, Hosts: s.cfg.Hostnames, Log: s.log})
}

// rooms are the parts of the hub that keep something.
type rooms struct {
	db      *store.DB
	events  *events.Stream
	inbox   *inbox.Inbox
	backend *backend
}

// open opens the rooms, or none.
func (s *Server) open(ctx context.Context) (*rooms, error) {
	r := &rooms{}
	if err := s.fill(ctx, r); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

// fill opens one room after the other.
func (s *Server) fill(ctx context.Context, r *rooms) error {
	if err := checkDatabase(s.cfg.DataDir); err != nil {
		return err
	}
	master, err := keys.OpenBeside(filepath.Join(s.cfg.DataDir, keysName), database(s.cfg.DataDir))
	if err != nil {
		return err
	}
	if r.db, err = store.Open(ctx, store.Config{Path: database(s.cfg.DataDir)}); err != nil {
		return err
	}
	partitions, err := settle(ctx, r.db, &s.cfg)
	if err != nil {
		return err
	}
	if partitions != s.cfg.Partitions {
		s.log.Info("the event stream keeps the partitions it was made with", "partitions", partitions, "configured", s.cfg.Partitions)
	}
	reg, err := registry.New(ctx, registry.Config{DB: r.db, Sealer: master, Log: s.log})
	if err != nil {
		return err
	}
	kept, err := newSessions(ctx, r.db)
	if err != nil {
		return err
	}
	if r.events, err = events.Open(events.Config{Dir: filepath.Join(s.cfg.DataDir, eventsName), Partitions: partitions, Groups: s.cfg.ConsumerGroups,
		MaxAge: s.cfg.Retention, MaxBytes: s.cfg.RetentionBytes, Log: s.log}); err != nil {
		return err
	}
	if r.inbox, err = inbox.Open(ctx, inbox.Config{DB: r.db, Log: s.log}); err != nil {
		return err
	}
	b := &backend{
		sessions: kept, log: s.log, registry: reg, events: r.events, inbox: r.inbox,
		auth:     auth.New(auth.Config{Directory: reg, Hosts: s.cfg.Hostnames}),
		methods:  methods.New(methods.Config{}),
		counters: &counters{},
		attached: map[ident.ID]*attachment{},
	}
	changes := &twinChanges{b: b}
	if s.cfg.TwinEvents {
		changes.hubName, _, _ = strings.Cut(s.cfg.Hostnames[0], ".")
	}
	b.twins = twins.New(twins.Config{DB: r.db, Listener: changes})
	if s.cfg.TestFaults {
		s.log.Warn("obeying the fault injection of test suites: any device can order faults for itself")
		b.faults = newFaults(b.breakOff, s.log)
	}
	reg.OnChange(b.identityChanged)
	r.backend = b
	return nil
}

// close closes what open has opened, in reverse.
func (r *rooms) close() error {
	var errs []error
	if r.backend != nil && r.backend.faults != nil {
		r.backend.faults.stop()
	}
	if r.inbox != nil {
		r.inbox.Close()
	}
	if r.events != nil {
		errs = append(errs, r.events.Close())
	}
	if r.db != nil {
		errs = append(errs, r.db.Close())
	}
	return errors.Join(errs...)
}

// serve starts the protocol heads and the service API.
func (s *Server) serve(g *group, at *listeners, r *rooms, secure *tls.Config) {
	b := r.backend
	mqtt := mqtthead.New(mqtthead.Config{Backend: b, Log: s.log})
	links := s.newService(r)
	g.run(links.Run)
	amqp := amqphead.New(amqphead.Config{Backend: b, Services: services{b.auth}, Links: links, Host: s.cfg.Hostnames[0], Log: s.log})
	for _, l := range []struct {
		at    net.Listener
		plain bool
		head  interface {
			Serve(ctx context.Context, l net.Listener) error
		}
	}{{at.mqtt, false, mqtt}, {at.amqp, false, amqp}, {at.plainMQTT, true, mqtt}, {at.plainAMQP, true, amqp}} {
		if l.at == nil {
			continue
		}
		open := l.at
		if !l.plain {
			open = tls.NewListener(l.at, secure)
		}
		g.run(func(ctx context.Context) error { return l.head.Serve(ctx, open) })
	}
	if at.https != nil {
		web := api.New(api.Config{Auth: b.auth, Registry: b.registry, Twins: b.twins, Methods: b.methods,
			Inbox: b.inbox, Events: stream{b.events}, Log: s.log})
		over := wshead.New(map[string]wshead.Server{wshead.MQTT: mqtt, wshead.AMQP: amqp}, s.log)
		g.run(func(ctx context.Context) error { return serveHTTPS(ctx, at.https, secure, web, over, s.log) })
	}
}

// stream is the event stream as the API wants it.
type stream struct{ *events.Stream }

// Follow implements api.Events.
func (s stream) Follow(ctx context.Context, q api.EventQuery) (iter.Seq2[[]byte, error], error) {
	return s.Stream.Follow(ctx, events.Query(q))
}
