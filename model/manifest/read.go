package manifest

import (
	"fmt"
	"strings"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/twin"
)

// place is where something stands in a document, for errors.
type place struct{ path string }

func (p place) in(name string) place {
	if p.path == "" {
		return place{name}
	}
	return place{p.path + "." + name}
}

// refuse is the fault for what stands here.
func (p place) refuse(format string, args ...any) error {
	return fault.New(fault.InvalidConfiguration, "%s: %s", p.path, fmt.Sprintf(format, args...))
}

// because is refuse with a cause to tell it apart by.
func (p place) because(cause error, format string, args ...any) error {
	return fault.Wrap(cause, fault.InvalidConfiguration, "%s: %s", p.path, fmt.Sprintf(format, args...))
}

// needObject reads a member that must be there.
func (p place) needObject(o *twin.Object, name string) (*twin.Object, error) {
	v, ok := o.Get(name)
	child, isObject := v.Object()
	switch {
	case !ok:
		return nil, p.in(name).refuse("it is missing; it must be an object")
	case !isObject:
		return nil, p.in(name).refuse("it must be an object")
	}
	return child, nil
}

// object reads a member that may be absent, or null, which gives nil.
func (p place) object(o *twin.Object, name string) (*twin.Object, error) {
	if v, ok := o.Get(name); !ok || v.IsNull() {
		return nil, nil
	}
	return p.needObject(o, name)
}

// text reads a member that must be a string and not blank.
func (p place) text(o *twin.Object, name string) (string, error) {
	v, ok := o.Get(name)
	s, isText := v.Text()
	switch {
	case !ok:
		return "", p.in(name).refuse("it is missing; it must be a string")
	case !isText:
		return "", p.in(name).refuse("it must be a string")
	case strings.TrimSpace(s) == "":
		return "", p.in(name).refuse("it is blank")
	}
	return s, nil
}

// word reads one of a few words, in any case; absent it is the default.
func word[T ~string](p place, o *twin.Object, name string, absent T, words ...T) (T, error) {
	v, ok := o.Get(name)
	if !ok || v.IsNull() {
		return absent, nil
	}
	s, _ := v.Text()
	known := make([]string, len(words))
	for i, w := range words {
		if strings.EqualFold(s, string(w)) {
			return w, nil
		}
		known[i] = string(w)
	}
	return absent, p.in(name).refuse("it must be one of %s", strings.Join(known, ", "))
}

// whole reads a whole number within bounds; absent it is the default.
func (p place) whole(o *twin.Object, name string, absent, low, high int64) (int64, error) {
	v, ok := o.Get(name)
	if !ok || v.IsNull() {
		return absent, nil
	}
	n, ok := v.Int()
	if !ok || n < low || n > high {
		return 0, p.in(name).refuse("it must be a whole number from %d to %d", low, high)
	}
	return n, nil
}

// plain is a string, number or boolean as text.
func plain(v twin.Value) (string, bool) {
	if s, ok := v.Text(); ok {
		return s, true
	}
	_, isObject := v.Object()
	_, isArray := v.Items()
	if isObject || isArray || v.IsNull() {
		return "", false
	}
	return string(v.AppendJSON(nil)), true
}
