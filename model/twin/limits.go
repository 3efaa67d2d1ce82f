package twin

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/selvedge-io/selvedge/model/fault"
)

// Limits of a twin (service-protocol 5.3, device-protocol 9.1 and 9.4).
const (
	MaxProperties = 32 << 10 // bytes of reported or desired, by Size
	MaxTags       = 8 << 10  // bytes of tags, by Size
	MaxDepth      = 10       // objects inside each other, the section itself not counted
	MaxKey        = 1 << 10  // bytes of a key
	MaxString     = 4 << 10  // bytes of a string value
	maxSpread     = 8        // times its limit that a section may take as JSON
	MaxInt        = 4503599627370495
	MinInt        = -4503599627370496
)

// CheckReported says whether o, a patch or a whole section of reported
// properties, is within the limits. Errors are fault.ArgumentInvalid.
func CheckReported(o *Object) error { return check(o, "reported properties", MaxProperties) }

// CheckDesired is CheckReported for desired properties.
func CheckDesired(o *Object) error { return check(o, "desired properties", MaxProperties) }

// CheckTags is CheckReported for tags.
func CheckTags(o *Object) error { return check(o, "tags", MaxTags) }

func check(o *Object, section string, limit int) error {
	if err := checkObject(o, nil, 0); err != nil {
		return err
	}
	if n := Size(o); n > limit {
		return fault.New(fault.ArgumentInvalid, "%s have %d bytes, the most is %d", section, n, limit)
	}
	// Size says little of what has to be kept and sent: it counts neither the digits of
	// numbers, nor control characters, nor what is empty.
	if n := Of(o).spread(); n > maxSpread*limit {
		return fault.New(fault.ArgumentInvalid, "%s take %d bytes as JSON, the most is %d", section, n, maxSpread*limit)
	}
	return nil
}

// spread is about the number of bytes of v as JSON.
func (v Value) spread() int {
	n := len("{},")
	switch v.kind {
	case object:
		for key, member := range v.child.All() {
			n += len(`"":`) + len(key) + member.spread()
		}
	case array:
		for _, item := range v.items {
			n += item.spread()
		}
	case scalar:
		n = len(v.raw) + len(",")
	}
	return n
}

// path is where a value stands, for errors.
type path struct {
	up  *path
	key string
}

func (p *path) String() string {
	var parts []string
	for ; p != nil; p = p.up {
		parts = append([]string{p.key}, parts...)
	}
	return strings.Join(parts, ".")
}

func checkObject(o *Object, at *path, depth int) error {
	if depth > MaxDepth {
		return fault.New(fault.ArgumentInvalid, "%q is nested deeper than %d", at.String(), MaxDepth)
	}
	for key, v := range o.All() {
		here := path{at, key}
		if err := checkKey(key, at); err != nil {
			return err
		}
		if err := checkValue(v, &here, depth); err != nil {
			return err
		}
	}
	return nil
}

func checkKey(key string, in *path) error {
	switch {
	case key == "":
		return fault.New(fault.ArgumentInvalid, "an empty key stands in %q", in.String())
	case len(key) > MaxKey:
		return fault.New(fault.ArgumentInvalid, "a key in %q has %d bytes, the most is %d", in.String(), len(key), MaxKey)
	}
	for _, r := range key {
		if r == '.' || r == '$' || r == ' ' || isControl(r) {
			return fault.New(fault.ArgumentInvalid, "key %q holds %q; keys hold no dot, dollar sign, space or control character", key, r)
		}
	}
	return nil
}

// isControl says whether r is in C0 or C1, or is the delete character.
func isControl(r rune) bool { return r < 0x20 || r >= 0x7f && r <= 0x9f }

func checkValue(v Value, at *path, depth int) error {
	switch v.kind {
	case object:
		return checkObject(v.child, at, depth+1)
	case array:
		for _, item := range v.items {
			below := depth
			switch item.kind {
			case null:
				return fault.New(fault.ArgumentInvalid, "the array %q holds null", at.String())
			case array:
				if below++; below > MaxDepth {
					return fault.New(fault.ArgumentInvalid, "%q is nested deeper than %d", at.String(), MaxDepth)
				}
			}
			if err := checkValue(item, at, below); err != nil {
				return err
			}
		}
	case scalar:
		return checkScalar(v.raw, at)
	}
	return nil
}

func checkScalar(raw string, at *path) error {
	switch c := raw[0]; {
	case c == '"':
		if len(raw) <= MaxString+2 {
			return nil
		}
		if n := len(unquote(raw)); n > MaxString {
			return fault.New(fault.ArgumentInvalid, "the string %q has %d bytes, the most is %d", at.String(), n, MaxString)
		}
	case c == '-' || c >= '0' && c <= '9':
		if strings.ContainsAny(raw, ".eE") {
			return nil
		}
		if n, err := strconv.ParseInt(raw, 10, 64); err != nil || n > MaxInt || n < MinInt {
			return fault.New(fault.ArgumentInvalid, "the integer %q is outside %d to %d", at.String(), int64(MinInt), int64(MaxInt))
		}
	}
	return nil
}

// Size is what counts against a section's limit, in bytes: keys and strings by
// their length without control characters, numbers 8, booleans 4, objects and
// arrays what they hold (device-protocol 9.4.3).
func Size(o *Object) int {
	n := 0
	for key, v := range o.All() {
		n += textSize(key) + v.size()
	}
	return n
}

func (v Value) size() int {
	switch v.kind {
	case object:
		return Size(v.child)
	case array:
		n := 0
		for _, item := range v.items {
			n += item.size()
		}
		return n
	case scalar:
		switch v.raw[0] {
		case '"':
			return textSize(unquote(v.raw))
		case 't', 'f':
			return 4
		}
		return 8
	}
	return 0
}

func textSize(s string) int {
	n := len(s)
	for _, r := range s {
		if isControl(r) {
			n -= utf8.RuneLen(r)
		}
	}
	return n
}
