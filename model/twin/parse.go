package twin

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/selvedge-io/selvedge/model/fault"
)

// maxNesting bounds the recursion of Parse; the limits of twins are far below.
const maxNesting = 64

// Parse reads one JSON object. Scalars keep their bytes; of a key that occurs
// twice the last value counts. Errors are fault.ArgumentInvalid and say where.
func Parse(b []byte) (*Object, error) {
	v, err := ParseValue(b)
	if err != nil {
		return nil, err
	}
	if v.kind != object {
		return nil, fault.New(fault.ArgumentInvalid, "the JSON is not an object")
	}
	return v.child, nil
}

// ParseValue reads one JSON value of any kind.
func ParseValue(b []byte) (Value, error) {
	p := parser{in: b}
	v, err := p.value(0)
	if err != nil {
		return Value{}, err
	}
	if p.space(); p.at < len(b) {
		return Value{}, p.fail("something follows the end of the JSON")
	}
	return v, nil
}

type parser struct {
	in []byte
	at int
}

func (p *parser) fail(what string) error {
	return fault.New(fault.ArgumentInvalid, "the JSON is not valid at byte %d: %s", p.at, what)
}

func (p *parser) space() {
	for p.at < len(p.in) {
		switch p.in[p.at] {
		case ' ', '\t', '\r', '\n':
			p.at++
		default:
			return
		}
	}
}

// next is the first byte after white space, zero at the end.
func (p *parser) next() byte {
	p.space()
	if p.at == len(p.in) {
		return 0
	}
	return p.in[p.at]
}

func (p *parser) value(depth int) (Value, error) {
	if depth > maxNesting {
		return Value{}, p.fail("it is nested too deep")
	}
	switch c := p.next(); {
	case c == '{':
		o, err := p.object(depth)
		return Value{kind: object, child: o}, err
	case c == '[':
		items, err := p.array(depth)
		return Value{kind: array, items: items}, err
	case c == '"':
		raw, err := p.quoted()
		return Value{kind: scalar, raw: raw}, err
	case c == '-' || c >= '0' && c <= '9':
		raw, err := p.number()
		return Value{kind: scalar, raw: raw}, err
	case p.word("true"):
		return Value{kind: scalar, raw: "true"}, nil
	case p.word("false"):
		return Value{kind: scalar, raw: "false"}, nil
	case p.word("null"):
		return Value{}, nil
	case c == 0 && p.at == len(p.in):
		return Value{}, p.fail("it ends too early")
	}
	return Value{}, p.fail("a value must stand here")
}

func (p *parser) word(w string) bool {
	if len(p.in)-p.at < len(w) || string(p.in[p.at:p.at+len(w)]) != w {
		return false
	}
	p.at += len(w)
	return true
}

func (p *parser) object(depth int) (*Object, error) {
	p.at++ // the brace
	var e editor
	if p.next() == '}' {
		p.at++
		return &Object{}, nil
	}
	for {
		if p.next() != '"' {
			return nil, p.fail("a key in double quotes must stand here")
		}
		raw, err := p.quoted()
		if err != nil {
			return nil, err
		}
		if p.next() != ':' {
			return nil, p.fail("a colon must stand here")
		}
		p.at++
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if e.index == nil && len(e.members) == manyKeys {
			e.index = make(map[string]int, 2*manyKeys)
			for i := range e.members {
				e.index[e.members[i].key] = i
			}
		}
		e.set(unquote(raw), v)
		switch p.next() {
		case ',':
			p.at++
		case '}':
			p.at++
			return e.object(), nil
		default:
			return nil, p.fail("a comma or the end of the object must stand here")
		}
	}
}

func (p *parser) array(depth int) ([]Value, error) {
	p.at++ // the bracket
	items := []Value{}
	if p.next() == ']' {
		p.at++
		return items, nil
	}
	for {
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		items = append(items, v)
		switch p.next() {
		case ',':
			p.at++
		case ']':
			p.at++
			return items, nil
		default:
			return nil, p.fail("a comma or the end of the array must stand here")
		}
	}
}

// quoted takes a string with its quotes. The result aliases nothing.
func (p *parser) quoted() (string, error) {
	start := p.at
	p.at++
	ascii := true
	for p.at < len(p.in) {
		switch c := p.in[p.at]; {
		case c == '"':
			p.at++
			raw := p.in[start:p.at]
			if !ascii && !utf8.Valid(raw) {
				return "", p.fail("the string is not valid UTF-8")
			}
			return string(raw), nil
		case c == '\\':
			if err := p.escape(); err != nil {
				return "", err
			}
		case c < ' ':
			return "", p.fail("a control character stands bare in a string")
		default:
			ascii = ascii && c < utf8.RuneSelf
			p.at++
		}
	}
	return "", p.fail("the string does not end")
}

func (p *parser) escape() error {
	p.at++ // the backslash
	if p.at == len(p.in) {
		return p.fail("the string does not end")
	}
	switch p.in[p.at] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		p.at++
		return nil
	case 'u':
		p.at++
		for range 4 {
			if p.at == len(p.in) || !isHex(p.in[p.at]) {
				return p.fail("four hex digits must follow \\u")
			}
			p.at++
		}
		return nil
	}
	return p.fail("this escape does not exist")
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func (p *parser) digits() bool {
	start := p.at
	for p.at < len(p.in) && p.in[p.at] >= '0' && p.in[p.at] <= '9' {
		p.at++
	}
	return p.at > start
}

func (p *parser) number() (string, error) {
	start := p.at
	if p.in[p.at] == '-' {
		p.at++
	}
	first := p.at
	if !p.digits() {
		return "", p.fail("a digit must stand here")
	}
	if p.in[first] == '0' && p.at > first+1 {
		return "", p.fail("the number starts with a needless zero")
	}
	if p.at < len(p.in) && p.in[p.at] == '.' {
		if p.at++; !p.digits() {
			return "", p.fail("a digit must follow the point")
		}
	}
	if p.at < len(p.in) && (p.in[p.at] == 'e' || p.in[p.at] == 'E') {
		p.at++
		if p.at < len(p.in) && (p.in[p.at] == '+' || p.in[p.at] == '-') {
			p.at++
		}
		if !p.digits() {
			return "", p.fail("a digit must follow the exponent's e")
		}
	}
	return string(p.in[start:p.at]), nil
}

// unquote decodes a JSON string whose syntax was checked.
func unquote(raw string) string {
	if strings.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	var s string
	if err := json.Unmarshal([]byte(raw), &s); err != nil {
		return raw[1 : len(raw)-1] // cannot be: quoted accepts only what decodes
	}
	return s
}

// AppendJSON appends the object without white space.
func (o *Object) AppendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	dst = o.appendMembers(dst)
	return append(dst, '}')
}

func (o *Object) appendMembers(dst []byte) []byte {
	if o == nil {
		return dst
	}
	for i := range o.members {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendQuoted(dst, o.members[i].key)
		dst = append(dst, ':')
		dst = o.members[i].value.AppendJSON(dst)
	}
	return dst
}

// AppendJSON appends the value without white space.
func (v Value) AppendJSON(dst []byte) []byte {
	switch v.kind {
	case scalar:
		return append(dst, v.raw...)
	case object:
		return v.child.AppendJSON(dst)
	case array:
		dst = append(dst, '[')
		for i, item := range v.items {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = item.AppendJSON(dst)
		}
		return append(dst, ']')
	}
	return append(dst, "null"...)
}

// MarshalJSON implements json.Marshaler.
func (o *Object) MarshalJSON() ([]byte, error) { return o.AppendJSON(nil), nil }

// UnmarshalJSON implements json.Unmarshaler.
func (o *Object) UnmarshalJSON(b []byte) error {
	parsed, err := Parse(b)
	if err != nil {
		return err
	}
	*o = *parsed
	return nil
}

// MarshalJSON implements json.Marshaler.
func (v Value) MarshalJSON() ([]byte, error) { return v.AppendJSON(nil), nil }

// UnmarshalJSON implements json.Unmarshaler.
func (v *Value) UnmarshalJSON(b []byte) error {
	parsed, err := ParseValue(b)
	if err != nil {
		return err
	}
	*v = parsed
	return nil
}

// appendQuoted writes s as a JSON string with the fewest escapes.
func appendQuoted(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[start:i]...)
		start = i + 1
		if c < ' ' {
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		} else {
			dst = append(dst, '\\', c)
		}
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}
