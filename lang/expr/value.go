package expr

import (
	"cmp"
	"strings"
)

// kind is the type of a value. The order of the kinds from boolean to null is the
// rank by which body values of different types compare.
type kind uint8

const (
	undefined kind = iota
	boolean
	number
	text
	null
	// dynamic is a static type only: what a body query gives is known when the
	// message is there.
	dynamic
)

func (k kind) String() string {
	return [...]string{"undefined", "a boolean", "a number", "a string", "null", "a body value"}[k]
}

// value is what an expression gives for one message.
type value struct {
	kind kind
	bool bool
	num  float64
	text string
}

func truth(b bool) value { return value{kind: boolean, bool: b} }

// order compares two defined values as a body query would: by type first.
func order(a, b value) int {
	if a.kind != b.kind {
		return cmp.Compare(a.kind, b.kind)
	}
	switch a.kind {
	case boolean:
		return cmp.Compare(toInt(a.bool), toInt(b.bool))
	case number:
		return cmp.Compare(a.num, b.num)
	case text:
		return strings.Compare(a.text, b.text)
	default:
		return 0
	}
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// node is one part of a compiled condition.
type node interface {
	static() kind
	eval(e *Env) value
}

type literal struct{ v value }

func (l literal) static() kind    { return l.v.kind }
func (l literal) eval(*Env) value { return l.v }

// operand is a property, system property or body query; the environment reads each
// once for a message, however many conditions name it.
type operand struct {
	slot int
	kind kind
}

func (o operand) static() kind      { return o.kind }
func (o operand) eval(e *Env) value { return e.operand(o.slot) }

type not struct{ x node }

func (not) static() kind { return boolean }

func (n not) eval(e *Env) value {
	v := n.x.eval(e)
	switch {
	case v.kind == boolean:
		return truth(!v.bool)
	case v.kind == null && n.x.static() == null:
		return truth(true)
	default:
		return value{}
	}
}

// logic is AND or OR with three values. A null literal counts as false. With a body
// value on either side both have to be booleans (edge-runtime 4.1.2).
type logic struct {
	or   bool
	l, r node
}

func (logic) static() kind { return boolean }

func (n logic) eval(e *Env) value {
	l := n.l.eval(e)
	strict := n.l.static() == dynamic || n.r.static() == dynamic
	if !strict {
		l = falsy(l)
		if l.kind == boolean && l.bool == n.or { // the other side cannot change it
			return l
		}
	}
	r := n.r.eval(e)
	if !strict {
		r = falsy(r)
		if r.kind == boolean && r.bool == n.or {
			return r
		}
	}
	if l.kind != boolean || r.kind != boolean {
		return value{}
	}
	if n.or {
		return truth(l.bool || r.bool)
	}
	return truth(l.bool && r.bool)
}

func falsy(v value) value {
	if v.kind == null {
		return truth(false)
	}
	return v
}

// comparison compares two values; less, same and more say for which orders it holds.
type comparison struct {
	less, same, more bool
	l, r             node
}

func (comparison) static() kind { return boolean }

func (n comparison) eval(e *Env) value {
	l, r := n.l.eval(e), n.r.eval(e)
	if l.kind == undefined || r.kind == undefined {
		return value{}
	}
	if l.kind != r.kind && n.l.static() != dynamic && n.r.static() != dynamic {
		return value{} // null against another type
	}
	switch c := order(l, r); {
	case c < 0:
		return truth(n.less)
	case c > 0:
		return truth(n.more)
	default:
		return truth(n.same)
	}
}
