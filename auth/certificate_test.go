package auth

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/trust/cert"
)

func authority(t *testing.T, name string) *cert.Authority {
	t.Helper()
	a, err := cert.OpenAuthority(t.TempDir(), cert.Options{Name: name, Now: func() time.Time { return noon }})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// device issues a device's certificate, good for an hour from noon on.
func device(t *testing.T, a *cert.Authority, name string) *x509.Certificate {
	t.Helper()
	leaf, err := a.Issue(cert.Request{CommonName: name, Usage: cert.ForClient, Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return leaf.Certificate
}

func TestCertificates(t *testing.T) {
	ours, theirs := authority(t, "ours"), authority(t, "theirs")
	roots := x509.NewCertPool()
	roots.AddCert(ours.Certificate())

	own := device(t, theirs, "whatever")
	short, long := cert.Fingerprints(own.Raw)
	b := newBook()
	add := func(id ident.ID, kind string, thumbprints ...string) {
		r := Record{ID: id, Enabled: true, Generation: "g", Type: kind}
		copy(r.Thumbprints[:], thumbprints)
		b.records[id] = r
	}
	add(thumb, TypeThumbprint, short)
	add(ident.ID{Device: "long"}, TypeThumbprint, "", strings.ToLower(long))
	add(ident.ID{Device: "dev", Module: "m"}, TypeThumbprint, long)
	add(ident.ID{Device: "empty"}, TypeThumbprint)
	add(ident.ID{Device: "cut"}, TypeThumbprint, long[:40], short[:38])
	add(ident.ID{Device: "offthumb"}, TypeThumbprint, short)
	add(ident.ID{Device: "dev", Module: "signed"}, TypeAuthority)
	r := b.records[ident.ID{Device: "offthumb"}]
	r.Enabled = false
	b.records[r.ID] = r

	now := noon
	v := New(Config{Directory: b, Hosts: []string{"hub"}, Roots: roots, Now: func() time.Time { return now }})
	for _, c := range []struct {
		name    string
		id      ident.ID
		chain   []*x509.Certificate
		after   time.Duration
		refused string
	}{
		{"SHA-1", thumb, []*x509.Certificate{own}, 0, ""},
		{"SHA-256, secondary, lower case", ident.ID{Device: "long"}, []*x509.Certificate{own}, 0, ""},
		{"module", ident.ID{Device: "dev", Module: "m"}, []*x509.Certificate{own}, 0, ""},
		{"authority", signed, []*x509.Certificate{device(t, ours, "signed")}, 0, ""},
		{"authority, module", ident.ID{Device: "dev", Module: "signed"}, []*x509.Certificate{device(t, ours, "dev/signed")}, 0, ""},
		{"chain with its root", signed, []*x509.Certificate{device(t, ours, "signed"), ours.Certificate()}, 0, ""},

		{"another certificate", thumb, []*x509.Certificate{device(t, theirs, "thumb")}, 0, "neither of its thumbprints"},
		{"the thumbprint further up", thumb, []*x509.Certificate{device(t, ours, "thumb"), own}, 0, "neither of its thumbprints"},
		{"no thumbprints", ident.ID{Device: "empty"}, []*x509.Certificate{own}, 0, "neither of its thumbprints"},
		{"parts of thumbprints", ident.ID{Device: "cut"}, []*x509.Certificate{own}, 0, "neither of its thumbprints"},
		{"expired", thumb, []*x509.Certificate{own}, 2 * time.Hour, "certificate holds from"},
		{"from the future", thumb, []*x509.Certificate{own}, -2 * time.Hour, "certificate holds from"},
		{"disabled", ident.ID{Device: "offthumb"}, []*x509.Certificate{own}, 0, "is disabled"},
		{"unknown authority", signed, []*x509.Certificate{device(t, theirs, "signed")}, 0, "unknown authority"},
		{"unknown authority brings its root", signed, []*x509.Certificate{device(t, theirs, "signed"), theirs.Certificate()}, 0, "unknown authority"},
		{"name of another", signed, []*x509.Certificate{device(t, ours, "other")}, 0, `certificate is of "other"`},
		{"name in another case", signed, []*x509.Certificate{device(t, ours, "Signed")}, 0, `certificate is of "Signed"`},
		{"device's for a module", ident.ID{Device: "dev", Module: "signed"}, []*x509.Certificate{device(t, ours, "dev")}, 0, `certificate is of "dev"`},
		{"expired, authority", signed, []*x509.Certificate{device(t, ours, "signed")}, 2 * time.Hour, "expired"},
		{"for one by token", dev, []*x509.Certificate{device(t, ours, "dev")}, 0, `by "sas"`},
		{"for one by nothing", none, []*x509.Certificate{device(t, ours, "dev/none")}, 0, `by "none"`},
		{"unknown device", absent, []*x509.Certificate{device(t, ours, "absent")}, 0, "no device absent"},
		{"too many", signed, make([]*x509.Certificate, maxChain+1), 0, "the most is"},
	} {
		now = noon.Add(c.after)
		p, err := v.Device(t.Context(), &ident.Claim{ID: c.id, Certificates: c.chain})
		if c.refused != "" {
			checkRefused(t, c.name, err, c.refused)
			continue
		}
		method := methodDeviceX509
		if c.id.IsModule() {
			method = methodModuleX509
		}
		if err != nil || p.ID != c.id || p.Method != method || !p.Expires.IsZero() || p.Generation == "" {
			t.Errorf("%s: %+v, %v", c.name, p, err)
		}
	}
	now = noon

	// a token goes before the certificate, even a bad one
	_, err := v.Device(t.Context(), &ident.Claim{ID: thumb, Certificates: []*x509.Certificate{own}, Token: token(t, "hub/devices/thumb", "x", later, "")})
	checkRefused(t, "token and certificate", err, `by "selfSigned"`)

	b.trouble = errors.New("disk on fire")
	if _, err := v.Device(t.Context(), &ident.Claim{ID: thumb, Certificates: []*x509.Certificate{own}}); !errors.Is(err, b.trouble) || fault.CodeOf(err) != fault.ServerError {
		t.Errorf("trouble: %v", err)
	}
	b.trouble = nil
	_, err = newVerifier(b).Device(t.Context(), &ident.Claim{ID: signed, Certificates: []*x509.Certificate{device(t, ours, "signed")}})
	checkRefused(t, "no authorities", err, "no certificate authority")
}
