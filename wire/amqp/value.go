package amqp

import (
	"encoding/hex"
	"fmt"
)

// AMQP values are Go values: nil, bool, uint8 to uint64, int8 to int64, float32,
// float64, string, []byte (binary), time.Time (timestamp, milliseconds), []any
// (list), []string and []Symbol (arrays of these), and the types below.

// Symbol is an ASCII name from some constrained domain.
type Symbol string

// UUID is a universally unique id, in the byte order of RFC 4122.
type UUID [16]byte

// String writes the usual form, 8-4-4-4-12 hexadecimal digits.
func (u UUID) String() string {
	var b [36]byte
	hex.Encode(b[:8], u[:4])
	b[8] = '-'
	hex.Encode(b[9:13], u[4:6])
	b[13] = '-'
	hex.Encode(b[14:18], u[6:8])
	b[18] = '-'
	hex.Encode(b[19:23], u[8:10])
	b[23] = '-'
	hex.Encode(b[24:], u[10:])
	return string(b[:])
}

// Char is one Unicode character.
type Char rune

// Decimal numbers are carried, not interpreted: IEEE 754 decimal, big-endian.
type (
	Decimal32  [4]byte
	Decimal64  [8]byte
	Decimal128 [16]byte
)

// Array is an array of elements of one AMQP type that is neither string nor symbol;
// arrays of those are []string and []Symbol.
type Array []any

// Described is a value with a descriptor, a uint64 or a Symbol as a rule.
type Described struct {
	Descriptor any
	Value      any
}

// Entry is one pair of a Map.
type Entry struct {
	Key, Value any
}

// Map is an AMQP map in the order of the wire, so that it can be echoed as it came.
type Map []Entry

// Lookup finds the value whose key is the string or symbol given.
func (m Map) Lookup(key string) (value any, ok bool) {
	for i := range m {
		switch k := m[i].Key.(type) {
		case string:
			if k == key {
				return m[i].Value, true
			}
		case Symbol:
			if string(k) == key {
				return m[i].Value, true
			}
		}
	}
	return nil, false
}

// Get is Lookup without the second result: nil when there is no such key.
func (m Map) Get(key string) any {
	v, _ := m.Lookup(key)
	return v
}

// Text is the value of key when that is a string or a symbol.
func (m Map) Text(key string) (text string, ok bool) {
	switch v := m.Get(key).(type) {
	case string:
		return v, true
	case Symbol:
		return string(v), true
	}
	return "", false
}

// Integer is the value of key when that is an integer of any width that int64 holds.
func (m Map) Integer(key string) (n int64, ok bool) {
	switch v := m.Get(key).(type) {
	case uint8:
		return int64(v), true
	case uint16:
		return int64(v), true
	case uint32:
		return int64(v), true
	case uint64:
		return int64(v), v <= 1<<63-1
	case int8:
		return int64(v), true
	case int16:
		return int64(v), true
	case int32:
		return int64(v), true
	case int64:
		return v, true
	}
	return 0, false
}

// The constructors of the type system (1.6).
const (
	codeDescribed  = 0x00
	codeNull       = 0x40
	codeTrue       = 0x41
	codeFalse      = 0x42
	codeBool       = 0x56
	codeUbyte      = 0x50
	codeUshort     = 0x60
	codeUint       = 0x70
	codeUintSmall  = 0x52
	codeUint0      = 0x43
	codeUlong      = 0x80
	codeUlongSmall = 0x53
	codeUlong0     = 0x44
	codeByte       = 0x51
	codeShort      = 0x61
	codeInt        = 0x71
	codeIntSmall   = 0x54
	codeLong       = 0x81
	codeLongSmall  = 0x55
	codeFloat      = 0x72
	codeDouble     = 0x82
	codeDecimal32  = 0x74
	codeDecimal64  = 0x84
	codeDecimal128 = 0x94
	codeChar       = 0x73
	codeTimestamp  = 0x83
	codeUUID       = 0x98
	codeBinary8    = 0xa0
	codeBinary32   = 0xb0
	codeString8    = 0xa1
	codeString32   = 0xb1
	codeSymbol8    = 0xa3
	codeSymbol32   = 0xb3
	codeList0      = 0x45
	codeList8      = 0xc0
	codeList32     = 0xd0
	codeMap8       = 0xc1
	codeMap32      = 0xd1
	codeArray8     = 0xe0
	codeArray32    = 0xf0
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}
