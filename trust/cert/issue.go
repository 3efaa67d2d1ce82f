package cert

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
)

// Lifetime is how long certificates hold unless asked otherwise.
const Lifetime = 90 * 24 * time.Hour

// Usage is what a certificate is for.
type Usage uint8

// The usages; they may be added up.
const (
	ForServer Usage = 1 << iota
	ForClient
)

// Request says what certificate to issue.
type Request struct {
	CommonName string     // subject; left out of the certificate when over 64 characters
	Hosts      []string   // alternative names: host names and IP addresses
	URIs       []*url.URL // more alternative names
	Usage      Usage
	Lifetime   time.Duration // zero means Lifetime; never beyond the authority's own
	Key        crypto.Signer // nil means a fresh one
	RSA        bool          // the fresh one is RSA-2048, not ECDSA on P-256
}

// Leaf is an issued certificate with its key.
type Leaf struct {
	Certificate *x509.Certificate
	Chain       [][]byte // DER, Certificate first, then those between it and the root
	Key         crypto.Signer
}

// CertificatePEM is the chain in PEM.
func (l Leaf) CertificatePEM() []byte { return certificatePEM(l.Chain...) }

// KeyPEM is the private key in PEM, PKCS #8.
func (l Leaf) KeyPEM() ([]byte, error) { return keyPEM(l.Key) }

// TLS is the certificate as crypto/tls wants it.
func (l Leaf) TLS() tls.Certificate {
	return tls.Certificate{Certificate: l.Chain, PrivateKey: l.Key, Leaf: l.Certificate}
}

// Issue makes a certificate.
func (a *Authority) Issue(r Request) (Leaf, error) {
	template, err := a.template(r)
	if err != nil {
		return Leaf{}, fmt.Errorf("issue certificate for %q: %w", r.CommonName, err)
	}
	key := r.Key
	if key == nil {
		if key, err = newKey(r.RSA || a.opts.RSA); err != nil {
			return Leaf{}, fmt.Errorf("issue certificate for %q: make key: %w", r.CommonName, err)
		}
	}
	if _, isRSA := key.(*rsa.PrivateKey); isRSA {
		template.KeyUsage |= x509.KeyUsageKeyEncipherment
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.chain[0], key.Public(), a.key)
	if err != nil {
		return Leaf{}, fmt.Errorf("issue certificate for %q: %w", r.CommonName, err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return Leaf{}, fmt.Errorf("issue certificate for %q: %w", r.CommonName, err)
	}
	return Leaf{Certificate: c, Chain: append([][]byte{der}, a.above()...), Key: key}, nil
}

func (a *Authority) template(r Request) (*x509.Certificate, error) {
	now, own := a.opts.Now(), a.chain[0]
	lifetime := r.Lifetime
	if lifetime <= 0 {
		lifetime = Lifetime
	}
	if !now.Before(own.NotAfter) {
		return nil, fmt.Errorf("the certificate authority expired on %s", own.NotAfter.Format(time.DateOnly))
	}
	serial := make([]byte, 16)
	rand.Read(serial) // never fails
	t := &x509.Certificate{
		SerialNumber:          positive(serial),
		NotBefore:             now.Add(-backdate),
		NotAfter:              earlier(later(now, era).Add(lifetime), own.NotAfter),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		URIs:                  r.URIs,
	}
	if len(r.CommonName) <= 64 { // the bound of X.520
		t.Subject = pkix.Name{CommonName: r.CommonName}
	}
	if r.Usage&ForServer != 0 {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if r.Usage&ForClient != 0 {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	for _, host := range r.Hosts {
		if err := addHost(t, host); err != nil {
			return nil, err
		}
	}
	if r.Usage&ForServer != 0 && len(t.DNSNames)+len(t.IPAddresses) == 0 {
		return nil, errors.New("a server's certificate needs a host name")
	}
	return t, nil
}

// addHost adds an alternative name once.
func addHost(t *x509.Certificate, host string) error {
	if ip := net.ParseIP(strings.Trim(host, "[]")); ip != nil {
		for _, have := range t.IPAddresses {
			if have.Equal(ip) {
				return nil
			}
		}
		t.IPAddresses = append(t.IPAddresses, ip)
		return nil
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if !isHost(host) {
		return fmt.Errorf("%.100q is not a host name", host)
	}
	for _, have := range t.DNSNames {
		if have == host {
			return nil
		}
	}
	t.DNSNames = append(t.DNSNames, host)
	return nil
}

// isHost says whether s, in lower case, may stand as a DNS name: labels of letters,
// digits, hyphens and, since machines are called so, underscores; the first may be a
// lone asterisk.
func isHost(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for n, label := range strings.Split(s, ".") {
		if label == "*" && n == 0 && s != "*" {
			continue
		}
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}
