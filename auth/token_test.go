package auth

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
)

var later = noon.Add(time.Hour)

func TestTokens(t *testing.T) {
	v := newVerifier(newBook())
	for _, c := range []struct {
		name        string
		id          ident.ID
		sr, key, by string
		refused     string // part of the cause; empty: accepted
	}{
		{"Node and Python", dev, "hub.example.net%2Fdevices%2Fdev", "dev1", "", ""},
		{"secondary key", dev, "hub.example.net%2Fdevices%2Fdev", "dev2", "", ""},
		{"C", dev, "hub.example.net/devices/dev", "dev1", "", ""},
		{"lower-case escapes", dev, "hub.example.net%2fdevices%2fdev", "dev1", "", ""},
		{"audience in another case", dev, "HUB.example.NET%2FDevices%2FDEV", "dev1", "", ""},
		{"module", mod, "hub.example.net%2Fdevices%2Fdev%2Fmodules%2F%24edgeHub", "mod1", "", ""},
		{"module, raw", mod, "hub.example.net/devices/dev/modules/$edgeHub", "mod1", "", ""},
		{"module, lower-cased by the identity service", mod, "hub.example.net%2Fdevices%2Fdev%2Fmodules%2F%24edgehub", "mod1", "", ""},
		{".NET encodes ids twice", odd, "hub.example.net%2Fdevices%2Fa%2523b%252541%2528c%2529%2521", "odd1", "", ""},
		{"Node's mix of escapes", odd, "hub.example.net%2Fdevices%2Fa%23b%2541%28c%29%21", "odd1", "", ""},
		{"raw odd id", odd, "hub.example.net/devices/a#b%41(c)!", "odd1", "", ""},
		{"the gateway's name", dev, "gateway%2Fdevices%2Fdev", "dev1", "", ""},
		{"a scheme", dev, "amqps%3A%2F%2Fhub.example.net%2Fdevices%2Fdev", "dev1", "", ""},
		{"a port", dev, "hub.example.net%3A8883%2Fdevices%2Fdev", "dev1", "", ""},
		{"decorated", dev, "hub.example.net/devices/dev/api-version=2016-11-14", "dev1", "", ""},
		{"decorated with a path", mod, "hub.example.net/devices/dev/modules/$edgeHub/messages/events", "mod1", "", ""},
		{"slash at the end", dev, "hub.example.net/devices/dev/", "dev1", "", ""},
		{"policy for the hub", dev, "hub.example.net", "device1", "device", ""},
		{"policy for all devices", mod, "hub.example.net%2Fdevices", "device2", "device", ""},
		{"policy for the device", mod, "hub.example.net%2Fdevices%2Fdev", "iothubowner1", "iothubowner", ""},
		{"policy for the module", mod, "hub.example.net%2Fdevices%2Fdev%2Fmodules%2F%24edgeHub", "device1", "device", ""},
		{"policy for one without keys", none, "hub.example.net", "device1", "device", ""},

		{"wrong key", dev, "hub.example.net/devices/dev", "mod1", "", "neither of its keys"},
		{"another's token", dev, "hub.example.net/devices/device", "other1", "", "token is for"},
		{"right key, another's audience", dev, "hub.example.net/devices/device", "dev1", "", "token is for"},
		{"prefix of an id", other, "hub.example.net/devices/dev", "other1", "", "token is for"},
		{"another hub", dev, "other.example.net/devices/dev", "dev1", "", "token is for"},
		{"host with a tail", dev, "hub.example.net.evil/devices/dev", "dev1", "", "token is for"},
		{"no host", dev, "devices/dev", "dev1", "", "token is for"},
		{"own key for the whole hub", dev, "hub.example.net", "dev1", "", "token is for"},
		{"own key for all devices", dev, "hub.example.net/devices", "dev1", "", "token is for"},
		{"device token for its module", mod, "hub.example.net/devices/dev", "dev1", "", "token is for"},
		{"module's audience by the device's key", mod, "hub.example.net/devices/dev/modules/$edgeHub", "dev1", "", "neither of its keys"},
		{"module token for its device", dev, "hub.example.net/devices/dev/modules/$edgeHub", "dev1", "", "token is for"},
		{"unknown device", absent, "hub.example.net/devices/absent", "dev1", "", "no device absent"},
		{"unknown module", ident.ID{Device: "dev", Module: "x"}, "hub.example.net/devices/dev/modules/x", "dev1", "", "no module dev/x"},
		{"unknown device, no key", absent, "hub.example.net/devices/absent", "", "", "no device absent"},
		{"id in another case", ident.ID{Device: "DEV"}, "hub.example.net/devices/dev", "dev1", "", "no device DEV"},
		{"token for one by certificate", thumb, "hub.example.net/devices/thumb", "dev1", "", `by "selfSigned"`},
		{"token for one without keys", none, "hub.example.net/devices/dev/modules/none", "dev1", "", `by "none"`},
		{"disabled", off, "hub.example.net/devices/off", "off1", "", "off is disabled"},
		{"disabled, wrong key", off, "hub.example.net/devices/off", "dev1", "", "neither of its keys"},
		{"unknown policy", dev, "hub.example.net", "device1", "nobody", "not signed with a key of policy"},
		{"wrong key of policy", dev, "hub.example.net", "service1", "device", "not signed with a key of policy"},
		{"policy without the right", dev, "hub.example.net", "service1", "service", "does not hold DeviceConnect"},
		{"policy for another device", dev, "hub.example.net/devices/device", "device1", "device", "token of policy"},
		{"policy for part of an id", other, "hub.example.net/devices/dev", "device1", "device", "token of policy"},
		{"policy, id encoded twice", ident.ID{Device: "a#b%41(c)!"}, "hub.example.net%2Fdevices%2Fa%2523b%252541%2528c%2529%2521", "device1", "device", "token of policy"},
		{"policy for one by certificate", signed, "hub.example.net", "device1", "device", `by "certificateAuthority"`},
		{"policy for an unknown device", absent, "hub.example.net", "device1", "device", "no device absent"},
		{"the device's key under a policy's name", dev, "hub.example.net/devices/dev", "dev1", "device", "not signed with a key of policy"},
	} {
		p, err := v.Device(t.Context(), &ident.Claim{ID: c.id, Token: token(t, c.sr, c.key, later, c.by), ModelID: "dtmi:x;1"})
		if c.refused != "" {
			checkRefused(t, c.name, err, c.refused)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		method, record := methodDeviceSAS, newBook().records[c.id]
		if c.id.IsModule() {
			method = methodModuleSAS
		}
		if c.by != "" {
			method = methodPolicy
		}
		if want := (ident.Principal{ID: c.id, Generation: record.Generation, Stamp: record.Stamp(), Method: method, ModelID: "dtmi:x;1", Expires: later.Add(Skew)}); *p != want {
			t.Errorf("%s: %+v, want %+v", c.name, *p, want)
		}
	}
}

// checkRefused wants a refusal that is the same for all and whose cause is the truth.
func checkRefused(t *testing.T, name string, err error, cause string) {
	t.Helper()
	if !fault.Is(err, fault.Unauthorized) {
		t.Errorf("%s: %v, want a refusal", name, err)
		return
	}
	if text := fault.TextOf(err); text != refusedText && !strings.HasSuffix(cause, "is disabled") && cause != "token expired at" {
		t.Errorf("%s: the peer is told %q", name, text)
	}
	if !strings.Contains(err.Error(), cause) {
		t.Errorf("%s: the log is told %q, want %q in it", name, err, cause)
	}
	if strings.Contains(err.Error(), "sig=") {
		t.Errorf("%s: the log is told the token: %q", name, err)
	}
}

func TestExpiryOfTokens(t *testing.T) {
	v := newVerifier(newBook())
	for _, c := range []struct {
		expiry, want time.Duration // from now
	}{
		{time.Hour, time.Hour + Skew}, {time.Second, time.Second + Skew}, {0, Skew},
		{-time.Second, Skew}, {-Skew, Skew}, {-Skew - time.Second, 0}, {-24 * time.Hour, 0},
	} {
		text := token(t, "gateway/devices/dev", "dev1", noon.Add(c.expiry), "")
		p, err := v.Device(t.Context(), &ident.Claim{ID: dev, Token: text})
		if c.want == 0 {
			checkRefused(t, c.expiry.String(), err, "token expired at")
		} else if err != nil || !p.Expires.Equal(noon.Add(c.want)) {
			t.Errorf("%v: %+v, %v", c.expiry, p, err)
		}
		_, err = v.Service(t.Context(), token(t, "gateway", "service1", noon.Add(c.expiry), "service"), "twins/dev", ServiceConnect)
		if (err == nil) != (c.want != 0) {
			t.Errorf("%v: service: %v", c.expiry, err)
		}
	}
}

func TestClaimsWithoutProof(t *testing.T) {
	v := newVerifier(newBook())
	good := token(t, "gateway/devices/dev", "dev1", later, "")
	for name, c := range map[string]struct {
		claim ident.Claim
		cause string
	}{
		"nothing":         {ident.Claim{ID: dev}, "neither token nor certificate"},
		"nobody":          {ident.Claim{Token: good}, "device id is empty"},
		"garbage":         {ident.Claim{ID: dev, Token: "password"}, "does not start with"},
		"acting":          {ident.Claim{ID: dev, Token: good, AuthChain: "dev;edge"}, "acts for a child"},
		"id with a slash": {ident.Claim{ID: ident.ID{Device: "dev/x"}, Token: good}, "not allowed"},
	} {
		_, err := v.Device(t.Context(), &c.claim)
		checkRefused(t, name, err, c.cause)
	}
	if _, err := v.Device(t.Context(), &ident.Claim{ID: dev, Token: good, AuthChain: "dev"}); err != nil {
		t.Errorf("a chain of one: %v", err)
	}
}

func TestTroubleOfTheDirectoryIsNoRefusal(t *testing.T) {
	b := newBook()
	v := newVerifier(b)
	b.trouble = errors.New("disk on fire")
	for _, text := range []string{token(t, "gateway/devices/dev", "dev1", later, ""), token(t, "gateway", "device1", later, "device")} {
		if _, err := v.Device(t.Context(), &ident.Claim{ID: dev, Token: text}); !errors.Is(err, b.trouble) || fault.CodeOf(err) != fault.ServerError {
			t.Errorf("device: %v", err)
		}
	}
	if _, err := v.Service(t.Context(), token(t, "gateway", "service1", later, "service"), "x", ServiceConnect); !errors.Is(err, b.trouble) {
		t.Errorf("service: %v", err)
	}
}

func TestRecordsWithBadKeysMatchNothing(t *testing.T) {
	b := newBook()
	v := newVerifier(b)
	for _, keys := range [][2]string{{}, {"!", "?"}, {"", secret("dev2")}} {
		r := b.records[dev]
		r.Keys = keys
		b.records[dev] = r
		// the key that stands in for a missing one must open nothing either
		for _, key := range []string{"dev1", "dev2"} {
			_, err := v.Device(t.Context(), &ident.Claim{ID: dev, Token: token(t, "gateway/devices/dev", key, later, "")})
			if want := keys[1] == secret(key); (err == nil) != want {
				t.Errorf("keys %q, token by %s: %v", keys, key, err)
			}
		}
	}
}

func TestDeviceToken(t *testing.T) {
	v := newVerifier(newBook())
	if err := v.DeviceToken(t.Context(), token(t, "hub.example.net%2fdevices%2fdev", "dev1", later, ""), dev); err != nil {
		t.Error(err)
	}
	checkRefused(t, "wrong key", v.DeviceToken(t.Context(), token(t, "gateway/devices/dev", "mod1", later, ""), dev), "neither of its keys")
	checkRefused(t, "policy", v.DeviceToken(t.Context(), token(t, "gateway", "device1", later, "device"), dev), "signed by policy")
	checkRefused(t, "garbage", v.DeviceToken(t.Context(), "x", dev), "does not start with")
}

func BenchmarkDevice(b *testing.B) {
	v := newVerifier(newBook())
	c := &ident.Claim{ID: dev, Token: token(b, "hub.example.net%2Fdevices%2Fdev", "dev1", later, "")}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Device(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}
