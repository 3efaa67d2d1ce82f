package expr

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/selvedge-io/selvedge/model/message"
)

const document1 = `{"t":50,"s":"Run","b":true,"off":false,"n":null,"o":{"x":1,"a.b":2},"a":[20,30,40],"when":"2026-01-01T00:00:00Z","list":[{"k":7}]}`

func sample() *message.Message {
	return &message.Message{
		Body: []byte(document1),
		Properties: []message.Property{
			{Name: "Level", Value: "Alert"}, {Name: "count", Value: "3"}, {Name: "$odd", Value: "yes"},
			{Name: "a+b", Value: "sum"}, {Name: "$body.t", Value: "shadow"},
		},
		System: message.System{
			ContentType: "application/json", ContentEncoding: "utf-8",
			ConnectionDevice: "edge1", ConnectionModule: "sensor", Output: "out", MessageID: "m1",
			Enqueued: time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC),
		},
	}
}

// result of a whole condition for the sample: "true", "false" or "undefined".
func result(t *testing.T, src string, m *message.Message) string {
	t.Helper()
	var s Scope
	c, err := s.Compile(src)
	if err != nil {
		t.Fatalf("%s: %v", src, err)
	}
	e := s.NewEnv()
	e.Reset(m)
	v := c.root.eval(e)
	if got := v.kind == boolean && v.bool; got != c.True(e) {
		t.Errorf("%s: True says %v", src, !got)
	}
	switch {
	case v.kind == boolean && v.bool:
		return "true"
	case v.kind == boolean, v.kind == null:
		return "false"
	default:
		return "undefined"
	}
}

func TestConditions(t *testing.T) {
	for src, want := range map[string]string{
		// The vectors of edge-runtime 9.3 that need no function and no arithmetic.
		"level = 'Alert'":                "true",
		"level = 'alert'":                "false",
		"missing = 'x'":                  "undefined",
		"missing != 'x'":                 "undefined",
		"missing = 'x' OR true":          "true",
		"missing = 'x' AND false":        "false",
		"$connectionModuleId = 'sensor'": "true",
		"{$body.t} >= 50":                "true",
		"{$body.t} = '50'":               "false",
		"{$BODY.t} <> 60":                "true",
		"$body.b":                        "true",
		"NOT $body.off":                  "true",
		"$body.n = null":                 "true",
		"$body.none = null":              "true",
		"$body.none <> 'x'":              "true",
		"$body.none = 'x' ":              "false",
		"$body.o = null":                 "undefined",
		"$body.o <> null":                "undefined",
		"$body":                          "undefined",
		"$body.when <> 'x'":              "undefined",
		"null":                           "false",
		"NOT null":                       "true",
		"null OR true":                   "true",

		// Names and literals.
		"LEVEL='Alert'":                                  "true",
		`level = "Alert"`:                                "true",
		`level = '\u0041l\u0065rt'`:                      "true",
		`'\ud83d\ude00' = "😀"`:                           "true",
		`'it\'s' = "it's"`:                               "true",
		"a+b = 'sum'":                                    "true",
		"$odd = 'yes'":                                   "true",
		"{$odd} = 'yes'":                                 "undefined",
		"$body.t = 'shadow'":                             "true",
		"$MESSAGEID = 'm1'":                              "true",
		"{$messageId} = 'm1'":                            "true",
		"$edgeHubOriginInterface='internal'":             "true",
		"$enqueuedTime = '2026-01-02T03:04:05.0000006Z'": "true",
		"$body.list[0].k = 7":                            "true",
		"$body.list[1].k = null":                         "true",
		"$body.t[0] = null":                              "true",
		"$body.a[2] = 40":                                "true",
		"$body.a.length = null":                          "true",
		"$body.s = 'Run'":                                "true",
		"$body.S = null":                                 "true",
		"0x1F = 31":                                      "true",
		"-0x1F = -31":                                    "true",
		"-1.5e+1 = -15":                                  "true",
		"10e1000 > 5":                                    "true",
		"'b' > 'a'":                                      "true",
		"'B' > 'a'":                                      "false",
		"1 < 2 = true":                                   "true",
		"true /* and */ AND /**/ true":                   "true",
		"5":                                              "undefined",
		"'text'":                                         "undefined",
		"level":                                          "undefined",
		"undefined":                                      "undefined",
		"NOT undefined":                                  "undefined",
		"((((true))))":                                   "true",
		"NOT NOT true":                                   "true",
		"NOT (level = 'x')":                              "true",
		"true OR false AND false":                        "true",
		"(true OR false) AND false":                      "false",

		// Three values.
		"true AND undefined":  "undefined",
		"undefined AND true":  "undefined",
		"false AND undefined": "false",
		"undefined AND false": "false",
		"true OR undefined":   "true",
		"undefined OR true":   "true",
		"false OR undefined":  "undefined",
		"undefined OR false":  "undefined",

		// Null.
		"null = null":       "true",
		"null != null":      "false",
		"null = 'x'":        "undefined",
		"'x' <> null":       "undefined",
		"null AND true":     "false",
		"true AND null":     "false",
		"null OR undefined": "undefined",
		"{$body.t} = null":  "false",

		// Body values by rank.
		"$body.b < $body.a[0]": "true",
		"$body.a[0] < $body.s": "true",
		"$body.s < $body.n":    "true",
		"$body.b = 1":          "false",
		"$body.b != 1":         "true",
		"$body.b AND true":     "true",
		"$body.a[0] AND true":  "undefined",
		"$body.a[0] OR true":   "undefined",
		"$body.none OR true":   "undefined",
		"NOT $body.s":          "undefined",
	} {
		if got := result(t, src, sample()); got != want {
			t.Errorf("%s is %s, want %s", src, got, want)
		}
	}
}

func TestBodyEncodings(t *testing.T) {
	var utf16le, utf32le []byte
	for _, u := range utf16.Encode([]rune(document1)) {
		utf16le = binary.LittleEndian.AppendUint16(utf16le, u)
	}
	for _, r := range document1 {
		utf32le = binary.LittleEndian.AppendUint32(utf32le, uint32(r))
	}
	for _, c := range []struct{ name, contentType, encoding, body, want string }{
		{"plain", "application/json", "utf-8", document1, "true"},
		{"any case", "Application/JSON", "UTF-8", document1, "true"},
		{"with a mark", "application/json", "utf-8", "\ufeff" + document1, "true"},
		{"utf-16", "application/json", "utf-16", string(utf16le), "true"},
		{"utf-32", "application/json", "utf-32", string(utf32le), "true"},
		{"odd utf-16", "application/json", "utf-16", string(utf16le[1:]), "undefined"},
		{"no encoding", "application/json", "", document1, "undefined"},
		{"no type", "", "utf-8", document1, "undefined"},
		{"another type", "text/plain", "utf-8", document1, "undefined"},
		{"not JSON", "application/json", "utf-8", document1 + "}", "undefined"},
		{"an array", "application/json", "utf-8", `[50]`, "undefined"},
		{"empty", "application/json", "utf-8", "", "undefined"},
	} {
		m := &message.Message{Body: []byte(c.body), System: message.System{ContentType: c.contentType, ContentEncoding: c.encoding}}
		if got := result(t, "$body.t = 50", m); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestDateTimes(t *testing.T) {
	for s, want := range map[string]bool{
		"2026-01-01T00:00:00": true, "2026-01-01T00:00:00Z": true, "2026-01-01T00:00:00.1234567+02:00": true,
		"2026-01-01T00:00:00+0200": true, "2026-01-01": false, "2026-01-01 00:00:00": false, "2026-13-01T00:00:00Z": false,
	} {
		if isDateTime(s) != want {
			t.Errorf("isDateTime(%q) is %v", s, !want)
		}
	}
}

func TestRefused(t *testing.T) {
	for src, want := range map[string]string{
		"count > 2":                    "line 1, column 7: a string cannot be compared with a number",
		"as_number(count) > 2":         "line 1, column 1: function as_number is not supported yet",
		"true AND\n  IS_DEFINED (x)":   "line 2, column 3: function IS_DEFINED is not supported yet",
		"$body.a[0] + $body.a[1] = 50": "operator + is not supported",
		"3 % 0 ?? 7":                   "operator % is not supported",
		"key ?? 'd' = 'd'":             "operator ?? is not supported",
		"'a' || 'b' = 'ab'":            "operator || is not supported",
		"$body.a[] = 1":                "no path into the body",
		"$body.a[1:2] = 1":             "no path into the body",
		"$body.a[0][1] = 1":            "no path into the body",
		"$body..a = 1":                 "no path into the body",
		"$body. = 1":                   "a name is expected after $",
		"$ = 'x'":                      "a name is expected after $",
		"NOT a = 'x'":                  "NOT needs conditions, not a string",
		"level AND true":               "AND needs conditions",
		"true OR 5":                    "OR needs conditions",
		"a == 'x'":                     "a value is expected here, found '='",
		"'x' = true":                   "cannot be compared",
		"(true":                        "')' is expected here, found the end",
		"true)":                        "an operator or the end is expected",
		"":                             "a value is expected here, found the end",
		"AND":                          "a value is expected here, found 'AND'",
		"level = 'Alert":               "column 9: the string that starts here has no closing '",
		`level = '\q'`:                 "unknown escape",
		"{level} = 'x'":                "a system property such as",
		"{$level = 'x'":                "'}' is expected",
		"$edgeMessageId = 'x'":         "not supported yet",
		strings.Repeat("(", 1000):      "nested more than 200 deep",
		strings.Repeat("NOT ", 1000):   "nested more than 200 deep",
	} {
		_, err := new(Scope).Compile(src)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: error %v, want %q", src, err, want)
		}
	}
}

func TestOperandsAreReadOnce(t *testing.T) {
	var s Scope
	for _, src := range []string{"$body.t > 1", "$BODY.t > 2 AND level = 'x'", "LEVEL = 'y'"} {
		if _, err := s.Compile(src); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.reads) != 2 {
		t.Errorf("%d reads, want 2: %+v", len(s.reads), s.reads)
	}
}

func FuzzCompile(f *testing.F) {
	for _, s := range []string{"level = 'Alert' AND NOT ($body.a[0].b <= -1.5e3 OR {$messageId} != \"x\")", "'\\ud800\\udc00'", "/* c */ 0x1F ?? null", "((("} {
		f.Add(s)
	}
	m := sample()
	f.Fuzz(func(t *testing.T, src string) {
		var s Scope
		c, err := s.Compile(src)
		if err != nil {
			return
		}
		e := s.NewEnv()
		e.Reset(m)
		first := c.True(e)
		e.Reset(m)
		if c.True(e) != first {
			t.Fatal("the same message gave two results")
		}
	})
}
