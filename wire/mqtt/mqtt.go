// Package mqtt reads and writes MQTT 3.1.1 packets for both roles, server and
// client, fast enough that the network is what limits. It knows no topic's
// meaning.
//
// A Reader cuts a byte stream into Frames; the Decode methods of the packet types
// turn a frame into a packet, strictly: what the standard calls malformed is an
// error. The Append methods encode; a Writer coalesces what many goroutines append
// into few writes. The protocol version travels with frames and encoders, so that
// MQTT 5 can be added beside 3.1.1.
//
// Source of all formats: OASIS MQTT Version 3.1.1, sections 2 and 3.
package mqtt

import (
	"errors"
	"fmt"
)

// Version is the protocol level of CONNECT, which decides how packets look.
type Version byte

// V311 is MQTT 3.1.1.
const V311 Version = 4

// Limits of the format, in bytes.
const (
	MaxString    = 65535                // longest string, topic, password or will payload
	MaxRemaining = 268_435_455          // longest body of a packet
	MaxPacket    = MaxRemaining + 1 + 4 // longest whole packet
)

// Type is the kind of a packet.
type Type byte

// The packet types.
const (
	TypeConnect Type = 1 + iota
	TypeConnack
	TypePublish
	TypePuback
	TypePubrec
	TypePubrel
	TypePubcomp
	TypeSubscribe
	TypeSuback
	TypeUnsubscribe
	TypeUnsuback
	TypePingreq
	TypePingresp
	TypeDisconnect
)

// String is the standard's name of the type.
func (t Type) String() string {
	switch t {
	case TypeConnect:
		return "CONNECT"
	case TypeConnack:
		return "CONNACK"
	case TypePublish:
		return "PUBLISH"
	case TypePuback:
		return "PUBACK"
	case TypePubrec:
		return "PUBREC"
	case TypePubrel:
		return "PUBREL"
	case TypePubcomp:
		return "PUBCOMP"
	case TypeSubscribe:
		return "SUBSCRIBE"
	case TypeSuback:
		return "SUBACK"
	case TypeUnsubscribe:
		return "UNSUBSCRIBE"
	case TypeUnsuback:
		return "UNSUBACK"
	case TypePingreq:
		return "PINGREQ"
	case TypePingresp:
		return "PINGRESP"
	case TypeDisconnect:
		return "DISCONNECT"
	}
	return fmt.Sprintf("type %d", byte(t))
}

// Errors of decoding. Others wrap them with what is wrong.
var (
	ErrMalformed = errors.New("malformed MQTT packet")
	ErrTooLarge  = errors.New("MQTT packet is larger than allowed")
	ErrVersion   = errors.New("MQTT protocol version is not supported")
)

func malformed(t Type, format string, args ...any) error {
	return fmt.Errorf("%w: %v: %s", ErrMalformed, t, fmt.Sprintf(format, args...))
}

// Frame is one whole packet that is not decoded yet.
type Frame struct {
	Type    Type
	Flags   byte // low four bits of the first byte
	Version Version
	Body    []byte // all after the remaining length; belongs to the Reader
}

// Split cuts the first packet off b. size is its whole length, header included;
// it is zero when b does not hold a whole packet, and then need is the length that
// b must have at least before Split can do better. limit is the largest whole
// packet accepted, zero for the standard's own.
func Split(b []byte, limit int) (f Frame, size, need int, err error) {
	if len(b) == 0 {
		return Frame{}, 0, 2, nil
	}
	f = Frame{Type: Type(b[0] >> 4), Flags: b[0] & 0x0f, Version: V311}
	if err := f.check(); err != nil { // before waiting for a body that may never come
		return Frame{}, 0, 0, err
	}
	if len(b) == 1 {
		return Frame{}, 0, 2, nil
	}
	remaining, n := int(b[1]), 2
	if remaining >= 0x80 {
		remaining &= 0x7f
		for shift := 7; ; shift += 7 {
			if n == 5 {
				return Frame{}, 0, 0, fmt.Errorf("%w: remaining length has more than four bytes", ErrMalformed)
			}
			if n == len(b) {
				return Frame{}, 0, n + 1, nil
			}
			c := b[n]
			n++
			remaining |= int(c&0x7f) << shift
			if c < 0x80 {
				break
			}
		}
	}
	size = n + remaining
	switch {
	case remaining > 0 && (f.Type == TypePingreq || f.Type == TypePingresp || f.Type == TypeDisconnect):
		return Frame{}, 0, 0, malformed(f.Type, "has a body of %d bytes", remaining)
	case limit > 0 && size > limit:
		return Frame{}, 0, 0, fmt.Errorf("%w: %d bytes, the most is %d", ErrTooLarge, size, limit)
	case len(b) < size:
		return Frame{}, 0, size, nil
	}
	f.Body = b[n:size:size]
	return f, size, 0, nil
}

// check judges the first byte (section 2.2).
func (f Frame) check() error {
	switch f.Type {
	case TypePublish:
		return nil // flags are judged by Publish.Decode
	case TypePubrel, TypeSubscribe, TypeUnsubscribe:
		if f.Flags != 2 {
			return malformed(f.Type, "reserved flags are %04b, must be 0010", f.Flags)
		}
	case TypeConnect, TypeConnack, TypePuback, TypePubrec, TypePubcomp, TypeSuback, TypeUnsuback,
		TypePingreq, TypePingresp, TypeDisconnect:
		if f.Flags != 0 {
			return malformed(f.Type, "reserved flags are %04b, must be 0000", f.Flags)
		}
	default:
		return fmt.Errorf("%w: packet type %d is reserved", ErrMalformed, f.Type)
	}
	return nil
}
