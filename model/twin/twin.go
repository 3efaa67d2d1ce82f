// Package twin is the document a device and its hub agree on: an ordered JSON
// tree with Azure's rules for merging, limits, versions and metadata. It is pure:
// no clock, no disk, no network, so that hub, edge and client share it.
//
// Objects and values are immutable once made and may be shared freely between
// goroutines; every operation gives a new object that shares what did not change.
package twin

import (
	"iter"
	"strconv"
)

// Object is a JSON object that keeps the order of its keys and the exact bytes
// of its scalars. A nil Object is the empty object.
type Object struct {
	members []member
}

type member struct {
	key   string
	value Value
}

type kind uint8

const (
	null kind = iota
	scalar
	array
	object
)

// Value is one JSON value. The zero Value is null.
type Value struct {
	kind  kind
	raw   string // scalar: its bytes as they were written
	items []Value
	child *Object
}

// Of is o as a value.
func Of(o *Object) Value { return Value{kind: object, child: o} }

// String is s as a JSON string.
func String(s string) Value { return Value{kind: scalar, raw: string(appendQuoted(nil, s))} }

// Int is n as a JSON number.
func Int(n int64) Value { return Value{kind: scalar, raw: strconv.FormatInt(n, 10)} }

// IsNull says whether v is null.
func (v Value) IsNull() bool { return v.kind == null }

// Object gives the object that v is; ok is false when v is something else.
func (v Value) Object() (o *Object, ok bool) { return v.child, v.kind == object }

// Text gives the decoded string that v is; ok is false when v is something else.
func (v Value) Text() (s string, ok bool) {
	if v.kind != scalar || v.raw[0] != '"' {
		return "", false
	}
	return unquote(v.raw), true
}

// Int gives the whole number that v is; ok is false when v is something else, or
// does not fit.
func (v Value) Int() (n int64, ok bool) {
	if v.kind != scalar {
		return 0, false
	}
	n, err := strconv.ParseInt(v.raw, 10, 64)
	return n, err == nil
}

// Items gives the elements of the array that v is; ok is false when v is
// something else. The slice must not be changed.
func (v Value) Items() (items []Value, ok bool) { return v.items, v.kind == array }

// Len is the number of keys.
func (o *Object) Len() int {
	if o == nil {
		return 0
	}
	return len(o.members)
}

// Get gives the value of key.
func (o *Object) Get(key string) (v Value, ok bool) {
	if i := o.find(key); i >= 0 {
		return o.members[i].value, true
	}
	return Value{}, false
}

// Child gives the object under key, nil when there is none.
func (o *Object) Child(key string) *Object {
	v, _ := o.Get(key)
	return v.child
}

// All walks the members in order.
func (o *Object) All() iter.Seq2[string, Value] {
	return func(yield func(string, Value) bool) {
		if o == nil {
			return
		}
		for _, m := range o.members {
			if !yield(m.key, m.value) {
				return
			}
		}
	}
}

// With gives o with key set to v: in its place when o has the key, else at the end.
func (o *Object) With(key string, v Value) *Object {
	e := edit(o, 1)
	e.set(key, v)
	return e.object()
}

// Without gives o without key.
func (o *Object) Without(key string) *Object {
	e := edit(o, 0)
	e.drop(key)
	return e.object()
}

func (o *Object) find(key string) int {
	if o == nil {
		return -1
	}
	for i := range o.members {
		if o.members[i].key == key {
			return i
		}
	}
	return -1
}

// manyKeys is where an index of keys starts to beat looking through them.
const manyKeys = 24

// editor makes a changed copy of an object. Deleted members keep their place,
// marked, until the end, so that the index stays true.
type editor struct {
	members []member
	dead    []bool         // nil until something is deleted
	index   map[string]int // nil for small objects
}

// edit starts a copy of o that will see about n changes.
func edit(o *Object, n int) editor {
	var e editor
	if o != nil {
		e.members = make([]member, len(o.members), len(o.members)+n)
		copy(e.members, o.members)
	} else {
		e.members = make([]member, 0, n)
	}
	if n > 16 && len(e.members)+n > manyKeys {
		e.index = make(map[string]int, len(e.members)+n)
		for i := range e.members {
			e.index[e.members[i].key] = i
		}
	}
	return e
}

func (e *editor) find(key string) int {
	if e.index != nil {
		if i, ok := e.index[key]; ok {
			return i
		}
		return -1
	}
	for i := range e.members {
		if e.members[i].key == key && (e.dead == nil || !e.dead[i]) {
			return i
		}
	}
	return -1
}

func (e *editor) set(key string, v Value) {
	if i := e.find(key); i >= 0 {
		e.members[i].value = v
		return
	}
	if e.index != nil {
		e.index[key] = len(e.members)
	}
	e.members = append(e.members, member{key, v})
	if e.dead != nil {
		e.dead = append(e.dead, false)
	}
}

func (e *editor) drop(key string) {
	i := e.find(key)
	if i < 0 {
		return
	}
	if e.dead == nil {
		e.dead = make([]bool, len(e.members), cap(e.members))
	}
	e.dead[i] = true
	if e.index != nil {
		delete(e.index, key)
	}
}

func (e *editor) object() *Object {
	if e.dead == nil {
		return &Object{members: e.members}
	}
	kept := e.members[:0]
	for i, m := range e.members {
		if !e.dead[i] {
			kept = append(kept, m)
		}
	}
	clear(e.members[len(kept):]) // let go of what was deleted
	return &Object{members: kept}
}
