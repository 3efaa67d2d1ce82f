package amqp

import (
	"encoding/binary"
	"sync"
	"time"
)

const (
	// writeChunk bounds one Write, so that the deadline judges progress and not
	// the size of what piled up.
	writeChunk = 256 << 10
	// keepBuffer is the largest buffer given back to the pool.
	keepBuffer = 512 << 10
	// firstBuffer is the capacity of a new buffer.
	firstBuffer = 4 << 10
	// corkLimit is how much may wait while the reader works through what it has.
	corkLimit = 32 << 10
)

var writeBuffers = sync.Pool{New: func() any { b := make([]byte, 0, firstBuffer); return &b }}

// output is a connection's way out. Frames are appended to a buffer in memory; a
// flusher, started when there is something to write and gone when there is nothing,
// writes all that was appended meanwhile at once. It is guarded by Conn.mu.
type output struct {
	idle     sync.Cond // bytes were written, or the flusher ended
	enc      encoder   // its b is being appended to, nil when empty
	pooled   *[]byte   // where enc.b came from
	writing  int       // bytes being written
	flushing bool
	corked   bool
	closed   bool
	err      error
	wrote    time.Time // when the last write began
	settling settling
}

// settling is a range of dispositions not yet encoded, so that those for
// consecutive deliveries leave as one frame.
type settling struct {
	on      bool
	channel uint16
	disposition
}

// buffered is the number of bytes that wait for the peer.
func (c *Conn) buffered() int { return len(c.out.enc.b) + c.out.writing }

// frame opens a frame. The caller encodes into the result and calls send.
func (c *Conn) frame(kind byte, channel uint16) (e *encoder, at int) {
	c.flushSettling()
	return c.openFrame(kind, channel)
}

func (c *Conn) openFrame(kind byte, channel uint16) (e *encoder, at int) {
	o := &c.out
	if o.pooled == nil {
		o.pooled = writeBuffers.Get().(*[]byte)
		o.enc = encoder{b: (*o.pooled)[:0]}
	}
	at = len(o.enc.b)
	o.enc.b = append(o.enc.b, 0, 0, 0, 0, 2, kind, byte(channel>>8), byte(channel))
	return &o.enc, at
}

// send closes the frame begun at at and sees that it gets written. When its encoding
// failed, the frame is dropped and the error returned.
func (c *Conn) send(at int) error {
	o := &c.out
	if err := o.enc.err; err != nil {
		o.enc.err, o.enc.depth = nil, 0
		o.enc.b = o.enc.b[:at]
		return err
	}
	if o.closed || o.err != nil {
		o.enc.b = o.enc.b[:at]
		return nil // the reader will tell
	}
	binary.BigEndian.PutUint32(o.enc.b[at:], uint32(len(o.enc.b)-at))
	c.wake()
	return nil
}

// raw appends a protocol header.
func (c *Conn) raw(b [headerSize]byte) {
	_, at := c.openFrame(frameAMQP, 0)
	copy(c.out.enc.b[at:], b[:])
	c.wake()
}

// settle notes the disposition of a delivery.
func (c *Conn) settle(channel uint16, p disposition) {
	s := &c.out.settling
	if s.on && s.channel == channel && s.role == p.role && s.settled == p.settled &&
		s.last+1 == p.first && s.state.Outcome == p.state.Outcome && s.state.plain() && p.state.plain() {
		s.last = p.last
		return
	}
	c.flushSettling()
	*s = settling{true, channel, p}
	c.wake()
}

func (c *Conn) flushSettling() {
	s := &c.out.settling
	if !s.on {
		return
	}
	s.on = false
	e, at := c.openFrame(frameAMQP, s.channel)
	s.encode(e)
	if c.send(at) != nil { // only what the application put in can fail
		s.state = State{Outcome: s.state.Outcome}
		e, at = c.openFrame(frameAMQP, s.channel)
		s.encode(e)
		c.send(at)
	}
}

// wake starts the flusher, unless the reader will when it has nothing left to do.
func (c *Conn) wake() {
	o := &c.out
	if o.flushing || o.closed || o.err != nil || o.corked && len(o.enc.b) < corkLimit {
		return
	}
	o.flushing = true
	go c.flush()
}

func (c *Conn) cork() {
	c.mu.Lock()
	c.out.corked = true
	c.mu.Unlock()
}

func (c *Conn) uncork() {
	c.mu.Lock()
	c.out.corked = false
	if len(c.out.enc.b) > 0 || c.out.settling.on {
		c.wake()
	}
	c.mu.Unlock()
}

// flush writes until nothing is left.
func (c *Conn) flush() {
	o := &c.out
	c.mu.Lock()
	defer c.mu.Unlock()
	for o.err == nil {
		c.flushSettling()
		if len(o.enc.b) == 0 {
			break
		}
		b, pooled := o.enc.b, o.pooled
		o.enc.b, o.pooled = nil, nil
		o.writing = len(b)
		o.wrote = time.Now()
		c.mu.Unlock()
		err := c.write(b)
		if cap(b) <= keepBuffer {
			*pooled = b[:0]
			writeBuffers.Put(pooled)
		}
		c.mu.Lock()
		o.writing = 0
		if err != nil {
			c.failOutput(err)
			break
		}
		o.idle.Broadcast()
		c.outputDrained()
	}
	o.flushing = false
	o.idle.Broadcast()
}

// write sends b in chunks, each under its own deadline.
func (c *Conn) write(b []byte) error {
	for len(b) > 0 {
		n := min(len(b), writeChunk)
		if err := c.nc.SetWriteDeadline(time.Now().Add(c.cfg.WriteTimeout)); err != nil {
			return err
		}
		if _, err := c.nc.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// failOutput keeps err, drops what waits and ends the reader.
func (c *Conn) failOutput(err error) {
	o := &c.out
	o.err = err
	o.enc.b, o.pooled, o.settling = nil, nil, settling{}
	o.idle.Broadcast()
	c.mu.Unlock()
	c.nc.Close() // the error worth telling is err
	c.mu.Lock()
}

// waitOutput holds the reader up while the peer takes nothing but sends on.
func (c *Conn) waitOutput() {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := &c.out
	if c.buffered() <= 2*c.cfg.MaxBuffered {
		return
	}
	o.corked = false
	c.wake()
	for o.err == nil && c.buffered() > c.cfg.MaxBuffered {
		o.idle.Wait()
	}
}

// closeOutput refuses further frames and waits until those appended are written or
// the write timeout strikes.
func (c *Conn) closeOutput() {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := &c.out
	o.corked = false
	c.flushSettling()
	if len(o.enc.b) > 0 {
		c.wake()
	}
	for o.flushing {
		o.idle.Wait()
	}
	o.closed = true
}
