package sas

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/model/percent"
)

func key(t testing.TB, text string) []byte {
	t.Helper()
	k, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// vectorKey and vector are from edge-runtime 9.4.
const (
	vectorKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	vector    = "SharedAccessSignature sr=hub.example.net%2Fdevices%2Fedge1%2Fmodules%2Fsensor&sig=yx88Z0%2BRLHTSTbGOgz2lctxiCDbXI7zmGweNwbbPE4s%3D&se=1900000000"
)

func TestVectorOfTheWorkloadAPI(t *testing.T) {
	k := key(t, vectorKey)
	if got := Sign("hub.example.net/devices/edge1/modules/sensor", k, time.Unix(1900000000, 0), ""); got != vector {
		t.Errorf("signed as %s", got)
	}
	data := key(t, "aHViLmV4YW1wbGUubmV0JTJGZGV2aWNlcyUyRmVkZ2UxJTJGbW9kdWxlcyUyRnNlbnNvcgoxOTAwMDAwMDAw")
	if got := base64.StdEncoding.EncodeToString(Derive(k, string(data))); got != "yx88Z0+RLHTSTbGOgz2lctxiCDbXI7zmGweNwbbPE4s=" {
		t.Errorf("digest %s", got)
	}
	token, err := Parse(vector)
	if err != nil || !token.Verify(k) {
		t.Errorf("%+v %v: not verified", token, err)
	}
	if token.Audience() != "hub.example.net/devices/edge1/modules/sensor" || !token.Expiry.Equal(time.Unix(1900000000, 0)) || token.Policy != "" {
		t.Errorf("read as %+v", token)
	}
}

func TestDerivedKeysOfModulesAndGroups(t *testing.T) {
	for _, c := range []struct{ key, text, want string }{
		{vectorKey, "sensor:638000000000000000:primary", "LZjKnbwvXAYxYpXaGYtPaMI+oftAJ/apquf/C4OnaFY="},
		{vectorKey, "sensor:638000000000000000:secondary", "3jeOeDFyVe/Aukskl69251PvqEp4fMh1mTsFQrvtIXM="},
		// published with the symmetric key attestation of the provisioning service
		{"8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==",
			"sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6", "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="},
	} {
		if got := base64.StdEncoding.EncodeToString(Derive(key(t, c.key), c.text)); got != c.want {
			t.Errorf("%s: %s, want %s", c.text, got, c.want)
		}
	}
}

// raw makes a token by the book: its parts are sent and signed as they are.
func raw(k []byte, sr, se string) (sig string) {
	mac := hmac.New(sha256.New, k)
	fmt.Fprintf(mac, "%s\n%s", sr, se)
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func TestEveryFormIsReadAndVerified(t *testing.T) {
	k := key(t, vectorKey)
	for _, c := range []struct{ name, sr, se, format, audience, policy string }{
		{"Node", "h.net%2Fdevices%2Fd%21%27%2a", "1900000000", "sr={sr}&sig={SIG}&se={se}", "h.net/devices/d!'*", ""},
		{"Python", "h.net%2Fdevices%2Fd%3A1", "1900000000", "sr={sr}&sig={SIG}&se={se}", "h.net/devices/d:1", ""},
		{"C", "h.net/devices/d/modules/m", "1900000000", "sr={sr}&sig={SIG}&se={se}&skn=", "h.net/devices/d/modules/m", ""},
		{".NET", "h.net%2Fdevices%2Fd%2523", "1900000000", "sr={sr}&sig={SIG}&se={se}", "h.net/devices/d%23", ""},
		{"lower case hex", "h.net%2fdevices%2fd", "1900000000", "sr={sr}&sig={sig}&se={se}&skn=device", "h.net/devices/d", "device"},
		{"fields in another order", "h.net", "1900000000", "skn=iothubowner&se={se}&sig={SIG}&sr={sr}", "h.net", "iothubowner"},
		{"names in another case", "h.net", "1900000000", "SR={sr}&Sig={SIG}&sE={se}&SKN=a", "h.net", "a"},
		{"bare signature", "h.net", "1900000000", "sr={sr}&sig={bare}&se={se}", "h.net", ""},
		{"no padding", "h.net", "1900000000", "sr={sr}&sig={nopad}&se={se}", "h.net", ""},
		{"line break after signature", "h.net", "1900000000", "sr={sr}&sig={bare}%0A&se={se}", "h.net", ""},
		{"decimals", "h.net", "1900000000.25", "sr={sr}&sig={SIG}&se={se}", "h.net", ""},
		{"milliseconds", "h.net", "1900000000000", "sr={sr}&sig={SIG}&se={se}", "h.net", ""},
		{"beyond 64 bits", "h.net", "99999999999999999999", "sr={sr}&sig={SIG}&se={se}", "h.net", ""},
		{"unknown field, empty field, policy escaped", "h.net", "1900000000", "sr={sr}&sig={SIG}&se={se}&skn=a%20b+c&x=y&", "h.net", "a b+c"},
		{"Event Hubs", "sb%3a%2f%2fh.net%2fselvedge", "1900000000", "sr={sr}&sig={SIG}&se={se}&skn=service", "sb://h.net/selvedge", "service"},
	} {
		sig := raw(k, c.sr, c.se)
		esc := url.QueryEscape(sig)
		text := " SharedAccessSignature \t" + strings.NewReplacer("{sr}", c.sr, "{se}", c.se, "{bare}", sig, "{SIG}", esc,
			"{sig}", strings.NewReplacer("%2B", "%2b", "%2F", "%2f", "%3D", "%3d").Replace(esc),
			"{nopad}", strings.TrimRight(sig, "=")).Replace(c.format) + "\n"
		token, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if !token.Verify(k) || token.Verify(k[:31]) || token.Verify(nil) {
			t.Errorf("%s: verified by its key: %v, by another: %v", c.name, token.Verify(k), token.Verify(k[:31]))
		}
		if token.Resource != c.sr || token.Audience() != c.audience || token.Policy != c.policy {
			t.Errorf("%s: read as %q, %q, %q", c.name, token.Resource, token.Audience(), token.Policy)
		}
	}
}

func TestExpiry(t *testing.T) {
	for se, want := range map[string]string{
		"0": "1970-01-01T00:00:00Z", "1900000000": "2030-03-17T17:46:40Z", "1900000000.5": "2030-03-17T17:46:40.5Z",
		"1900000000.1234567899": "2030-03-17T17:46:40.123456789Z", "1900000000000": "9999-12-31T23:59:59Z",
		"253402300799": "9999-12-31T23:59:59Z", "99999999999999999999999999": "9999-12-31T23:59:59Z",
		"": "", "-1": "", "1e9": "", "1.": "", ".5": "", "1.2.3": "", "x": "", "+1": "", strings.Repeat("1", 41): "",
	} {
		got, err := parseExpiry(se)
		if want == "" {
			if err == nil {
				t.Errorf("%q: read as %v", se, got)
			}
		} else if err != nil || got.Format(time.RFC3339Nano) != want {
			t.Errorf("%q: %v, %v; want %s", se, got, err, want)
		}
	}
}

func TestBadTokens(t *testing.T) {
	sig := "sig=" + raw(nil, "h", "1")
	for _, text := range []string{
		"", "SharedAccessSignature", "SharedAccessSignature ", "sharedaccesssignature sr=h&" + sig + "&se=1",
		"SharedAccessSignaturesr=h&" + sig + "&se=1", "Bearer abc", "sr=h&" + sig + "&se=1",
		"SharedAccessSignature sr=h&" + sig, "SharedAccessSignature sr=h&se=1", "SharedAccessSignature " + sig + "&se=1",
		"SharedAccessSignature sr=&" + sig + "&se=1", "SharedAccessSignature sr=h&" + sig + "&se=",
		"SharedAccessSignature sr=h&" + sig + "&se=1&sr=i", "SharedAccessSignature sr=h&" + sig + "&se=1&SE=2",
		"SharedAccessSignature sr=h&" + sig + "&se=1&skn=a&skn=b", "SharedAccessSignature sr=h& " + sig + "&se=1",
		"SharedAccessSignature sr=h&" + sig + "&se=1&skn", "SharedAccessSignature sr=h&sig=&se=1",
		"SharedAccessSignature sr=h&sig=AAAA&se=1", "SharedAccessSignature sr=h&" + sig + "AAAA&se=1",
		"SharedAccessSignature sr=h&sig=" + strings.Repeat("!", 43) + "&se=1",
		"SharedAccessSignature sr=h&sig=" + strings.Repeat("A", 40) + "%0A%0A%0AA&se=1",
		"SharedAccessSignature sr=" + strings.Repeat("h", MaxToken) + "&" + sig + "&se=1",
	} {
		if token, err := Parse(text); err == nil {
			t.Errorf("%.100s: read as %+v", text, token)
		} else if strings.Contains(err.Error(), sig[4:]) {
			t.Errorf("the error quotes the signature: %v", err)
		}
	}
}

func TestLongestTokenFits(t *testing.T) {
	id := strings.Repeat("%", 128)
	text := Sign(percent.Escape(percent.Escape(strings.Repeat("h", 253)+"/devices/"+id+"/modules/"+id)), []byte("k"), time.Unix(1900000000, 0), strings.Repeat("p", 64))
	if token, err := Parse(text); err != nil || !token.Verify([]byte("k")) {
		t.Errorf("a token of %d bytes: %v", len(text), err)
	}
}

func TestSignatureCoversWhatWasSent(t *testing.T) {
	k := key(t, vectorKey)
	for _, change := range [][2]string{
		{"%2Fdevices", "%2fdevices"}, {"%2F", "/"}, {"edge1", "edge2"}, {"1900000000", "1900000001"},
		{"1900000000", "1900000000.0"}, {"sig=yx88", "sig=yx89"},
	} {
		text := strings.Replace(vector, change[0], change[1], 1)
		if token, err := Parse(text); err != nil || token.Verify(k) {
			t.Errorf("%s for %s: verified (%v)", change[1], change[0], err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(vector)
	f.Add("SharedAccessSignature sr=h/devices/d&sig=" + raw(nil, "h", "1") + "&se=1.5&skn=")
	f.Add("SharedAccessSignature skn=a%&sr=%25%2&se=99999999999999999999&sig=%%%")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := Parse(text)
		if err != nil {
			return
		}
		if token.Resource == "" || token.Expiry.IsZero() || token.Expiry.Year() > 9999 || len(token.Audience()) > len(text) {
			t.Errorf("%q read as %+v", text, token)
		}
		if token.Verify([]byte("no key that signed this")) {
			t.Errorf("%q is signed with a key it was not signed with", text)
		}
		again := Sign(token.Audience(), []byte("k"), token.Expiry, token.Policy)
		if back, err := Parse(again); len(again) <= MaxToken && (err != nil || !back.Verify([]byte("k")) ||
			back.Audience() != token.Audience() || back.Policy != token.Policy || back.Expiry.Unix() != token.Expiry.Unix()) {
			t.Errorf("%q signed anew as %q reads as %+v, %v", text, again, back, err)
		}
	})
}

func BenchmarkParseAndVerify(b *testing.B) {
	k := key(b, vectorKey)
	b.ReportAllocs()
	for b.Loop() {
		token, err := Parse(vector)
		if err != nil || !token.Verify(k) {
			b.Fatal(err)
		}
	}
}
