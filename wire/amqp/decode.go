package amqp

import (
	"encoding/binary"
	"math"
	"time"
)

const (
	// maxDepth bounds how deep values may nest.
	maxDepth = 32
	// maxZeroWidth bounds arrays whose elements take no bytes, which would
	// otherwise cost memory without end.
	maxZeroWidth = 8
)

// ReadValue decodes the first value of b and gives what follows it. Binary values
// alias b. Errors wrap ErrMalformed.
func ReadValue(b []byte) (v any, rest []byte, err error) {
	d := decoder{b: b}
	v = d.value()
	if d.err != nil {
		return nil, nil, d.err
	}
	return v, d.b, nil
}

// decoder reads values from b. Its first error stays, and all later reads give zero
// values.
type decoder struct {
	b     []byte
	err   error
	depth int
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = malformed(format, args...)
	}
	d.b = nil
}

// take cuts n bytes off.
func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.fail("%d bytes are missing", n-len(d.b))
		return nil
	}
	t := d.b[:n:n]
	d.b = d.b[n:]
	return t
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("ends where a value should begin")
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) uint16() uint16 {
	if t := d.take(2); t != nil {
		return binary.BigEndian.Uint16(t)
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if t := d.take(4); t != nil {
		return binary.BigEndian.Uint32(t)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if t := d.take(8); t != nil {
		return binary.BigEndian.Uint64(t)
	}
	return 0
}

// length reads a size of one or four bytes; the wide codes have bit 4 set.
func (d *decoder) length(code byte) int {
	if code&0x10 == 0 {
		return int(d.byte())
	}
	n := d.uint32()
	if uint64(n) > uint64(len(d.b)) { // also keeps it within int on 32-bit machines
		d.fail("%d bytes are announced, %d are there", n, len(d.b))
		return 0
	}
	return int(n)
}

// variable reads the bytes of a binary, string or symbol.
func (d *decoder) variable(code byte) []byte { return d.take(d.length(code)) }

// compound opens a list, map or array: a decoder over its content and how many
// elements it announces.
func (d *decoder) compound(code byte) (body decoder, count int) {
	if code == codeList0 {
		return decoder{}, 0
	}
	if d.depth >= maxDepth {
		d.fail("values nest deeper than %d", maxDepth)
		return decoder{err: d.err}, 0
	}
	content := d.take(d.length(code))
	body = decoder{b: content, err: d.err, depth: d.depth + 1}
	count = 0
	if code&0x10 == 0 {
		count = int(body.byte())
	} else if n := body.uint32(); n <= math.MaxInt32 {
		count = int(n)
	} else {
		body.fail("%d elements are announced", n)
	}
	return body, count
}

// value reads any value.
func (d *decoder) value() any {
	code := d.byte()
	if d.err != nil {
		return nil
	}
	if code == codeDescribed {
		return d.described()
	}
	return d.body(code)
}

func (d *decoder) described() any {
	if d.depth++; d.depth > maxDepth {
		d.fail("values nest deeper than %d", maxDepth)
		return nil
	}
	descriptor := d.value()
	v := d.value()
	d.depth--
	return Described{descriptor, v}
}

// body reads the value whose constructor was code.
func (d *decoder) body(code byte) any {
	switch code {
	case codeNull:
		return nil
	case codeTrue:
		return true
	case codeFalse:
		return false
	case codeBool:
		return d.byte() != 0
	case codeString8, codeString32:
		return string(d.variable(code))
	case codeSymbol8, codeSymbol32:
		return Symbol(d.variable(code))
	case codeBinary8, codeBinary32:
		return d.variable(code)
	case codeTimestamp:
		return time.UnixMilli(int64(d.uint64())).UTC()
	case codeUUID:
		var u UUID
		copy(u[:], d.take(16))
		return u
	case codeList0, codeList8, codeList32:
		return d.list(code)
	case codeMap8, codeMap32:
		return d.mapping(code)
	case codeArray8, codeArray32:
		return d.array(code)
	}
	return d.number(code)
}

func (d *decoder) number(code byte) any {
	switch code {
	case codeUbyte:
		return d.byte()
	case codeUshort:
		return d.uint16()
	case codeUint:
		return d.uint32()
	case codeUintSmall:
		return uint32(d.byte())
	case codeUint0:
		return uint32(0)
	case codeUlong:
		return d.uint64()
	case codeUlongSmall:
		return uint64(d.byte())
	case codeUlong0:
		return uint64(0)
	case codeByte:
		return int8(d.byte())
	case codeShort:
		return int16(d.uint16())
	case codeInt:
		return int32(d.uint32())
	case codeIntSmall:
		return int32(int8(d.byte()))
	case codeLong:
		return int64(d.uint64())
	case codeLongSmall:
		return int64(int8(d.byte()))
	case codeFloat:
		return math.Float32frombits(d.uint32())
	case codeDouble:
		return math.Float64frombits(d.uint64())
	case codeChar:
		return Char(d.uint32())
	case codeDecimal32:
		var v Decimal32
		copy(v[:], d.take(4))
		return v
	case codeDecimal64:
		var v Decimal64
		copy(v[:], d.take(8))
		return v
	case codeDecimal128:
		var v Decimal128
		copy(v[:], d.take(16))
		return v
	}
	d.fail("there is no type 0x%02x", code)
	return nil
}

func (d *decoder) list(code byte) []any {
	body, count := d.compound(code)
	if count > len(body.b) { // an element has at least one byte
		body.fail("a list of %d elements has %d bytes", count, len(body.b))
	}
	d.join(&body)
	if d.err != nil {
		return nil
	}
	l := make([]any, count)
	for i := range l {
		l[i] = body.value()
	}
	d.join(&body)
	return l
}

func (d *decoder) mapping(code byte) Map {
	body, count := d.compound(code)
	if count > len(body.b) || count%2 != 0 {
		body.fail("a map of %d keys and values has %d bytes", count, len(body.b))
	}
	d.join(&body)
	if d.err != nil {
		return nil
	}
	m := make(Map, count/2)
	for i := range m {
		m[i].Key = body.value()
		m[i].Value = body.value()
	}
	d.join(&body)
	return m
}

// array reads elements that share one constructor.
func (d *decoder) array(code byte) any {
	body, count := d.compound(code)
	var descriptor any
	elem := body.byte()
	described := elem == codeDescribed
	if described {
		descriptor = body.value()
		elem = body.byte()
	}
	limit := len(body.b)
	switch elem {
	case codeNull, codeTrue, codeFalse, codeUint0, codeUlong0, codeList0:
		limit = maxZeroWidth
	case codeDescribed:
		body.fail("an array's descriptor has a descriptor")
	}
	if count > limit {
		body.fail("an array of %d elements has %d bytes", count, len(body.b))
	}
	d.join(&body)
	if d.err != nil {
		return nil
	}
	switch {
	case described:
	case elem == codeString8 || elem == codeString32:
		a := make([]string, count)
		for i := range a {
			a[i] = string(body.variable(elem))
		}
		d.join(&body)
		return a
	case elem == codeSymbol8 || elem == codeSymbol32:
		a := make([]Symbol, count)
		for i := range a {
			a[i] = Symbol(body.variable(elem))
		}
		d.join(&body)
		return a
	}
	a := make(Array, count)
	for i := range a {
		if a[i] = body.body(elem); described {
			a[i] = Described{descriptor, a[i]}
		}
	}
	d.join(&body)
	return a
}

// join takes over the error of a decoder opened on part of d.
func (d *decoder) join(part *decoder) {
	if d.err == nil && part.err != nil {
		d.err, d.b = part.err, nil
	}
}
