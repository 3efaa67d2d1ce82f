package twins

import (
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/hub/store"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/twin"
)

var (
	pump   = ident.ID{Device: "pump"}
	filter = ident.ID{Device: "pump", Module: "filter"}
	start  = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

const stamp = `"$lastUpdated":"2026-01-02T03:04:05.0000000Z"`

// listener writes down what it is told.
type listener struct {
	mu      sync.Mutex
	desired []string
	events  []Event
}

func (l *listener) Desired(id ident.ID, version int64, patch []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.desired = append(l.desired, fmt.Sprintf("%s %d %s", id, version, patch))
}

func (l *listener) Changed(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

func (l *listener) last() (desired string, e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.desired); n > 0 {
		desired = l.desired[n-1]
	}
	if n := len(l.events); n > 0 {
		e = l.events[n-1]
	}
	return desired, e
}

func register(t testing.TB, db *store.DB, ids ...ident.ID) {
	t.Helper()
	err := db.Write(t.Context(), func(tx *sql.Tx) error {
		for _, id := range ids {
			if _, err := tx.Exec(`INSERT INTO identities (device, module, generation, etag, auth_type, created)
				VALUES ($1, $2, '1', 1, 'sas', 0)`, id.Device, id.Module); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, path string) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), store.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func setup(t testing.TB) (*Twins, *listener, *store.DB) {
	t.Helper()
	db := open(t, filepath.Join(t.TempDir(), "hub.db"))
	register(t, db, pump, filter)
	l := &listener{}
	return New(Config{DB: db, Listener: l, Now: func() time.Time { return start }}), l, db
}

func must(t testing.TB, text string) *twin.Object {
	t.Helper()
	o, err := twin.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestNewTwin(t *testing.T) {
	tw, _, _ := setup(t)
	for _, id := range []ident.ID{pump, filter} {
		got, err := tw.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if got.Version != 2 || got.Etag() != "AAAAAAAAAAE=" || got.Desired.Version != 1 || got.Tags.Len() != 0 {
			t.Errorf("new twin of %s: %+v", id, got)
		}
		view, err := tw.DeviceView(t.Context(), id)
		if want := `{"desired":{"$version":1},"reported":{"$version":1}}`; err != nil || string(view) != want {
			t.Errorf("%s sees %s, %v; want %s", id, view, err, want)
		}
	}
}

func TestUnknownIdentities(t *testing.T) {
	tw, _, _ := setup(t)
	for id, want := range map[ident.ID]fault.Code{
		{Device: "nobody"}:               fault.DeviceNotFound,
		{Device: "nobody", Module: "m"}:  fault.DeviceNotFound,
		{Device: "pump", Module: "none"}: fault.ModuleNotFound,
		{Device: "Pump"}:                 fault.DeviceNotFound, // ids are case-sensitive
		{Device: "a b"}:                  fault.ArgumentInvalid,
	} {
		_, err := tw.Get(t.Context(), id)
		if !fault.Is(err, want) {
			t.Errorf("Get(%s): %v, want %d", id, err, want)
		}
		if _, err = tw.Apply(t.Context(), Update{ID: id, Tags: must(t, `{"a":1}`)}, ""); !fault.Is(err, want) {
			t.Errorf("Apply(%s): %v, want %d", id, err, want)
		}
		if want == fault.ArgumentInvalid {
			continue
		}
		if _, err = tw.DeviceView(t.Context(), id); !fault.Is(err, want) {
			t.Errorf("DeviceView(%s): %v, want %d", id, err, want)
		}
		if _, err = tw.Report(t.Context(), id, []byte(`{}`), 0); !fault.Is(err, want) {
			t.Errorf("Report(%s): %v, want %d", id, err, want)
		}
	}
}

func TestServiceChanges(t *testing.T) {
	tw, l, _ := setup(t)
	apply := func(u Update) Twin {
		t.Helper()
		got, err := tw.Apply(t.Context(), u, "")
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	got := apply(Update{ID: pump, Tags: must(t, `{"site":"north","$x":1}`), Desired: must(t, `{"a":{"b":1},"c":2,"$version":9}`)})
	if text(got.Tags) != `{"site":"north"}` || text(got.Desired.Values) != `{"a":{"b":1},"c":2}` ||
		got.Desired.Version != 2 || got.Version != 3 || got.Etag() != "AAAAAAAAAAI=" {
		t.Errorf("after the patch: %+v", got)
	}
	mark := stamp + `,"$lastUpdatedVersion":2`
	desired, e := l.last()
	if want := `pump 2 {"a":{"b":1},"c":2,"$version":2}`; desired != want {
		t.Errorf("told %s, want %s", desired, want)
	}
	want := `{"version":3,"tags":{"site":"north"},"properties":{"desired":{"a":{"b":1},"c":2,"$metadata":{` + mark +
		`,"a":{` + mark + `,"b":{` + mark + `}},"c":{` + mark + `}},"$version":2}}}`
	if e.Op != "updateTwin" || string(e.Body) != want || !e.At.Equal(start) {
		t.Errorf("event %s %s\nwant %s", e.Op, e.Body, want)
	}

	// Tags alone move neither desired nor its listener.
	before := len(l.desired)
	if got = apply(Update{ID: pump, Tags: must(t, `{"site":null}`)}); got.Desired.Version != 2 || got.Version != 4 || got.Tags.Len() != 0 {
		t.Errorf("after the tags: %+v", got)
	}
	if len(l.desired) != before {
		t.Errorf("told %s", l.desired[before:])
	}

	// A replacement reaches the device as a difference with nulls.
	got = apply(Update{ID: pump, Replace: true, Desired: must(t, `{"c":3,"d":null}`)})
	if text(got.Desired.Values) != `{"c":3}` || got.Desired.Version != 3 {
		t.Errorf("after the replacement: %s %d", text(got.Desired.Values), got.Desired.Version)
	}
	if desired, e = l.last(); desired != `pump 3 {"c":3,"a":null,"$version":3}` {
		t.Errorf("told %s", desired)
	}
	if e.Op != "replaceTwin" || !strings.Contains(string(e.Body), `"reported":{"$metadata"`) {
		t.Errorf("event %s %s", e.Op, e.Body)
	}

	// Parts are replaced as a whole, and told as the difference.
	got = apply(Update{ID: pump, Set: []Set{{Path: []string{"m", "x"}, Value: twin.Of(must(t, `{"k":1}`))}}})
	got = apply(Update{ID: pump, Set: []Set{{Path: []string{"m", "x"}, Value: twin.Of(must(t, `{"l":2}`))}, {Path: []string{"c"}}}})
	if text(got.Desired.Values) != `{"m":{"x":{"l":2}}}` || got.Desired.Version != 5 {
		t.Errorf("after setting parts: %s", text(got.Desired.Values))
	}
	if desired, _ = l.last(); desired != `pump 5 {"m":{"x":{"l":2,"k":null}},"c":null,"$version":5}` {
		t.Errorf("told %s", desired)
	}

	// An empty change still counts.
	if got = apply(Update{ID: pump, Desired: must(t, `{}`)}); got.Desired.Version != 6 {
		t.Errorf("desired version %d after an empty patch", got.Desired.Version)
	}
	if desired, _ = l.last(); desired != `pump 6 {"$version":6}` {
		t.Errorf("told %s", desired)
	}
}

func TestPreconditions(t *testing.T) {
	tw, _, _ := setup(t)
	first, err := tw.Get(t.Context(), pump)
	if err != nil {
		t.Fatal(err)
	}
	u := Update{ID: pump, Desired: must(t, `{"a":1}`)}
	second, err := tw.Apply(t.Context(), u, first.Etag())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tw.Apply(t.Context(), u, first.Etag()); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("stale etag: %v", err)
	}
	for _, match := range []string{second.Etag(), "*", ""} {
		if _, err := tw.Apply(t.Context(), u, match); err != nil {
			t.Errorf("If-Match %q: %v", match, err)
		}
	}
	if _, err := tw.Report(t.Context(), pump, []byte(`{"a":1}`), 7); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("wrong version: %v", err)
	}
	if v, err := tw.Report(t.Context(), pump, []byte(`{"a":1}`), 1); err != nil || v != 2 {
		t.Errorf("right version: %d, %v", v, err)
	}
	if v, err := tw.Report(t.Context(), pump, []byte(`{"a":1}`), 2); err != nil || v != 3 {
		t.Errorf("right version: %d, %v", v, err)
	}
}

func TestReported(t *testing.T) {
	tw, l, _ := setup(t)
	if v, err := tw.Report(t.Context(), pump, []byte(`{"z":1.50,"a":{"b":null},"when":"2024-05-01T10:20:30.0000000Z"}`), 0); err != nil || v != 2 {
		t.Fatal(v, err)
	}
	view, err := tw.DeviceView(t.Context(), pump)
	want := `{"desired":{"$version":1},"reported":{"z":1.50,"a":{},"when":"2024-05-01T10:20:30.0000000Z","$version":2}}`
	if err != nil || string(view) != want {
		t.Errorf("device sees %s, %v\nwant %s", view, err, want)
	}
	if _, e := l.last(); !strings.HasPrefix(string(e.Body), `{"version":3,"properties":{"reported":{"z":1.50,"a":{"b":null}`) || len(l.desired) != 0 {
		t.Errorf("event %s, told %s", e.Body, l.desired)
	}
	for _, bad := range []string{``, `[]`, `{"$a":1}`, `{"ok":1,"$version":2}`, `{"a":[null]}`, `{"a":9007199254740993}`} {
		if _, err := tw.Report(t.Context(), pump, []byte(bad), 0); !fault.Is(err, fault.ArgumentInvalid) {
			t.Errorf("Report(%s): %v", bad, err)
		}
	}
	if again, _ := tw.DeviceView(t.Context(), pump); string(again) != want {
		t.Errorf("a refused patch left %s", again)
	}
}

func TestSizeOfTheWhole(t *testing.T) {
	tw, _, _ := setup(t)
	chunk := `"` + strings.Repeat("x", 4000) + `"`
	var err error
	for i := range 9 {
		_, err = tw.Report(t.Context(), pump, fmt.Appendf(nil, `{"k%d":%s}`, i, chunk), 0)
		if i < 8 && err != nil {
			t.Fatal(err)
		}
	}
	if !fault.Is(err, fault.ArgumentInvalid) {
		t.Errorf("36 KB of reported properties: %v", err)
	}
	if _, err := tw.Apply(t.Context(), Update{ID: pump, Tags: must(t, `{"a":`+chunk+`,"b":`+chunk+`}`)}, ""); err != nil {
		t.Error(err)
	}
	if _, err := tw.Apply(t.Context(), Update{ID: pump, Tags: must(t, `{"c":`+chunk+`}`)}, ""); !fault.Is(err, fault.ArgumentInvalid) {
		t.Errorf("12 KB of tags: %v", err)
	}
}

func TestAllOrNothing(t *testing.T) {
	tw, l, _ := setup(t)
	err := tw.ApplyAll(t.Context(), []Update{
		{ID: filter, Desired: must(t, `{"a":1}`)},
		{ID: ident.ID{Device: "pump", Module: "none"}, Desired: must(t, `{"a":1}`)},
	})
	if !fault.Is(err, fault.ModuleNotFound) {
		t.Errorf("got %v", err)
	}
	if got, _ := tw.Get(t.Context(), filter); got.Desired.Version != 1 || len(l.desired) != 0 {
		t.Errorf("half of it was done: %+v, told %s", got, l.desired)
	}
	if err := tw.ApplyAll(t.Context(), []Update{
		{ID: filter, Desired: must(t, `{"a":1}`), Replace: true}, {ID: filter, Desired: must(t, `{"b":1}`)},
	}); err != nil {
		t.Error(err)
	}
	if got, _ := tw.Get(t.Context(), filter); text(got.Desired.Values) != `{"a":1,"b":1}` || len(l.desired) != 2 {
		t.Errorf("got %s, told %s", text(got.Desired.Values), l.desired)
	}
}

func TestSurvivesReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	db := open(t, path)
	register(t, db, pump)
	tw := New(Config{DB: db})
	if _, err := tw.Apply(t.Context(), Update{ID: pump, Tags: must(t, `{"t":1}`), Desired: must(t, `{"d":{"x":[1,2]}}`)}, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := tw.Report(t.Context(), pump, []byte(`{"r":"\u00e4"}`), 0); err != nil {
		t.Fatal(err)
	}
	if err := tw.SetModel(t.Context(), pump, "dtmi:com:example:Pump;1"); err != nil {
		t.Fatal(err)
	}
	before, err := tw.Get(t.Context(), pump)
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	after, err := New(Config{DB: open(t, path)}).Get(t.Context(), pump)
	if err != nil {
		t.Fatal(err)
	}
	if string(after.Desired.ServiceJSON()) != string(before.Desired.ServiceJSON()) || text(after.Reported.Values) != `{"r":"\u00e4"}` ||
		string(after.Reported.ServiceJSON()) != string(before.Reported.ServiceJSON()) || text(after.Tags) != `{"t":1}` ||
		after.Version != before.Version || after.Etag() != before.Etag() || after.ModelID != "dtmi:com:example:Pump;1" {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
}

func TestDeletedAndMadeAnew(t *testing.T) {
	tw, _, db := setup(t)
	for range 3 {
		if _, err := tw.Report(t.Context(), pump, []byte(`{"old":1}`), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Write(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.Exec("DELETE FROM identities WHERE device = 'pump'")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := tw.Report(t.Context(), pump, []byte(`{"a":1}`), 0); !fault.Is(err, fault.DeviceNotFound) {
		t.Errorf("report of a deleted device: %v", err)
	}
	register(t, db, pump)
	if v, err := tw.Report(t.Context(), pump, []byte(`{"a":1}`), 1); err != nil || v != 2 {
		t.Errorf("report of the new device: %d, %v", v, err)
	}
	if view, _ := tw.DeviceView(t.Context(), pump); string(view) != `{"desired":{"$version":1},"reported":{"a":1,"$version":2}}` {
		t.Errorf("device sees %s", view)
	}
}

// Many writers on few twins: nothing is lost, versions reach the listener in order.
func TestConcurrentWriters(t *testing.T) {
	tw, l, db := setup(t)
	ids := []ident.ID{pump, filter}
	for i := range 4 {
		ids = append(ids, ident.ID{Device: fmt.Sprint("d", i)})
		register(t, db, ids[len(ids)-1])
	}
	const writers, each = 8, 25
	var all sync.WaitGroup
	var conflicts atomic.Int32
	for w := range writers {
		all.Go(func() {
			for n := range each {
				id := ids[(w+n)%len(ids)]
				if _, err := tw.Report(t.Context(), id, fmt.Appendf(nil, `{"w%d":%d}`, w, n), 0); err != nil {
					t.Error(err)
				}
				for {
					now, err := tw.Get(t.Context(), pump)
					if err != nil {
						t.Error(err)
						return
					}
					_, err = tw.Apply(t.Context(), Update{ID: pump, Desired: must(t, fmt.Sprintf(`{"w%d":%d}`, w, n))}, now.Etag())
					if err == nil {
						break
					}
					if !fault.Is(err, fault.PreconditionFailed) {
						t.Error(err)
						return
					}
					conflicts.Add(1)
				}
			}
		})
	}
	all.Wait()
	got, err := tw.Get(t.Context(), pump)
	if err != nil || got.Desired.Version != 1+writers*each || got.Desired.Values.Len() != writers {
		t.Errorf("desired has version %d and %d keys (%v)", got.Desired.Version, got.Desired.Values.Len(), err)
	}
	for i, told := range l.desired {
		if !strings.HasPrefix(told, fmt.Sprintf("pump %d ", i+2)) {
			t.Fatalf("notification %d is %s", i, told)
		}
	}
	if len(l.desired) != writers*each {
		t.Errorf("%d notifications", len(l.desired))
	}
}

func TestClosedStore(t *testing.T) {
	tw, _, db := setup(t)
	db.Close()
	if _, err := tw.Report(t.Context(), pump, []byte(`{}`), 0); !errors.Is(err, store.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkReport(b *testing.B) {
	db := open(b, filepath.Join(b.TempDir(), "hub.db"))
	ids := make([]ident.ID, 1000)
	for i := range ids {
		ids[i] = ident.ID{Device: fmt.Sprint("device-", i)}
	}
	register(b, db, ids...)
	tw := New(Config{DB: db})
	var n atomic.Int64
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			patch := fmt.Appendf(nil, `{"telemetry":{"interval":%d,"unit":"C"},"firmware":{"version":"1.2.3"}}`, i)
			if _, err := tw.Report(b.Context(), ids[i%1000], patch, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
}
