package auth

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/selvedge-io/selvedge/model/ident"
)

// maxChain is the most certificates that a device may present.
const maxChain = 10

// byCertificate judges a certificate chain whose key the handshake has proven
// (device-protocol 3.4).
func (v *Verifier) byCertificate(ctx context.Context, chain []*x509.Certificate, id ident.ID) (*ident.Principal, error) {
	if len(chain) > maxChain {
		return nil, refuse("%s presented %d certificates, the most is %d", id, len(chain), maxChain)
	}
	rec, cause, err := v.find(ctx, id)
	if err != nil {
		return nil, err
	}
	// An unknown identity has all checks made for it, to take as long.
	match, vouch := errNotTried, errNotTried
	if rec.Type == TypeThumbprint || cause != nil {
		match = matches(chain[0], rec.Thumbprints)
	}
	if rec.Type == TypeAuthority || cause != nil {
		vouch = v.vouched(chain, id)
	}
	now := v.now()
	switch {
	case cause != nil:
		return nil, refuse("%w", cause)
	case rec.Type == TypeThumbprint && match != nil:
		return nil, refuse("%s: %w", id, match)
	case rec.Type == TypeAuthority && vouch != nil:
		return nil, refuse("%s: %w", id, vouch)
	case match != nil && vouch != nil:
		return nil, refuse("%s brought a certificate but authenticates by %q", id, rec.Type)
	case now.Before(chain[0].NotBefore) || now.After(chain[0].NotAfter):
		return nil, refuse("%s: certificate holds from %s to %s", id,
			chain[0].NotBefore.Format(time.RFC3339), chain[0].NotAfter.Format(time.RFC3339))
	case !rec.Enabled:
		return nil, disabled(id)
	}
	return &ident.Principal{ID: rec.ID, Generation: rec.Generation, Stamp: rec.Stamp(),
		Method: pick(id, methodDeviceX509, methodModuleX509)}, nil
}

var errNotTried = errors.New("not tried")

// matches compares with either digest; a thumbprint's length tells which it is.
func matches(leaf *x509.Certificate, thumbprints [2]string) error {
	short, long := sha1.Sum(leaf.Raw), sha256.Sum256(leaf.Raw)
	found := 0
	for _, text := range thumbprints {
		want, err := hex.DecodeString(text)
		if err != nil {
			continue
		}
		found |= subtle.ConstantTimeCompare(want, short[:]) | subtle.ConstantTimeCompare(want, long[:])
	}
	if found == 0 {
		return fmt.Errorf("certificate with SHA-1 %X, SHA-256 %X has neither of its thumbprints", short, long)
	}
	return nil
}

// vouched says whether the chain ends in a known authority and its leaf is the
// identity's: the common name is the device id or DEVICE/MODULE.
func (v *Verifier) vouched(chain []*x509.Certificate, id ident.ID) error {
	if v.roots == nil {
		return errors.New("no certificate authority for devices is set up")
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: v.roots, Intermediates: between, CurrentTime: v.now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return fmt.Errorf("check certificate chain: %w", err)
	}
	if chain[0].Subject.CommonName != id.String() {
		return fmt.Errorf("certificate is of %.300q", chain[0].Subject.CommonName)
	}
	return nil
}
