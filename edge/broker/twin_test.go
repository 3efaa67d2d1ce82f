package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/twin"
)

func (w *world) twinIs(module, want string) {
	w.t.Helper()
	got, err := w.Twin(w.t.Context(), id(module))
	if err != nil || string(got) != want {
		w.t.Errorf("twin of %s is\n%s, error %v, want\n%s", module, got, err, want)
	}
}

func (w *world) mustReport(module, patch string, want int64) {
	w.t.Helper()
	if v, err := w.Report(w.t.Context(), id(module), []byte(patch), 0); err != nil || v != want {
		w.t.Errorf("report of %s gives version %d, error %v, want %d", patch, v, err, want)
	}
}

func TestTwinWhileOffline(t *testing.T) {
	dir := t.TempDir()
	w := start(t, dir)
	w.twinIs("m", `{"desired":{"$version":1},"reported":{"$version":1}}`)
	w.parent.twin(id("m"), `{"desired":{"z":1,"a":{"date":"2026-01-01T00:00:00Z"},"$version":5},"reported":{"x":1.50,"y":2,"$version":8}}`)
	w.parent.online(true)
	w.twinIs("m", w.parent.twins[id("m")])
	w.parent.online(false)

	w.mustReport("m", `{"x":null,"n":{"k":true}}`, 9)
	w.mustReport("m", `{"n":{"k":null,"l":[1]}}`, 10)
	want := `{"desired":{"z":1,"a":{"date":"2026-01-01T00:00:00Z"},"$version":5},"reported":{"y":2,"n":{"l":[1]},"$version":10}}`
	w.twinIs("m", want)
	w.stop()

	w = start(t, dir)
	w.twinIs("m", want)
	if _, err := w.Report(t.Context(), id("m"), []byte(`{"q":1}`), 9); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("a wrong version gives %v", err)
	}
	if v, err := w.Report(t.Context(), id("m"), []byte(`{"q":1}`), 10); err != nil || v != 11 {
		t.Errorf("the right version gives %d, %v", v, err)
	}
	w.parent.online(true)
	got := w.parent.reported(t, "m", 1)
	if want := `{"x":null,"n":{"k":null,"l":[1]},"q":1}`; got[0] != want {
		t.Errorf("the parent got %s, want %s", got[0], want)
	}
	s, err := w.state(id("m"))
	if err != nil {
		t.Fatal(err)
	}
	w.wait("an empty list of pending patches", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.Pending) == 0 && !s.pushing
	})
}

func TestBadReportsAreRefused(t *testing.T) {
	w := start(t, t.TempDir())
	for _, patch := range []string{``, `5`, `[]`, `{"$x":1}`, `{"a":[null]}`, `{"a.b":1}`, `{"a":4503599627370496}`,
		`{"a":"` + strings.Repeat("x", 4097) + `"}`} {
		if _, err := w.Report(t.Context(), id("m"), []byte(patch), 0); !fault.Is(err, fault.ArgumentInvalid) {
			t.Errorf("%.20s: %v", patch, err)
		}
	}
	for i := range 9 { // each is small, all together are not
		patch := fmt.Sprintf(`{"k%d":{"a":"%s"}}`, i, strings.Repeat("x", 4000))
		_, err := w.Report(t.Context(), id("m"), []byte(patch), 0)
		if tooLarge := i == 8; fault.Is(err, fault.ArgumentInvalid) != tooLarge {
			t.Errorf("report %d: %v", i, err)
		}
	}
}

func TestPatchTheParentRefusesIsNotRepeated(t *testing.T) {
	w := start(t, t.TempDir())
	w.parent.refuse = fault.New(fault.ArgumentInvalid, "no")
	w.parent.online(true)
	w.mustReport("m", `{"a":1}`, 2)
	w.parent.reported(t, "m", 1)
	w.mustReport("m", `{"b":1}`, 3)
	if got := w.parent.reported(t, "m", 2); got[1] != `{"b":1}` {
		t.Errorf("the parent got %q", got)
	}
}

func TestPatchThatCannotBeJoinedIsSentApart(t *testing.T) {
	w := start(t, t.TempDir())
	w.mustReport("m", `{"a":{"x":1},"b":1}`, 2)
	w.mustReport("m", `{"a":null}`, 3)
	w.mustReport("m", `{"a":{"y":2}}`, 4) // replaces, where one patch would merge
	w.mustReport("m", `{"a":{"z":3}}`, 5)
	w.parent.online(true)
	got := w.parent.reported(t, "m", 2)
	if got[0] != `{"a":null,"b":1}` || got[1] != `{"a":{"y":2,"z":3}}` {
		t.Errorf("the parent got %q", got)
	}
}

// TestOverlay checks that a joined patch does what its parts did, wherever it says so.
func TestOverlay(t *testing.T) {
	docs := []string{`{}`, `{"a":1}`, `{"a":{"x":1}}`, `{"a":{"x":{"p":1},"y":2}}`, `{"a":[1],"b":{"x":0}}`}
	patches := []string{`{}`, `{"a":null}`, `{"a":2}`, `{"a":{"x":null}}`, `{"a":{"x":{"q":2}}}`, `{"a":{"y":null,"z":3}}`, `{"b":{"x":1}}`, `{"a":{}}`}
	for _, d := range docs {
		for _, first := range patches {
			for _, then := range patches {
				doc, p1, p2 := parse(t, d), parse(t, first), parse(t, then)
				joined, exact := overlay(p1, p2)
				if !exact {
					continue
				}
				got, want := twin.Merge(doc, joined), twin.Merge(twin.Merge(doc, p1), p2)
				if !twin.Equal(got, want) {
					t.Errorf("%s, %s, %s: joined as %s it gives %s, want %s", d, first, then,
						joined.AppendJSON(nil), got.AppendJSON(nil), want.AppendJSON(nil))
				}
			}
		}
	}
}

func parse(t *testing.T, s string) *twin.Object {
	t.Helper()
	o, err := twin.Parse([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestDesiredChanges(t *testing.T) {
	w := start(t, t.TempDir())
	d := newDevice(true)
	w.attach("m", d, head.Desired)
	change := func(version int64, patch string) {
		t.Helper()
		if err := w.Desired(t.Context(), id("m"), version, []byte(patch)); err != nil {
			t.Fatal(err)
		}
	}
	w.parent.twin(id("m"), `{"desired":{"a":1,"b":2,"$version":3},"reported":{"$version":1}}`)
	w.parent.online(true)
	w.Linked(t.Context(), id("m"))
	change(4, `{"a":null,"c":{"d":1},"$version":4}`)
	change(4, `{"a":5,"$version":4}`) // known already
	change(2, `{"a":5,"$version":2}`) // older
	w.parent.twin(id("m"), `{"desired":{"b":2,"c":{"e":1},"f":7,"$version":9},"reported":{"$version":1}}`)
	change(9, `{"f":7,"$version":9}`) // 5 to 8 were missed
	w.Linked(t.Context(), id("m"))    // nothing new
	w.twinIs("m", w.parent.twins[id("m")])
	want := []string{
		`3 {"a":1,"b":2,"$version":3}`,
		`4 {"a":null,"c":{"d":1},"$version":4}`,
		`9 {"c":{"e":1,"d":null},"f":7,"$version":9}`,
	}
	d.wait(t, "three changes", func() bool { return len(d.desired) >= 3 })
	if fmt.Sprint(d.desired) != fmt.Sprint(want) {
		t.Errorf("told\n%q, want\n%q", d.desired, want)
	}
}

func TestDesiredIsToldToSubscribersOnly(t *testing.T) {
	w := start(t, t.TempDir())
	d := newDevice(true)
	a := w.attach("m", d)
	w.parent.twin(id("m"), `{"desired":{"a":1,"$version":3},"reported":{"$version":1}}`)
	w.parent.online(true)
	w.Linked(t.Context(), id("m"))
	a.Open(head.Desired)
	if err := w.Desired(t.Context(), id("m"), 4, []byte(`{"a":2,"$version":4}`)); err != nil {
		t.Fatal(err)
	}
	a.Detach()
	if err := w.Desired(t.Context(), id("m"), 5, []byte(`{"a":3,"$version":5}`)); err != nil {
		t.Fatal(err)
	}
	if len(d.desired) != 1 || d.desired[0] != `4 {"a":2,"$version":4}` {
		t.Errorf("told %q", d.desired)
	}
}

func TestReportedPropertiesOfTheBroker(t *testing.T) {
	w := start(t, t.TempDir())
	w.parent.online(true)
	first := w.parent.reported(t, ident.EdgeHub, 1)[0] // as the parent has it from now on
	w.parent.twin(w.self, `{"desired":{"schemaVersion":"1.0","routes":{"x":"FROM /* INTO here"},"$version":5},"reported":`+first+`}`)
	w.Linked(t.Context(), w.self)
	reported := func() (r struct {
		SchemaVersion      string
		Version            struct{ Version string }
		LastDesiredVersion int64
		LastDesiredStatus  struct {
			Code        int
			Description string
		}
		Clients map[string]struct{ Status, LastConnectedTimeUtc, LastDisconnectedTimeUtc string }
	}) {
		s, err := w.state(w.self)
		if err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := json.Unmarshal(s.Reported.AppendJSON(nil), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	w.wait("the refusal", func() bool { return reported().LastDesiredStatus.Code == 400 })
	r := reported()
	if r.SchemaVersion != "1.0" || r.Version.Version != "test" || r.LastDesiredVersion != 5 || !strings.Contains(r.LastDesiredStatus.Description, `route "x": line 1, column 14`) {
		t.Errorf("reported %+v", r)
	}
	if err := w.Desired(t.Context(), w.self, 6, []byte(`{"routes":{"x":"FROM /* INTO $upstream"},"$version":6}`)); err != nil {
		t.Fatal(err)
	}
	w.wait("success", func() bool { r := reported(); return r.LastDesiredStatus.Code == 200 && r.LastDesiredVersion == 6 })

	a := w.attach("my.mod", newDevice(true))
	w.wait("the client", func() bool { return reported().Clients["edge1/my%2Emod"].Status == "Connected" })
	a.Detach()
	w.wait("its end", func() bool { return reported().Clients["edge1/my%2Emod"].Status == "Disconnected" })
	if c := reported().Clients["edge1/my%2Emod"]; c.LastConnectedTimeUtc == "" || c.LastDisconnectedTimeUtc == "" {
		t.Errorf("%+v", c)
	}
	if got := w.parent.reported(t, ident.EdgeHub, 1)[0]; !strings.Contains(got, `"clients":null`) {
		t.Errorf("the first report is %s", got)
	}
}

func TestTwinChangesCanBeRouted(t *testing.T) {
	w := start(t, t.TempDir())
	w.routes(`{"x":"FROM /twinChangeNotifications INTO BrokeredEndpoint('/modules/filter/inputs/twins')"}`)
	w.mustReport(ident.EdgeAgent, `{"modules":{}}`, 2) // no client's, as in the original
	w.mustReport("m", `{"a":1}`, 2)
	d := newDevice(true)
	w.attach("filter", d, head.Inputs)
	got := d.bodies(t, 1)[0]
	if s := got.m.System; got.body != `{"a":1}` || s.Schema != "twinChangeNotification" || s.ConnectionModule != ident.EdgeHub || s.ContentType != "application/json" {
		t.Errorf("got %s with %+v", got.body, s)
	}
}

// TestForget: when an identity is no more, nothing of its twin reaches one that is made
// under its name later, and the list of clients does not grow with all there ever were.
func TestForget(t *testing.T) {
	dir := t.TempDir()
	w := start(t, dir)
	w.parent.twin(id("m"), `{"desired":{"old":1,"$version":7},"reported":{"$version":3}}`)
	w.parent.online(true)
	if _, err := w.Twin(t.Context(), id("m")); err != nil {
		t.Fatal(err)
	}
	a := w.attach("m", newDevice(true))
	client := func() (found, is bool) {
		s, err := w.state(w.self)
		if err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		_, is = s.Reported.Child("clients").Get("edge1/m")
		return s.Reported.Child("clients").Len() > 0, is
	}
	w.wait("the client", func() bool { _, is := client(); return is })
	w.parent.online(false)
	w.mustReport("m", `{"old":true}`, 4)
	if err := w.SaveSubscriptions(t.Context(), id("m"), []head.Subscription{{Filter: "x"}}); err != nil {
		t.Fatal(err)
	}
	w.wait("a waiting patch", func() bool { n, _ := w.parent.knows(id("m")); return n == 2 })

	if err := w.Forget(t.Context(), id("m")); err != nil {
		t.Fatal(err)
	}
	a.Detach() // as the head does when its connection is closed
	w.wait("the last hold", func() bool { n, _ := w.parent.knows(id("m")); return n == 0 })
	w.wait("the end of the client", func() bool { found, _ := client(); return !found })
	w.twinIs("m", `{"desired":{"$version":1},"reported":{"$version":1}}`)
	if _, found, err := w.Subscriptions(t.Context(), id("m")); found || err != nil {
		t.Errorf("session: found %t, %v", found, err)
	}
	w.mustReport("m", `{"new":true}`, 2) // of another one
	w.parent.twin(id("m"), `{"desired":{"$version":1},"reported":{"$version":1}}`)
	w.parent.online(true)
	if got := w.parent.reported(t, "m", 1); got[0] != `{"new":true}` {
		t.Errorf("the parent got %s", got)
	}
	if err := w.Forget(t.Context(), w.self); err != nil || w.session(id("m")) != nil {
		t.Error(err)
	}
	s, err := w.state(w.self)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone || s.Reported.Child("version").Len() == 0 {
		t.Error("the device's own twin is forgotten")
	}
}

// mask hides text well enough to see whether it was used.
type mask struct{}

func (mask) Seal(b []byte) ([]byte, error) {
	out := append([]byte("sealed:"), b...)
	for i := range out[7:] {
		out[7+i] ^= 0x55
	}
	return out, nil
}

func (mask) Open(b []byte) ([]byte, error) {
	if !strings.HasPrefix(string(b), "sealed:") {
		return nil, errors.New("not sealed")
	}
	out := []byte(string(b[7:]))
	for i := range out {
		out[i] ^= 0x55
	}
	return out, nil
}

func TestTwinsAreSealed(t *testing.T) {
	dir := t.TempDir()
	seal := func(c *Config) { c.Seal = mask{} }
	w := start(t, dir, seal)
	w.mustReport("m", `{"password":"hunter2"}`, 2)
	w.stop()
	files, err := filepath.Glob(filepath.Join(dir, "kv", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, name := range files {
		if raw, err := os.ReadFile(name); err != nil || strings.Contains(string(raw), "hunter2") {
			t.Errorf("%s shows the twin, or error %v", name, err)
		}
	}
	w = start(t, dir, seal)
	w.twinIs("m", `{"desired":{"$version":1},"reported":{"password":"hunter2","$version":2}}`)
}
