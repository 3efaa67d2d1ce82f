// Package cert is a private certificate authority and what it is for: certificates
// of servers that renew themselves, and certificates for others. It also serves
// certificates that somebody else issued, from files.
package cert

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/selvedge-io/selvedge/trust/keys"
)

const (
	rootFile = "root.pem"
	keyFile  = "root.key"

	rootLifetime = 20 * 365 * 24 * time.Hour
	backdate     = time.Hour // clocks that are behind ours
)

// era is before any moment at which this program runs. Small devices start with
// clocks years behind, and now and then ahead; what they issue then must hold once
// the clock is set.
var era = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

// Options of an Authority. All may be left out.
type Options struct {
	Name string           // start of the common name of a new root; "Selvedge CA" when empty
	RSA  bool             // RSA-2048 for new keys; else ECDSA on P-256
	Now  func() time.Time // nil means time.Now
}

func (o Options) complete() Options {
	if o.Name == "" {
		o.Name = "Selvedge CA"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Authority issues certificates. Its methods may be called from many goroutines.
type Authority struct {
	opts  Options
	chain []*x509.Certificate // its own first, then those above it
	key   crypto.Signer
}

// OpenAuthority opens the private authority in dir: root.pem, its certificate for
// everybody to trust, and root.key, which never leaves. What is missing is made.
func OpenAuthority(dir string, o Options) (*Authority, error) {
	a := &Authority{opts: o.complete()}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open certificate authority: %w", err)
	}
	if err := a.openKey(dir); err != nil {
		return nil, fmt.Errorf("open certificate authority: %w", err)
	}
	if err := a.openRoot(dir); err != nil {
		return nil, fmt.Errorf("open certificate authority: %w", err)
	}
	if err := a.check(filepath.Join(dir, rootFile)); err != nil {
		return nil, fmt.Errorf("open certificate authority: %w", err)
	}
	return a, nil
}

// LoadAuthority opens an authority that somebody else made: a PEM file with its
// certificate and, after it, those above it, and a PEM file with its key.
func LoadAuthority(certificate, key string, o Options) (*Authority, error) {
	a := &Authority{opts: o.complete()}
	text, err := os.ReadFile(certificate)
	if err != nil {
		return nil, fmt.Errorf("load certificate authority: %w", err)
	}
	if a.chain, err = parseCertificates(text); err != nil {
		return nil, fmt.Errorf("load certificate authority from %s: %w", certificate, err)
	}
	if text, err = os.ReadFile(key); err != nil {
		return nil, fmt.Errorf("load certificate authority: %w", err)
	}
	if a.key, err = parseKey(text); err != nil {
		return nil, fmt.Errorf("load certificate authority from %s: %w", key, err)
	}
	if err := a.check(certificate); err != nil {
		return nil, fmt.Errorf("load certificate authority: %w", err)
	}
	return a, nil
}

// openKey loads the key or makes it. A certificate without its key is not made up
// for, since devices trust that certificate.
func (a *Authority) openKey(dir string) error {
	name := filepath.Join(dir, keyFile)
	text, err := keys.Load(name)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(filepath.Join(dir, rootFile)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is missing but its certificate %s is there: bring the key back from a backup, "+
				"or move the certificate away to start anew", name, rootFile)
		}
		if text, err = newKeyPEM(a.opts.RSA); err != nil {
			return err
		}
		if err = keys.SaveNew(name, text, 0o600); errors.Is(err, fs.ErrExist) {
			text, err = keys.Load(name) // another process was first
		}
	}
	if err != nil {
		return err
	}
	if a.key, err = parseKey(text); err != nil {
		return fmt.Errorf("read %s: %w; bring it back from a backup", name, err)
	}
	return nil
}

// openRoot loads the root's certificate or makes it.
func (a *Authority) openRoot(dir string) error {
	name := filepath.Join(dir, rootFile)
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		if text, err = a.newRoot(); err != nil {
			return err
		}
		if err = keys.SaveNew(name, text, 0o644); errors.Is(err, fs.ErrExist) {
			text, err = os.ReadFile(name)
		}
	}
	if err != nil {
		return err
	}
	if a.chain, err = parseCertificates(text); err != nil {
		return fmt.Errorf("read %s: %w; bring it back from a backup", name, err)
	}
	return nil
}

func (a *Authority) newRoot() ([]byte, error) {
	serial, id := make([]byte, 16), make([]byte, 4)
	rand.Read(serial) // never fails
	rand.Read(id)
	now := a.opts.Now()
	template := &x509.Certificate{
		SerialNumber: positive(serial),
		// Two roots of one name would confuse clients that trust both.
		Subject:               pkix.Name{CommonName: fmt.Sprintf("%.50s %s", a.opts.Name, hex.EncodeToString(id))},
		NotBefore:             earlier(now.Add(-backdate), era),
		NotAfter:              later(now, era).Add(rootLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("make root certificate: %w", err)
	}
	return certificatePEM(der), nil
}

// check says whether the parts of an authority from a file fit together.
func (a *Authority) check(name string) error {
	own := a.chain[0]
	public, ok := a.key.Public().(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case !ok || !public.Equal(own.PublicKey):
		return fmt.Errorf("the key does not belong to the certificate in %s", name)
	case !own.IsCA:
		return fmt.Errorf("the first certificate in %s is not that of a certificate authority", name)
	case a.opts.Now().After(own.NotAfter):
		return fmt.Errorf("the certificate in %s expired on %s: replace it and its key, or move both away to have "+
			"new ones made if they were made here, and give the new root to all who trusted the old one",
			name, own.NotAfter.Format(time.DateOnly))
	}
	return nil
}

// RootPEM is the certificate that peers have to trust, the top of the chain.
func (a *Authority) RootPEM() []byte { return certificatePEM(a.chain[len(a.chain)-1].Raw) }

// Certificate is the authority's own certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.chain[0] }

// above is the chain that goes with a certificate that a issued: without a root,
// which whoever trusts it has.
func (a *Authority) above() (chain [][]byte) {
	for _, c := range a.chain {
		if !bytes.Equal(c.RawIssuer, c.RawSubject) {
			chain = append(chain, c.Raw)
		}
	}
	return chain
}

// ReadRoot gives the root certificate, in PEM, of the authority in dir without
// opening it.
func ReadRoot(dir string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(dir, rootFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no certificate authority in %s yet; the first start makes it: %w", dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read root certificate: %w", err)
	}
	chain, err := parseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("read root certificate in %s: %w", dir, err)
	}
	return certificatePEM(chain[len(chain)-1].Raw), nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
