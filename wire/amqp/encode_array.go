package amqp

import (
	"encoding/binary"
	"math"
	"time"
)

// wideCode is the constructor that takes every value of v's type, which arrays need
// since their elements share one.
func wideCode(v any) (code byte, ok bool) {
	switch v.(type) {
	case nil:
		return codeNull, true
	case bool:
		return codeBool, true
	case uint8:
		return codeUbyte, true
	case uint16:
		return codeUshort, true
	case uint32:
		return codeUint, true
	case uint64:
		return codeUlong, true
	case int8:
		return codeByte, true
	case int16:
		return codeShort, true
	case int32:
		return codeInt, true
	case int64:
		return codeLong, true
	case float32:
		return codeFloat, true
	case float64:
		return codeDouble, true
	case Char:
		return codeChar, true
	case Decimal32:
		return codeDecimal32, true
	case Decimal64:
		return codeDecimal64, true
	case Decimal128:
		return codeDecimal128, true
	case time.Time:
		return codeTimestamp, true
	case UUID:
		return codeUUID, true
	case []byte:
		return codeBinary32, true
	case string:
		return codeString32, true
	case Symbol:
		return codeSymbol32, true
	case []any:
		return codeList32, true
	case Map:
		return codeMap32, true
	case Array, []string, []Symbol:
		return codeArray32, true
	}
	return 0, false
}

// wide writes v as wideCode's constructor has it, without the constructor.
func (e *encoder) wide(v any) {
	be := binary.BigEndian
	switch v := v.(type) {
	case bool:
		if v {
			e.b = append(e.b, 1)
		} else {
			e.b = append(e.b, 0)
		}
	case uint8:
		e.b = append(e.b, v)
	case uint16:
		e.b = be.AppendUint16(e.b, v)
	case uint32:
		e.b = be.AppendUint32(e.b, v)
	case uint64:
		e.b = be.AppendUint64(e.b, v)
	case int8:
		e.b = append(e.b, byte(v))
	case int16:
		e.b = be.AppendUint16(e.b, uint16(v))
	case int32:
		e.b = be.AppendUint32(e.b, uint32(v))
	case int64:
		e.b = be.AppendUint64(e.b, uint64(v))
	case float32:
		e.b = be.AppendUint32(e.b, math.Float32bits(v))
	case float64:
		e.b = be.AppendUint64(e.b, math.Float64bits(v))
	case Char:
		e.b = be.AppendUint32(e.b, uint32(v))
	case Decimal32:
		e.b = append(e.b, v[:]...)
	case Decimal64:
		e.b = append(e.b, v[:]...)
	case Decimal128:
		e.b = append(e.b, v[:]...)
	case time.Time:
		e.b = be.AppendUint64(e.b, uint64(v.UnixMilli()))
	case UUID:
		e.b = append(e.b, v[:]...)
	case []byte:
		e.b = append(be.AppendUint32(e.b, uint32(len(v))), v...)
	case string:
		e.b = append(be.AppendUint32(e.b, uint32(len(v))), v...)
	case Symbol:
		e.b = append(be.AppendUint32(e.b, uint32(len(v))), v...)
	case []any:
		at := e.beginWide()
		for _, item := range v {
			e.value(item)
		}
		e.endWide(at, len(v))
	case Map:
		at := e.beginWide()
		for i := range v {
			e.value(v[i].Key)
			e.value(v[i].Value)
		}
		e.endWide(at, 2*len(v))
	case Array, []string, []Symbol: // an array within an array: drop its constructor
		at := len(e.b)
		e.value(v)
		if e.err == nil {
			e.b = append(e.b[:at], e.b[at+1:]...)
		}
	}
}

func (e *encoder) beginWide() (at int) {
	at = len(e.b)
	e.b = append(e.b, 0, 0, 0, 0, 0, 0, 0, 0)
	return at
}

func (e *encoder) endWide(at, count int) {
	binary.BigEndian.PutUint32(e.b[at:], uint32(len(e.b)-at-4))
	binary.BigEndian.PutUint32(e.b[at+4:], uint32(count))
}

// array writes n elements of the type that code is the constructor of.
func (e *encoder) array(n int, code byte, elem func(i int) any) {
	e.b = append(e.b, codeArray32)
	at := e.beginWide()
	e.b = append(e.b, code)
	for i := range n {
		e.wide(elem(i))
	}
	e.endWide(at, n)
}

// arrayOf writes an Array, whose elements must agree in type and descriptor.
func (e *encoder) arrayOf(a Array) {
	if !e.nest() {
		return
	}
	defer func() { e.depth-- }()
	e.b = append(e.b, codeArray32)
	at := e.beginWide()
	defer func() { e.endWide(at, len(a)) }()
	if len(a) == 0 {
		e.b = append(e.b, codeNull)
		return
	}
	first, described := a[0].(Described)
	inner := a[0]
	if described {
		e.b = append(e.b, codeDescribed)
		e.value(first.Descriptor)
		inner = first.Value
	}
	code, ok := wideCode(inner)
	if !ok {
		e.fail("%T within an array", inner)
		return
	}
	e.b = append(e.b, code)
	for _, item := range a {
		v := item
		if described {
			d, ok := item.(Described)
			if !ok {
				e.fail("%T within an array of described values", item)
				return
			}
			v = d.Value
		}
		if c, ok := wideCode(v); !ok || c != code {
			e.fail("%T within an array of %T", v, inner)
			return
		}
		e.wide(v)
	}
}
