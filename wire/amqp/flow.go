package amqp

import (
	"cmp"
	"math"
	"slices"
)

// sendFlow tells the state of the session, and of l unless nil.
func (s *Session) sendFlow(l *link, drain, echo bool) {
	p := flow{
		nextIncoming: s.nextIncoming, hasNextIncoming: s.state >= sessionMapped,
		incomingWindow: s.inWindow,
		nextOutgoing:   s.nextOutgoing,
		outgoingWindow: math.MaxInt32,
		echo:           echo,
	}
	if l != nil {
		p.handle, p.hasHandle = l.handle, true
		p.count, p.hasCount = l.count, true
		p.credit, p.hasCredit = l.credit, true
		p.drain = drain
	}
	e, at := s.conn.frame(frameAMQP, s.channel)
	p.encode(e)
	s.conn.send(at) // nothing in it can fail
}

func (c *Conn) onFlow(channel uint16, p *flow) error {
	c.mu.Lock()
	s, err := c.session(channel)
	if s == nil {
		c.mu.Unlock()
		return err
	}
	next := uint32(0) // what we began with, when the peer has not seen it yet
	if p.hasNextIncoming {
		next = p.nextIncoming
	}
	s.outWindow = 0
	if under := s.nextOutgoing - next; under <= math.MaxInt32 && under < p.incomingWindow {
		s.outWindow = p.incomingWindow - under
	}
	ready := s.resume()
	var drained *Receiver
	var draining *Sender
	var l *link
	if p.hasHandle {
		if l = s.byHandle[p.handle]; l == nil {
			s.end(errorf(ErrUnattachedHandle, "handle %d has no link to flow", p.handle))
			c.mu.Unlock()
			return nil
		}
		if l.snd != nil {
			if l.snd.onLinkFlow(p) && !slices.Contains(ready, l.snd) {
				ready = append(ready, l.snd)
			}
			if p.drain {
				draining = l.snd
			}
		} else if l.rcv.onLinkFlow(p) {
			drained = l.rcv
		}
		if l.state != linkAttached {
			l = nil
		}
	}
	c.mu.Unlock()
	for _, snd := range ready {
		snd.events.Ready(snd)
	}
	if drained != nil {
		if d, ok := drained.events.(DrainEvents); ok {
			d.Drained(drained)
		}
	}
	if draining == nil && !p.echo {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.state != sessionMapped || c.closing {
		return nil
	}
	if draining != nil {
		draining.finishDrain()
	}
	if p.echo && (l == nil || l.state == linkAttached) {
		s.sendFlow(l, l != nil && l.rcv != nil && l.rcv.draining, false)
	}
	return nil
}

// resume sends on what waited for the session's window, oldest first, and gives the
// senders that are ready now.
func (s *Session) resume() (ready []*Sender) {
	for len(s.blocked) > 0 && s.outWindow > 0 {
		snd := s.blocked[0]
		s.blocked = s.blocked[1:]
		snd.queued = false
		if snd.state != linkAttached {
			continue
		}
		if snd.partial != nil {
			if !snd.transmit(snd.partial) {
				snd.queued = true
				s.blocked = append([]*Sender{snd}, s.blocked...)
				return ready
			}
			snd.partial = nil
			snd.finishDrain()
		}
		if snd.want && snd.credit > 0 {
			snd.wakeLocked()
			ready = append(ready, snd)
		}
	}
	if len(s.blocked) == 0 {
		s.blocked = nil
	}
	return ready
}

// outputDrained calls the senders that waited for the peer to read. The lock is held,
// and let go for the calls.
func (c *Conn) outputDrained() {
	if len(c.blocked) == 0 || c.buffered() > c.cfg.MaxBuffered/2 {
		return
	}
	waiting := c.blocked
	c.blocked = nil
	ready := waiting[:0]
	for _, s := range waiting {
		s.stalled = false
		if s.want && s.usable(linkAttached) == nil && s.credit > 0 {
			s.wakeLocked()
			ready = append(ready, s)
		}
	}
	c.mu.Unlock()
	for _, s := range ready {
		s.events.Ready(s)
	}
	c.mu.Lock()
}

func (c *Conn) onDisposition(channel uint16, p *disposition) error {
	c.mu.Lock()
	s, err := c.session(channel)
	if s == nil {
		c.mu.Unlock()
		return err
	}
	if p.role == RoleSender || !p.settled && (p.state.Outcome == NoOutcome || p.state.Outcome > Lost) {
		// A sender's settling ends what we have forgotten already; a state that is
		// not final decides nothing.
		c.mu.Unlock()
		return nil
	}
	var few [16]disposed
	all := few[:0]
	if n := p.last - p.first; uint64(n) < uint64(len(s.unsettled)) {
		for id := p.first; ; id++ {
			all = s.dispose(id, p, all)
			if id == p.last {
				break
			}
		}
	} else if n <= math.MaxInt32 {
		var ids []uint32
		for id := range s.unsettled {
			if id-p.first <= n {
				ids = append(ids, id)
			}
		}
		slices.SortFunc(ids, func(a, b uint32) int { return cmp.Compare(a-p.first, b-p.first) })
		for _, id := range ids {
			all = s.dispose(id, p, all)
		}
	}
	c.mu.Unlock()
	state := p.state
	if state.Outcome > Lost {
		state = State{}
	}
	for i := range all {
		d := &all[i]
		if d.new {
			d.sender.events.Disposed(d.sender, Disposition{ID: d.id, Ref: d.ref, State: state, Settled: p.settled})
		}
		if d.ready {
			d.sender.events.Ready(d.sender)
		}
	}
	return nil
}

// disposed is one delivery that a disposition speaks of.
type disposed struct {
	sent
	id    uint32
	new   bool // its outcome was not told before
	ready bool // the sender can send again
}

func (s *Session) dispose(id uint32, p *disposition, all []disposed) []disposed {
	d, ok := s.unsettled[id]
	if !ok {
		return all
	}
	out := disposed{sent: d, id: id, new: !d.told}
	if p.settled {
		delete(s.unsettled, id)
		snd := d.sender
		snd.unsettled--
		if snd.want && snd.credit > 0 && snd.partial == nil && snd.unsettled == s.conn.cfg.MaxUnsettled/2 {
			snd.wakeLocked()
			out.ready = true
		}
	} else {
		d.told = true
		s.unsettled[id] = d
	}
	if !out.new && !out.ready {
		return all
	}
	return append(all, out)
}
