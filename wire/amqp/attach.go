package amqp

import (
	"context"
	"crypto/rand"
	"fmt"
)

// newLink makes a link of the session and counts it.
func (s *Session) newLink(name string, role Role) *link {
	var l *link
	if role == RoleReceiver {
		r := &Receiver{}
		l, r.link.rcv = &r.link, r
	} else {
		snd := &Sender{}
		l, snd.link.snd = &snd.link, snd
	}
	l.session, l.name, l.role = s, name, role
	l.handle = s.handles.take()
	s.conn.links++
	s.byName[linkName{name, role}] = l
	return l
}

func (l *link) sendAttach(a *attach) error {
	a.name, a.handle, a.role = l.name, l.handle, l.role
	a.sndMode, a.rcvMode = l.sndMode, l.rcvMode
	e, at := l.session.conn.frame(frameAMQP, l.session.channel)
	a.encode(e)
	return l.session.conn.send(at)
}

func (c *Conn) onAttach(channel uint16, p *attach) error {
	c.mu.Lock()
	in, err := c.attached(channel, p)
	c.mu.Unlock()
	if in != nil {
		c.cfg.Handler.Attach(in)
	}
	return err
}

// attached works an attach through and gives the question for the Handler, if there
// is one.
func (c *Conn) attached(channel uint16, p *attach) (*Incoming, error) {
	s, err := c.session(channel)
	if s == nil {
		return nil, err
	}
	if s.byHandle[p.handle] != nil {
		s.end(errorf(ErrHandleInUse, "handle %d has a link", p.handle))
		return nil, nil
	}
	if uint64(p.handle) >= uint64(c.cfg.MaxLinks) {
		return nil, errorf(ErrFraming, "handle %d is above handle-max", p.handle)
	}
	role := !p.role
	if l := s.byName[linkName{p.name, role}]; l != nil {
		if l.state == linkAsking || l.state == linkAbandoned {
			l.takeAnswer(p)
			return nil, nil
		}
		stolen := errorf(ErrStolen, "link %q was attached again", p.name)
		if l.state == linkPending {
			l.refuse(stolen)
		} else {
			l.detach(stolen)
		}
	}
	// Those refused count until the peer has answered the detach; one that never
	// does ends up here.
	if c.links >= 2*c.cfg.MaxLinks {
		return nil, errorf(ErrResourceLimit, "%d links are waiting for detach", c.links)
	}
	full := c.links >= c.cfg.MaxLinks
	l := s.newLink(p.name, role)
	l.remote = p.handle
	l.sndMode, l.rcvMode = p.sndMode, p.rcvMode
	s.byHandle[p.handle] = l
	if role == RoleSender {
		l.maxMessage = p.maxMessageSize
	} else {
		l.count = p.initialCount
	}
	switch {
	case full:
		l.refuse(errorf(ErrResourceLimit, "the connection has %d links already", c.cfg.MaxLinks))
		return nil, nil
	case p.target != nil && p.target.coordinator:
		l.refuse(errorf(ErrNotImplemented, "there are no transactions here"))
		return nil, nil
	}
	return &Incoming{
		link:                l,
		Name:                p.name,
		Role:                role,
		Source:              p.source,
		Target:              p.target,
		SenderSettleMode:    p.sndMode,
		ReceiverSettleMode:  p.rcvMode,
		MaxMessageSize:      p.maxMessageSize,
		OfferedCapabilities: p.offered,
		DesiredCapabilities: p.desired,
		Properties:          p.properties,
	}, nil
}

// refuse answers an attach as the standard has it: attach without a terminus, then
// detach with the reason.
func (l *link) refuse(err *Error) {
	l.sendAttach(&attach{})
	l.detach(err)
}

// Incoming is a link that the peer asks for. What came in its attach is kept as it
// was, to be echoed.
type Incoming struct {
	Name                string
	Role                Role // this side's: with RoleReceiver, the peer wants to send
	Source              *Source
	Target              *Target
	SenderSettleMode    SenderSettleMode
	ReceiverSettleMode  ReceiverSettleMode
	MaxMessageSize      uint64
	OfferedCapabilities []Symbol
	DesiredCapabilities []Symbol
	Properties          Map

	link *link
}

// Session is where the link would be.
func (in *Incoming) Session() *Session { return in.link.session }

// Conn is where the link would be.
func (in *Incoming) Conn() *Conn { return in.link.session.conn }

// Accepting is how a peer's link is accepted. The zero value echoes what was asked.
type Accepting struct {
	Source              *Source // nil: the peer's
	Target              *Target // nil: the peer's
	Properties          Map
	OfferedCapabilities []Symbol
}

// Refuse answers no. It does nothing once the link was answered or is gone.
func (in *Incoming) Refuse(err *Error) {
	c := in.Conn()
	c.mu.Lock()
	defer c.mu.Unlock()
	if in.link.usable(linkPending) == nil {
		in.link.refuse(err)
	}
}

// Sender answers yes to a peer that wants to receive. The peer may have given credit
// already: call Send without waiting for Ready. The error is ErrDetached, ErrEnded
// or ErrClosed when the peer is no longer interested, and else about a.
func (in *Incoming) Sender(a Accepting, events SenderEvents) (*Sender, error) {
	c := in.Conn()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := in.link.snd
	if s == nil {
		return nil, fmt.Errorf("accept link %q: the peer wants to send, not to receive", in.Name)
	}
	s.events = events
	if err := in.accept(a, 0); err != nil {
		return nil, err
	}
	s.finishDrain()
	return s, nil
}

// Receiver answers yes to a peer that wants to send, and grants credit as o says. The
// errors are those of Sender.
func (in *Incoming) Receiver(a Accepting, o Receiving, events ReceiverEvents) (*Receiver, error) {
	c := in.Conn()
	c.mu.Lock()
	defer c.mu.Unlock()
	r := in.link.rcv
	if r == nil {
		return nil, fmt.Errorf("accept link %q: the peer wants to receive, not to send", in.Name)
	}
	r.events = events
	r.maxMessage = or(o.MaxMessageSize, c.cfg.MaxMessageSize)
	if err := in.accept(a, r.maxMessage); err != nil {
		return nil, err
	}
	r.window = o.Window
	r.topUp()
	return r, nil
}

func (in *Incoming) accept(a Accepting, maxMessage uint64) error {
	l := in.link
	err := l.usable(linkPending)
	if err == nil {
		err = l.sendAttach(&attach{
			source:         or(a.Source, in.Source),
			target:         or(a.Target, in.Target),
			maxMessageSize: maxMessage,
			offered:        a.OfferedCapabilities,
			properties:     a.Properties,
		})
	}
	if err != nil {
		return fmt.Errorf("accept link %q: %w", in.Name, err)
	}
	l.state, l.told = linkAttached, true
	return nil
}

// usable says why the link cannot be used, nil when it is in the state wanted.
func (l *link) usable(want linkState) error {
	switch {
	case l.session.conn.closing || l.session.conn.over:
		return ErrClosed
	case l.session.state != sessionMapped:
		return ErrEnded
	case l.state != want:
		return ErrDetached
	}
	return nil
}

// Attaching is a link that this side asks for.
type Attaching struct {
	Name                string // a random one when empty
	Source              *Source
	Target              *Target
	SenderSettleMode    SenderSettleMode
	ReceiverSettleMode  ReceiverSettleMode
	OfferedCapabilities []Symbol
	DesiredCapabilities []Symbol
	Properties          Map
}

// Sender attaches a link to send on and waits for the peer's answer, an *Error when
// that refuses. It must not be called from events.
func (s *Session) Sender(ctx context.Context, a Attaching, events SenderEvents) (*Sender, error) {
	l, err := s.ask(ctx, a, RoleSender, func(l *link) { l.snd.events = events })
	if err != nil {
		return nil, err
	}
	return l.snd, nil
}

// Receiver attaches a link to receive on, waits for the peer's answer, and then grants
// credit as o says. It must not be called from events.
func (s *Session) Receiver(ctx context.Context, a Attaching, o Receiving, events ReceiverEvents) (*Receiver, error) {
	l, err := s.ask(ctx, a, RoleReceiver, func(l *link) {
		l.rcv.events = events
		l.rcv.window = o.Window
		l.maxMessage = or(o.MaxMessageSize, s.conn.cfg.MaxMessageSize)
	})
	if err != nil {
		return nil, err
	}
	return l.rcv, nil
}

func (s *Session) ask(ctx context.Context, a Attaching, role Role, prepare func(*link)) (*link, error) {
	if a.Name == "" {
		a.Name = rand.Text()
	}
	l, err := s.sendAsk(a, role, prepare)
	if err != nil {
		return nil, fmt.Errorf("attach link %q: %w", a.Name, err)
	}
	c := s.conn
	select {
	case <-l.asked.answered:
	case <-ctx.Done():
		c.mu.Lock()
		if l.state == linkAsking {
			l.state = linkAbandoned
		} else {
			l.detach(nil)
		}
		l.told = false
		c.mu.Unlock()
		return nil, fmt.Errorf("attach link %q: %w", a.Name, context.Cause(ctx))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !l.told {
		return nil, fmt.Errorf("attach link %q: %w", a.Name, l.reason)
	}
	return l, nil
}

func (s *Session) sendAsk(a Attaching, role Role, prepare func(*link)) (*link, error) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closing || c.over:
		return nil, ErrClosed
	case s.state != sessionMapped:
		return nil, ErrEnded
	case s.byName[linkName{a.Name, role}] != nil:
		return nil, errorf(ErrStolen, "there is a link of that name")
	case c.links >= c.cfg.MaxLinks:
		return nil, errorf(ErrResourceLimit, "there are %d links", c.links)
	}
	l := s.newLink(a.Name, role)
	l.sndMode, l.rcvMode = a.SenderSettleMode, a.ReceiverSettleMode
	l.state = linkAsking
	l.asked = &asking{answered: make(chan struct{})}
	prepare(l)
	err := error(nil)
	if l.handle > s.handleMax {
		err = errorf(ErrResourceLimit, "the peer takes no more than %d links", s.handleMax+1)
	} else {
		err = l.sendAttach(&attach{
			source:         or(a.Source, &Source{}),
			target:         or(a.Target, &Target{}),
			maxMessageSize: l.maxMessage,
			offered:        a.OfferedCapabilities,
			desired:        a.DesiredCapabilities,
			properties:     a.Properties,
		})
	}
	if err != nil {
		l.drop(err)
		return nil, err
	}
	return l, nil
}

// takeAnswer takes the peer's answer to our attach.
func (l *link) takeAnswer(p *attach) {
	s := l.session
	l.remote = p.handle
	s.byHandle[p.handle] = l
	l.sndMode, l.rcvMode = p.sndMode, p.rcvMode
	refused := l.role == RoleSender && p.target == nil || l.role == RoleReceiver && p.source == nil
	switch {
	case refused:
		l.state = linkRefused
		return
	case l.state == linkAbandoned:
		l.state = linkAttached
		l.detach(nil)
		return
	}
	l.state, l.told = linkAttached, true
	l.asked.answer = p
	if l.role == RoleSender {
		l.maxMessage = p.maxMessageSize
	} else {
		l.count = p.initialCount
		l.rcv.topUp()
	}
	close(l.asked.answered)
}
