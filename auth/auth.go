// Package auth judges proofs: a shared access signature or a certificate goes in,
// and out comes who it is and what it may do, or one refusal that tells a stranger
// nothing. The hub asks it for devices and services, the edge broker for modules.
package auth

import (
	"context"
	"crypto/x509"
	"hash/maphash"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
)

// Skew is how far the clocks of client and server may differ: a token is good that
// much longer than it says (device-protocol 3.2.5).
const Skew = 5 * time.Minute

// Right is one thing that a shared access policy allows, or several.
type Right uint8

// The rights of policies (service-protocol 2.3).
const (
	RegistryRead Right = 1 << iota
	RegistryWrite
	ServiceConnect
	DeviceConnect
)

// Values of Record.Type, as they stand in identity documents.
const (
	TypeSAS        = "sas"
	TypeThumbprint = "selfSigned"
	TypeAuthority  = "certificateAuthority"
	TypeNone       = "none"
)

// Record is what has to be known of an identity to judge its claims.
type Record struct {
	ID          ident.ID
	Enabled     bool // a module is disabled with its device
	Generation  string
	Type        string    // one of the Type constants
	Keys        [2]string // base64; for TypeSAS
	Thumbprints [2]string // hex of SHA-1 or SHA-256; for TypeThumbprint
}

// proofs is what claims of an identity are judged by.
type proofs struct {
	generation, kind  string
	keys, thumbprints [2]string
}

// stampSeed is of the process, which is all that comparing stamps needs.
var stampSeed = maphash.MakeSeed()

// Stamp is another one when what claims are judged by has changed: the identity was made
// anew, or its keys, thumbprints or kind of authentication are others. It means nothing
// outside of this process.
func (r *Record) Stamp() uint64 {
	return maphash.Comparable(stampSeed, proofs{r.Generation, r.Type, r.Keys, r.Thumbprints})
}

// Policy is a shared access policy.
type Policy struct {
	Name   string
	Keys   [2]string // base64
	Rights Right
}

// Directory knows the identities and policies; the hub's registry is one, and so is
// what an edge device keeps of it.
type Directory interface {
	// Identity gives a device or module, or fault.DeviceNotFound or
	// fault.ModuleNotFound. Another fault means that the directory is in trouble.
	Identity(ctx context.Context, id ident.ID) (Record, error)
	// Policy gives a shared access policy, or fault.Unauthorized.
	Policy(ctx context.Context, name string) (Policy, error)
}

// Config is what a Verifier stands on. Directory and Hosts are needed.
type Config struct {
	Directory Directory

	// Hosts are the host names that a token may be for, in any case: those of the
	// hub; on an edge device that of its hub and the gateway's own, since modules
	// dial the gateway with tokens for the hub.
	Hosts []string

	// Roots are the authorities that vouch for devices of TypeAuthority; nil: none.
	Roots *x509.CertPool

	Now func() time.Time // nil means time.Now
}

// Verifier judges claims. Its methods may be called from many goroutines.
type Verifier struct {
	dir   Directory
	hosts map[string]bool
	roots *x509.CertPool
	now   func() time.Time
}

// New makes a Verifier.
func New(cfg Config) *Verifier {
	v := &Verifier{dir: cfg.Directory, hosts: make(map[string]bool, len(cfg.Hosts)), roots: cfg.Roots, now: cfg.Now}
	for _, host := range cfg.Hosts {
		v.hosts[strings.ToLower(host)] = true
	}
	if v.now == nil {
		v.now = time.Now
	}
	return v
}

// Device judges the claim of a device or module. A token goes before a certificate
// (device-protocol 3.1). Every refusal is fault.Unauthorized, with the same text for
// an unknown identity as for a wrong proof; its cause, for the log, is the truth.
func (v *Verifier) Device(ctx context.Context, c *ident.Claim) (*ident.Principal, error) {
	if err := c.ID.Check(); err != nil {
		return nil, refuse("%w", err)
	}
	if strings.Contains(c.AuthChain, ";") {
		return nil, refuse("%s acts for a child (auth chain %.300q), which is not supported", c.ID, c.AuthChain)
	}
	var p *ident.Principal
	var err error
	switch {
	case c.Token != "":
		p, err = v.byToken(ctx, c.Token, c.ID, true)
	case len(c.Certificates) > 0:
		p, err = v.byCertificate(ctx, c.Certificates, c.ID)
	default:
		return nil, refuse("%s brought neither token nor certificate", c.ID)
	}
	if err != nil {
		return nil, err
	}
	p.ModelID = c.ModelID
	return p, nil
}

// DeviceToken judges a token that an identity signed with its own key; tokens of
// policies are refused.
func (v *Verifier) DeviceToken(ctx context.Context, token string, of ident.ID) error {
	_, err := v.byToken(ctx, token, of, false)
	return err
}

// find looks an identity up. An unknown one yields a record that no proof fits, so
// that the caller goes on and takes as long as with a known one; cause says why.
func (v *Verifier) find(ctx context.Context, id ident.ID) (rec Record, cause, err error) {
	rec, err = v.dir.Identity(ctx, id)
	switch {
	case fault.Is(err, fault.DeviceNotFound), fault.Is(err, fault.ModuleNotFound):
		return Record{ID: id, Enabled: true}, err, nil
	case err != nil:
		return Record{}, nil, err
	}
	if rec.ID.IsZero() {
		rec.ID = id
	}
	return rec, nil, nil
}

// Method texts for iothub-connection-auth-method (device-protocol 4.3).
const (
	methodDeviceSAS  = `{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}`
	methodModuleSAS  = `{"scope":"module","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}`
	methodDeviceX509 = `{"scope":"device","type":"x509","issuer":"iothub","acceptingIpFilterRule":null}`
	methodModuleX509 = `{"scope":"module","type":"x509","issuer":"iothub","acceptingIpFilterRule":null}`
	methodPolicy     = `{"scope":"hub","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}`
)

// pick is the method text for a device or a module.
func pick(id ident.ID, device, module string) string {
	if id.IsModule() {
		return module
	}
	return device
}
