package amqp

import (
	"slices"
	"time"
	"unsafe"
)

// View is a message as it lies in its encoding: the sections are found and checked,
// nothing is copied, and values are read when they are asked for. It is for those who
// take in so many messages that Message would cost too much. The zero View is ready,
// and Decode may be called again and again. All of it aliases what was decoded.
type View struct {
	Header                Header
	Properties            ViewProperties
	Annotations           []Pair
	ApplicationProperties []Pair
	Data                  [][]byte
	Value                 Raw
	HasValue              bool // the body is Value
	Sequences             int  // how many sequence sections there are
	Head                  int  // how many bytes come before the body
}

// ViewProperties are those of a message's properties that are of use on its way in.
type ViewProperties struct {
	MessageID          Raw
	UserID             []byte
	To                 string
	CorrelationID      Raw
	ContentType        string
	ContentEncoding    string
	AbsoluteExpiryTime time.Time
}

// Pair is one entry of a map whose keys are text.
type Pair struct {
	Key   string
	Value Raw
}

// Raw is an encoded value. The zero Raw is null.
type Raw struct {
	code byte
	b    []byte // what follows the constructor
}

// Text is the value when it is a string or symbol.
func (r Raw) Text() (text string, ok bool) {
	switch r.code {
	case codeString8, codeSymbol8:
		return alias(r.b[1:]), true
	case codeString32, codeSymbol32:
		return alias(r.b[4:]), true
	}
	return "", false
}

// Any is the value as Go has it.
func (r Raw) Any() any {
	d := decoder{b: r.b}
	var v any
	switch {
	case r.code == codeDescribed && r.b != nil:
		v = d.described()
	case r.code != codeDescribed:
		v = d.body(r.code)
	}
	if d.err != nil {
		return nil
	}
	return v
}

// alias is a string over b, without a copy.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// Body is all data sections in one. With a single section, it aliases that.
func (v *View) Body() []byte {
	if len(v.Data) == 1 {
		return v.Data[0]
	}
	return slices.Concat(v.Data...)
}

// Decode reads an encoded message over v. Errors wrap ErrMalformed.
func (v *View) Decode(b []byte) error {
	*v = View{Annotations: v.Annotations[:0], ApplicationProperties: v.ApplicationProperties[:0], Data: v.Data[:0]}
	d := decoder{b: b}
	last := uint64(0)
	for len(d.b) > 0 && d.err == nil {
		at := len(b) - len(d.b)
		section := d.descriptor()
		if section < descData {
			v.Head = len(b)
		} else if last < descData {
			v.Head = at
		}
		repeats := section == last && (section == descData || section == descSequence)
		if section <= last && !repeats && d.err == nil {
			d.fail("section 0x%02x comes after 0x%02x", section, last)
		}
		v.section(section, &d)
		last = section
	}
	if (len(v.Data) > 0 || v.Sequences > 0) && v.HasValue || len(v.Data) > 0 && v.Sequences > 0 {
		d.fail("a message has bodies of several kinds")
	}
	return d.err
}

func (v *View) section(section uint64, d *decoder) {
	switch section {
	case descHeader:
		f := d.composite()
		v.Header.decode(&f)
		d.join(&f.decoder)
	case descDeliveryAnnotations, descFooter:
		if r := d.raw(); r.code != codeMap8 && r.code != codeMap32 && r.code != codeNull {
			d.fail("a section is 0x%02x where a map belongs", r.code)
		}
	case descMessageAnnotations:
		v.Annotations = d.pairs(v.Annotations)
	case descProperties:
		f := d.composite()
		v.Properties.decode(&f)
		d.join(&f.decoder)
	case descApplicationProps:
		v.ApplicationProperties = d.pairs(v.ApplicationProperties)
	case descData:
		switch code := d.byte(); code {
		case codeBinary8, codeBinary32:
			v.Data = append(v.Data, d.variable(code))
		default:
			d.fail("a data section is 0x%02x", code)
		}
	case descSequence:
		if r := d.raw(); r.code != codeList0 && r.code != codeList8 && r.code != codeList32 {
			d.fail("a sequence section is no list")
		}
		v.Sequences++
	case descValue:
		v.Value, v.HasValue = d.raw(), true
	default:
		d.fail("there is no section 0x%02x", section)
	}
}

func (p *ViewProperties) decode(f *fields) {
	p.MessageID = f.raw()
	p.UserID = f.binary()
	p.To = f.alias()
	f.raw() // subject
	f.raw() // reply-to
	p.CorrelationID = f.raw()
	p.ContentType = f.alias()
	p.ContentEncoding = f.alias()
	p.AbsoluteExpiryTime = f.timestamp()
}

func (f *fields) raw() Raw {
	if !f.next() {
		return Raw{}
	}
	return f.decoder.raw()
}

// alias reads text without a copy.
func (f *fields) alias() string {
	r := f.raw()
	text, ok := r.Text()
	if !ok && r.code != 0 && f.err == nil {
		f.fail("a field is 0x%02x where text belongs", r.code)
	}
	return text
}

// pairs reads a section that is a map, behind dst. Keys that are no text are passed
// over with their values.
func (d *decoder) pairs(dst []Pair) []Pair {
	code := d.byte()
	if code == codeNull || d.err != nil {
		return dst
	}
	if code != codeMap8 && code != codeMap32 {
		d.fail("a section is 0x%02x where a map belongs", code)
		return dst
	}
	body, count := d.compound(code)
	if count > len(body.b) || count%2 != 0 {
		body.fail("a map of %d keys and values has %d bytes", count, len(body.b))
	}
	for ; count > 0 && body.err == nil; count -= 2 {
		key, value := body.raw(), body.raw()
		if text, ok := key.Text(); ok && body.err == nil {
			dst = append(dst, Pair{text, value})
		}
	}
	d.join(&body)
	return dst
}

// raw cuts a value off without reading it: the high half of a constructor says how
// long what follows is (1.2.2).
func (d *decoder) raw() Raw {
	code := d.byte()
	if code == codeDescribed {
		if d.depth++; d.depth > maxDepth {
			d.fail("values nest deeper than %d", maxDepth)
			return Raw{}
		}
		whole := d.b
		d.raw()
		d.raw()
		d.depth--
		if d.err != nil {
			return Raw{}
		}
		return Raw{code, whole[:len(whole)-len(d.b)]}
	}
	n := 0
	switch code >> 4 {
	case 0x4:
	case 0x5:
		n = 1
	case 0x6:
		n = 2
	case 0x7:
		n = 4
	case 0x8:
		n = 8
	case 0x9:
		n = 16
	case 0xa, 0xc, 0xe:
		if len(d.b) > 0 {
			n = 1 + int(d.b[0])
		} else {
			n = 1
		}
	case 0xb, 0xd, 0xf:
		size := decoder{b: d.b}
		n = 4 + size.length(code)
		if size.err != nil {
			d.fail("%v", size.err)
			return Raw{}
		}
	default:
		if d.err == nil {
			d.fail("there is no constructor 0x%02x", code)
		}
		return Raw{}
	}
	b := d.take(n)
	if d.err != nil {
		return Raw{}
	}
	return Raw{code, b}
}

// SoleData is the content of the data section that b consists of; ok is false when b
// holds anything else.
func SoleData(b []byte) (data []byte, ok bool) {
	if len(b) < 5 || b[0] != codeDescribed || b[1] != codeUlongSmall || b[2] != descData || b[3]&^0x10 != codeBinary8 {
		return nil, false
	}
	d := decoder{b: b[4:]}
	data = d.variable(b[3])
	return data, d.err == nil && len(d.b) == 0
}
