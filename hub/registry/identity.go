package registry

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
)

// Kinds of authentication.
const (
	SAS                  = "sas"
	SelfSigned           = "selfSigned"
	CertificateAuthority = "certificateAuthority"
	None                 = "none"
)

// MaxModules is how many modules a device may have, system modules not counted.
const MaxModules = 50

const maxReason = 128 // characters of a status reason

// Identity is one registered device or module. Times that never came are zero.
type Identity struct {
	ID           ident.ID
	Generation   string // new with each creation of the id
	Enabled      bool   // devices only; modules follow their device
	StatusReason *string
	Auth         Authentication
	Edge         bool
	Scope        string  // edge: its own scope; leaf: its parent's
	ParentScope  string  // the parent's scope, for edge and leaf
	ManagedBy    *string // modules only
	Connected    bool

	Created           time.Time
	StatusUpdated     time.Time
	ConnectionUpdated time.Time
	LastActivity      time.Time

	etag int64
}

// Etag is the identity's entity tag, without quotes.
func (i Identity) Etag() string {
	return base64.StdEncoding.EncodeToString(strconv.AppendInt(nil, i.etag, 10))
}

// Authentication is how an identity proves itself.
type Authentication struct {
	Type        string
	Keys        [2]string // base64 of 16 to 64 bytes, for SAS
	Thumbprints [2]string // hex of SHA-1 or SHA-256, upper case, for SelfSigned
}

// Spec is what a caller wants an identity to be. Nil members were not named:
// creation uses their default and an update keeps what is there, except Enabled,
// which is then true (service-protocol 4.2).
type Spec struct {
	ID           ident.ID
	Enabled      *bool
	StatusReason *string
	Auth         *Authentication // empty keys of SAS mean: make them
	Edge         *bool
	Scope        *string
	ParentScopes *[]string
	ManagedBy    *string
}

// complete checks a and fills in what the caller left to the registry.
func (a Authentication) complete() (Authentication, error) {
	if a.Type == "" {
		if a.Type = SAS; a.Thumbprints[0] != "" || a.Thumbprints[1] != "" {
			a.Type = SelfSigned
		}
	}
	var err error
	switch a.Type {
	case SAS:
		a.Thumbprints = [2]string{}
		for n := range a.Keys {
			if a.Keys[n], err = completeKey(a.Keys[n]); err != nil {
				return a, err
			}
		}
	case SelfSigned:
		a.Keys = [2]string{}
		if a.Thumbprints[0] == "" && a.Thumbprints[1] == "" {
			return a, fault.New(fault.ArgumentInvalid, "authentication of type selfSigned needs a thumbprint")
		}
		for n := range a.Thumbprints {
			if a.Thumbprints[n], err = canonicalThumbprint(a.Thumbprints[n]); err != nil {
				return a, err
			}
		}
	case CertificateAuthority, None:
		a.Keys, a.Thumbprints = [2]string{}, [2]string{}
	default:
		return a, fault.New(fault.ArgumentInvalid, "authentication type %q is none of sas, selfSigned, certificateAuthority, none", a.Type)
	}
	return a, nil
}

func completeKey(key string) (string, error) {
	if key == "" {
		return newKey(), nil
	}
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		return "", fault.New(fault.ArgumentInvalid, "a symmetric key is not base64")
	}
	if len(raw) < 16 || len(raw) > 64 {
		return "", fault.New(fault.ArgumentInvalid, "a symmetric key has %d bytes, it must have 16 to 64", len(raw))
	}
	return key, nil
}

// newKey is a random key of 32 bytes, base64.
func newKey() string {
	raw := make([]byte, 32)
	rand.Read(raw) // never fails
	return base64.StdEncoding.EncodeToString(raw)
}

func canonicalThumbprint(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != 20 && len(raw) != 32 {
		return "", fault.New(fault.ArgumentInvalid, "thumbprint %q is not the hex of a SHA-1 (40 digits) or SHA-256 (64 digits)", s)
	}
	return strings.ToUpper(s), nil
}

// newEtag starts the tag of a new identity at a random number, so that the tags of
// an earlier holder of the id do not match.
func newEtag() int64 {
	var b [4]byte
	rand.Read(b[:]) // never fails
	return int64(binary.BigEndian.Uint32(b[:]))
}

// matches says whether an If-Match value, without quotes, allows a change; empty
// and * always do.
func (i Identity) matches(ifMatch string) error {
	if ifMatch == "" || ifMatch == "*" || ifMatch == i.Etag() {
		return nil
	}
	return fault.New(fault.PreconditionFailed, "the etag of %s is not %q any more", i.ID, ifMatch)
}

// seal prepares a key for the database.
func (r *Registry) seal(key string) (any, error) {
	if key == "" {
		return nil, nil
	}
	sealed, err := r.sealer.Seal([]byte(key))
	if err != nil {
		return nil, fmt.Errorf("seal key: %w", err)
	}
	return base64.StdEncoding.EncodeToString(sealed), nil
}

func unseal(s Sealer, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	sealed, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return "", err
	}
	key, err := s.Open(sealed)
	return string(key), err
}
