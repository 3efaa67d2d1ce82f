package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/auth"
	"github.com/selvedge-io/selvedge/hub/store"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
)

// masked is a sealer good enough to see that keys are sealed.
type masked struct{}

func (masked) Seal(plain []byte) ([]byte, error) {
	out := append([]byte("sealed:"), plain...)
	for i := range out[7:] {
		out[7+i] ^= 0x55
	}
	return out, nil
}

func (masked) Open(sealed []byte) ([]byte, error) {
	body, ok := bytes.CutPrefix(sealed, []byte("sealed:"))
	if !ok {
		return nil, errors.New("not sealed by us")
	}
	out := slices.Clone(body)
	for i := range out {
		out[i] ^= 0x55
	}
	return out, nil
}

func open(t testing.TB, path string) *Registry {
	t.Helper()
	db, err := store.Open(t.Context(), store.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	r, err := New(t.Context(), Config{DB: db, Sealer: masked{}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func fresh(t testing.TB) *Registry {
	t.Helper()
	return open(t, filepath.Join(t.TempDir(), "hub.db"))
}

func device(id string) ident.ID         { return ident.ID{Device: id} }
func module(id, module string) ident.ID { return ident.ID{Device: id, Module: module} }

func create(t testing.TB, r *Registry, spec Spec) Identity {
	t.Helper()
	i, err := r.Create(t.Context(), spec)
	if err != nil {
		t.Fatalf("create %s: %v", spec.ID, err)
	}
	return i
}

func wantFault(t *testing.T, what string, err error, code fault.Code) {
	t.Helper()
	if !fault.Is(err, code) {
		t.Errorf("%s: got %v (%d), want %d", what, err, fault.CodeOf(err), code)
	}
}

func TestCreateGeneratesKeys(t *testing.T) {
	r := fresh(t)
	for name, a := range map[string]*Authentication{
		"absent": nil, "empty": {}, "sas": {Type: SAS}, "one-key": {Type: SAS, Keys: [2]string{newKey(), ""}},
	} {
		i := create(t, r, Spec{ID: device(name), Auth: a})
		if i.Auth.Type != SAS || !i.Enabled || i.Etag() == "" || i.Generation == "" || i.Connected {
			t.Errorf("%s: %+v", name, i)
		}
		for n, key := range i.Auth.Keys {
			raw, err := base64.StdEncoding.DecodeString(key)
			if err != nil || len(raw) != 32 || i.Auth.Keys[0] == i.Auth.Keys[1] {
				t.Errorf("%s: key %d is %q", name, n, key)
			}
		}
		if a != nil && a.Keys[0] != "" && i.Auth.Keys[0] != a.Keys[0] {
			t.Errorf("%s: the given key was not kept", name)
		}
		got, err := r.Get(t.Context(), device(name))
		if err != nil || got.Auth != i.Auth || got.Etag() != i.Etag() || got.Generation != i.Generation {
			t.Errorf("%s: read back %+v, %v", name, got, err)
		}
	}
}

func TestAuthenticationRules(t *testing.T) {
	key := func(n int) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, n)) }
	sha1, sha256 := strings.Repeat("ab", 20), strings.Repeat("cd", 32)
	for name, c := range map[string]struct {
		in   Authentication
		want string // type, thumbprints; empty: refused
	}{
		"key of 16":            {Authentication{Type: SAS, Keys: [2]string{key(16), key(64)}}, "sas  "},
		"key of 15":            {Authentication{Type: SAS, Keys: [2]string{key(15), key(64)}}, ""},
		"key of 65":            {Authentication{Type: SAS, Keys: [2]string{key(16), key(65)}}, ""},
		"key not base64":       {Authentication{Type: SAS, Keys: [2]string{"not base64!", key(64)}}, ""},
		"sha-1":                {Authentication{Type: SelfSigned, Thumbprints: [2]string{sha1, ""}}, "selfSigned " + strings.ToUpper(sha1) + " "},
		"sha-256":              {Authentication{Type: SelfSigned, Thumbprints: [2]string{sha1, sha256}}, "selfSigned " + strings.ToUpper(sha1+" "+sha256)},
		"type from thumbprint": {Authentication{Thumbprints: [2]string{sha1, ""}}, "selfSigned " + strings.ToUpper(sha1) + " "},
		"short thumbprint":     {Authentication{Type: SelfSigned, Thumbprints: [2]string{"abcd", ""}}, ""},
		"odd thumbprint":       {Authentication{Type: SelfSigned, Thumbprints: [2]string{strings.Repeat("x", 40), ""}}, ""},
		"no thumbprint":        {Authentication{Type: SelfSigned}, ""},
		"authority":            {Authentication{Type: CertificateAuthority, Keys: [2]string{key(16), key(16)}}, "certificateAuthority  "},
		"none":                 {Authentication{Type: None}, "none  "},
		"unknown type":         {Authentication{Type: "magic"}, ""},
	} {
		r := fresh(t)
		i, err := r.Create(t.Context(), Spec{ID: device("d"), Auth: &c.in})
		if c.want == "" {
			wantFault(t, name, err, fault.ArgumentInvalid)
			continue
		}
		if got := fmt.Sprintf("%s %s %s", i.Auth.Type, i.Auth.Thumbprints[0], i.Auth.Thumbprints[1]); err != nil || got != c.want {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, c.want)
		}
		if (i.Auth.Keys[0] != "") != (i.Auth.Type == SAS) {
			t.Errorf("%s: keys %q", name, i.Auth.Keys)
		}
	}
}

func TestCreateRefusals(t *testing.T) {
	r := fresh(t)
	create(t, r, Spec{ID: device("d")})
	create(t, r, Spec{ID: module("d", "m")})
	long := strings.Repeat("x", 129)
	for name, c := range map[string]struct {
		spec Spec
		code fault.Code
	}{
		"device twice":     {Spec{ID: device("d")}, fault.DeviceAlreadyExists},
		"module twice":     {Spec{ID: module("d", "m")}, fault.ModuleAlreadyExists},
		"module of nobody": {Spec{ID: module("x", "m")}, fault.DeviceNotFound},
		"wildcard in id":   {Spec{ID: device("a+b")}, fault.ArgumentInvalid},
		"bad character":    {Spec{ID: device("a b")}, fault.ArgumentInvalid},
		"long id":          {Spec{ID: device(long)}, fault.ArgumentInvalid},
		"system module":    {Spec{ID: module("d", ident.EdgeAgent)}, fault.SystemModuleModify},
		"reserved module":  {Spec{ID: module("d", "$mine")}, fault.ArgumentInvalid},
		"long reason":      {Spec{ID: device("e"), StatusReason: &long}, fault.ArgumentInvalid},
		"unknown parent":   {Spec{ID: device("e"), Scope: ptr("ms-azure-iot-edge://x-1")}, fault.InvalidDeviceScope},
		"two parents":      {Spec{ID: device("e"), ParentScopes: &[]string{"a", "b"}}, fault.ArgumentInvalid},
	} {
		_, err := r.Create(t.Context(), c.spec)
		wantFault(t, name, err, c.code)
	}
}

func ptr[T any](v T) *T { return &v }

func TestUpdate(t *testing.T) {
	r := fresh(t)
	first := create(t, r, Spec{ID: device("d")})
	reason := "broken"
	second, err := r.Update(t.Context(), Spec{ID: device("d"), Enabled: ptr(false), StatusReason: &reason}, first.Etag())
	if err != nil {
		t.Fatal(err)
	}
	if second.Enabled || *second.StatusReason != reason || second.Auth != first.Auth || second.Etag() == first.Etag() ||
		second.Generation != first.Generation || second.StatusUpdated.IsZero() {
		t.Errorf("after the update: %+v", second)
	}
	_, err = r.Update(t.Context(), Spec{ID: device("d")}, first.Etag())
	wantFault(t, "stale etag", err, fault.PreconditionFailed)
	third, err := r.Update(t.Context(), Spec{ID: device("d"), Auth: &Authentication{Type: SAS}}, "*")
	if err != nil || !third.Enabled || third.Auth == second.Auth || third.StatusReason != nil {
		t.Errorf("after the second update: %+v, %v", third, err)
	}
	_, err = r.Update(t.Context(), Spec{ID: device("x")}, "*")
	wantFault(t, "unknown device", err, fault.DeviceNotFound)
	_, err = r.Update(t.Context(), Spec{ID: module("d", "x")}, "*")
	wantFault(t, "unknown module", err, fault.ModuleNotFound)
}

func TestDelete(t *testing.T) {
	r := fresh(t)
	d := create(t, r, Spec{ID: device("d")})
	create(t, r, Spec{ID: module("d", "m")})
	create(t, r, Spec{ID: module("d", "n")})
	wantFault(t, "stale etag", r.Delete(t.Context(), device("d"), "AAAA"), fault.PreconditionFailed)
	if err := r.Delete(t.Context(), module("d", "n"), "*"); err != nil {
		t.Error(err)
	}
	wantFault(t, "module again", r.Delete(t.Context(), module("d", "n"), ""), fault.ModuleNotFound)
	if err := r.Delete(t.Context(), device("d"), d.Etag()); err != nil {
		t.Error(err)
	}
	_, err := r.Get(t.Context(), module("d", "m"))
	wantFault(t, "module of the deleted", err, fault.DeviceNotFound)
	again := create(t, r, Spec{ID: device("d")})
	if again.Generation == d.Generation || again.Auth == d.Auth {
		t.Error("the id made anew has the old generation or keys")
	}
	if all, err := r.Modules(t.Context(), "d"); err != nil || len(all) != 0 {
		t.Errorf("modules made anew: %v, %v", all, err)
	}
}

func TestModuleLimit(t *testing.T) {
	r := fresh(t)
	create(t, r, Spec{ID: device("d"), Edge: ptr(true)})
	for i := range MaxModules {
		create(t, r, Spec{ID: module("d", fmt.Sprint("m", i)), ManagedBy: ptr("iotEdge")})
	}
	_, err := r.Create(t.Context(), Spec{ID: module("d", "more")})
	wantFault(t, "one module too many", err, fault.TooManyModules)
	if all, err := r.Modules(t.Context(), "d"); err != nil || len(all) != MaxModules+2 {
		t.Errorf("%d modules, %v", len(all), err)
	}
}

func TestEdgeDevices(t *testing.T) {
	r := fresh(t)
	edge := create(t, r, Spec{ID: device("gw"), Edge: ptr(true)})
	if !strings.HasPrefix(edge.Scope, "ms-azure-iot-edge://gw-") || edge.ParentScope != "" {
		t.Errorf("scope %q, parent %q", edge.Scope, edge.ParentScope)
	}
	for _, name := range []string{ident.EdgeAgent, ident.EdgeHub} {
		m, err := r.Get(t.Context(), module("gw", name))
		if err != nil || m.Auth.Type != None || m.ManagedBy == nil || *m.ManagedBy != "iotEdge" {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
		wantFault(t, "delete "+name, r.Delete(t.Context(), module("gw", name), "*"), fault.SystemModuleModify)
		_, err = r.Create(t.Context(), Spec{ID: module("gw", name)})
		wantFault(t, "create "+name, err, fault.ModuleAlreadyExists)
		if m, err = r.Update(t.Context(), Spec{ID: module("gw", name), Auth: &Authentication{Type: SAS}}, "*"); err != nil || m.Auth.Keys[0] == "" {
			t.Errorf("give %s keys: %+v, %v", name, m, err)
		}
	}
	_, err := r.Update(t.Context(), Spec{ID: device("gw"), Edge: ptr(false)}, "*")
	wantFault(t, "turn edge off", err, fault.InvalidOperation)
	_, err = r.Update(t.Context(), Spec{ID: device("gw"), Scope: ptr("ms-azure-iot-edge://gw-1")}, "*")
	wantFault(t, "change the scope", err, fault.ArgumentInvalid)
	if again, err := r.Update(t.Context(), Spec{ID: device("gw"), Scope: &edge.Scope}, "*"); err != nil || !again.Edge || again.Scope != edge.Scope {
		t.Errorf("echo the scope: %+v, %v", again, err)
	}

	_, err = r.Create(t.Context(), Spec{ID: device("twin"), Edge: ptr(true), Scope: &edge.Scope})
	wantFault(t, "take another's scope", err, fault.InvalidDeviceScope)
	if i := create(t, r, Spec{ID: device("given"), Edge: ptr(true), Scope: ptr("ms-azure-iot-edge://given-5")}); i.Scope != "ms-azure-iot-edge://given-5" {
		t.Errorf("the given scope became %q", i.Scope)
	}

	leaf := create(t, r, Spec{ID: device("leaf"), Scope: &edge.Scope})
	if leaf.Scope != edge.Scope || leaf.ParentScope != edge.Scope {
		t.Errorf("leaf: %+v", leaf)
	}
	// Both members come back and only one was meant to change.
	if leaf, err = r.Update(t.Context(), Spec{ID: device("leaf"), Scope: ptr(""), ParentScopes: &[]string{edge.Scope}}, "*"); err != nil || leaf.ParentScope != "" {
		t.Errorf("leaf without parent: %+v, %v", leaf, err)
	}
	if leaf, err = r.Update(t.Context(), Spec{ID: device("leaf"), Scope: ptr(""), ParentScopes: &[]string{edge.Scope}}, "*"); err != nil || leaf.Scope != edge.Scope {
		t.Errorf("leaf with parent again: %+v, %v", leaf, err)
	}

	below := create(t, r, Spec{ID: device("below"), Edge: ptr(true), ParentScopes: &[]string{edge.Scope}})
	if below.ParentScope != edge.Scope || below.Scope == edge.Scope {
		t.Errorf("nested: %+v", below)
	}
	_, err = r.Update(t.Context(), Spec{ID: device("gw"), ParentScopes: &[]string{below.Scope}}, "*")
	wantFault(t, "circle", err, fault.InvalidDeviceScope)
	if err := r.Delete(t.Context(), device("gw"), "*"); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"leaf", "below"} {
		if i, err := r.Get(t.Context(), device(id)); err != nil || i.ParentScope != "" {
			t.Errorf("%s after its parent is gone: %+v, %v", id, i, err)
		}
	}
}

func TestLeafBecomesEdge(t *testing.T) {
	r := fresh(t)
	create(t, r, Spec{ID: device("d")})
	i, err := r.Update(t.Context(), Spec{ID: device("d"), Edge: ptr(true), Scope: ptr("")}, "*")
	if err != nil || !i.Edge || i.Scope == "" {
		t.Errorf("%+v, %v", i, err)
	}
	if all, err := r.Modules(t.Context(), "d"); err != nil || len(all) != 2 {
		t.Errorf("modules %v, %v", all, err)
	}
}

func TestDirectoryFollowsChanges(t *testing.T) {
	r := fresh(t)
	d := create(t, r, Spec{ID: device("d")})
	m := create(t, r, Spec{ID: module("d", "m")})
	look := func(id ident.ID) auth.Record {
		t.Helper()
		rec, err := r.Identity(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return rec
	}
	if rec := look(device("d")); !rec.Enabled || rec.Keys != d.Auth.Keys || rec.Type != SAS || rec.Generation != d.Generation {
		t.Errorf("device: %+v", rec)
	}
	if rec := look(module("d", "m")); !rec.Enabled || rec.Keys != m.Auth.Keys || rec.ID != m.ID {
		t.Errorf("module: %+v", rec)
	}
	if _, err := r.Update(t.Context(), Spec{ID: device("d"), Enabled: ptr(false)}, "*"); err != nil {
		t.Fatal(err)
	}
	if look(device("d")).Enabled || look(module("d", "m")).Enabled {
		t.Error("still enabled")
	}
	rekeyed, err := r.Update(t.Context(), Spec{ID: module("d", "m"), Auth: &Authentication{Type: SAS}}, "*")
	if err != nil || look(module("d", "m")).Keys != rekeyed.Auth.Keys {
		t.Errorf("old keys, %v", err)
	}
	_, err = r.Identity(t.Context(), module("d", "x"))
	wantFault(t, "unknown module", err, fault.ModuleNotFound)
	if err := r.Delete(t.Context(), device("d"), ""); err != nil {
		t.Fatal(err)
	}
	_, err = r.Identity(t.Context(), module("d", "m"))
	wantFault(t, "deleted", err, fault.DeviceNotFound)
}

func TestWatchersLearnWhoIsRevoked(t *testing.T) {
	r := fresh(t)
	var told []string
	r.OnChange(func(c Change) { told = append(told, fmt.Sprintf("%d %s %v", c.Kind, c.Identity.ID, c.Revoked)) })
	expect := func(want ...string) {
		t.Helper()
		if !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
		told = nil
	}
	create(t, r, Spec{ID: device("d"), Edge: ptr(true)})
	expect("0 d/$edgeAgent false", "0 d/$edgeHub false", "0 d false")
	update := func(s Spec) {
		t.Helper()
		if _, err := r.Update(t.Context(), s, "*"); err != nil {
			t.Fatal(err)
		}
	}
	update(Spec{ID: device("d")})
	expect("1 d false")
	update(Spec{ID: device("d"), Auth: &Authentication{Type: SAS}})
	expect("1 d true")
	update(Spec{ID: device("d"), Enabled: ptr(false)})
	expect("1 d/$edgeAgent true", "1 d/$edgeHub true", "1 d true")
	update(Spec{ID: device("d")})
	expect("1 d false")
	if err := r.Delete(t.Context(), device("d"), ""); err != nil {
		t.Fatal(err)
	}
	expect("2 d/$edgeAgent true", "2 d/$edgeHub true", "2 d true")
}

func TestPolicies(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	r := open(t, path)
	all := r.Policies()
	var names []string
	keys := map[string]bool{}
	for _, p := range all {
		names = append(names, fmt.Sprintf("%s %d", p.Name, p.Rights))
		keys[p.Keys[0]], keys[p.Keys[1]] = true, true
	}
	every := auth.RegistryRead | auth.RegistryWrite | auth.ServiceConnect | auth.DeviceConnect
	want := []string{fmt.Sprint("device ", auth.DeviceConnect), fmt.Sprint("iothubowner ", every), "provisioningserviceowner 0",
		fmt.Sprint("registryRead ", auth.RegistryRead), fmt.Sprint("registryReadWrite ", auth.RegistryRead|auth.RegistryWrite),
		fmt.Sprint("service ", auth.ServiceConnect)}
	if !slices.Equal(names, want) || len(keys) != 12 || keys[""] {
		t.Errorf("policies %q with %d keys", names, len(keys))
	}
	again := open(t, path)
	if p, err := again.Policy(t.Context(), "service"); err != nil || p != all[5] {
		t.Errorf("after reopening: %+v, %v", p, err)
	}
	_, err := again.Policy(t.Context(), "Service")
	wantFault(t, "unknown policy", err, fault.Unauthorized)
}

func TestKeysAreSealedAtRest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	r := open(t, path)
	i := create(t, r, Spec{ID: device("d")})
	p, err := r.Policy(t.Context(), "iothubowner")
	if err != nil {
		t.Fatal(err)
	}
	r.db.Close()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{i.Auth.Keys[0], i.Auth.Keys[1], p.Keys[0]} {
		if bytes.Contains(text, []byte(key)) {
			t.Error("a key stands bare in the file")
		}
	}
	if got, err := open(t, path).Get(t.Context(), device("d")); err != nil || got.Auth != i.Auth {
		t.Errorf("after reopening: %+v, %v", got, err)
	}
}

func TestPresence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	r := open(t, path)
	create(t, r, Spec{ID: device("d")})
	create(t, r, Spec{ID: device("e")})
	r.Seen(device("d"), true)
	r.Active(device("e"))
	r.Seen(device("nobody"), true)
	check := func(r *Registry, connected bool) {
		t.Helper()
		d, err := r.Get(t.Context(), device("d"))
		if err != nil || d.Connected != connected || d.ConnectionUpdated.IsZero() || d.LastActivity.IsZero() {
			t.Errorf("d: %+v, %v", d, err)
		}
		all, err := r.List(t.Context(), 10)
		if err != nil || len(all) != 2 || all[0].Connected != connected || all[1].Connected || all[1].LastActivity.IsZero() {
			t.Errorf("list: %+v, %v", all, err)
		}
	}
	check(r, true)
	if s, err := r.Statistics(t.Context()); err != nil || s != (Statistics{Total: 2, Enabled: 2, Connected: 1}) {
		t.Errorf("statistics %+v, %v", s, err)
	}
	check(r, true)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := r.Run(ctx); !errors.Is(err, context.Canceled) && err != nil {
		t.Error(err)
	}
	r.db.Close()

	// After a crash nobody is connected until it comes again.
	again := open(t, path)
	check(again, true)
	ctx, stop = context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := again.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(5 * time.Second); ; {
		if d, err := again.Get(t.Context(), device("d")); err != nil || !d.Connected || time.Now().After(deadline) {
			break
		}
	}
	again.Seen(device("e"), true)
	stop()
	running.Wait()
	if e, err := again.Get(t.Context(), device("e")); err != nil || !e.Connected {
		t.Errorf("the last sighting was not written: %+v, %v", e, err)
	}
	check2, err := again.Get(t.Context(), device("d"))
	if err != nil || check2.Connected {
		t.Errorf("still connected after the restart: %+v, %v", check2, err)
	}
}

func TestList(t *testing.T) {
	r := fresh(t)
	for i := range 5 {
		create(t, r, Spec{ID: device(fmt.Sprint("d", i))})
		create(t, r, Spec{ID: module(fmt.Sprint("d", i), "m")})
	}
	if all, err := r.List(t.Context(), 3); err != nil || len(all) != 3 || all[2].ID.Device != "d2" {
		t.Errorf("%v, %v", all, err)
	}
	_, err := r.Modules(t.Context(), "nobody")
	wantFault(t, "modules of nobody", err, fault.DeviceNotFound)
}

// Writers, readers and the cache together never show revoked keys after the
// revocation returned.
func TestConcurrentRekeying(t *testing.T) {
	r := fresh(t)
	create(t, r, Spec{ID: device("d")})
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if _, err := r.Identity(t.Context(), device("d")); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	for range 50 {
		i, err := r.Update(t.Context(), Spec{ID: device("d"), Auth: &Authentication{Type: SAS}}, "*")
		if err != nil {
			t.Fatal(err)
		}
		if rec, err := r.Identity(t.Context(), device("d")); err != nil || rec.Keys != i.Auth.Keys {
			t.Fatalf("the directory holds old keys (%v)", err)
		}
	}
	close(stop)
	readers.Wait()
}

func TestManyCreationsShareCommits(t *testing.T) {
	r := fresh(t)
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			_, err := r.Create(t.Context(), Spec{ID: device(fmt.Sprint("d", i%50))})
			if err != nil && !fault.Is(err, fault.DeviceAlreadyExists) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	s, err := r.Statistics(t.Context())
	if err != nil || s.Total != 50 {
		t.Errorf("%+v, %v", s, err)
	}
	seen := map[string]bool{}
	list, err := r.List(t.Context(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list {
		if seen[i.Generation] {
			t.Errorf("generation %s twice", i.Generation)
		}
		seen[i.Generation] = true
	}
}

// Whether an id is known must not show in how long a refusal takes, nor may strangers
// keep the database busy or push the records of devices out of memory.
func TestUnknownIdentitiesAreRemembered(t *testing.T) {
	r := fresh(t)
	known, unknown := ident.ID{Device: "known"}, ident.ID{Device: "unknown", Module: "m"}
	if _, err := r.Create(t.Context(), Spec{ID: known}); err != nil {
		t.Fatal(err)
	}
	later := ident.ID{Device: "later"}
	for _, id := range []ident.ID{known, unknown, later} {
		r.Identity(t.Context(), id)
	}
	if _, err := r.Create(t.Context(), Spec{ID: later}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Identity(t.Context(), later); err != nil {
		t.Errorf("made after it was asked for: %v", err)
	}
	for n := range 10_000 {
		r.Identity(t.Context(), ident.ID{Device: fmt.Sprint("stranger-", n)})
	}
	r.Identity(t.Context(), unknown)
	if err := r.db.Read().Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Identity(t.Context(), unknown); !fault.Is(err, fault.DeviceNotFound) {
		t.Errorf("the database was asked for an unknown device: %v", err)
	}
	if _, err := r.Identity(t.Context(), known); err != nil {
		t.Errorf("strangers pushed a device out of memory: %v", err)
	}
}
