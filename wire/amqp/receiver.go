package amqp

import "bytes"

// ReceiverEvents is the owner of a Receiver. Its methods are called by the
// connection's reader and must not block.
type ReceiverEvents interface {
	// Delivered hands a whole message over. Unless it came settled, Settle ends it.
	Delivered(r *Receiver, d Delivery)
	// Detached is called once, last, whoever detached: when the link is over for
	// both sides. Nothing can be settled any more.
	Detached(r *Receiver, reason error)
}

// DrainEvents are ReceiverEvents that also want to know when a drain is over.
type DrainEvents interface {
	ReceiverEvents
	// Drained says that the peer has nothing more to send on the credit given.
	Drained(r *Receiver)
}

// ReceiverFuncs are DrainEvents as functions; those that are nil do nothing, except
// that a delivery is accepted.
type ReceiverFuncs struct {
	OnDelivered func(r *Receiver, d Delivery)
	OnDetached  func(r *Receiver, reason error)
	OnDrained   func(r *Receiver)
}

var _ DrainEvents = ReceiverFuncs{}

// Delivered implements ReceiverEvents.
func (f ReceiverFuncs) Delivered(r *Receiver, d Delivery) {
	switch {
	case f.OnDelivered != nil:
		f.OnDelivered(r, d)
	case !d.Settled:
		r.Settle(d.ID, State{Outcome: Accepted})
	}
}

// Detached implements ReceiverEvents.
func (f ReceiverFuncs) Detached(r *Receiver, reason error) {
	if f.OnDetached != nil {
		f.OnDetached(r, reason)
	}
}

// Drained implements DrainEvents.
func (f ReceiverFuncs) Drained(r *Receiver) {
	if f.OnDrained != nil {
		f.OnDrained(r)
	}
}

// Delivery is a message received.
type Delivery struct {
	ID      uint32
	Tag     []byte // as Payload
	Format  uint32 // message-format
	Settled bool   // the sender wants no outcome
	// Payload is the encoded message. It is valid during the call of Delivered, and
	// with an IdleHandler until that has been called.
	Payload []byte
}

// Receiving is how a Receiver receives.
type Receiving struct {
	// Window is how many messages may be granted or not yet settled at a time;
	// credit is kept topped up to it. With zero, Grant gives credit.
	Window uint32
	// MaxMessageSize in bytes; 0: that of Config.
	MaxMessageSize uint64
}

// Receiver is a link on which this side receives.
type Receiver struct {
	link
	events    ReceiverEvents
	window    uint32
	unsettled uint32
	draining  bool

	within bool // between the first and the last frame of a delivery
	cur    Delivery
	part   []byte // what has come of it; owned
}

// Settle gives the outcome of a delivery that did not come settled; it must be called
// once for each. In second mode the sender settles after it. The error is
// ErrDetached, ErrEnded or ErrClosed, and then the sender will not know.
func (r *Receiver) Settle(id uint32, state State) error {
	return r.SettleRange(id, id, state)
}

// SettleRange is Settle for all deliveries from first to last, which must all be this
// link's.
func (r *Receiver) SettleRange(first, last uint32, state State) error {
	c := r.session.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := r.usable(linkAttached); err != nil {
		return err
	}
	c.settle(r.session.channel, disposition{
		role: RoleReceiver, first: first, last: last, settled: r.rcvMode == ReceiveFirst, state: state,
	})
	r.unsettled -= min(r.unsettled, last-first+1)
	r.topUp()
	return nil
}

// Grant allows the peer n messages more.
func (r *Receiver) Grant(n uint32) error {
	c := r.session.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := r.usable(linkAttached); err != nil {
		return err
	}
	r.credit += min(n, 1<<31-1-min(r.credit, 1<<31-1))
	r.session.sendFlow(&r.link, r.draining, false)
	return nil
}

// Drain asks the peer to use the credit it has at once or give it up. Drained is
// called when it has.
func (r *Receiver) Drain() error {
	c := r.session.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := r.usable(linkAttached); err != nil {
		return err
	}
	r.draining = true
	r.session.sendFlow(&r.link, true, false)
	return nil
}

// topUp grants what the window allows once that is worth a frame.
func (r *Receiver) topUp() {
	held := r.unsettled + r.credit
	if r.draining || held >= r.window {
		return
	}
	if more := r.window - held; r.credit <= more {
		r.credit += more
		r.session.sendFlow(&r.link, false, false)
	}
}

func (c *Conn) onTransfer(channel uint16, p *transfer, payload []byte) error {
	c.mu.Lock()
	r, d, err := c.transferred(channel, p, payload)
	c.mu.Unlock()
	if r != nil {
		r.events.Delivered(r, d)
	}
	return err
}

// transferred works a transfer through and gives the delivery when it is whole.
func (c *Conn) transferred(channel uint16, p *transfer, payload []byte) (*Receiver, Delivery, error) {
	s, err := c.session(channel)
	if s == nil {
		return nil, Delivery{}, err
	}
	if s.inWindow == 0 {
		s.end(errorf(ErrWindowViolation, "a transfer came for which there was no window"))
		return nil, Delivery{}, nil
	}
	s.inWindow--
	s.nextIncoming++
	if s.inWindow <= c.cfg.Window/2 {
		s.inWindow = c.cfg.Window
		s.sendFlow(nil, false, false)
	}
	l := s.byHandle[p.handle]
	if l == nil || l.rcv == nil {
		s.end(errorf(ErrUnattachedHandle, "handle %d has no link to transfer on", p.handle))
		return nil, Delivery{}, nil
	}
	r := l.rcv
	if l.state != linkAttached {
		if l.state == linkPending {
			l.refuse(errorf(ErrTransferLimit, "a transfer came before there was credit"))
		}
		return nil, Delivery{}, nil // what was on its way when we detached
	}
	if why := r.take(p, payload); why != nil {
		l.detach(why)
		return nil, Delivery{}, nil
	}
	if p.more || p.aborted {
		return nil, Delivery{}, nil
	}
	d := r.cur
	d.Payload = payload
	if r.part != nil {
		d.Payload = r.part
		c.partial -= cap(r.part)
		r.part = nil
	}
	r.within, r.cur = false, Delivery{}
	if d.Settled {
		r.topUp()
	} else {
		r.unsettled++
	}
	return r, d, nil
}

// take adds a frame to the delivery that it belongs to.
func (r *Receiver) take(p *transfer, payload []byte) *Error {
	c := r.session.conn
	if !r.within {
		switch {
		case r.credit == 0:
			return errorf(ErrTransferLimit, "a transfer came for which there was no credit")
		case !p.hasID:
			return errorf(ErrInvalidField, "a delivery begins without a delivery-id")
		case len(p.tag) > maxTag:
			return errorf(ErrInvalidField, "a delivery-tag has %d bytes", len(p.tag))
		}
		r.credit--
		r.count++
		r.within = true
		r.cur = Delivery{ID: p.id, Tag: p.tag, Format: p.format}
		if p.more {
			r.cur.Tag = bytes.Clone(p.tag)
		}
	} else if p.hasID && p.id != r.cur.ID {
		return errorf(ErrInvalidField, "delivery %d comes within delivery %d", p.id, r.cur.ID)
	}
	r.cur.Settled = r.cur.Settled || p.settled
	if p.aborted {
		r.forgetPartial()
		r.within, r.cur = false, Delivery{}
		r.topUp()
		return nil
	}
	if size := uint64(len(r.part) + len(payload)); size > r.maxMessage {
		return errorf(ErrMessageSize, "a message has more than %d bytes", r.maxMessage)
	}
	if p.more || r.part != nil {
		before := cap(r.part)
		if need := len(r.part) + len(payload); c.partial-before+need > c.cfg.MaxPartial {
			return errorf(ErrResourceLimit, "unfinished messages on the connection have more than %d bytes", c.cfg.MaxPartial)
		}
		r.part = append(r.part, payload...)
		if r.part == nil {
			r.part = []byte{}
		}
		c.partial += cap(r.part) - before
	}
	return nil
}

// onLinkFlow takes what the sending peer tells about its link. It says whether a drain
// is over.
func (r *Receiver) onLinkFlow(p *flow) (drained bool) {
	if !p.hasCount {
		return false
	}
	if ahead := p.count - r.count; ahead < 1<<31 && !r.within {
		r.count = p.count
		r.credit -= min(r.credit, ahead)
	}
	if r.draining && r.credit == 0 {
		r.draining = false
		r.topUp()
		return true
	}
	return false
}
