package amqp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// maxTag is the longest delivery-tag (2.8.7).
const maxTag = 32

// SenderEvents is the owner of a Sender. Its methods must not block.
type SenderEvents interface {
	// Ready says that Send may succeed: the peer has given credit, or what made
	// Send return ErrNotReady has passed. It may come without need, and, other
	// than the rest, from another goroutine than the connection's reader.
	Ready(s *Sender)
	// Disposed tells the outcome of a delivery. It may come before Send returns.
	Disposed(s *Sender, d Disposition)
	// Detached is called once, last, whoever detached: when the link is over for
	// both sides. Deliveries without an outcome were told as Lost before.
	Detached(s *Sender, reason error)
}

// Disposition is what the peer made of a delivery.
type Disposition struct {
	ID    uint32 // what Send returned
	Ref   any    // what was given to Send
	State State
	// Settled says that the delivery is done with. Otherwise the peer waits for
	// Sender.Settle (second mode).
	Settled bool
}

// SenderFuncs are SenderEvents as functions; those that are nil do nothing.
type SenderFuncs struct {
	OnReady    func(s *Sender)
	OnDisposed func(s *Sender, d Disposition)
	OnDetached func(s *Sender, reason error)
}

var _ SenderEvents = SenderFuncs{}

// Ready implements SenderEvents.
func (f SenderFuncs) Ready(s *Sender) {
	if f.OnReady != nil {
		f.OnReady(s)
	}
}

// Disposed implements SenderEvents.
func (f SenderFuncs) Disposed(s *Sender, d Disposition) {
	if f.OnDisposed != nil {
		f.OnDisposed(s, d)
	}
}

// Detached implements SenderEvents.
func (f SenderFuncs) Detached(s *Sender, reason error) {
	if f.OnDetached != nil {
		f.OnDetached(s, reason)
	}
}

// Sender is a link on which this side sends.
type Sender struct {
	link
	events    SenderEvents
	partial   *partial // a delivery half sent
	notify    chan struct{}
	unsettled int
	want      bool // Send said ErrNotReady
	queued    bool // in Session.blocked
	stalled   bool // in Conn.blocked
	drain     bool // the peer wants its credit used up or gone
}

// partial is a delivery of which some frames are yet to be sent.
type partial struct {
	transfer
	rest []byte
}

// Sending is a message to send.
type Sending struct {
	Tag     []byte // at most 32 bytes; a number when nil
	Format  uint32 // message-format
	Payload []byte // an encoded message; copied
	Settled bool   // wants no outcome; only with SendMixed, other modes decide
	Ref     any    // comes back in Disposed
}

// Credit is how many messages the peer would take.
func (s *Sender) Credit() uint32 {
	s.session.conn.mu.Lock()
	defer s.session.conn.mu.Unlock()
	return s.credit
}

// Send sends a message without waiting and gives the id of its delivery. The error is
// ErrNotReady while the peer has given no credit, its window is used up, it is slow
// to read, or too many deliveries are unsettled: Ready tells when to try again. It
// is ErrTooLarge for what the peer would never take, or ErrDetached, ErrEnded or
// ErrClosed.
func (s *Sender) Send(m Sending) (id uint32, err error) {
	c := s.session.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := s.usable(linkAttached); err != nil {
		return 0, err
	}
	if s.maxMessage > 0 && uint64(len(m.Payload)) > s.maxMessage {
		return 0, fmt.Errorf("%w: %d bytes, the most is %d", ErrTooLarge, len(m.Payload), s.maxMessage)
	}
	if len(m.Tag) > maxTag {
		return 0, fmt.Errorf("delivery-tag has %d bytes, the most is %d", len(m.Tag), maxTag)
	}
	settled := s.sndMode == SendSettled || s.sndMode == SendMixed && m.Settled
	if !s.ready(settled) {
		s.want = true
		return 0, ErrNotReady
	}
	sess := s.session
	p := partial{rest: m.Payload}
	p.transfer = transfer{
		handle: s.handle, id: sess.nextDelivery, hasID: true, tag: m.Tag, hasTag: true,
		format: m.Format, settled: settled,
	}
	if m.Tag == nil {
		p.tag = binary.BigEndian.AppendUint32(nil, s.count)
	}
	id = p.id
	sess.nextDelivery++
	s.credit--
	s.count++
	if !settled {
		if sess.unsettled == nil {
			sess.unsettled = map[uint32]sent{}
		}
		sess.unsettled[id] = sent{sender: s, ref: m.Ref}
		s.unsettled++
	}
	if !s.transmit(&p) {
		p.rest = bytes.Clone(p.rest)
		p.tag = nil // went with the first frame
		s.partial = &partial{p.transfer, p.rest}
		s.queue()
	}
	return id, nil
}

// ready says whether a message can be sent, and where it cannot sees that Ready comes.
func (s *Sender) ready(settled bool) bool {
	sess := s.session
	c := sess.conn
	switch {
	case s.partial != nil, s.credit == 0:
		return false
	case sess.outWindow == 0:
		s.queue()
		return false
	case c.buffered() > c.cfg.MaxBuffered:
		s.stall()
		return false
	}
	return settled || s.unsettled < c.cfg.MaxUnsettled
}

// queue puts the sender into line for its session's window.
func (s *Sender) queue() {
	if !s.queued {
		s.queued = true
		s.session.blocked = append(s.session.blocked, s)
	}
}

// stall has Ready called when output has been written.
func (s *Sender) stall() {
	if !s.stalled {
		s.stalled = true
		s.session.conn.blocked = append(s.session.conn.blocked, s)
	}
}

// transmit sends frames of p while the session's window lasts, and says whether that
// was all. The first frame is always allowed by ready.
func (s *Sender) transmit(p *partial) (done bool) {
	sess := s.session
	c := sess.conn
	for sess.outWindow > 0 {
		room := c.frameSize - headerSize - 56 - len(p.tag) // the performative has less than 56 bytes without its tag
		part := p.rest[:min(room, len(p.rest))]
		p.rest = p.rest[len(part):]
		p.more = len(p.rest) > 0
		e, at := c.frame(frameAMQP, sess.channel)
		p.encode(e)
		e.b = append(e.b, part...)
		c.send(at) // nothing in it can fail
		sess.nextOutgoing++
		sess.outWindow--
		p.hasID, p.hasTag = false, false
		if !p.more {
			return true
		}
	}
	return false
}

// SendMessage encodes m and sends it as o says, whose Payload is ignored.
func (s *Sender) SendMessage(m *Message, o Sending) (id uint32, err error) {
	scratch := writeBuffers.Get().(*[]byte)
	b, err := m.Append((*scratch)[:0])
	if err == nil {
		o.Payload = b
		id, err = s.Send(o)
	}
	if cap(b) <= keepBuffer {
		*scratch = b[:0]
		writeBuffers.Put(scratch)
	}
	return id, err
}

// Wait blocks until Send may succeed. The errors are those of Send and of ctx. It must
// not be called from events.
func (s *Sender) Wait(ctx context.Context) error {
	c := s.session.conn
	for {
		c.mu.Lock()
		err := s.usable(linkAttached)
		if err != nil || s.ready(s.sndMode == SendSettled) {
			c.mu.Unlock()
			return err
		}
		s.want = true
		if s.notify == nil {
			s.notify = make(chan struct{})
		}
		notify := s.notify
		c.mu.Unlock()
		select {
		case <-notify:
		case <-c.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// SendWait is Send that waits until the link is ready.
func (s *Sender) SendWait(ctx context.Context, m Sending) (id uint32, err error) {
	for {
		id, err = s.Send(m)
		if !errors.Is(err, ErrNotReady) {
			return id, err
		}
		if err := s.Wait(ctx); err != nil {
			return 0, err
		}
	}
}

// Settle ends a delivery whose outcome was told unsettled, with the state that the
// peer shall take for final. It does nothing for one that is settled.
func (s *Sender) Settle(id uint32, state State) {
	c := s.session.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if d, ok := s.session.unsettled[id]; !ok || d.sender != s || s.usable(linkAttached) != nil {
		return
	}
	delete(s.session.unsettled, id)
	s.unsettled--
	if s.want && s.unsettled == c.cfg.MaxUnsettled/2 {
		s.stall() // Ready must not come from within this call
	}
	c.settle(s.session.channel, disposition{role: RoleSender, first: id, last: id, settled: true, state: state})
}

// wakeLocked prepares a call of Ready: it is the part of it that needs the lock.
func (s *Sender) wakeLocked() {
	s.want = false
	s.wakeWaiter()
}

// onLinkFlow takes the credit in p (2.6.7). It says whether Ready is due.
func (s *Sender) onLinkFlow(p *flow) (ready bool) {
	var count uint32 // that of our attach, when the peer has not seen it yet
	if p.hasCount {
		count = p.count
	}
	s.drain = p.drain
	s.credit = 0
	if used := s.count - count; p.hasCredit && used <= math.MaxInt32 && used < p.credit {
		s.credit = p.credit - used
	}
	if s.credit == 0 || s.partial != nil || s.state != linkAttached {
		return false
	}
	s.wakeLocked()
	return true
}

// finishDrain gives back the credit that was not used, and tells the peer.
func (s *Sender) finishDrain() {
	if !s.drain || s.partial != nil || s.state != linkAttached {
		return
	}
	s.drain = false
	s.count += s.credit
	s.credit = 0
	s.session.sendFlow(&s.link, true, false)
}
