package amqp

import (
	"errors"
	"io"
	"net"
	"time"
)

// errPeerClosed ends the reader after the peer's close.
var errPeerClosed = errors.New("peer closed")

// run reads and handles frames until the connection is to end.
func (c *Conn) run() error {
	c.cork()
	for {
		if !c.in.buffered() {
			c.uncork()
			if c.idle != nil {
				c.idle.Idle(c)
			}
			c.waitOutput()
			if err := c.armRead(); err != nil {
				return err
			}
			f, err := c.in.next()
			if err != nil {
				return c.readFailed(err)
			}
			c.cork()
			if err := c.handle(f); err != nil {
				return err
			}
			continue
		}
		f, err := c.in.next()
		if err != nil {
			return err
		}
		if err := c.handle(f); err != nil {
			return err
		}
	}
}

// readFailed turns silence into the error that the peer is told (2.4.5).
func (c *Conn) readFailed(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() && !c.closing {
		return errorf(ErrResourceLimit, "nothing was heard for %v", 2*c.cfg.IdleTimeout)
	}
	return err
}

// armRead sets the deadline of the next read, unless the last one will do.
func (c *Conn) armRead() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return c.nc.SetReadDeadline(c.closeBy)
	}
	limit := 2 * c.cfg.IdleTimeout
	now := time.Now()
	if left := c.armed.Sub(now); left > limit-limit/8 && left <= limit {
		return nil
	}
	c.armed = now.Add(limit)
	return c.nc.SetReadDeadline(c.armed)
}

// handle works one frame through. An *Error is told to the peer.
func (c *Conn) handle(f frame) error {
	if f.kind != frameAMQP {
		return malformed("a SASL frame after SASL")
	}
	if len(f.body) == 0 {
		return nil // a heartbeat
	}
	d := decoder{b: f.body}
	what := d.descriptor()
	in := d.composite()
	if d.err != nil {
		return d.err
	}
	switch what {
	case descTransfer:
		var p transfer
		p.decode(&in)
		if in.err == nil {
			return c.onTransfer(f.channel, &p, d.b)
		}
	case descDisposition:
		var p disposition
		p.decode(&in)
		if in.err == nil {
			return c.onDisposition(f.channel, &p)
		}
	case descFlow:
		var p flow
		p.decode(&in)
		if in.err == nil {
			return c.onFlow(f.channel, &p)
		}
	case descAttach:
		var p attach
		p.decode(&in)
		if in.err == nil {
			return c.onAttach(f.channel, &p)
		}
	case descDetach:
		var p detach
		p.decode(&in)
		if in.err == nil {
			return c.onDetach(f.channel, &p)
		}
	case descBegin:
		var p begin
		p.decode(&in)
		if in.err == nil {
			return c.onBegin(f.channel, &p)
		}
	case descEnd:
		err := in.error()
		if in.err == nil {
			return c.onEnd(f.channel, err)
		}
	case descClose:
		err := in.error()
		if in.err == nil {
			return c.onClose(err)
		}
	case descOpen:
		return errorf(ErrIllegalState, "open comes twice")
	default:
		return malformed("there is no performative 0x%02x", what)
	}
	return in.err
}

func (c *Conn) onClose(err *Error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeSeen = true
	if err != nil && c.cause == nil {
		c.cause = err
	}
	c.close(nil)
	return errPeerClosed
}

// session finds the session of a frame. It is nil, without an error, when the frame is
// to be passed over because an end or close is on its way. The lock is held.
func (c *Conn) session(channel uint16) (*Session, error) {
	if c.closing {
		return nil, nil
	}
	s := c.sessions[channel]
	if s == nil {
		return nil, errorf(ErrNotAllowed, "channel %d has no session", channel)
	}
	if s.state != sessionMapped {
		return nil, nil
	}
	return s, nil
}

// finish ends the connection after the reader's err, tells everyone, and gives the
// error that the connection ended with.
func (c *Conn) finish(err error) error {
	// However the peer behaves, it is over after this long.
	cut := time.AfterFunc(c.cfg.CloseTimeout, func() { c.nc.Close() })
	defer cut.Stop()
	told, violated := errors.AsType[*Error](err)
	if !violated && errors.Is(err, ErrMalformed) {
		violated, told = true, &Error{Condition: ErrFraming, Description: err.Error()}
	}
	c.mu.Lock()
	lost := false
	switch {
	case violated:
		if c.cause == nil {
			c.cause = err
		}
		c.close(told)
	case c.closing || err == errPeerClosed || errors.Is(err, ErrAuthentication):
	case c.out.err != nil: // why the reader failed, too
		lost, err = true, c.out.err
	default:
		lost = true
	}
	c.mu.Unlock()
	if lost {
		c.nc.Close() // no use in writing what is left
	}
	c.closeOutput()
	if !c.closeSeen && (violated || errors.Is(err, ErrAuthentication) && !c.client) {
		// Unread input would make the system reset the connection, and the peer
		// might never see why.
		if c.nc.SetReadDeadline(time.Now().Add(c.cfg.CloseTimeout)) == nil {
			io.Copy(io.Discard, c.nc) // ends with the peer's leaving or the cut
		}
	}
	c.nc.Close()
	return c.tell(err)
}

// tell ends all sessions and links and calls their events.
func (c *Conn) tell(err error) error {
	c.mu.Lock()
	c.over = true
	if c.beat != nil {
		c.beat.Stop()
	}
	switch {
	case c.cause != nil:
		err = c.cause
	case err == errPeerClosed, c.closing:
		err = nil
	}
	reason := err
	if reason == nil {
		reason = ErrClosed
	}
	var ended []ended
	for _, s := range c.begun {
		ended = append(ended, s.drop(reason)...)
	}
	clear(c.begun)
	clear(c.sessions)
	c.blocked = nil
	c.mu.Unlock()
	for i := range ended {
		ended[i].tell()
	}
	if c.asked {
		c.cfg.Handler.Closed(c, err)
	}
	c.in.release()
	c.err = err
	close(c.done)
	return err
}
