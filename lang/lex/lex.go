// Package lex cuts the text of routes and conditions into tokens. Its rules are
// those of Azure's route grammar (edge-runtime 4.1), oddities included: nearly
// every character may be part of a name, so "a+b" is one name and "a + b" is a sum.
package lex

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Kind is the sort of a token.
type Kind uint8

// The kinds of token.
const (
	EOF    Kind = iota
	Word        // a name, keyword or number, and the operators made of name characters
	Dollar      // a name that starts with $, brackets allowed
	String      // a quoted string; Text is its value without quotes and escapes
	Punct       // anything else, Text is the character or operator
)

// Token is one piece of the text. Offset counts bytes from the start.
type Token struct {
	Kind   Kind
	Text   string
	Offset int
}

// Is says whether the token is that punctuation.
func (t Token) Is(punct string) bool { return t.Kind == Punct && t.Text == punct }

// Keyword says whether the token is that word, in any case.
func (t Token) Keyword(word string) bool { return t.Kind == Word && strings.EqualFold(t.Text, word) }

// String is the token as it is shown in an error.
func (t Token) String() string {
	switch t.Kind {
	case EOF:
		return "the end"
	case String:
		return strconv.Quote(t.Text)
	default:
		return "'" + t.Text + "'"
	}
}

// Error is a mistake in the text, with where it is. Line and Column count from 1,
// the column in characters.
type Error struct {
	Line, Column int
	Text         string
}

func (e *Error) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Text)
}

// Lexer gives the tokens of a text one by one.
type Lexer struct {
	src string
	pos int
}

// New starts at the beginning of src.
func New(src string) *Lexer { return &Lexer{src: src} }

// Errorf makes an Error that points at offset.
func (l *Lexer) Errorf(offset int, format string, args ...any) *Error {
	before := l.src[:min(offset, len(l.src))]
	line := strings.Count(before, "\n") + 1
	column := utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]) + 1
	return &Error{Line: line, Column: column, Text: fmt.Sprintf(format, args...)}
}

// Peek is the next token, which stays the next.
func (l *Lexer) Peek() (Token, error) {
	at := l.pos
	t, err := l.Next()
	l.pos = at
	return t, err
}

// Next takes the next token. At the end it gives EOF, again and again.
func (l *Lexer) Next() (Token, error) {
	l.skip()
	if l.pos >= len(l.src) {
		return Token{Kind: EOF, Offset: len(l.src)}, nil
	}
	start := l.pos
	c := l.src[start]
	switch {
	case c == '$':
		l.pos = start + 1 + run(l.src[start+1:], "()<>@,;:\\\"/?={}")
		return Token{Dollar, l.src[start:l.pos], start}, nil
	case c == '\'' || c == '"':
		return l.quoted(c)
	}
	n := run(l.src[start:], "()<>@,;:\\\"/[]?={}")
	if n == 0 || n == 1 && c == '!' {
		return l.punct(), nil
	}
	l.pos += n
	return Token{Word, l.src[start:l.pos], start}, nil
}

// run is the length of the start of s without white space and without any of stop.
func run(s, stop string) int {
	for i := range len(s) {
		if isSpace(s[i]) || strings.IndexByte(stop, s[i]) >= 0 {
			return i
		}
	}
	return len(s)
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// skip passes white space and comments. A comment that is never closed is none:
// "/messages/*" is a source.
func (l *Lexer) skip() {
	for l.pos < len(l.src) {
		if isSpace(l.src[l.pos]) {
			l.pos++
			continue
		}
		if !strings.HasPrefix(l.src[l.pos:], "/*") {
			return
		}
		end := strings.Index(l.src[l.pos+2:], "*/")
		if end < 0 {
			return
		}
		l.pos += 2 + end + 2
	}
}

func (l *Lexer) punct() Token {
	start := l.pos
	for _, op := range [...]string{"!=", "<>", "<=", ">=", "??"} {
		if strings.HasPrefix(l.src[start:], op) {
			l.pos += len(op)
			return Token{Punct, op, start}
		}
	}
	_, n := utf8.DecodeRuneInString(l.src[start:])
	l.pos += n
	return Token{Punct, l.src[start:l.pos], start}
}

// quoted reads a string. Its escapes are \' \" \\ and \uXXXX.
func (l *Lexer) quoted(quote byte) (Token, error) {
	start := l.pos
	var out []byte
	for i := start + 1; i < len(l.src); {
		switch c := l.src[i]; c {
		case quote:
			l.pos = i + 1
			return Token{String, string(out), start}, nil
		case '\\':
			r, n, ok := escape(l.src[i:])
			if !ok {
				return Token{}, l.Errorf(i, `unknown escape in a string; known are \' \" \\ and \uXXXX`)
			}
			out = utf8.AppendRune(out, r)
			i += n
		default:
			out = append(out, c)
			i++
		}
	}
	return Token{}, l.Errorf(start, "the string that starts here has no closing %c", quote)
}

func escape(s string) (r rune, n int, ok bool) {
	if len(s) >= 2 && strings.IndexByte(`'"\`, s[1]) >= 0 {
		return rune(s[1]), 2, true
	}
	r, ok = unit(s)
	if !ok || !utf16.IsSurrogate(r) {
		return r, 6, ok
	}
	low, ok := unit(s[6:])
	return utf16.DecodeRune(r, low), 12, ok
}

// unit reads \uXXXX.
func unit(s string) (rune, bool) {
	if len(s) < 6 || s[:2] != `\u` {
		return 0, false
	}
	v, err := strconv.ParseUint(s[2:6], 16, 16)
	return rune(v), err == nil
}
