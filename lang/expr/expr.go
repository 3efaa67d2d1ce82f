// Package expr is the condition language of routes (edge-runtime 4.1.2): what
// stands between WHERE and INTO. It knows literals, application and system
// properties, body queries, comparisons and three-valued logic. Functions and
// arithmetic are refused when a condition is compiled, never ignored.
package expr

import (
	"strings"

	"github.com/selvedge-io/selvedge/lang/lex"
	"github.com/selvedge-io/selvedge/model/message"
)

// Scope holds what a set of conditions reads from a message, so that all of them
// together read each property and body path once. Compile everything first, then
// use environments of it from any goroutine.
type Scope struct {
	reads []read
}

// Condition is one compiled condition.
type Condition struct{ root node }

// Parse compiles the condition that starts at the lexer and stops before the first
// token that cannot belong to it. Errors are *lex.Error.
func (s *Scope) Parse(l *lex.Lexer) (*Condition, error) {
	p := parser{lex: l, scope: s}
	root, err := p.binary(1)
	if err != nil {
		return nil, err
	}
	return &Condition{root: root}, nil
}

// Compile compiles a text that is one condition and nothing else.
func (s *Scope) Compile(src string) (*Condition, error) {
	l := lex.New(src)
	c, err := s.Parse(l)
	if err != nil {
		return nil, err
	}
	t, err := l.Next()
	if err == nil && t.Kind != lex.EOF {
		err = l.Errorf(t.Offset, "an operator or the end is expected here, found %s", t)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// True says whether the condition is true for the environment's message; false and
// undefined are both not.
func (c *Condition) True(e *Env) bool {
	v := c.root.eval(e)
	return v.kind == boolean && v.bool
}

// operand gives the slot of what is read, the same one for the same thing.
func (s *Scope) operand(r read) operand {
	for i := range s.reads {
		if s.reads[i].same(&r) {
			return operand{slot: i, kind: r.static()}
		}
	}
	s.reads = append(s.reads, r)
	return operand{slot: len(s.reads) - 1, kind: r.static()}
}

// origin is where an operand is read.
type origin uint8

const (
	fromProperty origin = iota
	fromSystem
	fromBody
)

// read is one thing conditions read from a message.
type read struct {
	kind     origin
	name     string // as written, with the $
	path     []step // of a body query
	property bool   // an application property of that name, if present, comes first
}

func (r *read) same(o *read) bool {
	if r.kind != o.kind || r.property != o.property {
		return false
	}
	if r.kind == fromBody { // the path is case-sensitive, $body is not
		return r.name[len("$body."):] == o.name[len("$body."):]
	}
	return strings.EqualFold(r.name, o.name)
}

func (r *read) static() kind {
	if r.kind == fromBody {
		return dynamic
	}
	return text
}

// Env is one message as the conditions of a scope see it. It is for one goroutine at
// a time, and usable again after Reset.
type Env struct {
	scope  *Scope
	m      *message.Message
	values []value
	known  []bool
	body   body
}

// NewEnv makes an environment without a message.
func (s *Scope) NewEnv() *Env {
	return &Env{scope: s, values: make([]value, len(s.reads)), known: make([]bool, len(s.reads))}
}

// Reset puts another message in, or none. The message must not change while
// conditions look at it.
func (e *Env) Reset(m *message.Message) {
	e.m = m
	clear(e.known)
	clear(e.values) // they point into the last message
	e.body = body{}
}

func (e *Env) operand(slot int) value {
	if !e.known[slot] {
		e.known[slot] = true
		e.values[slot] = e.read(&e.scope.reads[slot])
	}
	return e.values[slot]
}

func (e *Env) read(r *read) value {
	if r.kind == fromProperty || r.property {
		for i := range e.m.Properties {
			if strings.EqualFold(e.m.Properties[i].Name, r.name) {
				return value{kind: text, text: e.m.Properties[i].Value}
			}
		}
	}
	switch r.kind {
	case fromSystem:
		if s := system(e.m, r.name[1:]); s != "" {
			return value{kind: text, text: s}
		}
	case fromBody:
		return e.body.query(e.m, r.path)
	}
	return value{}
}
