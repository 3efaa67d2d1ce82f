package amqp

import (
	"cmp"
	"slices"
)

type linkState uint8

const (
	linkPending   linkState = iota // the peer asked, the Handler has not answered
	linkAsking                     // our attach waits for its answer
	linkAbandoned                  // as linkAsking, but nobody waits any more
	linkRefused                    // the peer's answer refused; its detach will say why
	linkAttached
	linkDetaching // our detach waits for its answer
	linkGone
)

// linkName is what a link is known by within its session: both directions may share
// a name.
type linkName struct {
	name string
	role Role // ours
}

// link is what both ends of links share. It is guarded by Conn.mu.
type link struct {
	session *Session
	snd     *Sender   // the link itself, by role
	rcv     *Receiver // the link itself, by role
	name    string
	handle  uint32 // ours
	remote  uint32 // the peer's
	credit  uint32 // transfers allowed
	count   uint32 // delivery-count
	role    Role   // ours
	state   linkState
	sndMode SenderSettleMode
	rcvMode ReceiverSettleMode
	told    bool // the owner has it, and is to be told when it goes

	maxMessage uint64  // bytes of a message; 0: no limit
	reason     error   // why we detach
	asked      *asking // of links that this side opened
}

// asking is what belongs to a link that this side opened.
type asking struct {
	answered chan struct{} // closed when the peer has accepted or refused
	answer   *attach
}

// Name is the link's name.
func (l *link) Name() string { return l.name }

// Session is what the link belongs to.
func (l *link) Session() *Session { return l.session }

// Answer is what the peer said about a link opened from here: the source and target
// it took, its properties and capabilities. All are nil for others.
func (l *link) Answer() (source *Source, target *Target, properties Map, offered []Symbol) {
	if l.asked == nil || l.asked.answer == nil {
		return nil, nil, nil, nil
	}
	a := l.asked.answer
	return a.source, a.target, a.properties, a.offered
}

// SettleModes are those agreed on.
func (l *link) SettleModes() (SenderSettleMode, ReceiverSettleMode) { return l.sndMode, l.rcvMode }

// Detach closes the link, with err unless nil. Detached is called when the peer has
// answered.
func (l *link) Detach(err *Error) {
	l.session.conn.mu.Lock()
	defer l.session.conn.mu.Unlock()
	l.detach(err)
}

func (l *link) detach(err *Error) {
	s := l.session
	c := s.conn
	if l.state != linkAttached && l.state != linkPending || s.state != sessionMapped || c.closing || c.over {
		return
	}
	l.state = linkDetaching
	if err != nil {
		l.reason = err
	}
	l.sendDetach(true, err)
	if s.byName[linkName{l.name, l.role}] == l {
		delete(s.byName, linkName{l.name, l.role}) // it may come again meanwhile
	}
	l.forgetPartial()
	l.wakeWaiter()
}

func (l *link) sendDetach(closed bool, err *Error) {
	s := l.session
	p := detach{handle: l.handle, closed: closed, err: err}
	e, at := s.conn.frame(frameAMQP, s.channel)
	p.encode(e)
	if s.conn.send(at) != nil {
		p.err = &Error{Condition: err.Condition, Description: err.Description}
		e, at = s.conn.frame(frameAMQP, s.channel)
		p.encode(e)
		s.conn.send(at)
	}
}

// forgetPartial drops a message that is half received or half sent.
func (l *link) forgetPartial() {
	if r := l.rcv; r != nil && r.part != nil {
		l.session.conn.partial -= cap(r.part)
		r.part, r.within = nil, false
	}
	if s := l.snd; s != nil {
		s.partial = nil
	}
}

// wakeWaiter ends a Sender.Wait, which will see the link's state.
func (l *link) wakeWaiter() {
	if s := l.snd; s != nil && s.notify != nil {
		close(s.notify)
		s.notify = nil
	}
}

// drop takes the link out of its session and collects what its owner is to be told.
// The lock is held.
func (l *link) drop(reason error) ended {
	s := l.session
	if l.reason == nil {
		l.reason = reason
	}
	out := ended{link: l, told: l.told, reason: l.reason}
	if l.state == linkGone {
		out.told = false
		return out
	}
	l.state = linkGone
	if s.byHandle[l.remote] == l {
		delete(s.byHandle, l.remote)
	}
	if s.byName[linkName{l.name, l.role}] == l {
		delete(s.byName, linkName{l.name, l.role})
	}
	s.handles.release(l.handle)
	s.conn.links--
	l.forgetPartial()
	l.wakeWaiter()
	if l.snd != nil && l.snd.unsettled > 0 {
		for id, d := range s.unsettled {
			if d.sender == l.snd {
				delete(s.unsettled, id)
				if !d.told {
					out.lost = append(out.lost, lost{id, d.ref})
				}
			}
		}
		l.snd.unsettled = 0
		slices.SortFunc(out.lost, func(a, b lost) int { return cmp.Compare(int32(a.id-b.id), 0) })
	}
	if l.asked != nil {
		select {
		case <-l.asked.answered:
		default:
			close(l.asked.answered)
		}
	}
	return out
}

// detached tells the owner.
func (l *link) detached(reason error) {
	if l.snd != nil {
		l.snd.events.Detached(l.snd, reason)
	} else {
		l.rcv.events.Detached(l.rcv, reason)
	}
}

func (c *Conn) onDetach(channel uint16, p *detach) error {
	c.mu.Lock()
	s, err := c.session(channel)
	if s == nil {
		c.mu.Unlock()
		return err
	}
	l := s.byHandle[p.handle]
	if l == nil {
		s.end(errorf(ErrUnattachedHandle, "handle %d has no link to detach", p.handle))
		c.mu.Unlock()
		return nil
	}
	switch l.state {
	case linkPending: // the Handler's answer will come too late
		l.sendAttach(&attach{})
		l.sendDetach(p.closed, nil)
	case linkAttached, linkRefused:
		l.sendDetach(p.closed, nil)
	}
	var reason error = ErrDetached
	if p.err != nil {
		reason = p.err
	}
	out := l.drop(reason)
	c.mu.Unlock()
	out.tell()
	return nil
}
