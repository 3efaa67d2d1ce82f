package cli

import (
	"bytes"
	"strings"
	"testing"
)

// A command line that is wrong exits with 2 and says in one line where to look it up;
// what failed exits with 1 and says what to do.
func TestErrorsSayWhatToDo(t *testing.T) {
	none := t.TempDir()
	for _, c := range []struct {
		args string
		code int
		says []string
	}{
		{"nonsense", 2, []string{`unknown command "nonsense"`, "see: selvedge --help"}},
		{"device shw", 2, []string{`unknown command "shw"`, "see: selvedge device --help"}},
		{"twin show", 2, []string{"accepts 1 arg", "see: selvedge twin show --help"}},
		{"hub run --nope", 2, []string{"unknown flag: --nope", "see: selvedge hub run --help"}},
		{"events --count x", 2, []string{`"x"`, "see: selvedge events --help"}},
		{"events --since soon", 2, []string{`"soon"`, "10m"}},
		{"events --module m", 2, []string{"--device"}},
		{"hub run --mqtt 8883", 2, []string{"HOST:PORT"}},
		{"hub run --hostname https://x", 2, []string{"host name"}},
		{"hub run --retention 1s", 2, []string{"1m"}},
		{"hub ca --data " + none, 1, []string{"selvedge hub run --data " + none}},
		{"hub id-scope --data " + none, 1, []string{"selvedge hub run --data " + none}},
		{"hub connection-string --data " + none, 1, []string{"selvedge hub run --data " + none}},
		{"device list --hub-data " + none, 1, []string{"--hub", "SELVEDGE_HUB"}},
	} {
		t.Setenv("SELVEDGE_HUB", "")
		var out, stderr bytes.Buffer
		code := Main(strings.Fields(c.args), strings.NewReader(""), &out, &stderr)
		text := stderr.String()
		if code != c.code || strings.Count(text, "\n") != 1 || out.Len() > 0 {
			t.Errorf("%s: exit %d, want %d: %q %q", c.args, code, c.code, text, &out)
		}
		for _, want := range c.says {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %q does not say %q", c.args, text, want)
			}
		}
		if strings.Contains(text, "strconv") || strings.Contains(text, "no such file") {
			t.Errorf("%s: %q speaks of the inside", c.args, text)
		}
	}
}
