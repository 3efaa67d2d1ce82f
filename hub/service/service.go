// Package service is what services reach over AMQP on the hub: it sends messages to
// devices, hands out feedback, and serves the event stream as Event Hubs does, with
// the redirect that leads there (service-protocol 8 to 10).
package service

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/auth"
	"github.com/selvedge-io/selvedge/head/amqphead"
	"github.com/selvedge-io/selvedge/hub/events"
	"github.com/selvedge-io/selvedge/hub/inbox"
	"github.com/selvedge-io/selvedge/hub/registry"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// Registry knows the devices that there are.
type Registry interface {
	Get(ctx context.Context, id ident.ID) (registry.Identity, error)
}

// Inbox keeps what is sent to devices and how it ended; *inbox.Inbox is one.
type Inbox interface {
	Send(ctx context.Context, to ident.ID, m *message.Message) error
	Feedback(ctx context.Context, after int64, most int) ([]inbox.Feedback, error)
	DropFeedback(ctx context.Context, ids ...int64) error
}

// Config is what a Service works with. All but Log and Lock is required.
type Config struct {
	Registry Registry
	Inbox    Inbox
	Events   *events.Stream

	// Hosts are the host names of the hub, its own first.
	Hosts []string
	// Entity is the path of the event stream in Event Hubs' connection strings.
	Entity string

	// Lock is how long a receiver may keep feedback without settling it before
	// another gets it. Zero means a minute, as with the Hub.
	Lock time.Duration
	Log  *slog.Logger // nil is silence
}

// Service serves the links of services. Run must run meanwhile.
type Service struct {
	cfg      Config
	log      *slog.Logger
	owners   owners
	office   office
	feedback *desk
	backlog  backlog
}

var _ amqphead.Links = (*Service)(nil)

// New makes a Service.
func New(cfg Config) *Service {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Lock == 0 {
		cfg.Lock = time.Minute
	}
	name, _, _ := strings.Cut(cfg.Hosts[0], ".")
	return &Service{cfg: cfg, log: cfg.Log, feedback: newDesk(cfg.Inbox, name, cfg.Lock, cfg.Log)}
}

// Run hands out feedback until ctx ends.
func (s *Service) Run(ctx context.Context) error { return s.feedback.run(ctx) }

// Attach implements amqphead.Links.
func (s *Service) Attach(c *amqphead.Conn, address string, in *amqp.Incoming) bool {
	return s.attach(c, address, in)
}

// peer is the connection that a link is on; *amqphead.Conn is one, and says what the
// methods do.
type peer interface {
	Go(f func(ctx context.Context))
	Remote() string
	Service(ctx context.Context, resource string, need amqphead.Right) (policy string, expires time.Time, err error)
	Watch(resource string, need amqphead.Right, expires time.Time, over func(err error)) (stop func())
}

func (s *Service) attach(c peer, address string, in *amqp.Incoming) bool {
	p := s.place(address)
	serve := s.serving(p.kind, in.Role)
	switch {
	case p.kind == nowhere:
		return false
	case serve == nil:
		in.Refuse(&amqp.Error{Condition: amqp.ErrNotAllowed, Description: "nothing can be sent to or received from " + address})
		return true
	}
	c.Go(func(ctx context.Context) {
		a := &attaching{Incoming: in, peer: c, place: p}
		if err := a.judge(ctx); err != nil {
			in.Refuse(amqphead.ErrorOf(err))
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		a.gone = cancel
		serve(ctx, a)
	})
	return true
}

// serving is what serves a kind of link; nil when there is none that way round. It
// answers the attach and may go on until ctx ends, which it does with the link.
func (s *Service) serving(k kind, role amqp.Role) func(ctx context.Context, a *attaching) {
	switch k {
	case redirected:
		return s.redirect
	case management:
		if role == amqp.RoleReceiver {
			return s.takeRequests
		}
		return s.giveAnswers
	case toDevices:
		if role == amqp.RoleReceiver {
			return s.takeMessages
		}
	case feedback:
		if role == amqp.RoleSender {
			return s.giveFeedback
		}
	case notifications:
		if role == amqp.RoleSender {
			return s.giveNotifications
		}
	case partition:
		if role == amqp.RoleSender {
			return s.giveEvents
		}
	}
	return nil
}

// attaching is a link that a peer asks for, judged and not yet answered.
type attaching struct {
	*amqp.Incoming
	peer     peer
	place    place
	policy   string    // by which the peer may have it
	resource string    // what it may use
	expires  time.Time // until when, zero for ever
	gone     func()    // to be called when the link is gone or was not made
}

const need = amqphead.Right(auth.ServiceConnect)

// judge says whether the peer may have the link. A token for any of the names that
// the place has will do; the error is about the first.
func (a *attaching) judge(ctx context.Context) error {
	var refusal error
	for _, resource := range a.place.resources {
		policy, expires, err := a.peer.Service(ctx, resource, need)
		if err == nil {
			a.policy, a.resource, a.expires = policy, resource, expires
			return nil
		}
		if refusal == nil {
			refusal = err
		}
	}
	return refusal
}

// link is what is common to both ends of links.
type link interface{ Detach(err *amqp.Error) }

// guard detaches the link when the peer's token has ended; ctx ends with the link.
func (a *attaching) guard(ctx context.Context, l link) {
	stop := a.peer.Watch(a.resource, need, a.expires, func(err error) { l.Detach(amqphead.ErrorOf(err)) })
	context.AfterFunc(ctx, stop)
}

// sender accepts a link on which the hub sends; ok is false when the peer is no
// longer interested. events must end a.gone with the link.
func (a *attaching) sender(ctx context.Context, how amqp.Accepting, events amqp.SenderEvents) (s *amqp.Sender, ok bool) {
	s, err := a.Sender(how, events)
	if err != nil {
		a.gone()
		return nil, false
	}
	a.guard(ctx, s)
	return s, true
}

// receiver is sender for a link on which the hub receives.
func (a *attaching) receiver(ctx context.Context, how amqp.Receiving, events amqp.ReceiverEvents) (r *amqp.Receiver, ok bool) {
	r, err := a.Receiver(amqp.Accepting{}, how, events)
	if err != nil {
		a.gone()
		return nil, false
	}
	a.guard(ctx, r)
	return r, true
}

// turnAway attaches a link on which the hub would send and ends it at once: a redirect
// and the loss of a partition are understood only from links that there have been.
func (a *attaching) turnAway(why *amqp.Error) {
	if why.Condition != amqp.ErrStolen && why.Condition != amqp.ErrLinkRedirect {
		a.refuse(why)
		return
	}
	s, err := a.Sender(amqp.Accepting{}, amqp.SenderFuncs{OnDetached: func(*amqp.Sender, error) { a.gone() }})
	if err != nil {
		a.gone()
		return
	}
	s.Detach(why)
}

// refuse answers no.
func (a *attaching) refuse(err *amqp.Error) {
	a.gone()
	a.Refuse(err)
}
