package events

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/hub/api"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
)

// The server converts one into the other.
var _ = Query(api.EventQuery{})

func follow(t testing.TB, ctx context.Context, s *Stream, q Query) iter.Seq2[[]byte, error] {
	t.Helper()
	steps, err := s.Follow(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	return steps
}

// bodies gives the bodies, as JSON, of all that is followed until the end.
func bodies(t testing.TB, steps iter.Seq2[[]byte, error]) (all []string) {
	t.Helper()
	for text, err := range steps {
		if err != nil {
			t.Fatal(err)
		}
		if len(text) == 0 || text[len(text)-1] != '\n' {
			t.Fatalf("not whole lines: %q", text)
		}
		for line := range bytes.Lines(text) {
			var e struct{ Body json.RawMessage }
			if err := json.Unmarshal(line, &e); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			all = append(all, string(e.Body))
		}
	}
	return all
}

func TestFollowLive(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	put(t, s, "d1", "before")
	steps := follow(t, t.Context(), s, Query{Count: 40})
	var want []string
	for i := range 40 { // none is missed between Follow and the first step
		b := fmt.Sprintf(`"%02d"`, i)
		want = append(want, b)
		put(t, s, fmt.Sprint("d", i%7), b)
	}
	got := bodies(t, steps)
	for i := range got {
		got[i] = strings.ReplaceAll(got[i], `\"`, "")
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("followed %q", got)
	}

	ctx, cancel := context.WithCancel(t.Context())
	next, stop := iter.Pull2(follow(t, ctx, s, Query{}))
	defer stop()
	for i := range 3 {
		go func() {
			if err := try(s, fmt.Sprint("d", i), "live"); err != nil {
				t.Error(err)
			}
		}()
		if text, err, ok := next(); !ok || err != nil || !bytes.Contains(text, []byte(`"body":"live"`)) {
			t.Errorf("%q, %v, %v", text, err, ok)
		}
	}
	cancel()
	if text, err, ok := next(); ok {
		t.Errorf("after cancel: %q, %v", text, err)
	}
	for _, p := range s.partitions {
		if len(p.watchers) != 0 {
			t.Errorf("%d watchers are left", len(p.watchers))
		}
	}
}

func TestFollowQueries(t *testing.T) {
	clock := time.UnixMilli(1_000_000)
	s := open(t, Config{Dir: t.TempDir(), Now: func() time.Time { return clock }})
	for i := range 300 { // round all partitions, one millisecond each
		clock = clock.Add(time.Millisecond)
		id, module := fmt.Sprint("d", i%10), ""
		if i%3 == 0 {
			module = "m"
		}
		m := message.Message{Body: fmt.Append(nil, i), System: message.System{ConnectionDevice: id, ConnectionModule: module}}
		done := make(chan error, 1)
		s.Append(id, []message.Message{m}, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	since := func(i int) time.Time { return time.UnixMilli(1_000_001 + int64(i)) }
	for name, c := range map[string]struct {
		q      Query
		wanted func(i int) bool
	}{
		"all":    {Query{Since: since(0)}, func(int) bool { return true }},
		"since":  {Query{Since: since(100)}, func(i int) bool { return i >= 100 }},
		"device": {Query{Since: since(0), Device: "d4"}, func(i int) bool { return i%10 == 4 }},
		"case":   {Query{Since: since(0), Device: "D4"}, func(int) bool { return false }},
		"module": {Query{Since: since(50), Device: "d4", Module: "m", Group: "$default"}, func(i int) bool { return i >= 50 && i%10 == 4 && i%3 == 0 }},
		"count":  {Query{Since: since(0), Count: 17}, func(i int) bool { return i < 17 }},
	} {
		var want []string
		for i := range 300 {
			if c.wanted(i) {
				want = append(want, fmt.Sprintf(`"%d"`, i))
			}
		}
		q := c.q
		if q.Count == 0 {
			q.Count = len(want)
		}
		if len(want) == 0 { // it would wait
			ctx, cancel := context.WithCancel(t.Context())
			steps := follow(t, ctx, s, q)
			time.AfterFunc(20*time.Millisecond, cancel)
			if got := bodies(t, steps); len(got) > 0 {
				t.Errorf("%s: %q", name, got)
			}
			continue
		}
		if got := bodies(t, follow(t, t.Context(), s, q)); !slices.Equal(got, want) { // in the order of time
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestFollowEndsWithStream(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	next, stop := iter.Pull2(follow(t, t.Context(), s, Query{}))
	defer stop()
	go s.Close()
	if _, err, _ := next(); !fault.Is(err, fault.Unavailable) {
		t.Errorf("error %v", err)
	}
}

func TestLine(t *testing.T) {
	e := Event{Partition: 3, Offset: 4711, Sequence: 17, Enqueued: time.UnixMilli(1_700_000_000_123)}
	e.Message = message.Message{
		Body:       []byte("{\n \"t\": 21.50\n}"),
		Properties: []message.Property{{Name: "kind", Value: "hot \"x\""}, {Name: "leer"}},
		System: message.System{ConnectionDevice: "dev", ConnectionModule: "mod", Source: "Telemetry", MessageID: "m1",
			CorrelationID: "c1", UserID: "u", ContentType: "application/json", ContentEncoding: "utf-8", CreationTime: "today",
			Expiry: time.UnixMilli(1_700_000_001_000), Schema: "s", Operation: "o", Output: "out", InterfaceID: "i", Component: "c",
			ModelID: "dtmi:x;1", Generation: "99", AuthMethod: `{"scope":"device"}`, Enqueued: time.UnixMilli(1_700_000_000_100)},
	}
	var w writer
	w.event(&e)
	want := `{"partition":"3","offset":"4711","sequenceNumber":17,"enqueuedTime":"2023-11-14T22:13:20.123Z","deviceId":"dev","moduleId":"mod",` +
		`"messageSource":"Telemetry","properties":{"kind":"hot \"x\"","leer":""},"systemProperties":{"messageId":"m1","correlationId":"c1",` +
		`"userId":"u","contentType":"application/json","contentEncoding":"utf-8","creationTimeUtc":"today","expiryTimeUtc":"2023-11-14T22:13:21.000Z",` +
		`"messageSchema":"s","operation":"o","outputName":"out","interfaceId":"i","componentName":"c","modelId":"dtmi:x;1",` +
		`"connectionDeviceGenerationId":"99","connectionAuthMethod":"{\"scope\":\"device\"}","enqueuedTime":"2023-11-14T22:13:20.100Z"},` +
		`"body":{"t":21.50}}` + "\n"
	if string(w.line) != want {
		t.Errorf("line\n%swant\n%s", w.line, want)
	}
	w.reset()
	w.event(&Event{})
	want = `{"partition":"0","offset":"0","sequenceNumber":0,"enqueuedTime":"0001-01-01T00:00:00.000Z","deviceId":"","properties":{},"systemProperties":{},"body":""}` + "\n"
	if string(w.line) != want {
		t.Errorf("line of nothing\n%s", w.line)
	}
}

func TestBody(t *testing.T) {
	deep := strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1)
	for _, c := range []struct{ kind, encoding, body, want string }{
		{"", "", `{"a": [1, 2]}`, `{"a":[1,2]}`},
		{"text/plain", "", ` [1]`, `[1]`},
		{"application/json", "", `17`, `17`},
		{"application/json", "utf-8", `"x"`, `"x"`},
		{"application/json;charset=utf-8", "UTF-8", `null`, `null`},
		{"application/json-patch+json", "utf-8", `true`, `true`},
		{"application/json", "gzip", `17`, `"17"`},
		{"", "", `17`, `"17"`},
		{"", "", `"x"`, `"\"x\""`},
		{"", "", ``, `""`},
		{"application/json", "utf-8", ``, `""`},
		{"application/json", "utf-8", `{"a":`, `"{\"a\":"`},
		{"", "", `{} {}`, `"{} {}"`},
		{"", "", "a\n\t\r\x01\u00e4\u2028\U0001F600", `"a\n\t\r\u0001` + "\u00e4\u2028\U0001F600" + `"`},
		{"", "", "\xff\x00", `{"base64":"/wA="}`},
		{"", "", "{\"a\":\"\xff\"}", `{"base64":"eyJhIjoi/yJ9"}`},
		{"", "", deep, `"` + deep + `"`},
		{"", "", `["` + strings.Repeat(`[\"`, 1000) + `"]`, `["` + strings.Repeat(`[\"`, 1000) + `"]`},
	} {
		var w writer
		w.body(&message.Message{Body: []byte(c.body), System: message.System{ContentType: c.kind, ContentEncoding: c.encoding}})
		if string(w.line) != c.want {
			t.Errorf("%q %q %.40q: %.80s, want %.80s", c.kind, c.encoding, c.body, w.line, c.want)
		}
		if !json.Valid(w.line) {
			t.Errorf("%.40q: not JSON", c.body)
		}
	}
}
