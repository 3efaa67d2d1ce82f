package route

import (
	"strings"

	"github.com/selvedge-io/selvedge/lang/expr"
	"github.com/selvedge-io/selvedge/lang/lex"
)

// statement is one parsed route.
type statement struct {
	prefix    string // of sources, lower case, ends in a slash
	condition *expr.Condition
	endpoint  Endpoint
}

// parse reads [SELECT *] FROM source [WHERE condition] INTO sink.
func parse(text string, scope *expr.Scope) (statement, error) {
	p := parser{lex.New(text)}
	var s statement
	t, err := p.Next()
	if err == nil && t.Keyword("SELECT") {
		if t, err = p.Next(); err == nil && t.Text != "*" {
			err = p.Errorf(t.Offset, "only '*' can be selected, found %s", t)
		}
		if err == nil {
			t, err = p.Next()
		}
	}
	if err == nil && !t.Keyword("FROM") {
		err = p.Errorf(t.Offset, "FROM is expected here, found %s", t)
	}
	if err != nil {
		return s, err
	}
	if s.prefix, err = p.source(); err != nil {
		return s, err
	}
	if t, err = p.Next(); err != nil {
		return s, err
	}
	if t.Keyword("WHERE") {
		if s.condition, err = scope.Parse(p.Lexer); err != nil {
			return s, err
		}
		if t, err = p.Next(); err != nil {
			return s, err
		}
	}
	if !t.Keyword("INTO") {
		return s, p.Errorf(t.Offset, "INTO is expected here, found %s", t)
	}
	if s.endpoint, err = p.sink(); err != nil {
		return s, err
	}
	if t, err = p.Next(); err == nil && t.Kind != lex.EOF {
		err = p.Errorf(t.Offset, "the end of the route is expected here, found %s", t)
	}
	return s, err
}

type parser struct{ *lex.Lexer }

// source reads a path of "/" and names. A star at its end is dropped: a source is a
// prefix anyway, and a star anywhere else is only a character.
func (p parser) source() (string, error) {
	var path strings.Builder
	for {
		t, err := p.Peek()
		if err != nil {
			return "", err
		}
		if !t.Is("/") {
			if path.Len() == 0 {
				return "", p.Errorf(t.Offset, "a source such as /messages/* is expected here, found %s", t)
			}
			break
		}
		if _, err := p.Next(); err != nil {
			return "", err
		}
		name, err := p.Next()
		if err != nil {
			return "", err
		}
		if name.Kind != lex.Word {
			return "", p.Errorf(name.Offset, "a name or '*' is expected here, found %s", name)
		}
		path.WriteByte('/')
		path.WriteString(name.Text)
	}
	return slashed(strings.TrimSuffix(path.String(), "*")), nil
}

// slashed is the form in which sources are compared.
func slashed(path string) string {
	if !strings.HasSuffix(path, "/") {
		path += "/"
	}
	return strings.ToLower(path)
}

// sink reads $upstream or BrokeredEndpoint("/modules/M/inputs/I").
func (p parser) sink() (Endpoint, error) {
	t, err := p.Next()
	if err != nil {
		return Endpoint{}, err
	}
	if t.Kind == lex.Dollar && strings.EqualFold(t.Text, "$upstream") {
		return Endpoint{}, nil
	}
	if !t.Keyword("BrokeredEndpoint") {
		return Endpoint{}, p.Errorf(t.Offset, `$upstream or BrokeredEndpoint("/modules/NAME/inputs/NAME") is expected here, found %s`, t)
	}
	if err := p.expect("("); err != nil {
		return Endpoint{}, err
	}
	arg, err := p.Next()
	if err != nil {
		return Endpoint{}, err
	}
	parts := strings.Split(arg.Text, "/")
	if arg.Kind != lex.String || len(parts) != 5 || parts[0] != "" || !strings.EqualFold(parts[1], "modules") ||
		!strings.EqualFold(parts[3], "inputs") || parts[2] == "" || parts[4] == "" {
		return Endpoint{}, p.Errorf(arg.Offset, `an endpoint is written "/modules/NAME/inputs/NAME", found %s`, arg)
	}
	return Endpoint{Module: parts[2], Input: parts[4]}, p.expect(")")
}

func (p parser) expect(punct string) error {
	t, err := p.Next()
	if err == nil && !t.Is(punct) {
		err = p.Errorf(t.Offset, "'%s' is expected here, found %s", punct, t)
	}
	return err
}
