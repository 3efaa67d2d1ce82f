package amqp

import (
	"math"
	"time"
)

// fields reads the fields of a composite type: a list whose tail may be missing and
// where any field may be null (1.4).
type fields struct {
	decoder
	left int
}

// composite opens the list that follows a descriptor.
func (d *decoder) composite() fields {
	code := d.byte()
	if code != codeList0 && code != codeList8 && code != codeList32 {
		d.fail("a composite type is not a list but 0x%02x", code)
		return fields{decoder: decoder{err: d.err}}
	}
	body, count := d.compound(code)
	d.join(&body)
	return fields{body, count}
}

// next says whether the next field is there. When it is not, or is null, it is passed
// over, and the caller keeps its default.
func (f *fields) next() bool {
	if f.left == 0 || f.err != nil {
		return false
	}
	f.left--
	if len(f.b) == 0 {
		f.fail("a field is missing")
		return false
	}
	if f.b[0] == codeNull {
		f.b = f.b[1:]
		return false
	}
	return true
}

// The readers below take the next field, giving the zero value when it is absent.
// They take any integer for an integer and symbols for strings, since clients mix
// these up.

func (f *fields) integer(most uint64) uint64 {
	code := f.byte()
	var n uint64
	switch code {
	case codeUint:
		n = uint64(f.decoder.uint32())
	case codeUintSmall, codeUlongSmall, codeUbyte:
		n = uint64(f.byte())
	case codeUint0, codeUlong0:
	case codeUlong:
		n = f.decoder.uint64()
	case codeUshort:
		n = uint64(f.decoder.uint16())
	case codeByte, codeShort, codeInt, codeIntSmall, codeLong, codeLongSmall:
		v := Map{{"", f.number(code)}}
		i, _ := v.Integer("")
		n = uint64(i) // negative numbers exceed most
	default:
		f.fail("a field is 0x%02x where an integer belongs", code)
	}
	if n > most {
		f.fail("a field is %d, the most is %d", n, most)
		return 0
	}
	return n
}

func (f *fields) uint() (v uint32, ok bool) {
	if !f.next() {
		return 0, false
	}
	return uint32(f.integer(math.MaxUint32)), f.err == nil
}

func (f *fields) uintOr(absent uint32) uint32 {
	if v, ok := f.uint(); ok {
		return v
	}
	return absent
}

func (f *fields) ulong() uint64 {
	if !f.next() {
		return 0
	}
	return f.integer(math.MaxUint64)
}

func (f *fields) ushort() (v uint16, ok bool) {
	if !f.next() {
		return 0, false
	}
	return uint16(f.integer(math.MaxUint16)), f.err == nil
}

func (f *fields) ubyteOr(absent uint8) uint8 {
	if !f.next() {
		return absent
	}
	return uint8(f.integer(math.MaxUint8))
}

func (f *fields) milliseconds() time.Duration {
	v, _ := f.uint()
	return time.Duration(v) * time.Millisecond
}

func (f *fields) bool() bool {
	if !f.next() {
		return false
	}
	switch code := f.byte(); code {
	case codeTrue:
		return true
	case codeFalse:
	case codeBool:
		return f.byte() != 0
	default:
		f.fail("a field is 0x%02x where a boolean belongs", code)
	}
	return false
}

func (f *fields) binary() []byte {
	if !f.next() {
		return nil
	}
	code := f.byte()
	switch code {
	case codeBinary8, codeBinary32, codeString8, codeString32:
		return f.variable(code)
	}
	f.fail("a field is 0x%02x where binary belongs", code)
	return nil
}

func (f *fields) text() string {
	if !f.next() {
		return ""
	}
	code := f.byte()
	switch code {
	case codeString8, codeString32, codeSymbol8, codeSymbol32:
		return string(f.variable(code))
	}
	f.fail("a field is 0x%02x where text belongs", code)
	return ""
}

func (f *fields) symbol() Symbol { return Symbol(f.text()) }

// symbols reads a field that is one symbol or an array of them.
func (f *fields) symbols() []Symbol {
	switch v := f.any().(type) {
	case nil:
	case Symbol:
		return []Symbol{v}
	case []Symbol:
		return v
	case Array:
		if len(v) > 0 {
			f.fail("an array holds %T where symbols belong", v[0])
		}
	default:
		f.fail("a field is %T where symbols belong", v)
	}
	return nil
}

func (f *fields) timestamp() time.Time {
	if !f.next() {
		return time.Time{}
	}
	if code := f.byte(); code != codeTimestamp {
		f.fail("a field is 0x%02x where a timestamp belongs", code)
		return time.Time{}
	}
	return time.UnixMilli(int64(f.decoder.uint64())).UTC()
}

func (f *fields) mapping() Map {
	switch v := f.any().(type) {
	case nil:
	case Map:
		return v
	default:
		f.fail("a field is %T where a map belongs", v)
	}
	return nil
}

func (f *fields) any() any {
	if !f.next() {
		return nil
	}
	return f.value()
}
