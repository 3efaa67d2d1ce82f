package amqp

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

// AppendValue encodes v behind dst. The error wraps ErrType, for a Go type that has
// no AMQP type; dst is unchanged then.
func AppendValue(dst []byte, v any) ([]byte, error) {
	e := encoder{b: dst}
	e.value(v)
	if e.err != nil {
		return dst, e.err
	}
	return e.b, nil
}

// encoder appends values to b. Its first error stays.
type encoder struct {
	b     []byte
	err   error
	depth int
}

func (e *encoder) null() { e.b = append(e.b, codeNull) }

func (e *encoder) bool(v bool) {
	if v {
		e.b = append(e.b, codeTrue)
	} else {
		e.b = append(e.b, codeFalse)
	}
}

func (e *encoder) ubyte(v uint8) { e.b = append(e.b, codeUbyte, v) }

func (e *encoder) ushort(v uint16) { e.b = append(e.b, codeUshort, byte(v>>8), byte(v)) }

func (e *encoder) uint(v uint32) {
	switch {
	case v == 0:
		e.b = append(e.b, codeUint0)
	case v <= math.MaxUint8:
		e.b = append(e.b, codeUintSmall, byte(v))
	default:
		e.b = binary.BigEndian.AppendUint32(append(e.b, codeUint), v)
	}
}

func (e *encoder) ulong(v uint64) {
	switch {
	case v == 0:
		e.b = append(e.b, codeUlong0)
	case v <= math.MaxUint8:
		e.b = append(e.b, codeUlongSmall, byte(v))
	default:
		e.b = binary.BigEndian.AppendUint64(append(e.b, codeUlong), v)
	}
}

func (e *encoder) int(v int32) {
	if v == int32(int8(v)) {
		e.b = append(e.b, codeIntSmall, byte(v))
		return
	}
	e.b = binary.BigEndian.AppendUint32(append(e.b, codeInt), uint32(v))
}

func (e *encoder) long(v int64) {
	if v == int64(int8(v)) {
		e.b = append(e.b, codeLongSmall, byte(v))
		return
	}
	e.b = binary.BigEndian.AppendUint64(append(e.b, codeLong), uint64(v))
}

func (e *encoder) milliseconds(d time.Duration) {
	e.uint(uint32(min(max(d.Milliseconds(), 0), math.MaxUint32)))
}

func (e *encoder) timestamp(t time.Time) {
	e.b = binary.BigEndian.AppendUint64(append(e.b, codeTimestamp), uint64(t.UnixMilli()))
}

// variable writes a binary, string or symbol by the constructor of its short form.
func (e *encoder) variable(code byte, n int) {
	if n <= math.MaxUint8 {
		e.b = append(e.b, code, byte(n))
	} else {
		e.b = binary.BigEndian.AppendUint32(append(e.b, code|0x10), uint32(n))
	}
}

func (e *encoder) string(v string) {
	e.variable(codeString8, len(v))
	e.b = append(e.b, v...)
}

func (e *encoder) symbol(v Symbol) {
	e.variable(codeSymbol8, len(v))
	e.b = append(e.b, v...)
}

func (e *encoder) binary(v []byte) {
	e.variable(codeBinary8, len(v))
	e.b = append(e.b, v...)
}

// Forms that write the zero value as null.

func (e *encoder) stringOrNull(v string) {
	if v == "" {
		e.null()
	} else {
		e.string(v)
	}
}

func (e *encoder) symbolOrNull(v Symbol) {
	if v == "" {
		e.null()
	} else {
		e.symbol(v)
	}
}

func (e *encoder) symbolsOrNull(v []Symbol) {
	if len(v) == 0 {
		e.null()
	} else {
		e.array(len(v), codeSymbol32, func(i int) any { return v[i] })
	}
}

func (e *encoder) mapOrNull(v Map) {
	if v == nil {
		e.null()
	} else {
		e.mapping(v)
	}
}

func (e *encoder) timestampOrNull(v time.Time) {
	if v.IsZero() {
		e.null()
	} else {
		e.timestamp(v)
	}
}

// begin opens a list or map in its short form; end closes it and widens it when it
// has grown too long.
func (e *encoder) begin(code byte) (at int) {
	at = len(e.b)
	e.b = append(e.b, code, 0, 0)
	return at
}

func (e *encoder) end(at, count int) {
	size := len(e.b) - at - 2
	if size <= math.MaxUint8 && count <= math.MaxUint8 {
		e.b[at+1], e.b[at+2] = byte(size), byte(count)
		return
	}
	e.b = append(e.b, 0, 0, 0, 0, 0, 0)
	copy(e.b[at+9:], e.b[at+3:])
	e.b[at] |= 0x10
	binary.BigEndian.PutUint32(e.b[at+1:], uint32(size+3))
	binary.BigEndian.PutUint32(e.b[at+5:], uint32(count))
}

// composite opens a described list; end closes it.
func (e *encoder) composite(descriptor byte) (at int) {
	e.b = append(e.b, codeDescribed, codeUlongSmall, descriptor)
	return e.begin(codeList8)
}

func (e *encoder) list(v []any) {
	if !e.nest() {
		return
	}
	at := e.begin(codeList8)
	for _, item := range v {
		e.value(item)
	}
	e.end(at, len(v))
	e.depth--
}

func (e *encoder) mapping(v Map) {
	if !e.nest() {
		return
	}
	at := e.begin(codeMap8)
	for i := range v {
		e.value(v[i].Key)
		e.value(v[i].Value)
	}
	e.end(at, 2*len(v))
	e.depth--
}

// nest goes one level deeper; the caller comes back up when it says true.
func (e *encoder) nest() bool {
	if e.depth == maxDepth {
		e.fail("values nest deeper than %d", maxDepth)
		return false
	}
	e.depth++
	return true
}

func (e *encoder) value(v any) {
	switch v := v.(type) {
	case nil:
		e.null()
	case bool:
		e.bool(v)
	case string:
		e.string(v)
	case Symbol:
		e.symbol(v)
	case []byte:
		e.binary(v)
	case time.Time:
		e.timestamp(v)
	case UUID:
		e.b = append(append(e.b, codeUUID), v[:]...)
	case uint32:
		e.uint(v)
	case uint64:
		e.ulong(v)
	case int32:
		e.int(v)
	case int64:
		e.long(v)
	case []any:
		e.list(v)
	case Map:
		e.mapping(v)
	case Described:
		if e.nest() {
			e.b = append(e.b, codeDescribed)
			e.value(v.Descriptor)
			e.value(v.Value)
			e.depth--
		}
	case []string:
		e.array(len(v), codeString32, func(i int) any { return v[i] })
	case []Symbol:
		e.array(len(v), codeSymbol32, func(i int) any { return v[i] })
	case Array:
		e.arrayOf(v)
	default:
		code, ok := wideCode(v)
		if !ok {
			e.fail("%T", v)
			return
		}
		e.b = append(e.b, code)
		e.wide(v)
	}
}

func (e *encoder) fail(format string, args ...any) {
	if e.err == nil {
		e.err = fmt.Errorf("%w: %s", ErrType, fmt.Sprintf(format, args...))
	}
}
