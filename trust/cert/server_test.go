package cert

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// below issues a certificate authority under another.
func below(t testing.TB, a *Authority) Leaf {
	t.Helper()
	key, err := newKey(false)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "below"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, a.chain[0], key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return Leaf{Certificate: c, Chain: [][]byte{der}, Key: key}
}

// dial makes one handshake over a real socket and says what either side saw.
func dial(t *testing.T, server, client *tls.Config) (seen, presented []*x509.Certificate, err error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		nc, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		c := tls.Server(nc, server)
		if c.Handshake() == nil {
			presented = c.ConnectionState().PeerCertificates
			c.Write([]byte("x"))
		}
	})
	c, err := tls.Dial("tcp", l.Addr().String(), client)
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	_, err = c.Read(make([]byte, 1))
	wg.Wait()
	return c.ConnectionState().PeerCertificates, presented, err
}

func TestHandshakes(t *testing.T) {
	a := authority(t, t.TempDir(), Options{Now: time.Now})
	s, err := NewServer(ServerConfig{Authority: a, Hosts: []string{"localhost", "hub.example", "127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	roots := poolOf(t, a.RootPEM())
	// what a client may hold: from nobody that we know, with a chain
	foreign := authority(t, t.TempDir(), Options{Now: time.Now})
	self, err := foreign.Issue(Request{CommonName: "device", Usage: ForClient})
	if err != nil {
		t.Fatal(err)
	}
	withChain := self.TLS()
	withChain.Certificate = append(withChain.Certificate, foreign.Certificate().Raw)

	for _, c := range []struct {
		name      string
		client    *tls.Config
		presented int
		fails     bool
	}{
		{"localhost", &tls.Config{ServerName: "localhost"}, 0, false},
		{"another name of ours", &tls.Config{ServerName: "hub.example"}, 0, false},
		{"an address, so without SNI", &tls.Config{ServerName: "127.0.0.1"}, 0, false},
		{"TLS 1.2", &tls.Config{ServerName: "localhost", MaxVersion: tls.VersionTLS12}, 0, false},
		{"TLS 1.3", &tls.Config{ServerName: "localhost", MinVersion: tls.VersionTLS13}, 0, false},
		{"TLS 1.1", &tls.Config{ServerName: "localhost", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, 0, true},
		{"certificate of an unknown authority", &tls.Config{ServerName: "localhost", Certificates: []tls.Certificate{withChain}}, 2, false},
		{"the same over TLS 1.2", &tls.Config{ServerName: "localhost", Certificates: []tls.Certificate{withChain}, MaxVersion: tls.VersionTLS12}, 2, false},
		{"a name that is not in it", &tls.Config{ServerName: "other"}, 0, true},
	} {
		c.client.RootCAs = roots
		seen, presented, err := dial(t, s.TLS(), c.client)
		if (err != nil) != c.fails {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil && (!seen[0].Equal(s.Certificate()) || len(presented) != c.presented) {
			t.Errorf("%s: saw %v, presented %d", c.name, seen[0].Subject, len(presented))
		}
	}
	// clients that do not check names get the certificate whatever they ask for
	for _, name := range []string{"", "gateway.local", "unknown"} {
		seen, _, err := dial(t, s.TLS(), &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err != nil || !seen[0].Equal(s.Certificate()) {
			t.Errorf("SNI %q: %v", name, err)
		}
	}
}

// A client with several certificates picks one by the list of authorities that the
// server sends; there must be none.
func TestNoAuthorityIsAskedFor(t *testing.T) {
	a := authority(t, t.TempDir(), Options{Now: time.Now})
	s, err := NewServer(ServerConfig{Authority: a, Hosts: []string{"localhost"}})
	if err != nil {
		t.Fatal(err)
	}
	asked := false
	_, _, err = dial(t, s.TLS(), &tls.Config{ServerName: "localhost", RootCAs: poolOf(t, a.RootPEM()),
		GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if asked = true; len(r.AcceptableCAs) > 0 {
				t.Errorf("asked for certificates of %q", r.AcceptableCAs)
			}
			return &tls.Certificate{}, nil
		}})
	if err != nil || !asked {
		t.Errorf("asked for a certificate: %v, %v", asked, err)
	}
}

func TestRenewal(t *testing.T) {
	at := &clock{now: noon}
	a := authority(t, t.TempDir(), Options{Now: at.Now})
	s, err := NewServer(ServerConfig{Authority: a, Hosts: []string{"localhost"}, Lifetime: 30 * 24 * time.Hour, Now: at.Now})
	if err != nil {
		t.Fatal(err)
	}
	first := s.Certificate()
	at.set(noon.AddDate(0, 0, 19))
	if !s.Certificate().Equal(first) {
		t.Error("renewed too early")
	}
	at.set(noon.AddDate(0, 0, 21))
	second, err := s.TLS().GetCertificate(nil)
	if err != nil || second.Leaf.Equal(first) || !second.Leaf.NotAfter.Equal(noon.AddDate(0, 0, 51)) {
		t.Errorf("not renewed: %v, %v", second.Leaf.NotAfter, err)
	}
	if !s.Certificate().Equal(second.Leaf) {
		t.Error("renewed twice")
	}
	at.set(noon.AddDate(0, 0, 20)) // a clock that is put right by a day
	if s.Certificate().NotBefore.After(at.Now()) {
		t.Error("the certificate is from the future")
	}
	at.set(noon.AddDate(0, 0, 400)) // after a long sleep
	if s.Certificate().NotAfter.Before(at.Now()) {
		t.Error("an expired certificate is served")
	}
}

func TestRenewalThatFailsIsTriedAgain(t *testing.T) {
	at, root := &clock{now: noon}, &clock{now: noon}
	a := authority(t, t.TempDir(), Options{Now: root.Now})
	var log bytes.Buffer
	s, err := NewServer(ServerConfig{Authority: a, Hosts: []string{"localhost"}, Now: at.Now, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	first := s.Certificate()
	root.set(noon.AddDate(30, 0, 0)) // the authority has expired
	at.set(noon.AddDate(0, 0, 80))
	for range 5 {
		if !s.Certificate().Equal(first) {
			t.Error("another certificate")
		}
	}
	if n := strings.Count(log.String(), "not renewed"); n != 1 {
		t.Errorf("tried %d times at once", n)
	}
	root.set(noon)
	at.set(noon.AddDate(0, 0, 80).Add(retryAfter))
	if s.Certificate().Equal(first) {
		t.Error("not tried again")
	}
}

func TestManyHandshakesRenewOnce(t *testing.T) {
	at := &clock{now: noon}
	var log bytes.Buffer
	s, err := NewServer(ServerConfig{Authority: authority(t, t.TempDir(), Options{Now: at.Now}), Hosts: []string{"x"}, Now: at.Now,
		Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	at.set(noon.AddDate(0, 0, 80))
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { s.Certificate() })
	}
	wg.Wait()
	if n := strings.Count(log.String(), "issued"); n != 2 {
		t.Errorf("issued %d times", n)
	}
}

func TestRunRenewsAndEnds(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		// the bubble's clock starts in 2000, before the era
		now := func() time.Time { return time.Now().AddDate(27, 0, 0) }
		a := authority(t, dir, Options{Now: now})
		s, err := NewServer(ServerConfig{Authority: a, Hosts: []string{"localhost"}, Lifetime: 3 * time.Hour, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var ended error
		var wg sync.WaitGroup
		wg.Go(func() { ended = s.Run(ctx) })
		first := s.current.Load()
		for n, renewed := range []bool{false, true} {
			time.Sleep(119*time.Minute + time.Duration(n)*time.Minute) // of the bubble
			synctest.Wait()
			if got := s.current.Load(); (got != first) != renewed {
				t.Errorf("after %v: renewed %v", now(), got != first)
			}
		}
		cancel()
		wg.Wait()
		if ended != nil {
			t.Error(ended)
		}
	})
}

// files writes a certificate and its key.
func files(t *testing.T, a *Authority, dir, host string) (string, string) {
	t.Helper()
	leaf, err := a.Issue(Request{CommonName: host, Hosts: []string{host}, Usage: ForServer})
	if err != nil {
		t.Fatal(err)
	}
	key, err := leaf.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	certificate, keyName := filepath.Join(dir, "own.pem"), filepath.Join(dir, "own.key")
	for name, text := range map[string][]byte{certificate: leaf.CertificatePEM(), keyName: key} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, keyName
}

func TestOwnCertificateIsReloaded(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := authority(t, filepath.Join(dir, "ca"), Options{Now: time.Now})
		certificate, key := files(t, a, dir, "one.example")
		var log bytes.Buffer
		s, err := NewServer(ServerConfig{CertificateFile: certificate, KeyFile: key, Hosts: []string{"one.example", "two.example"},
			Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil || s.Certificate().DNSNames[0] != "one.example" {
			t.Fatal(err)
		}
		if !strings.Contains(log.String(), "host=two.example") || strings.Contains(log.String(), "host=one.example") {
			t.Errorf("warned of names: %s", log.String())
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { s.Run(ctx) })
		look := func() string {
			time.Sleep(2 * lookEvery) // of the bubble
			synctest.Wait()
			return s.Certificate().DNSNames[0]
		}
		whole, err := os.ReadFile(key)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(key, whole[:20], 0o600); err != nil { // half written
			t.Fatal(err)
		}
		if got := look(); got != "one.example" {
			t.Errorf("serves %s", got)
		}
		if look(); strings.Count(log.String(), "not taken") != 1 {
			t.Errorf("told of trouble not once: %s", log.String())
		}
		files(t, a, dir, "two.example")
		if got := look(); got != "two.example" {
			t.Errorf("serves %s", got)
		}
		if err := os.Remove(certificate); err != nil {
			t.Fatal(err)
		}
		if got := look(); got != "two.example" {
			t.Errorf("serves %s", got)
		}
		cancel()
		wg.Wait()
	})
}

func TestOwnCertificateNearItsEnd(t *testing.T) {
	dir := t.TempDir()
	certificate, key := files(t, authority(t, filepath.Join(dir, "ca"), Options{}), dir, "x")
	at, log := &clock{now: noon}, &bytes.Buffer{}
	s, err := NewServer(ServerConfig{CertificateFile: certificate, KeyFile: key, Now: at.Now, Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ days, want int }{{75, 0}, {77, 1}, {78, 2}, {95, 3}} {
		at.set(noon.AddDate(0, 0, c.days))
		s.reload()
		s.reload()
		if got := strings.Count(log.String(), "must be renewed"); got != c.want {
			t.Errorf("after %d days: %d reminders, want %d", c.days, got, c.want)
		}
	}
}

func TestBadServers(t *testing.T) {
	a, dir := authority(t, t.TempDir(), Options{}), t.TempDir()
	certificate, key := files(t, a, dir, "x")
	for _, cfg := range []ServerConfig{
		{}, {Authority: a}, {Hosts: []string{"x"}}, {Authority: a, Hosts: []string{"a b"}},
		{CertificateFile: certificate}, {KeyFile: key}, {CertificateFile: key, KeyFile: certificate},
		{CertificateFile: "none", KeyFile: key},
	} {
		if s, err := NewServer(cfg); err == nil {
			t.Errorf("%+v: made for %v", cfg, s.Certificate().DNSNames)
		}
	}
}

func BenchmarkGetCertificate(b *testing.B) {
	s, err := NewServer(ServerConfig{Authority: authority(b, b.TempDir(), Options{Now: time.Now}), Hosts: []string{"x"}})
	if err != nil {
		b.Fatal(err)
	}
	get := s.TLS().GetCertificate
	b.ReportAllocs()
	for b.Loop() {
		get(nil)
	}
}
