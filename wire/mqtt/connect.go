package mqtt

import "fmt"

// protocolName is what CONNECT starts with in every version since 3.1.1.
const protocolName = "MQTT"

// Will is the message a server publishes when a client vanishes.
type Will struct {
	Topic   string
	Payload []byte // at most MaxString bytes
	QoS     byte
	Retain  bool
}

// Connect is the first packet of a client.
type Connect struct {
	Version      Version
	ClientID     string
	CleanSession bool
	KeepAlive    uint16 // seconds; 0 means none
	Username     string
	HasUsername  bool
	Password     []byte // a password needs a user name
	HasPassword  bool
	Will         *Will
}

// Decode reads f and copies what it keeps. A packet of another protocol level
// gives ErrVersion with Version set, so that the server can answer CONNACK 1; a
// wrong protocol name is malformed.
func (p *Connect) Decode(f Frame) error {
	if f.Type != TypeConnect {
		return malformed(f.Type, "is not a CONNECT")
	}
	*p = Connect{}
	c := cursor{t: f.Type, b: f.Body}
	if name := c.string("protocol name"); c.err == nil && name != protocolName {
		return malformed(f.Type, "protocol name is %.16q", name)
	}
	p.Version = Version(c.byte("protocol level"))
	if c.err == nil && p.Version != V311 {
		return fmt.Errorf("%w: level %d", ErrVersion, p.Version)
	}
	flags := c.byte("connect flags")
	p.KeepAlive = c.uint16("keep alive")
	p.ClientID = c.string("client id")
	if c.err != nil {
		return c.err
	}
	if err := checkConnectFlags(flags); err != nil {
		return err
	}
	p.CleanSession = flags&0x02 != 0
	if flags&0x04 != 0 {
		p.Will = &Will{QoS: flags >> 3 & 3, Retain: flags&0x20 != 0}
		p.Will.Topic = c.string("will topic")
		p.Will.Payload = c.binary("will payload")
		if c.err == nil && p.Will.Topic == "" {
			return malformed(f.Type, "will topic is empty")
		}
	}
	if p.HasUsername = flags&0x80 != 0; p.HasUsername {
		p.Username = c.string("user name")
	}
	if p.HasPassword = flags&0x40 != 0; p.HasPassword {
		p.Password = c.binary("password")
	}
	return c.end()
}

func checkConnectFlags(flags byte) error {
	switch {
	case flags&0x01 != 0:
		return malformed(TypeConnect, "reserved connect flag is set")
	case flags&0x04 == 0 && flags&0x38 != 0:
		return malformed(TypeConnect, "will flags are set without a will")
	case flags&0x18 == 0x18:
		return malformed(TypeConnect, "will QoS is 3")
	case flags&0xc0 == 0x40:
		return malformed(TypeConnect, "has a password without a user name")
	}
	return nil
}

// Check says whether p can be encoded.
func (p *Connect) Check() error {
	switch {
	case p.Version != V311:
		return fmt.Errorf("%w: level %d", ErrVersion, p.Version)
	case !fits(p.ClientID) || !fits(p.Username):
		return malformed(TypeConnect, "client id or user name is too long or not UTF-8")
	case len(p.Password) > MaxString:
		return malformed(TypeConnect, "password has %d bytes", len(p.Password))
	case p.HasPassword && !p.HasUsername:
		return malformed(TypeConnect, "has a password without a user name")
	case p.Will != nil && (p.Will.Topic == "" || !fits(p.Will.Topic) || len(p.Will.Payload) > MaxString || p.Will.QoS > 2):
		return malformed(TypeConnect, "will is not valid")
	}
	return nil
}

func fits(s string) bool { return len(s) <= MaxString && validString(s) }

// Append adds the packet to dst. p must be one that Check accepts.
func (p *Connect) Append(dst []byte) []byte {
	var flags byte
	n := 2 + len(protocolName) + 4 + 2 + len(p.ClientID)
	if p.CleanSession {
		flags |= 0x02
	}
	if w := p.Will; w != nil {
		flags |= 0x04 | w.QoS<<3
		if w.Retain {
			flags |= 0x20
		}
		n += 4 + len(w.Topic) + len(w.Payload)
	}
	if p.HasUsername {
		flags |= 0x80
		n += 2 + len(p.Username)
	}
	if p.HasPassword {
		flags |= 0x40
		n += 2 + len(p.Password)
	}
	dst = appendHeader(dst, byte(TypeConnect)<<4, n)
	dst = appendString(dst, protocolName)
	dst = append(dst, byte(p.Version), flags, byte(p.KeepAlive>>8), byte(p.KeepAlive))
	dst = appendString(dst, p.ClientID)
	if p.Will != nil {
		dst = appendString(dst, p.Will.Topic)
		dst = appendBinary(dst, p.Will.Payload)
	}
	if p.HasUsername {
		dst = appendString(dst, p.Username)
	}
	if p.HasPassword {
		dst = appendBinary(dst, p.Password)
	}
	return dst
}

// Code is the answer of a server to CONNECT.
type Code byte

// The codes of 3.1.1 (table 3.1).
const (
	Accepted Code = iota
	RefusedVersion
	RefusedClientID
	RefusedUnavailable
	RefusedCredentials
	RefusedNotAuthorized
)

// Connack answers CONNECT.
type Connack struct {
	SessionPresent bool
	Code           Code
}

// Decode reads f. Codes beyond the standard's are not judged.
func (p *Connack) Decode(f Frame) error {
	if f.Type != TypeConnack {
		return malformed(f.Type, "is not a CONNACK")
	}
	if len(f.Body) != 2 {
		return malformed(f.Type, "has a body of %d bytes", len(f.Body))
	}
	if f.Body[0]&^1 != 0 {
		return malformed(f.Type, "reserved flags are set")
	}
	p.SessionPresent = f.Body[0] == 1
	p.Code = Code(f.Body[1])
	return nil
}

// Append adds the packet to dst.
func (p *Connack) Append(dst []byte, _ Version) []byte {
	var flags byte
	if p.SessionPresent {
		flags = 1
	}
	return append(dst, byte(TypeConnack)<<4, 2, flags, byte(p.Code))
}
