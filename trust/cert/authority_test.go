package cert

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// clock is a time that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) set(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = now
}

var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func authority(t testing.TB, dir string, o Options) *Authority {
	t.Helper()
	if o.Now == nil {
		o.Now = func() time.Time { return noon }
	}
	a, err := OpenAuthority(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func poolOf(t testing.TB, text []byte) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatalf("no certificate in %s", text)
	}
	return pool
}

func TestAuthorityOutlivesRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there")
	if _, err := ReadRoot(dir); err == nil || !strings.Contains(err.Error(), "first start") {
		t.Errorf("root before there is one: %v", err)
	}
	a := authority(t, dir, Options{Name: "Test CA"})
	b := authority(t, dir, Options{Name: "another name"})
	if !bytes.Equal(a.RootPEM(), b.RootPEM()) {
		t.Error("the root changed")
	}
	if text, err := ReadRoot(dir); err != nil || !bytes.Equal(text, a.RootPEM()) {
		t.Errorf("root read: %s, %v", text, err)
	}
	leaf, err := b.Issue(Request{CommonName: "x", Hosts: []string{"x"}, Usage: ForServer})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaf.Certificate.Verify(x509.VerifyOptions{Roots: poolOf(t, a.RootPEM()), CurrentTime: noon, DNSName: "x"}); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]fs.FileMode{keyFile: 0o600, rootFile: 0o644} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	root := a.Certificate()
	if !root.IsCA || !strings.HasPrefix(root.Subject.CommonName, "Test CA ") || root.NotAfter.Before(noon.AddDate(19, 0, 0)) {
		t.Errorf("root %v until %v", root.Subject, root.NotAfter)
	}
	if authority(t, t.TempDir(), Options{Name: "Test CA"}).Certificate().Subject.CommonName == root.Subject.CommonName {
		t.Error("two roots have one name")
	}
}

func TestManyStartsAgreeOnOneAuthority(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	all := make([]*Authority, 8)
	for i := range all {
		wg.Go(func() {
			var err error
			if all[i], err = OpenAuthority(dir, Options{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, a := range all {
		if a == nil || !bytes.Equal(a.RootPEM(), all[0].RootPEM()) {
			t.Fatal("two starts have different roots")
		}
	}
}

func TestInterruptedStartIsFinished(t *testing.T) {
	dir := t.TempDir()
	first := authority(t, dir, Options{})
	if err := os.Remove(filepath.Join(dir, rootFile)); err != nil {
		t.Fatal(err)
	}
	second := authority(t, dir, Options{})
	if !first.Certificate().PublicKey.(*ecdsa.PublicKey).Equal(second.Certificate().PublicKey) {
		t.Error("the key was not kept")
	}
}

func TestDamagedAuthorityIsNotReplaced(t *testing.T) {
	other := t.TempDir()
	authority(t, other, Options{})
	foreign, err := os.ReadFile(filepath.Join(other, keyFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, file string
		text       []byte // nil: the file is removed
		hint       string
	}{
		{"no key", keyFile, nil, "is missing but its certificate"},
		{"half a key", keyFile, []byte("-----BEGIN PRIVATE KEY-----\nMIGH"), "backup"},
		{"empty key", keyFile, []byte{}, "backup"},
		{"nonsense in the key", keyFile, []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "backup"},
		{"another key", keyFile, foreign, "does not belong"},
		{"half a certificate", rootFile, []byte("-----BEGIN CERTIFICATE-----\nMIGH"), "backup"},
		{"nonsense in the certificate", rootFile, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "backup"},
	} {
		dir := t.TempDir()
		authority(t, dir, Options{})
		name := filepath.Join(dir, c.file)
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		if c.text != nil {
			if err := os.WriteFile(name, c.text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := OpenAuthority(dir, Options{})
		if err == nil || !strings.Contains(err.Error(), c.hint) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.text == nil {
			if _, err := os.Stat(name); err == nil {
				t.Errorf("%s: made anew", c.name)
			}
		} else if after, err := os.ReadFile(name); err != nil || !bytes.Equal(after, c.text) {
			t.Errorf("%s: the file was changed (%v)", c.name, err)
		}
	}
}

func TestExpiredAuthority(t *testing.T) {
	dir, at := t.TempDir(), &clock{now: noon}
	a := authority(t, dir, Options{Now: at.Now})
	at.set(noon.AddDate(20, 0, -10))
	leaf, err := a.Issue(Request{CommonName: "x", Usage: ForClient})
	if err != nil || leaf.Certificate.NotAfter.After(a.Certificate().NotAfter) {
		t.Errorf("near the end: %v, %v", leaf.Certificate.NotAfter, err)
	}
	at.set(noon.AddDate(21, 0, 0))
	if _, err := a.Issue(Request{CommonName: "x", Usage: ForClient}); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("issue: %v", err)
	}
	if _, err := OpenAuthority(dir, Options{Now: at.Now}); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("open: %v", err)
	}
}

// A board without a battery makes its root in 1970, or in a wrong future.
func TestAuthorityMadeByAWrongClockHolds(t *testing.T) {
	for _, wrong := range []time.Time{time.Unix(100, 0), noon.AddDate(6, 0, 0)} {
		at := &clock{now: wrong}
		a := authority(t, t.TempDir(), Options{Now: at.Now})
		s, err := NewServer(ServerConfig{Authority: a, Hosts: []string{"edge"}, Now: at.Now})
		if err != nil {
			t.Fatal(err)
		}
		for _, now := range []time.Time{wrong, noon} {
			at.set(now)
			if _, err := s.Certificate().Verify(x509.VerifyOptions{Roots: poolOf(t, a.RootPEM()), CurrentTime: now, DNSName: "edge"}); err != nil {
				t.Errorf("made at %v, checked at %v: %v", wrong, now, err)
			}
		}
	}
}

func TestIssue(t *testing.T) {
	a := authority(t, t.TempDir(), Options{})
	uri, err := url.Parse("azureiot://hub/devices/d/modules/m")
	if err != nil {
		t.Fatal(err)
	}
	key, err := newKey(true)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := a.Issue(Request{CommonName: "m", Hosts: []string{"Host.Example.", "host.example", "10.0.0.1", "::1", "[::1]", "my_box"},
		URIs: []*url.URL{uri}, Usage: ForServer | ForClient, Lifetime: 48 * time.Hour, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	c := leaf.Certificate
	if c.Subject.CommonName != "m" || strings.Join(c.DNSNames, " ") != "host.example my_box" || len(c.IPAddresses) != 2 ||
		len(c.URIs) != 1 || c.URIs[0].String() != uri.String() || len(c.ExtKeyUsage) != 2 || c.IsCA {
		t.Errorf("issued %v %v %v %v %v", c.Subject, c.DNSNames, c.IPAddresses, c.URIs, c.ExtKeyUsage)
	}
	if !c.NotBefore.Equal(noon.Add(-time.Hour)) || !c.NotAfter.Equal(noon.Add(48*time.Hour)) {
		t.Errorf("holds from %v to %v", c.NotBefore, c.NotAfter)
	}
	if !key.(*rsa.PrivateKey).PublicKey.Equal(c.PublicKey) || leaf.Key != key {
		t.Error("not the key that was given")
	}
	text, err := leaf.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := parseKey(text); err != nil || !back.(*rsa.PrivateKey).Equal(key) {
		t.Errorf("key in PEM: %v", err)
	}
	if chain, err := parseCertificates(leaf.CertificatePEM()); err != nil || len(chain) != 1 || !chain[0].Equal(c) {
		t.Errorf("chain in PEM: %v, %v", chain, err)
	}

	long, err := a.Issue(Request{CommonName: strings.Repeat("x", 65), Hosts: []string{strings.Repeat("x", 60) + ".y"}, Usage: ForServer})
	if err != nil || long.Certificate.Subject.CommonName != "" || !long.Certificate.NotAfter.Equal(noon.Add(Lifetime)) {
		t.Errorf("long name: %v, %v", long.Certificate, err)
	}
	if r, err := authority(t, t.TempDir(), Options{RSA: true}).Issue(Request{CommonName: "x", Usage: ForClient}); err != nil ||
		r.Certificate.PublicKeyAlgorithm != x509.RSA || r.Certificate.SignatureAlgorithm != x509.SHA256WithRSA ||
		r.Certificate.KeyUsage&x509.KeyUsageKeyEncipherment == 0 {
		t.Errorf("RSA: %v, %v", r.Certificate, err)
	}
	for _, hosts := range [][]string{nil, {""}, {"a b"}, {"-a"}, {"a..b"}, {"*"}, {"a.*"}, {strings.Repeat("a", 64)}, {"ü"}, {"host:443"}} {
		if l, err := a.Issue(Request{CommonName: "x", Hosts: hosts, Usage: ForServer}); err == nil {
			t.Errorf("%q: issued for %v", hosts, l.Certificate.DNSNames)
		}
	}
	if l, err := a.Issue(Request{CommonName: "x", Hosts: []string{"*.example"}, Usage: ForServer}); err != nil || l.Certificate.VerifyHostname("a.example") != nil {
		t.Errorf("wildcard: %v", err)
	}
}

func TestLoadAuthority(t *testing.T) {
	dir := t.TempDir()
	root := authority(t, dir, Options{})
	top := filepath.Join(dir, rootFile)
	a, err := LoadAuthority(top, filepath.Join(dir, keyFile), Options{Now: func() time.Time { return noon }})
	if err != nil || !bytes.Equal(a.RootPEM(), root.RootPEM()) {
		t.Fatal(err)
	}
	// an authority below the root: its certificate goes out with what it issues
	sub := below(t, root)
	name, key := filepath.Join(dir, "sub.pem"), filepath.Join(dir, "sub.key")
	text, err := sub.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string][]byte{name: append(sub.CertificatePEM(), root.RootPEM()...), key: text} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := LoadAuthority(name, key, Options{Now: func() time.Time { return noon }})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := b.Issue(Request{CommonName: "x", Hosts: []string{"x"}, Usage: ForServer})
	if err != nil || len(leaf.Chain) != 2 || !bytes.Equal(b.RootPEM(), root.RootPEM()) {
		t.Fatalf("%d certificates in the chain, %v", len(leaf.Chain), err)
	}
	if _, err := leaf.Certificate.Verify(x509.VerifyOptions{Roots: poolOf(t, root.RootPEM()), DNSName: "x", CurrentTime: noon,
		Intermediates: poolOf(t, leaf.CertificatePEM())}); err != nil {
		t.Error(err)
	}

	plain, err := root.Issue(Request{CommonName: "x", Usage: ForClient})
	if err != nil {
		t.Fatal(err)
	}
	notCA := filepath.Join(dir, "leaf.pem")
	if err := os.WriteFile(notCA, plain.CertificatePEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, files := range [][2]string{{name, filepath.Join(dir, keyFile)}, {"none", key}, {name, "none"}, {key, key}, {name, name}, {notCA, key}} {
		if _, err := LoadAuthority(files[0], files[1], Options{}); err == nil {
			t.Errorf("%v: loaded", files)
		}
	}
}

func TestFingerprints(t *testing.T) {
	short, long := Fingerprints([]byte("abc")) // the well-known digests
	if short != "A9993E364706816ABA3E25717850C26C9CD0D89D" || long != "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD" {
		t.Errorf("%s, %s", short, long)
	}
}
