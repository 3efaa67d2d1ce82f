package expr

import (
	"math"
	"strconv"
	"strings"

	"github.com/selvedge-io/selvedge/lang/lex"
)

// maxDepth bounds the nesting of a condition, so that a hostile one cannot exhaust
// the stack.
const maxDepth = 200

// binding is how tightly binary operators hold, higher is tighter (edge-runtime
// 4.1.2). Those without a builder are known and refused.
var binding = map[string]int{
	"*": 7, "/": 7, "%": 7,
	"+": 6, "-": 6, "||": 6,
	"<": 5, "<=": 5, ">": 5, ">=": 5,
	"=": 4, "!=": 4, "<>": 4,
	"AND": 3, "OR": 2, "??": 1,
}

type parser struct {
	lex   *lex.Lexer
	scope *Scope
	depth int
}

// binary parses an expression whose operators hold at least as tightly as min.
func (p *parser) binary(min int) (node, error) {
	left, err := p.unary()
	if err != nil {
		return nil, err
	}
	for {
		t, err := p.lex.Peek()
		if err != nil {
			return nil, err
		}
		op, level := operator(t)
		if level == 0 || level < min {
			return left, nil
		}
		if _, err := p.lex.Next(); err != nil {
			return nil, err
		}
		right, err := p.binary(level + 1)
		if err != nil {
			return nil, err
		}
		if left, err = p.build(t, op, left, right); err != nil {
			return nil, err
		}
	}
}

func operator(t lex.Token) (string, int) {
	if t.Kind != lex.Punct && t.Kind != lex.Word {
		return "", 0
	}
	op := strings.ToUpper(t.Text)
	return op, binding[op]
}

func (p *parser) build(t lex.Token, op string, l, r node) (node, error) {
	switch op {
	case "AND", "OR":
		if err := p.boolean(t, l, r); err != nil {
			return nil, err
		}
		return logic{or: op == "OR", l: l, r: r}, nil
	case "<", "<=", ">", ">=", "=", "!=", "<>":
		if err := p.comparable(t, l, r); err != nil {
			return nil, err
		}
		return comparison{
			less: op == "<" || op == "<=" || op == "<>" || op == "!=",
			same: op == "=" || op == "<=" || op == ">=",
			more: op == ">" || op == ">=" || op == "<>" || op == "!=",
			l:    l, r: r,
		}, nil
	default:
		return nil, p.lex.Errorf(t.Offset, "operator %s is not supported yet; compare properties and body values with literals", t.Text)
	}
}

// boolean refuses operands of AND, OR and NOT that can never be true or false.
func (p *parser) boolean(t lex.Token, operands ...node) error {
	for _, n := range operands {
		if k := n.static(); k == text || k == number {
			return p.lex.Errorf(t.Offset, "%s needs conditions, not %s; compare it with something (NOT binds tighter than =, so write NOT (a = 'x'))",
				strings.ToUpper(t.Text), k)
		}
	}
	return nil
}

func (p *parser) comparable(t lex.Token, l, r node) error {
	a, b := l.static(), r.static()
	if a == b || free(a) || free(b) {
		return nil
	}
	return p.lex.Errorf(t.Offset, "%s cannot be compared with %s", a, b)
}

// free types go with every other.
func free(k kind) bool { return k == dynamic || k == null || k == undefined }

func (p *parser) unary() (node, error) {
	p.depth++
	defer func() { p.depth-- }()
	t, err := p.lex.Next()
	if err != nil {
		return nil, err
	}
	if p.depth > maxDepth {
		return nil, p.lex.Errorf(t.Offset, "the condition is nested more than %d deep", maxDepth)
	}
	switch {
	case t.Is("("):
		n, err := p.binary(1)
		if err != nil {
			return nil, err
		}
		return n, p.expect(")")
	case t.Is("{"):
		return p.braced()
	case t.Keyword("NOT"):
		n, err := p.unary()
		if err != nil {
			return nil, err
		}
		return not{n}, p.boolean(t, n)
	case t.Kind == lex.String:
		return literal{value{kind: text, text: t.Text}}, nil
	case t.Kind == lex.Dollar:
		return p.dollar(t, true)
	case t.Kind == lex.Word:
		return p.word(t)
	default:
		return nil, p.lex.Errorf(t.Offset, "a value is expected here, found %s", t)
	}
}

func (p *parser) expect(punct string) error {
	t, err := p.lex.Next()
	if err == nil && !t.Is(punct) {
		err = p.lex.Errorf(t.Offset, "'%s' is expected here, found %s", punct, t)
	}
	return err
}

// braced reads {$name}, which never means an application property.
func (p *parser) braced() (node, error) {
	t, err := p.lex.Next()
	if err != nil {
		return nil, err
	}
	if t.Kind != lex.Dollar {
		return nil, p.lex.Errorf(t.Offset, "a system property such as {$messageId} is expected here, found %s", t)
	}
	n, err := p.dollar(t, false)
	if err != nil {
		return nil, err
	}
	return n, p.expect("}")
}

func (p *parser) word(t lex.Token) (node, error) {
	switch t.Text {
	case "true", "false":
		return literal{truth(t.Text == "true")}, nil
	case "null":
		return literal{value{kind: null}}, nil
	case "undefined":
		return literal{}, nil
	}
	if n, ok := parseNumber(t.Text); ok {
		return literal{value{kind: number, num: n}}, nil
	}
	next, err := p.lex.Peek()
	if err != nil {
		return nil, err
	}
	if next.Is("(") {
		return nil, p.lex.Errorf(t.Offset, "function %s is not supported yet", t.Text)
	}
	if _, level := operator(t); level > 0 || t.Keyword("INTO") || t.Keyword("FROM") || t.Keyword("WHERE") || t.Keyword("SELECT") {
		return nil, p.lex.Errorf(t.Offset, "a value is expected here, found %s", t)
	}
	return p.scope.operand(read{kind: fromProperty, name: t.Text}), nil
}

// parseNumber reads an integer, a hexadecimal number or a real. It is stricter than
// strconv, which also knows "inf" and underscores; those are names here.
func parseNumber(s string) (float64, bool) {
	digits := strings.TrimPrefix(s, "-")
	if digits == "" || (digits[0] < '0' || digits[0] > '9') && digits[0] != '.' || strings.Contains(s, "_") {
		return 0, false
	}
	if hex, ok := strings.CutPrefix(strings.ToLower(digits), "0x"); ok {
		n, err := strconv.ParseUint(hex, 16, 64)
		if len(digits) < len(s) {
			return -float64(n), err == nil
		}
		return float64(n), err == nil
	}
	n, err := strconv.ParseFloat(s, 64)
	return n, err == nil || math.IsInf(n, 0) // too large a number is infinity
}

// dollar reads $name: a body query, an application property of that very name, or a
// system property.
func (p *parser) dollar(t lex.Token, mayBeProperty bool) (node, error) {
	name := t.Text[1:]
	if len(name) > len("body.") && strings.EqualFold(name[:len("body.")], "body.") {
		path, ok := parsePath(name[len("body."):])
		if !ok {
			return nil, p.lex.Errorf(t.Offset, "%s is no path into the body; write names joined by dots, each with at most one [index]", t.Text)
		}
		r := read{kind: fromBody, name: t.Text, path: path, property: mayBeProperty}
		return p.scope.operand(r), nil
	}
	if strings.EqualFold(name, "edgeMessageId") {
		return nil, p.lex.Errorf(t.Offset, "system property %s is not supported yet", t.Text)
	}
	if name == "" || strings.EqualFold(name, "body.") {
		return nil, p.lex.Errorf(t.Offset, "a name is expected after $")
	}
	return p.scope.operand(read{kind: fromSystem, name: strings.ToLower(t.Text), property: mayBeProperty}), nil
}

// step is one part of a path: a name and perhaps an index into what it names.
type step struct {
	key   string // escaped for gjson
	index string // decimal, empty for none
}

func parsePath(s string) ([]step, bool) {
	var path []step
	for part := range strings.SplitSeq(s, ".") {
		name, index, indexed := strings.Cut(part, "[")
		if indexed {
			var closed bool
			if index, closed = strings.CutSuffix(index, "]"); !closed || !isDigits(index) {
				return nil, false
			}
		}
		if name == "" || strings.ContainsRune(name, ']') {
			return nil, false
		}
		path = append(path, step{key: escapeKey(name), index: index})
	}
	return path, true
}

func isDigits(s string) bool {
	n, err := strconv.ParseUint(s, 10, 31)
	return err == nil && strconv.FormatUint(n, 10) == s
}

// escapeKey quotes the characters that mean something in a gjson path.
func escapeKey(name string) string {
	var b strings.Builder
	for i := range len(name) {
		if c := name[i]; c < 0x80 && !isPlain(c) {
			b.WriteByte('\\')
		}
		b.WriteByte(name[i])
	}
	return b.String()
}

func isPlain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}
