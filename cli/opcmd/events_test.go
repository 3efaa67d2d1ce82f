package opcmd

import (
	"bytes"
	"strings"
	"testing"

	"github.com/selvedge-io/selvedge/cli/show"
)

// A device's text stays in its own line and its own colour.
func TestEventsOfHostileDevices(t *testing.T) {
	for _, line := range []string{
		`{"deviceId":"d","enqueuedTime":"2026-01-01T00:00:00Z","body":"a\u001b[2J\r\nb\u009b2J"}`,
		"{\"deviceId\":\"d\",\"body\":{\"a\":\"\u009b2J\u007f\"}}",
		`{"deviceId":"d","body":1,"properties":{"n\u001b":"v\n12:00:00.000  other  forged"}}`,
	} {
		var out bytes.Buffer
		if err := printEvent(&show.Printer{Out: &out, Format: show.Table}, []byte(line), true); err != nil {
			t.Fatal(err)
		}
		text, ok := strings.CutSuffix(out.String(), "\n")
		if !ok || strings.IndexFunc(text, func(r rune) bool { return r < 0x20 || r >= 0x7f && r <= 0x9f }) >= 0 {
			t.Errorf("%s is printed as %q", line, out.String())
		}
	}
}
