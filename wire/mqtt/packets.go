package mqtt

import "encoding/binary"

// Subscription is one topic filter of SUBSCRIBE with the QoS asked for.
type Subscription struct {
	Filter string
	QoS    byte
}

// Subscribe asks for topics.
type Subscribe struct {
	ID      uint16
	Filters []Subscription // at least one
}

// Decode reads f and copies what it keeps; p.Filters is used again.
func (p *Subscribe) Decode(f Frame) error {
	if f.Type != TypeSubscribe {
		return malformed(f.Type, "is not a SUBSCRIBE")
	}
	c := cursor{t: f.Type, b: f.Body}
	p.ID = c.id()
	p.Filters = p.Filters[:0]
	for c.more() {
		s := Subscription{Filter: c.string("filter"), QoS: c.byte("QoS")}
		if c.err == nil && s.Filter == "" {
			return malformed(f.Type, "filter is empty")
		}
		if c.err == nil && s.QoS > 2 {
			return malformed(f.Type, "QoS is %d", s.QoS)
		}
		p.Filters = append(p.Filters, s)
	}
	if c.err == nil && len(p.Filters) == 0 {
		return malformed(f.Type, "has no filter")
	}
	return c.end()
}

// Append adds the packet to dst. There must be at least one filter, an id, and no
// filter longer than MaxString.
func (p *Subscribe) Append(dst []byte, _ Version) []byte {
	n := 2
	for _, s := range p.Filters {
		n += 3 + len(s.Filter)
	}
	dst = appendHeader(dst, byte(TypeSubscribe)<<4|2, n)
	dst = binary.BigEndian.AppendUint16(dst, p.ID)
	for _, s := range p.Filters {
		dst = appendString(dst, s.Filter)
		dst = append(dst, s.QoS)
	}
	return dst
}

// SubackFailure is the code of a filter that was refused.
const SubackFailure byte = 0x80

// Suback answers Subscribe: for each filter the QoS granted or SubackFailure.
type Suback struct {
	ID    uint16
	Codes []byte
}

// Decode reads f. Codes points into f.Body.
func (p *Suback) Decode(f Frame) error {
	if f.Type != TypeSuback {
		return malformed(f.Type, "is not a SUBACK")
	}
	c := cursor{t: f.Type, b: f.Body}
	p.ID = c.id()
	if c.err != nil {
		return c.err
	}
	if p.Codes = c.b; len(p.Codes) == 0 {
		return malformed(f.Type, "has no code")
	}
	for _, code := range p.Codes {
		if code > 2 && code != SubackFailure {
			return malformed(f.Type, "code is %#x", code)
		}
	}
	return nil
}

// Append adds the packet to dst.
func (p *Suback) Append(dst []byte, _ Version) []byte {
	dst = appendHeader(dst, byte(TypeSuback)<<4, 2+len(p.Codes))
	dst = binary.BigEndian.AppendUint16(dst, p.ID)
	return append(dst, p.Codes...)
}

// Unsubscribe takes filters back.
type Unsubscribe struct {
	ID      uint16
	Filters []string // at least one
}

// Decode reads f and copies what it keeps; p.Filters is used again.
func (p *Unsubscribe) Decode(f Frame) error {
	if f.Type != TypeUnsubscribe {
		return malformed(f.Type, "is not an UNSUBSCRIBE")
	}
	c := cursor{t: f.Type, b: f.Body}
	p.ID = c.id()
	p.Filters = p.Filters[:0]
	for c.more() {
		s := c.string("filter")
		if c.err == nil && s == "" {
			return malformed(f.Type, "filter is empty")
		}
		p.Filters = append(p.Filters, s)
	}
	if c.err == nil && len(p.Filters) == 0 {
		return malformed(f.Type, "has no filter")
	}
	return c.end()
}

// Append adds the packet to dst. There must be at least one filter, an id, and no
// filter longer than MaxString.
func (p *Unsubscribe) Append(dst []byte, _ Version) []byte {
	n := 2
	for _, s := range p.Filters {
		n += 2 + len(s)
	}
	dst = appendHeader(dst, byte(TypeUnsubscribe)<<4|2, n)
	dst = binary.BigEndian.AppendUint16(dst, p.ID)
	for _, s := range p.Filters {
		dst = appendString(dst, s)
	}
	return dst
}

// Ack is any packet that holds a packet id and nothing else: PUBACK, PUBREC,
// PUBREL, PUBCOMP and UNSUBACK.
type Ack struct {
	Type Type
	ID   uint16
}

// Decode reads f.
func (p *Ack) Decode(f Frame) error {
	switch f.Type {
	case TypePuback, TypePubrec, TypePubrel, TypePubcomp, TypeUnsuback:
	default:
		return malformed(f.Type, "is not an acknowledgement")
	}
	if len(f.Body) != 2 {
		return malformed(f.Type, "has a body of %d bytes", len(f.Body))
	}
	p.Type = f.Type
	if p.ID = binary.BigEndian.Uint16(f.Body); p.ID == 0 {
		return malformed(f.Type, "packet id is 0")
	}
	return nil
}

// Append adds the packet to dst.
func (p *Ack) Append(dst []byte, _ Version) []byte {
	first := byte(p.Type) << 4
	if p.Type == TypePubrel {
		first |= 2
	}
	return append(dst, first, 2, byte(p.ID>>8), byte(p.ID))
}

// AppendEmpty adds a packet without a body to dst: PINGREQ, PINGRESP or DISCONNECT.
func AppendEmpty(dst []byte, t Type) []byte {
	return append(dst, byte(t)<<4, 0)
}

// cursor takes fields off a body and keeps the first error.
type cursor struct {
	t   Type
	b   []byte
	err error
}

func (c *cursor) more() bool { return c.err == nil && len(c.b) > 0 }

func (c *cursor) take(n int, what string) []byte {
	if c.err != nil {
		return nil
	}
	if len(c.b) < n {
		c.err = malformed(c.t, "%s is cut off", what)
		return nil
	}
	b := c.b[:n]
	c.b = c.b[n:]
	return b
}

func (c *cursor) byte(what string) byte {
	if b := c.take(1, what); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) uint16(what string) uint16 {
	if b := c.take(2, what); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) id() uint16 {
	id := c.uint16("packet id")
	if c.err == nil && id == 0 {
		c.err = malformed(c.t, "packet id is 0")
	}
	return id
}

func (c *cursor) binary(what string) []byte {
	return append([]byte{}, c.take(int(c.uint16(what)), what)...)
}

func (c *cursor) string(what string) string {
	b := c.take(int(c.uint16(what)), what)
	if c.err == nil && !validBytes(b) {
		c.err = malformed(c.t, "%s is not UTF-8 without U+0000", what)
	}
	return string(b)
}

func (c *cursor) end() error {
	if c.err == nil && len(c.b) > 0 {
		return malformed(c.t, "has %d bytes too many", len(c.b))
	}
	return c.err
}
