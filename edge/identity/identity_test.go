package identity

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/selvedge-io/selvedge/auth"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/trust/sas"
)

func bring(t *testing.T, d *Directory, want, gone string) map[string]string {
	t.Helper()
	got, err := d.Sync(t.Context(), strings.Fields(want), strings.Fields(gone))
	if err != nil {
		t.Fatal(err)
	}
	if names := strings.Join(slices.Sorted(maps.Keys(got)), " "); names != want {
		t.Errorf("got generations of %q, want %q", names, want)
	}
	return got
}

// signs checks that a module's signature is the one that the hub expects.
func (s *setup) signs(d *Directory, module string) {
	s.t.Helper()
	got, err := d.Sign(s.t.Context(), module, []byte("data"))
	if err != nil || string(got) != mac(s.hub.key(module), "data") {
		s.t.Errorf("signature of %s is wrong (%v)", module, err)
	}
}

func TestFirstDeployment(t *testing.T) {
	s := newSetup(t)
	d := s.boot()
	got := bring(t, d, "filter sensor", "")
	if got["sensor"] == "" || got["sensor"] == got["filter"] {
		t.Errorf("generations %v", got)
	}
	if calls, want := s.hub.took(), "GET, PUT $edgeAgent, PUT $edgeHub, PUT filter, PUT sensor"; calls != want {
		t.Errorf("calls %q, want %q", calls, want)
	}
	for _, m := range []string{"filter", "sensor", ident.EdgeAgent, ident.EdgeHub} {
		s.signs(d, m)
		rec, err := d.Identity(t.Context(), ident.ID{Device: device, Module: m})
		if err != nil || !rec.Enabled || rec.Type != auth.TypeSAS || rec.Keys[0] != s.hub.key(m) || rec.Keys[0] == rec.Keys[1] {
			t.Errorf("record of %s: %v", m, err)
		}
	}
	if s.hub.took() != "" {
		t.Error("known identities cost calls")
	}
	// Nothing of it is readable on the disk.
	for _, k := range s.store.Keys("") {
		if v, _ := s.store.Get(k); strings.Contains(string(v), s.hub.key("sensor")) {
			t.Errorf("%s is stored in the clear", k)
		}
	}
	// A known set costs nothing, a new module only itself and one look.
	bring(t, d, "filter sensor", "")
	if calls := s.hub.took(); calls != "" {
		t.Errorf("an unchanged set costs %q", calls)
	}
	bring(t, d, "camera filter sensor", "")
	if calls := s.hub.took(); calls != "GET, PUT camera" {
		t.Errorf("one more module costs %q", calls)
	}
}

func TestOfflineStart(t *testing.T) {
	s := newSetup(t)
	before := bring(t, s.boot(), "filter sensor", "")
	s.hub.CloseClientConnections()
	s.hub.Listener.Close()
	d := s.boot()
	if after := bring(t, d, "filter sensor", "camera"); !maps.Equal(before, after) {
		t.Errorf("generations %v, then %v", before, after)
	}
	for _, m := range []string{"sensor", ident.EdgeHub} {
		s.signs(d, m)
	}
	got, err := d.Sync(t.Context(), []string{"camera", "sensor", "zoom"}, nil)
	if !fault.Temporary(err) || !strings.Contains(fault.TextOf(err), "camera, zoom: the hub cannot be reached") {
		t.Errorf("unknown modules offline: %v", err)
	}
	if len(got) != 1 || got["sensor"] != before["sensor"] {
		t.Errorf("it gives %v", got)
	}
	if err := d.Refresh(t.Context(), nil); !fault.Temporary(err) {
		t.Errorf("refresh: %v", err)
	}
}

func TestRemovedModules(t *testing.T) {
	s := newSetup(t)
	s.hub.set(func() { s.hub.modules["mine"] = s.hub.make("mine", "sas", "") })
	d := s.boot()
	bring(t, d, "a b mine", "")
	s.hub.took()
	bring(t, d, "a", "b mine never "+ident.EdgeHub)
	if names := s.hub.names(); names != "$edgeAgent $edgeHub a mine" {
		t.Errorf("the hub has %s", names)
	}
	if calls := s.hub.took(); calls != "DELETE b, GET b, GET mine, GET never" {
		t.Errorf("calls %q", calls)
	}
	if _, err := d.Identity(t.Context(), ident.ID{Device: device, Module: "b"}); !fault.Is(err, fault.ModuleNotFound) {
		t.Errorf("removed module: %v", err)
	}
	if _, err := d.Sign(t.Context(), "b", nil); !fault.Is(err, fault.ModuleNotFound) {
		t.Errorf("removed module signs: %v", err)
	}
	if got := s.tookRevoked(); got != device+"/b" {
		t.Errorf("revoked %q", got)
	}
	if _, err := d.Identity(t.Context(), ident.ID{Device: device, Module: "mine"}); err != nil {
		t.Errorf("somebody else's module: %v", err)
	}
}

func TestRemovedWhileOffline(t *testing.T) {
	s := newSetup(t)
	d := s.boot()
	bring(t, d, "a b c", "")
	s.hub.set(func() { s.hub.refuse = func(string, string) (int, string) { return 503, "down" } })
	bring(t, d, "a", "b c")
	for _, m := range []string{"b", "c"} {
		if _, err := d.Identity(t.Context(), ident.ID{Device: device, Module: m}); !fault.Is(err, fault.ModuleNotFound) {
			t.Errorf("removed module: %v", err)
		}
	}
	d = s.boot() // the note outlives us
	s.hub.took()
	bring(t, d, "a", "")
	if calls := s.hub.took(); calls != "" {
		t.Errorf("before the hub answered, a start costs %q", calls)
	}
	s.hub.set(func() { s.hub.refuse = nil })
	bring(t, d, "a c", "") // wanted again
	if names := s.hub.names(); names != "$edgeAgent $edgeHub a c" {
		t.Errorf("the hub has %s", names)
	}
	if left := s.store.Keys(gonePrefix); len(left) > 0 {
		t.Errorf("notes left: %q", left)
	}
}

func TestRefresh(t *testing.T) {
	s := newSetup(t)
	d := s.boot()
	bring(t, d, "a b c", "")
	s.hub.took()
	s.hub.set(func() {
		s.hub.modules["a"] = s.hub.make("a", "sas", "iotEdge")
		delete(s.hub.modules, "b")
	})
	if err := d.Refresh(t.Context(), []string{device + "/a", device + "/b", device + "/c", "other", "other/a"}); err != nil {
		t.Fatal(err)
	}
	if calls := s.hub.took(); calls != "GET a, GET b, GET c" {
		t.Errorf("calls %q", calls)
	}
	if got := s.tookRevoked(); got != device+"/a "+device+"/b" {
		t.Errorf("revoked %q", got)
	}
	if got := s.tookGone(); got != device+"/a "+device+"/b" { // a is another one now
		t.Errorf("gone %q", got)
	}
	s.hub.set(func() {
		m := s.hub.modules["c"]
		k := newKeys()
		m.Authentication.SymmetricKey.Primary = &k[0]
		s.hub.modules["c"] = m
	})
	if err := d.Refresh(t.Context(), []string{device + "/c"}); err != nil {
		t.Fatal(err)
	}
	if got := s.tookRevoked() + s.tookGone(); got != device+"/c" || s.hub.took() != "GET c" {
		t.Errorf("a new key: revoked and gone %q", got)
	}
	s.signs(d, "a")
	if _, err := d.Sign(t.Context(), "b", nil); !fault.Is(err, fault.ModuleNotFound) {
		t.Errorf("deleted module signs: %v", err)
	}
	for _, ids := range [][]string{nil, {device}} {
		s.hub.set(func() { s.hub.modules["c"] = s.hub.make("c", "sas", "iotEdge") })
		if err := d.Refresh(t.Context(), ids); err != nil {
			t.Fatal(err)
		}
		if calls := s.hub.took(); calls != "GET" {
			t.Errorf("calls %q", calls)
		}
		s.signs(d, "c")
	}
	if err := d.Refresh(t.Context(), []string{"other"}); err != nil || s.hub.took() != "" {
		t.Errorf("others' identities: %v", err)
	}
	if err := d.Refresh(t.Context(), []string{"a/b/c"}); err == nil {
		t.Error("nonsense passes")
	}
}

// TestNonsenseForgetsNobody: a hub that answers nonsense must not cost the identities,
// without which no module could connect until it is well again.
func TestNonsenseForgetsNobody(t *testing.T) {
	s := newSetup(t)
	d := s.boot()
	bring(t, d, "a b", "")
	other := `{"moduleId":"b","deviceId":"` + device + `","generationId":"1","authentication":{"type":"sas"}}`
	for _, body := range []string{`null`, `[]`, `{}`, `[{}]`, `[null]`, `"a"`, ``, `<html>`, `[` + other + `]`,
		`[{"moduleId":"$edgeHub","deviceId":"other"}]`, `{"moduleId":"a","deviceId":"other"}`, other} {
		s.hub.set(func() {
			s.hub.refuse = func(method, module string) (int, string) { return 200, body }
		})
		for _, ids := range [][]string{nil, {device + "/a"}} {
			if err := d.Refresh(t.Context(), ids); err == nil || !fault.Temporary(err) {
				t.Errorf("%s for %v gives %v", body, ids, err)
			}
		}
		if _, err := d.Sync(t.Context(), []string{"new"}, nil); err == nil {
			t.Errorf("%s makes an identity", body)
		}
	}
	s.hub.set(func() { s.hub.refuse = nil })
	if got := s.tookRevoked() + s.tookGone(); got != "" {
		t.Errorf("revoked and gone %q", got)
	}
	s.signs(d, "a")
	s.signs(d, "b")
}

func TestSystemModulesGetKeysWhenTheyAreNeeded(t *testing.T) {
	s := newSetup(t)
	d := s.boot()
	of := ident.ID{Device: device, Module: ident.EdgeHub}
	resource := host + "/" + of.Resource()
	text, err := d.Credentials(of)(t.Context(), resource, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	key, _ := base64.StdEncoding.DecodeString(s.hub.key(ident.EdgeHub))
	token, err := sas.Parse(text)
	if err != nil || !token.Verify(key) || token.Audience() != resource {
		t.Errorf("token %v", err)
	}
	if calls := s.hub.took(); calls != "GET $edgeHub, PUT $edgeHub" {
		t.Errorf("calls %q", calls)
	}
	s.hub.set(func() { delete(s.hub.modules, ident.EdgeAgent) })
	_, err = d.Credentials(ident.ID{Device: device, Module: ident.EdgeAgent})(t.Context(), "", time.Now())
	if !fault.Is(err, fault.ModuleNotFound) || !strings.Contains(fault.TextOf(err), "edge device") {
		t.Errorf("device that is no edge: %v", err)
	}
}

func TestCredentialsOfOthers(t *testing.T) {
	s := newSetup(t)
	d := s.boot()
	text, err := d.Credentials(ident.ID{Device: device})(t.Context(), host+"/devices/"+device, time.Now().Add(time.Hour))
	token, perr := sas.Parse(text)
	if err != nil || perr != nil || !token.Verify(deviceKey) {
		t.Errorf("the device's own: %v %v", err, perr)
	}
	for id, want := range map[ident.ID]fault.Code{
		{Device: "other"}:                        fault.DeviceNotFound,
		{Device: "other", Module: "sensor"}:      fault.DeviceNotFound,
		{Device: "other", Module: ident.EdgeHub}: fault.DeviceNotFound,
		{Device: device, Module: "sensor"}:       fault.ModuleNotFound,
	} {
		if _, err := d.Credentials(id)(t.Context(), "", time.Now()); !fault.Is(err, want) {
			t.Errorf("%s: %v", id, err)
		}
		if _, err := d.Identity(t.Context(), id); !fault.Is(err, want) && id.Module != ident.EdgeHub {
			t.Errorf("%s: %v", id, err)
		}
	}
	if _, err := d.Policy(t.Context(), "iothubowner"); !fault.Is(err, fault.Unauthorized) {
		t.Errorf("policy: %v", err)
	}
	if calls := s.hub.took(); calls != "" {
		t.Errorf("strangers cost calls: %q", calls)
	}
}

func TestModulesThatExist(t *testing.T) {
	s := newSetup(t)
	s.hub.set(func() {
		s.hub.modules["mine"] = s.hub.make("mine", "sas", "")
		bare := s.hub.make("bare", "none", "IotEdge")
		s.hub.modules["bare"] = bare
		cert := s.hub.make("cert", "x509", "")
		cert.Authentication.Thumbprint.Primary = str(strings.Repeat("AB", 20))
		s.hub.modules["cert"] = cert
	})
	d := s.boot()
	bring(t, d, "bare mine", "")
	for _, m := range []string{"mine", "bare"} {
		s.signs(d, m)
	}
	rec, err := d.Identity(t.Context(), ident.ID{Device: device, Module: "cert"})
	if err != nil || rec.Type != auth.TypeThumbprint || rec.Thumbprints[0] == "" {
		t.Errorf("module with a certificate: %+v %v", rec, err)
	}
	if _, err := d.Sign(t.Context(), "cert", nil); !fault.Is(err, fault.Unauthorized) {
		t.Errorf("module with a certificate signs: %v", err)
	}
}

func TestAnswerToACreationWasLost(t *testing.T) {
	s := newSetup(t)
	d := s.boot()
	bring(t, d, "a", "")
	lost := false
	s.hub.set(func() {
		s.hub.refuse = func(method, module string) (int, string) {
			if method == "PUT" && module == "b" && !lost {
				lost = true
				s.hub.modules["b"] = s.hub.make("b", "sas", "iotEdge")
			}
			return 0, ""
		}
	})
	bring(t, d, "a b", "")
	s.signs(d, "b")
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		status    int
		body      string
		code      fault.Code
		temporary bool
	}{
		{413, `{"Message":"ErrorCode:TooManyModulesOnDevice;50 is the most"}`, fault.TooManyModules, false},
		{401, `{"Message":"ErrorCode:IotHubUnauthorized;no"}`, fault.Unauthorized, false},
		{429, ``, fault.Throttled, true},
		{503, `<html>`, fault.Unavailable, true},
		{500, `{"Message":"{\"errorCode\":500001}"}`, fault.Unavailable, true},
		{404, `{"Message":"ErrorCode:DeviceNotFound;no device"}`, fault.DeviceNotFound, false},
		{400, `{"errorMessage":"offline","networkError":true}`, fault.Unavailable, true},
		{403, strings.Repeat("é", 1000), fault.GenericForbidden, false},
		{302, ``, fault.ArgumentInvalid, false},
	} {
		s := newSetup(t)
		s.hub.set(func() {
			s.hub.refuse = func(method, module string) (int, string) {
				if module == "b" {
					return c.status, c.body
				}
				return 0, ""
			}
		})
		got, err := s.boot().Sync(t.Context(), []string{"a", "b"}, nil)
		if !fault.Is(err, c.code) || fault.Temporary(err) != c.temporary || !strings.Contains(fault.TextOf(err), "no identity for b: ") {
			t.Errorf("%d %s: %v (%d)", c.status, c.body, err, fault.CodeOf(err))
		}
		if len(got) != 1 || got["a"] == "" {
			t.Errorf("%d: the other one has %v", c.status, got)
		}
		if len(fault.TextOf(err)) > 500 {
			t.Errorf("text has %d bytes", len(fault.TextOf(err)))
		}
	}
}

func TestWrongKeyAndWrongServer(t *testing.T) {
	s := newSetup(t)
	_, err := s.boot(func(c *Config) { c.Key = []byte("another key") }).Sync(t.Context(), []string{"a"}, nil)
	if !fault.Is(err, fault.Unauthorized) {
		t.Errorf("wrong key: %v", err)
	}
	_, err = s.boot(func(c *Config) { c.Roots = nil }).Sync(t.Context(), []string{"a"}, nil)
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok || !fault.Temporary(err) {
		t.Errorf("untrusted server: %v", err)
	}
	if calls := s.hub.took(); calls != "GET" {
		t.Errorf("calls %q", calls)
	}
	for _, bad := range []string{"", "a/b", "ä"} {
		if _, err := s.boot().Sync(t.Context(), []string{bad}, nil); !fault.Is(err, fault.ArgumentInvalid) {
			t.Errorf("module %q: %v", bad, err)
		}
	}
	for _, change := range []func(*Config){
		func(c *Config) { c.Host = "" }, func(c *Config) { c.Device = "" }, func(c *Config) { c.Key = nil }, func(c *Config) { c.Seal = nil },
	} {
		cfg := s.config()
		change(&cfg)
		if _, err := New(t.Context(), cfg); err == nil {
			t.Error("an incomplete configuration passes")
		}
	}
}

func TestDeviceWithACertificate(t *testing.T) {
	s := newSetup(t)
	d := s.boot(func(c *Config) { c.Key, c.Certificates = nil, s.hub.TLS.Certificates })
	bring(t, d, "a", "")
	s.signs(d, "a")
	if _, err := d.Credentials(ident.ID{Device: device})(t.Context(), "", time.Now()); !fault.Is(err, fault.Unauthorized) {
		t.Errorf("token of a device without a key: %v", err)
	}
}

func TestWhatIsStoredBelongsToOneDevice(t *testing.T) {
	s := newSetup(t)
	bring(t, s.boot(), "a", "")
	if err := s.store.Put(t.Context(), entryPrefix+"broken", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(s.boot().Modules()); !strings.HasPrefix(got, "[{$edgeAgent ") || strings.Contains(got, "broken") {
		t.Errorf("after a restart: %s", got)
	}
	if all := s.boot(func(c *Config) { c.Device = "another" }).Modules(); len(all) > 0 {
		t.Errorf("another device has %v", all)
	}
	if left := s.store.Keys(entryPrefix); len(left) > 0 {
		t.Errorf("left in the store: %q", left)
	}
}

func TestManyAtOnce(t *testing.T) {
	s := newSetup(t)
	d := s.boot()
	ended := make(chan error)
	for i := range 8 {
		go func() {
			want := []string{"a", "b", fmt.Sprintf("m%d", i%3)}
			_, err := d.Sync(context.Background(), want, nil)
			if err == nil {
				_, err = d.Sign(context.Background(), "a", nil)
			}
			ended <- errors.Join(err, d.Refresh(context.Background(), nil))
		}()
	}
	for range 8 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if names := s.hub.names(); names != "$edgeAgent $edgeHub a b m0 m1 m2" {
		t.Errorf("the hub has %s", names)
	}
}

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace()
		begin := time.Now()
		for range paceBurst + 20 {
			if err := p.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begin); took != 20*paceEvery {
			t.Errorf("20 calls over the burst take %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := p.wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Hour)
		begin = time.Now()
		if err := p.wait(t.Context()); err != nil || time.Since(begin) > 0 {
			t.Errorf("after a rest: %v", err)
		}
		// Calls that are given up take no turns from those that come.
		for range paceBurst - 1 {
			if err := p.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		for range 1000 {
			if err := p.wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got %v", err)
			}
		}
		begin = time.Now()
		if err := p.wait(t.Context()); err != nil || time.Since(begin) > paceEvery {
			t.Errorf("after 1000 calls that were given up: %v, %v", time.Since(begin), err)
		}
	})
}
