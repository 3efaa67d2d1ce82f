package amqp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
)

// SASL mechanisms.
const (
	Anonymous Symbol = "ANONYMOUS"
	Plain     Symbol = "PLAIN"
	External  Symbol = "EXTERNAL"
	MSSBCBS   Symbol = "MSSBCBS" // authentication by tokens on links; as ANONYMOUS
)

// DefaultMechanisms in the order that suits real clients: MSSBCBS is asked for by
// name, and who takes the first one known must come upon ANONYMOUS before PLAIN.
var DefaultMechanisms = []Symbol{MSSBCBS, Anonymous, Plain, External}

// ErrAuthentication is that a peer refused or failed SASL.
var ErrAuthentication = errors.New("SASL authentication failed")

const (
	outcomeOK   = 0
	outcomeAuth = 1
	// maxSASLFrame is above the standard's 512, for tokens do not fit in that.
	maxSASLFrame = 64 << 10
)

// saslFrame is the one shape that all SASL frames are read into.
type saslFrame struct {
	descriptor uint64
	mechanisms []Symbol // mechanisms
	mechanism  Symbol   // init
	response   []byte   // init, challenge, response
	hostname   string   // init
	code       uint8    // outcome
}

func (p *saslFrame) decode(body []byte) error {
	d := decoder{b: body}
	p.descriptor = d.descriptor()
	f := d.composite()
	switch p.descriptor {
	case descMechanisms:
		p.mechanisms = f.symbols()
	case descInit:
		p.mechanism = f.symbol()
		p.response = f.binary()
		p.hostname = f.text()
	case descChallenge, descResponse:
		p.response = f.binary()
	case descOutcome:
		p.code = f.ubyteOr(outcomeAuth)
	default:
		f.fail("SASL frame 0x%02x", p.descriptor)
	}
	d.join(&f.decoder)
	return d.err
}

func (p *saslFrame) encode(e *encoder) {
	at := e.composite(byte(p.descriptor))
	switch p.descriptor {
	case descMechanisms:
		e.symbolsOrNull(p.mechanisms)
		e.end(at, 1)
	case descInit:
		e.symbol(p.mechanism)
		e.binary(p.response)
		e.stringOrNull(p.hostname)
		e.end(at, 3)
	case descChallenge, descResponse:
		e.binary(p.response)
		e.end(at, 1)
	case descOutcome:
		e.ubyte(p.code)
		e.null()
		e.end(at, 2)
	}
}

func (c *Conn) sendSASL(p saslFrame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, at := c.frame(frameSASL, 0)
	p.encode(e)
	c.send(at) // nothing in it can fail
}

// readSASL reads the next SASL frame, which must be one of want.
func (c *Conn) readSASL(want ...uint64) (p saslFrame, err error) {
	f, err := c.in.next()
	if err != nil {
		return p, err
	}
	if f.kind != frameSASL {
		return p, malformed("a frame of type %d within SASL", f.kind)
	}
	if err := p.decode(f.body); err != nil {
		return p, err
	}
	if !slices.Contains(want, p.descriptor) {
		return p, malformed("SASL frame 0x%02x comes out of turn", p.descriptor)
	}
	return p, nil
}

// saslServer runs SASL after its header has been read.
func (c *Conn) saslServer(ctx context.Context) error {
	mechanisms := c.cfg.SASL.Mechanisms
	if len(mechanisms) == 0 {
		mechanisms = DefaultMechanisms
	}
	c.mu.Lock()
	c.raw(headerSASL)
	c.mu.Unlock()
	c.sendSASL(saslFrame{descriptor: descMechanisms, mechanisms: mechanisms})
	first, err := c.readSASL(descInit)
	if err != nil {
		return err
	}
	who := Credentials{Mechanism: first.mechanism, Hostname: first.hostname}
	if !slices.Contains(mechanisms, who.Mechanism) {
		err = fmt.Errorf("mechanism %q is not offered", who.Mechanism)
	} else {
		if who.Mechanism == Plain && len(first.response) == 0 {
			c.sendSASL(saslFrame{descriptor: descChallenge})
			if first, err = c.readSASL(descResponse); err != nil {
				return err
			}
		}
		err = who.read(first.response)
	}
	if err == nil && c.cfg.SASL.Authenticate != nil {
		err = c.cfg.SASL.Authenticate(ctx, who)
	}
	if err != nil {
		c.sendSASL(saslFrame{descriptor: descOutcome, code: outcomeAuth})
		return fmt.Errorf("%w: %w", ErrAuthentication, err)
	}
	c.credentials = &who
	c.sendSASL(saslFrame{descriptor: descOutcome, code: outcomeOK})
	return nil
}

// read takes the client's response apart.
func (k *Credentials) read(response []byte) error {
	switch k.Mechanism {
	case Plain: // RFC 4616
		parts := bytes.Split(response, []byte{0})
		if len(parts) != 3 {
			return errors.New("PLAIN has not three parts")
		}
		k.Authzid, k.Username, k.Password = string(parts[0]), string(parts[1]), string(parts[2])
	case External:
		k.Authzid = string(response)
	default:
		k.Trace = string(response)
	}
	return nil
}

// saslClient runs SASL from its header on.
func (c *Conn) saslClient() error {
	c.mu.Lock()
	c.raw(headerSASL)
	c.mu.Unlock()
	h, err := c.in.header()
	if err != nil {
		return err
	}
	if h != headerSASL {
		return malformed("the server answers SASL with header %x", h)
	}
	offered, err := c.readSASL(descMechanisms)
	if err != nil {
		return err
	}
	login := c.cfg.Login
	if !slices.Contains(offered.mechanisms, login.Mechanism) {
		return fmt.Errorf("%w: the server offers %v, not %s", ErrAuthentication, offered.mechanisms, login.Mechanism)
	}
	response := []byte{}
	if login.Mechanism == Plain {
		response = slices.Concat([]byte{0}, []byte(login.Username), []byte{0}, []byte(login.Password))
	}
	c.sendSASL(saslFrame{descriptor: descInit, mechanism: login.Mechanism, response: response, hostname: c.cfg.Hostname})
	out, err := c.readSASL(descOutcome, descChallenge)
	if err == nil && out.descriptor == descChallenge { // EXTERNAL of some servers asks once
		c.sendSASL(saslFrame{descriptor: descResponse})
		out, err = c.readSASL(descOutcome)
	}
	if err != nil {
		return err
	}
	if out.code != outcomeOK {
		return fmt.Errorf("%w: the server's outcome is %d", ErrAuthentication, out.code)
	}
	return nil
}
