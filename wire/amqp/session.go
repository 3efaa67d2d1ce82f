package amqp

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
)

type sessionState uint8

const (
	sessionAsking sessionState = iota // our begin waits for its answer
	sessionMapped
	sessionEnding // our end waits for its answer
	sessionOver
)

// Session is one session of a connection. All of it is guarded by Conn.mu.
type Session struct {
	conn    *Conn
	channel uint16 // ours
	remote  uint16 // the peer's
	state   sessionState

	nextIncoming uint32 // transfer-id
	inWindow     uint32 // transfers the peer may still send
	nextOutgoing uint32
	outWindow    uint32 // transfers we may still send
	handleMax    uint32 // the peer's
	nextDelivery uint32

	byHandle  map[uint32]*link // by the peer's handle
	byName    map[linkName]*link
	handles   ids
	unsettled map[uint32]sent // by delivery-id
	blocked   []*Sender       // wait for outWindow

	answered chan struct{} // of our begin
	reason   error         // why it is over
}

// sent is a delivery whose outcome is open.
type sent struct {
	sender *Sender
	ref    any
	told   bool // its outcome was told, but the peer has not settled
}

// Conn is the session's connection.
func (s *Session) Conn() *Conn { return s.conn }

func (c *Conn) newSession() *Session {
	s := &Session{
		conn:     c,
		channel:  uint16(c.channels.take()),
		inWindow: c.cfg.Window,
		byHandle: map[uint32]*link{},
		byName:   map[linkName]*link{},
	}
	c.begun[s.channel] = s
	return s
}

func (s *Session) sendBegin() {
	p := begin{
		remote:         s.remote,
		answers:        s.state == sessionMapped,
		nextOutgoing:   s.nextOutgoing,
		incomingWindow: s.inWindow,
		outgoingWindow: math.MaxInt32,
		handleMax:      uint32(s.conn.cfg.MaxLinks - 1),
	}
	e, at := s.conn.frame(frameAMQP, s.channel)
	p.encode(e)
	s.conn.send(at) // nothing in it can fail
}

// Begin starts a session and waits for the peer to do so too. It must not be called
// from events.
func (c *Conn) Begin(ctx context.Context) (*Session, error) {
	c.mu.Lock()
	if c.closing || c.over {
		c.mu.Unlock()
		return nil, fmt.Errorf("begin session: %w", ErrClosed)
	}
	if len(c.begun) > int(min(c.peer.ChannelMax, uint16(c.cfg.MaxSessions-1))) {
		c.mu.Unlock()
		return nil, fmt.Errorf("begin session: %w", errorf(ErrResourceLimit, "there are %d already", len(c.begun)))
	}
	s := c.newSession()
	s.answered = make(chan struct{})
	s.sendBegin()
	c.mu.Unlock()
	select {
	case <-s.answered:
	case <-ctx.Done():
		s.End(nil)
		return nil, fmt.Errorf("begin session: %w", context.Cause(ctx))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.reason != nil {
		return nil, fmt.Errorf("begin session: %w", s.reason)
	}
	return s, nil
}

func (c *Conn) onBegin(channel uint16, p *begin) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil
	}
	if c.sessions[channel] != nil {
		return errorf(ErrIllegalState, "channel %d has a session already", channel)
	}
	var s *Session
	if p.answers {
		s = c.begun[p.remote]
		if s == nil || s.answered == nil || c.sessions[s.remote] == s {
			return errorf(ErrIllegalState, "no begin waits on channel %d", p.remote)
		}
	} else {
		if int(channel) >= c.cfg.MaxSessions || len(c.begun) >= c.cfg.MaxSessions {
			return errorf(ErrFraming, "channel %d is above the most of %d", channel, c.cfg.MaxSessions-1)
		}
		s = c.newSession()
	}
	s.remote = channel
	s.nextIncoming = p.nextOutgoing
	s.outWindow = p.incomingWindow
	s.handleMax = p.handleMax
	c.sessions[channel] = s
	if s.state == sessionEnding {
		return nil // given up meanwhile; its end was sent
	}
	s.state = sessionMapped
	if p.answers {
		close(s.answered)
	} else {
		s.sendBegin()
	}
	return nil
}

// End ends the session, with err unless nil. Its links' events come once the peer has
// answered.
func (s *Session) End(err *Error) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.end(err)
}

func (s *Session) end(err *Error) {
	c := s.conn
	if s.state > sessionMapped || c.closing || c.over {
		return
	}
	s.state = sessionEnding
	if err != nil {
		s.reason = err
	}
	e, at := c.frame(frameAMQP, s.channel)
	e.ending(descEnd, err)
	if c.send(at) != nil {
		e, at = c.frame(frameAMQP, s.channel)
		e.ending(descEnd, &Error{Condition: err.Condition, Description: err.Description})
		c.send(at)
	}
}

func (c *Conn) onEnd(channel uint16, err *Error) error {
	c.mu.Lock()
	s := c.sessions[channel]
	if s == nil || c.closing {
		c.mu.Unlock()
		if s == nil && !c.closing {
			return errorf(ErrNotAllowed, "channel %d has no session to end", channel)
		}
		return nil
	}
	s.end(nil)
	reason := s.reason
	if reason == nil && err != nil {
		reason = err
	}
	if reason == nil {
		reason = ErrEnded
	}
	ended := s.drop(reason)
	delete(c.sessions, channel)
	delete(c.begun, s.channel)
	c.channels.release(uint32(s.channel))
	c.mu.Unlock()
	for i := range ended {
		ended[i].tell()
	}
	return nil
}

// ended is a link that is over, whose owner is to be told.
type ended struct {
	link   *link
	told   bool // the owner has it
	reason error
	lost   []lost
}

type lost struct {
	id  uint32
	ref any
}

func (e *ended) tell() {
	if s := e.link.snd; s != nil {
		for _, d := range e.lost {
			s.events.Disposed(s, Disposition{ID: d.id, Ref: d.ref, State: State{Outcome: Lost}, Settled: true})
		}
	}
	if e.told {
		e.link.detached(e.reason)
	}
}

// drop ends the session and all its links. The lock is held.
func (s *Session) drop(reason error) (all []ended) {
	if s.state == sessionOver {
		return nil
	}
	waiting := s.answered != nil && s.state != sessionMapped
	s.state = sessionOver
	s.reason = reason
	links := make([]*link, 0, len(s.byHandle))
	for _, l := range s.byHandle {
		links = append(links, l)
	}
	for _, l := range s.byName {
		if l.state == linkAsking || l.state == linkAbandoned { // has no handle of the peer's
			links = append(links, l)
		}
	}
	slices.SortFunc(links, func(a, b *link) int { return cmp.Compare(a.handle, b.handle) })
	all = make([]ended, 0, len(links))
	for _, l := range links {
		all = append(all, l.drop(reason))
	}
	s.blocked = nil
	if waiting {
		select {
		case <-s.answered:
		default:
			close(s.answered)
		}
	}
	return all
}
