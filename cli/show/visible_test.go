package show

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// hostile is text with which a device would clear the screen, start a line of its own,
// and set the title, by both kinds of control characters.
const hostile = "a\x1b[2J\r\nb\tc\u009b2J\u009d0;x\x07\x7f"

func TestNothingCommandsTheTerminal(t *testing.T) {
	quoted, err := json.Marshal(map[string]string{"k": hostile})
	if err != nil {
		t.Fatal(err)
	}
	for name, print := range map[string]func(p *Printer) error{
		"table": func(p *Printer) error {
			return p.rows(&Rows{Header: []string{"K", "L"}, Lines: [][]string{{hostile, "l"}}})
		},
		"json": func(p *Printer) error { return p.json(quoted) },
		"yaml": func(p *Printer) error { return p.yaml(quoted) },
	} {
		var out bytes.Buffer
		if err := print(&Printer{Out: &out}); err != nil {
			t.Fatal(name, err)
		}
		if i := strings.IndexFunc(out.String(), func(r rune) bool { return control(r) && r != '\n' }); i >= 0 {
			t.Errorf("%s prints control characters: %q", name, &out)
		}
		if name == "table" && strings.Count(out.String(), "\n") != 2 {
			t.Errorf("one row makes more lines: %q", &out)
		}
		var back map[string]string
		if name == "json" && (json.Unmarshal(out.Bytes(), &back) != nil || back["k"] != hostile) {
			t.Errorf("JSON says something else now: %q", &out)
		}
	}
}
