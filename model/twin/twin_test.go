package twin

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
)

func must(t testing.TB, text string) *Object {
	t.Helper()
	o, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("Parse(%s): %v", text, err)
	}
	return o
}

func text(o *Object) string { return string(o.AppendJSON(nil)) }

func TestParseKeepsBytesAndOrder(t *testing.T) {
	for in, want := range map[string]string{
		`{}`: `{}`,
		` { "z" : 1.50 , "a" : [ 1 , {"b":2e+1} ] } `: `{"z":1.50,"a":[1,{"b":2e+1}]}`,
		`{"t":"2024-05-01T10:20:30.0000000Z"}`:        `{"t":"2024-05-01T10:20:30.0000000Z"}`,
		`{"s":"\u0041\/","n":-0.0,"x":null}`:          `{"s":"\u0041\/","n":-0.0,"x":null}`,
		`{"a":1,"b":2,"a":3}`:                         `{"a":3,"b":2}`,
		`{"\u0061":1,"a":2}`:                          `{"a":2}`,
		`{"q\"\\\n":true}`:                            `{"q\"\\\u000a":true}`,
		`{"e":[],"o":{}}`:                             `{"e":[],"o":{}}`,
	} {
		if got := text(must(t, in)); got != want {
			t.Errorf("Parse(%s) = %s, want %s", in, got, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{
		``, ` `, `1`, `[]`, `null`, `{`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{a:1}`, `{"a":01}`, `{"a":1.}`, `{"a":.5}`,
		`{"a":1e}`, `{"a":-}`, `{"a":"`, `{"a":"\x"}`, `{"a":"\u12g4"}`, `{"a":"` + "\n" + `"}`, `{"a":tru}`, `{"a":1}x`,
		`{"a":[1,]}`, `{"a":[1 2]}`, "{\"a\":\"\xff\"}", strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100),
	} {
		if _, err := Parse([]byte(in)); !fault.Is(err, fault.ArgumentInvalid) {
			t.Errorf("Parse(%s) gave %v, want ArgumentInvalid", in, err)
		}
	}
}

func TestMerge(t *testing.T) {
	for _, c := range []struct{ doc, patch, want string }{
		{`{}`, `{"a":1}`, `{"a":1}`},
		{`{"a":1,"b":2}`, `{"a":null}`, `{"b":2}`},
		{`{"b":2}`, `{"a":null}`, `{"b":2}`},
		{`{}`, `{"a":{"b":null}}`, `{"a":{}}`},
		{`{"a":{"x":1}}`, `{"a":{"y":2}}`, `{"a":{"x":1,"y":2}}`},
		{`{"a":{"x":1}}`, `{"a":5}`, `{"a":5}`},
		{`{"a":5}`, `{"a":{"x":1,"y":null}}`, `{"a":{"x":1}}`},
		{`{"a":[1,2]}`, `{"a":[3]}`, `{"a":[3]}`},
		{`{"z":1,"a":2}`, `{"a":3,"z":4,"m":5}`, `{"z":4,"a":3,"m":5}`},
		{`{"a":1}`, `{}`, `{"a":1}`},
	} {
		doc, patch := must(t, c.doc), must(t, c.patch)
		if got := text(Merge(doc, patch)); got != c.want {
			t.Errorf("Merge(%s, %s) = %s, want %s", c.doc, c.patch, got, c.want)
		}
		if text(doc) != c.doc || text(patch) != c.patch {
			t.Errorf("Merge(%s, %s) changed its arguments", c.doc, c.patch)
		}
	}
}

func TestMergeOfManyKeys(t *testing.T) {
	var doc, patch *Object
	for i := range 100 {
		doc = doc.With(fmt.Sprint("k", i), Int(int64(i)))
		switch i % 3 {
		case 0:
			patch = patch.With(fmt.Sprint("k", i), Value{})
		case 1:
			patch = patch.With(fmt.Sprint("n", i), Int(1))
		}
	}
	got := Merge(doc, patch)
	if got.Len() != 100-34+33 {
		t.Errorf("%d keys left, want 99", got.Len())
	}
	if _, has := got.Get("k0"); has {
		t.Error("k0 is still there")
	}
	if again := Merge(doc, Diff(doc, got)); !Equal(again, got) {
		t.Errorf("Diff does not lead there: %s", text(again))
	}
}

func TestDiff(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{`{"a":1}`, `{"a":1}`, `{}`},
		{`{"a":1,"b":2}`, `{"b":3}`, `{"b":3,"a":null}`},
		{`{"a":{"x":1,"y":2}}`, `{"a":{"x":1}}`, `{"a":{"y":null}}`},
		{`{"a":5}`, `{"a":{}}`, `{"a":{}}`},
		{`{"a":{"x":1}}`, `{"a":5}`, `{"a":5}`},
		{`{"a":[1,{"b":2}]}`, `{"a":[1,{"b":3}]}`, `{"a":[1,{"b":3}]}`},
		{`{}`, `{"a":{}}`, `{"a":{}}`},
	} {
		from, to := must(t, c.from), must(t, c.to)
		got := Diff(from, to)
		if text(got) != c.want {
			t.Errorf("Diff(%s, %s) = %s, want %s", c.from, c.to, text(got), c.want)
		}
		if end := Merge(from, got); !Equal(end, to) {
			t.Errorf("Diff(%s, %s) leads to %s", c.from, c.to, text(end))
		}
	}
}

func nested(depth int) string {
	return strings.Repeat(`{"a":`, depth) + `{"a":1}` + strings.Repeat("}", depth)
}

// TestEqualWhateverTheSpelling: encoding/json writes <, > and & as escapes, so what comes
// back from a disk is spelled otherwise and says the same.
func TestEqualWhateverTheSpelling(t *testing.T) {
	o, err := Parse([]byte(`{"a":"x > 1 && \"y\"","b":["<",{"c":"é"}],"d":{"e":"\/"}}`))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if !Equal(o, kept) || Diff(o, kept).Len() != 0 || Diff(kept, o).Len() != 0 {
		t.Errorf("%s\nand %s differ by %s", o.AppendJSON(nil), kept.AppendJSON(nil), Diff(o, kept).AppendJSON(nil))
	}
	for _, pair := range [][2]string{{`"\u003c"`, `"\u003e"`}, {`"\ud800"`, `"\ud801"`}, {`"1"`, `1`}, {`"\u0061"`, `"b"`}, {`"\u0061"`, `["a"]`}} {
		a, err1 := Parse([]byte(`{"k":` + pair[0] + `}`))
		b, err2 := Parse([]byte(`{"k":` + pair[1] + `}`))
		if err1 != nil || err2 != nil {
			continue // refused, which is right too
		}
		if Equal(a, b) {
			t.Errorf("%s and %s are the same", pair[0], pair[1])
		}
	}
}

func TestLimits(t *testing.T) {
	long := strings.Repeat("x", 4096)
	for name, c := range map[string]struct {
		doc string
		ok  bool
	}{
		"plain":                  {`{"a":{"b":[1,"x",true,{"c":1.5}]},"n":null}`, true},
		"smallest integer":       {`{"a":-4503599627370496}`, true},
		"largest integer":        {`{"a":4503599627370495}`, true},
		"too small integer":      {`{"a":-4503599627370497}`, false},
		"too large integer":      {`{"a":4503599627370496}`, false},
		"huge integer":           {`{"a":99999999999999999999999}`, false},
		"integer in array":       {`{"a":[99999999999999999]}`, false},
		"large float":            {`{"a":1e300}`, true},
		"dollar key":             {`{"$version":1}`, false},
		"dollar inside key":      {`{"a$b":1}`, false},
		"dotted key":             {`{"a.b":1}`, false},
		"key with space":         {`{"a b":1}`, false},
		"control in key":         {`{"a\u0001":1}`, false},
		"C1 control in key":      {`{"a\u0085":1}`, false},
		"key with slash":         {`{"device/module":1}`, true},
		"empty key":              {`{"":1}`, false},
		"bad key deep":           {`{"a":{"b":[{"c.d":1}]}}`, false},
		"key of 1024":            {`{"` + long[:1024] + `":1}`, true},
		"key of 1025":            {`{"` + long[:1025] + `":1}`, false},
		"string of 4096":         {`{"a":"` + long + `"}`, true},
		"string of 4097":         {`{"a":"` + long + `x"}`, false},
		"escapes count decoded":  {`{"a":"` + strings.Repeat(`\n`, 4096) + `"}`, true},
		"null in array":          {`{"a":[null]}`, false},
		"null in array in array": {`{"a":[[null]]}`, false},
		"null in array's object": {`{"a":[{"b":null}]}`, true},
		"ten deep":               {nested(10), true},
		"eleven deep":            {nested(11), false},
		"deep arrays":            {`{"a":` + strings.Repeat("[", 20) + strings.Repeat("]", 20) + `}`, false},
	} {
		err := CheckReported(must(t, c.doc))
		if c.ok != (err == nil) || err != nil && !fault.Is(err, fault.ArgumentInvalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestSize(t *testing.T) {
	for in, want := range map[string]int{
		`{}`:                   0,
		`{"a":1}`:              9,
		`{"a":true,"b":false}`: 10,
		`{"ab":"cde"}`:         5,
		`{"a":"x\ny"}`:         3,
		`{"a":"ä"}`:            3,
		`{"a":{"b":[1,"xy"]}}`: 12,
		`{"a":null}`:           1,
	} {
		if got := Size(must(t, in)); got != want {
			t.Errorf("Size(%s) = %d, want %d", in, got, want)
		}
	}
	fill := func(n int) *Object {
		var o *Object
		for ; n > 2000; n -= 2000 {
			o = o.With(fmt.Sprintf("k%04d", n/2000), String(strings.Repeat("x", 1995)))
		}
		return o.With("k", String(strings.Repeat("x", n-1)))
	}
	for _, c := range []struct {
		check func(*Object) error
		limit int
	}{{CheckTags, MaxTags}, {CheckDesired, MaxProperties}, {CheckReported, MaxProperties}} {
		if err := c.check(fill(c.limit)); err != nil {
			t.Errorf("%d bytes refused: %v", c.limit, err)
		}
		if err := c.check(fill(c.limit + 1)); err == nil {
			t.Errorf("%d bytes accepted", c.limit+1)
		}
	}
}

func TestSection(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 678900000, time.UTC)
	s := NewDesired()
	if got, want := string(s.ServiceJSON()), `{"$metadata":{"$lastUpdated":"0001-01-01T00:00:00Z"},"$version":1}`; got != want {
		t.Errorf("new section is %s, want %s", got, want)
	}
	s = s.Patch(must(t, `{"a":{"b":1,"c":null},"d":[1]}`), now)
	const at = `"$lastUpdated":"2026-01-02T03:04:05.6789000Z"`
	mark := func(n int) string { return fmt.Sprintf(`%s,"$lastUpdatedVersion":%d`, at, n) }
	want := `{"a":{"b":1},"d":[1],"$metadata":{` + mark(2) + `,"a":{` + mark(2) + `,"b":{` + mark(2) + `}},"d":{` + mark(2) + `}},"$version":2}`
	if got := string(s.ServiceJSON()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	s = s.Patch(must(t, `{"d":null,"a":{"x":true}}`), now)
	want = `{"a":{"b":1,"x":true},"$metadata":{` + mark(3) + `,"a":{` + mark(3) + `,"b":{` + mark(2) + `},"x":{` + mark(3) + `}}},"$version":3}`
	if got := string(s.ServiceJSON()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := string(s.DeviceJSON()), `{"a":{"b":1,"x":true},"$version":3}`; got != want {
		t.Errorf("device sees %s, want %s", got, want)
	}
	s = s.Replace(must(t, `{"n":1,"gone":null}`), now)
	want = `{"n":1,"$metadata":{` + mark(4) + `,"n":{` + mark(4) + `}},"$version":4}`
	if got := string(s.ServiceJSON()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	back, err := ParseSection(s.ServiceJSON(), true)
	if err != nil || string(back.ServiceJSON()) != want {
		t.Errorf("read back %s, %v", back.ServiceJSON(), err)
	}
	r := NewReported().Patch(must(t, `{"a":1}`), now)
	want = `{"a":1,"$metadata":{` + at + `,"a":{` + at + `}},"$version":2}`
	if got := string(r.ServiceJSON()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	want = `{"a":null,"$metadata":{` + at + `},"$version":2}`
	if got := string(r.ChangeJSON(must(t, `{"a":null}`), now)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestStripReserved(t *testing.T) {
	got := text(StripReserved(must(t, `{"$version":1,"a":{"$metadata":{},"b":[{"$c":1}]}}`)))
	if want := `{"a":{"b":[{"$c":1}]}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestJSONInterfaces(t *testing.T) {
	var body struct {
		Tags *Object `json:"tags"`
		Any  Value   `json:"any"`
	}
	const in = `{"tags":{"b":1.0,"a":{}},"any":[1,"x"]}`
	if err := json.Unmarshal([]byte(in), &body); err != nil {
		t.Fatal(err)
	}
	if out, err := json.Marshal(body); err != nil || string(out) != in {
		t.Errorf("got %s, %v", out, err)
	}
	if s, ok := String("a\"b").Text(); !ok || s != `a"b` {
		t.Errorf("Text gave %q, %v", s, ok)
	}
}

func FuzzParseMerge(f *testing.F) {
	f.Add([]byte(`{"a":{"b":1},"c":[1,{"d":null}]}`), []byte(`{"a":{"b":null,"x":"\u0041"},"c":5}`))
	f.Add([]byte(`{"a":1,"a":{"b":{}}}`), []byte(`{"a":{"b":{"c":-0.5e10}}}`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		doc, err := Parse(a)
		if err == nil != (json.Valid(a) && strings.HasPrefix(strings.TrimLeft(string(a), " \t\r\n"), "{")) {
			// Ours is stricter: invalid UTF-8 and bottomless nesting are refused.
			if err == nil {
				t.Fatalf("accepted what is not JSON: %q", a)
			}
		}
		if err != nil {
			return
		}
		again, err := Parse(doc.AppendJSON(nil))
		if err != nil || text(again) != text(doc) {
			t.Fatalf("%s is not stable: %v", text(doc), err)
		}
		patch, err := Parse(b)
		if err != nil {
			return
		}
		from, to := Merge(nil, doc), Merge(doc, patch)
		to = Merge(nil, to)
		if end := Merge(from, Diff(from, to)); !Equal(end, to) {
			t.Fatalf("from %s to %s: diff %s led to %s", text(from), text(to), text(Diff(from, to)), text(end))
		}
		_ = CheckDesired(to)
		s := NewDesired().Patch(doc, time.Unix(0, 0)).Patch(patch, time.Unix(1, 0))
		back, err := ParseSection(s.ServiceJSON(), true)
		if err == nil && back.Values.Len() > s.Values.Len() {
			t.Fatalf("section grew on its way: %s", s.ServiceJSON())
		}
	})
}

func BenchmarkPatch(b *testing.B) {
	doc := must(b, `{"telemetry":{"interval":30,"unit":"C"},"firmware":{"version":"1.2.3","url":"https://example.net/fw"},"x":[1,2,3]}`)
	s := NewReported().Patch(doc, time.Unix(0, 0))
	in := []byte(`{"telemetry":{"interval":31}}`)
	b.ReportAllocs()
	for b.Loop() {
		p, err := Parse(in)
		if err != nil {
			b.Fatal(err)
		}
		s = s.Patch(p, time.Unix(1, 0))
		_ = s.ServiceJSON()
	}
}

func TestSetPath(t *testing.T) {
	for _, c := range []struct{ doc, path, value, want string }{
		{`{}`, "a", `1`, `{"a":1}`},
		{`{"a":{"x":1,"y":2},"b":3}`, "a", `{"z":1}`, `{"a":{"z":1},"b":3}`},
		{`{"a":{"x":1}}`, "a.b.c", `[1]`, `{"a":{"x":1,"b":{"c":[1]}}}`},
		{`{"a":5}`, "a.b", `{"c":null,"d":1}`, `{"a":{"b":{"d":1}}}`},
		{`{"a":{"x":1}}`, "a.x", `null`, `{"a":{}}`},
	} {
		v, err := ParseValue([]byte(c.value))
		if err != nil {
			t.Fatal(err)
		}
		if got := text(SetPath(must(t, c.doc), strings.Split(c.path, "."), v)); got != c.want {
			t.Errorf("SetPath(%s, %s, %s) = %s, want %s", c.doc, c.path, c.value, got, c.want)
		}
	}
}

// What Size counts says little of what has to be kept: numbers count 8 however many
// digits they have, control characters and what is empty count nothing.
func TestWhatIsKeptIsBounded(t *testing.T) {
	many := func(n int, value string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"%d":%s`, i, value)
		}
		return "{" + b.String()[1:] + "}"
	}
	for name, c := range map[string]struct {
		text string
		ok   bool
	}{
		"a long number":         {`{"a":0.` + strings.Repeat("0", 300_000) + `1}`, false},
		"long numbers":          {many(1000, "1."+strings.Repeat("0", 2000)), false},
		"control characters":    {many(200, `"`+strings.Repeat(`\u0001`, 4000)+`"`), false},
		"empty strings":         {`{"a":[""` + strings.Repeat(`,""`, 200_000) + `]}`, false},
		"empty objects":         {`{"a":[{}` + strings.Repeat(`,{}`, 200_000) + `]}`, false},
		"escapes to the limit":  {many(7, `"`+strings.Repeat(`\u0041`, 4096)+`"`), true},
		"numbers to the limit":  {many(2600, "1.7976931348623157e+308"), true},
		"booleans to the limit": {many(4000, "false"), true},
		"one long fraction":     {`{"a":3.` + strings.Repeat("1", 1000) + `}`, true},
	} {
		o, err := Parse([]byte(c.text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if Size(o) > MaxProperties {
			t.Fatalf("%s: has a size of %d already", name, Size(o))
		}
		if err := CheckReported(o); (err == nil) != c.ok || err != nil && !fault.Is(err, fault.ArgumentInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
