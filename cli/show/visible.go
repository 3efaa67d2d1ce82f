package show

import (
	"bytes"
	"fmt"
	"strings"
)

// Visible makes text from elsewhere safe for a terminal and for a table: what devices
// send must neither command the terminal nor look like lines of ours.
func Visible(s string) string {
	if strings.IndexFunc(s, control) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n':
			b.WriteRune('⏎')
		case r == '\t':
			b.WriteByte(' ')
		case control(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// control says whether r is in C0 or C1, or is the delete character.
func control(r rune) bool { return r < 0x20 || r >= 0x7f && r <= 0x9f }

// SafeJSON writes the control characters that JSON text may hold as they are in the
// other way that JSON has for them, so that it means the same and commands nothing.
// White space between values stays.
func SafeJSON(text []byte) []byte {
	if bytes.IndexFunc(text, commands) < 0 {
		return text
	}
	var b bytes.Buffer
	for _, r := range string(text) {
		if commands(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.Bytes()
}

func commands(r rune) bool { return r >= 0x7f && r <= 0x9f }
