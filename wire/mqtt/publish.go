package mqtt

import (
	"bytes"
	"encoding/binary"
	"strings"
	"unicode/utf8"
	"unsafe"
)

// Publish carries a message.
//
// Wildcards in Topic are not refused here, although the standard forbids them:
// Azure's topics carry property values, and some SDKs send a bare + or # in them.
type Publish struct {
	Topic   string
	Payload []byte
	ID      uint16 // packet id; zero exactly when QoS is 0
	QoS     byte   // 0, 1 or 2
	Dup     bool
	Retain  bool
}

// Decode reads f. Topic and Payload point into f.Body; nothing is allocated.
func (p *Publish) Decode(f Frame) error {
	if f.Type != TypePublish {
		return malformed(f.Type, "is not a PUBLISH")
	}
	p.QoS = f.Flags >> 1 & 3
	p.Dup = f.Flags&8 != 0
	p.Retain = f.Flags&1 != 0
	if p.QoS == 3 {
		return malformed(f.Type, "QoS is 3")
	}
	if p.Dup && p.QoS == 0 {
		return malformed(f.Type, "DUP is set at QoS 0")
	}
	b := f.Body
	if len(b) < 2 {
		return malformed(f.Type, "topic is cut off")
	}
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if n > len(b) {
		return malformed(f.Type, "topic is cut off")
	}
	if n == 0 {
		return malformed(f.Type, "topic is empty")
	}
	topic := b[:n]
	if !validBytes(topic) {
		return malformed(f.Type, "topic is not UTF-8 without U+0000")
	}
	p.Topic = unsafe.String(unsafe.SliceData(topic), n)
	b = b[n:]
	p.ID = 0
	if p.QoS > 0 {
		if len(b) < 2 {
			return malformed(f.Type, "packet id is cut off")
		}
		if p.ID = binary.BigEndian.Uint16(b); p.ID == 0 {
			return malformed(f.Type, "packet id is 0")
		}
		b = b[2:]
	}
	p.Payload = b
	return nil
}

// Check says whether p can be encoded.
func (p *Publish) Check() error {
	switch {
	case len(p.Topic) == 0 || len(p.Topic) > MaxString:
		return malformed(TypePublish, "topic has %d bytes, must be 1 to %d", len(p.Topic), MaxString)
	case !validString(p.Topic):
		return malformed(TypePublish, "topic is not UTF-8 without U+0000")
	case p.QoS > 2:
		return malformed(TypePublish, "QoS is %d", p.QoS)
	case (p.QoS == 0) != (p.ID == 0):
		return malformed(TypePublish, "packet id is %d at QoS %d", p.ID, p.QoS)
	case p.Dup && p.QoS == 0:
		return malformed(TypePublish, "DUP is set at QoS 0")
	case len(p.Payload) > MaxRemaining-MaxString-4:
		return malformed(TypePublish, "payload has %d bytes", len(p.Payload))
	}
	return nil
}

// Append adds the packet to dst. p must be one that Check accepts.
func (p *Publish) Append(dst []byte, v Version) []byte {
	return p.AppendWithTopic(dst, unsafe.Slice(unsafe.StringData(p.Topic), len(p.Topic)), v)
}

// AppendWithTopic is Append with topic in the place of p.Topic, for topics that are
// put together in a buffer.
func (p *Publish) AppendWithTopic(dst, topic []byte, _ Version) []byte {
	first := byte(TypePublish)<<4 | p.QoS<<1
	if p.Dup {
		first |= 8
	}
	if p.Retain {
		first |= 1
	}
	n := 2 + len(topic) + len(p.Payload)
	if p.QoS > 0 {
		n += 2
	}
	dst = appendHeader(dst, first, n)
	dst = appendBinary(dst, topic)
	if p.QoS > 0 {
		dst = binary.BigEndian.AppendUint16(dst, p.ID)
	}
	return append(dst, p.Payload...)
}

// appendHeader adds a fixed header: first byte and remaining length.
func appendHeader(dst []byte, first byte, remaining int) []byte {
	if remaining > MaxRemaining {
		panic("mqtt: packet is too long to encode")
	}
	dst = append(dst, first)
	for remaining >= 0x80 {
		dst = append(dst, byte(remaining)|0x80)
		remaining >>= 7
	}
	return append(dst, byte(remaining))
}

func appendString(dst []byte, s string) []byte {
	return append(appendLength(dst, len(s)), s...)
}

func appendBinary(dst, b []byte) []byte {
	return append(appendLength(dst, len(b)), b...)
}

func appendLength(dst []byte, n int) []byte {
	if n > MaxString {
		panic("mqtt: string is too long to encode")
	}
	return binary.BigEndian.AppendUint16(dst, uint16(n))
}

// validBytes says whether b may stand as an MQTT string (section 1.5.3).
func validBytes(b []byte) bool {
	return utf8.Valid(b) && bytes.IndexByte(b, 0) < 0
}

func validString(s string) bool {
	return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0
}
