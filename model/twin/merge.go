package twin

import (
	"strings"
	"unicode/utf8"
)

// Merge gives doc with patch laid over it (device-protocol 9.4.2): objects merge
// at every level, null deletes its key, anything else replaces. A patch below a
// missing parent makes the parent, even when it only deletes: {"a":{"b":null}}
// over {} gives {"a":{}}. Neither argument changes.
func Merge(doc, patch *Object) *Object {
	e := edit(doc, patch.Len())
	for key, v := range patch.All() {
		switch v.kind {
		case null:
			e.drop(key)
		case object:
			var below *Object
			if i := e.find(key); i >= 0 {
				below = e.members[i].value.child
			}
			e.set(key, Of(Merge(below, v.child)))
		default:
			e.set(key, v)
		}
	}
	return e.object()
}

// Diff gives the patch that makes from into to: Merge(from, Diff(from, to)) equals
// to, as long as no object of to holds a null (a merged document never does).
func Diff(from, to *Object) *Object {
	d := edit(nil, 4)
	old := lookup(from)
	for key, now := range to.All() {
		was, had := old(key)
		switch {
		case !had || was.kind != object && now.kind == object || was.kind == object && now.kind != object:
			d.members = append(d.members, member{key, now})
		case now.kind == object:
			if below := Diff(was.child, now.child); below.Len() > 0 {
				d.members = append(d.members, member{key, Of(below)})
			}
		case !was.same(now):
			d.members = append(d.members, member{key, now})
		}
	}
	still := lookup(to)
	for key := range from.All() {
		if _, has := still(key); !has {
			d.members = append(d.members, member{key, Value{}})
		}
	}
	return d.object()
}

// lookup is Get for many keys.
func lookup(o *Object) func(string) (Value, bool) {
	if o.Len() <= manyKeys {
		return o.Get
	}
	index := make(map[string]Value, o.Len())
	for key, v := range o.All() {
		index[key] = v
	}
	return func(key string) (Value, bool) {
		v, ok := index[key]
		return v, ok
	}
}

// same compares by content and order of keys.
func (v Value) same(w Value) bool {
	if v.kind != w.kind {
		return false
	}
	switch v.kind {
	case scalar:
		return v.raw == w.raw || sameText(v.raw, w.raw)
	case array:
		if len(v.items) != len(w.items) {
			return false
		}
		for i := range v.items {
			if !v.items[i].same(w.items[i]) {
				return false
			}
		}
	case object:
		return v.child.same(w.child)
	}
	return true
}

// sameText says whether two scalars are one string, spelled with other escapes.
func sameText(a, b string) bool {
	if a[0] != '"' || b[0] != '"' || strings.IndexByte(a, '\\') < 0 && strings.IndexByte(b, '\\') < 0 {
		return false
	}
	text := unquote(a)
	// Halves of surrogate pairs all decode to this.
	return text == unquote(b) && !strings.ContainsRune(text, utf8.RuneError)
}

func (o *Object) same(p *Object) bool {
	if o.Len() != p.Len() {
		return false
	}
	for i := range o.Len() {
		if o.members[i].key != p.members[i].key || !o.members[i].value.same(p.members[i].value) {
			return false
		}
	}
	return true
}

// Equal says whether both hold the same keys and values; the order of keys
// matters only inside arrays.
func Equal(a, b *Object) bool {
	if a.Len() != b.Len() {
		return false
	}
	other := lookup(b)
	for key, v := range a.All() {
		w, ok := other(key)
		switch {
		case !ok || v.kind != w.kind:
			return false
		case v.kind == object:
			if !Equal(v.child, w.child) {
				return false
			}
		case !v.same(w):
			return false
		}
	}
	return true
}

// StripReserved gives o without the keys that begin with $, at every level
// outside arrays. Service clients post whole twins back, $version and $metadata
// included (service-protocol 5.2).
func StripReserved(o *Object) *Object {
	e := edit(nil, o.Len())
	for key, v := range o.All() {
		if strings.HasPrefix(key, "$") {
			continue
		}
		if v.kind == object {
			v = Of(StripReserved(v.child))
		}
		e.members = append(e.members, member{key, v})
	}
	return e.object()
}

// SetPath gives o with the value at path replaced as a whole, its parents made
// when missing; null deletes what is there. Values on the way that are no objects
// give way. An empty path gives o.
func SetPath(o *Object, path []string, v Value) *Object {
	switch {
	case len(path) == 0:
		return o
	case len(path) > 1:
		return o.With(path[0], Of(SetPath(o.Child(path[0]), path[1:], v)))
	case v.kind == null:
		return o.Without(path[0])
	case v.kind == object:
		v = Of(Merge(nil, v.child)) // a document holds no nulls
	}
	return o.With(path[0], v)
}
