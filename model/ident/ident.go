// Package ident holds the words for who someone is: the identity of a device or
// module, the claim a peer makes about itself, and the principal it turned out
// to be. It has no clock, disk or network.
package ident

import (
	"crypto/x509"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
)

// Names of the two system modules of every edge device.
const (
	EdgeAgent = "$edgeAgent"
	EdgeHub   = "$edgeHub"
)

// MaxLength is the longest device or module id, in bytes.
const MaxLength = 128

// ID names a device, or a module on a device when Module is not empty. Ids are
// case-sensitive. The zero ID names nobody.
type ID struct {
	Device string
	Module string
}

// IsModule says whether id names a module.
func (id ID) IsModule() bool { return id.Module != "" }

// IsZero says whether id names nobody.
func (id ID) IsZero() bool { return id.Device == "" }

// String is the written form, "device" or "device/module".
func (id ID) String() string {
	if id.Module == "" {
		return id.Device
	}
	return id.Device + "/" + id.Module
}

// Resource is the path of the identity below a hub's host name, as it stands
// (decoded) in the audience of a token.
func (id ID) Resource() string {
	if id.Module == "" {
		return "devices/" + id.Device
	}
	return "devices/" + id.Device + "/modules/" + id.Module
}

// Parse reads the written form that String makes and checks both parts.
func Parse(s string) (ID, error) {
	device, module, isModule := strings.Cut(s, "/")
	id := ID{Device: device, Module: module}
	if isModule && module == "" {
		return ID{}, fault.New(fault.ArgumentInvalid, "module id is empty in %q", s)
	}
	return id, id.Check()
}

// Check says whether the id follows the grammar of Azure's identity registry:
// 1 to 128 characters of 7-bit letters, digits and - : . + % _ # * ? ! ( ) , = @ ; $ '.
func (id ID) Check() error {
	if err := checkPart("device", id.Device); err != nil {
		return err
	}
	if id.Module == "" {
		return nil
	}
	return checkPart("module", id.Module)
}

// CheckNew is Check for identities about to be created: it also refuses + and #,
// which would be wildcards in an MQTT topic.
func (id ID) CheckNew() error {
	if err := id.Check(); err != nil {
		return err
	}
	if strings.ContainsAny(id.String(), "+#") {
		return fault.New(fault.ArgumentInvalid, "id %q holds + or #, which are wildcards in MQTT topics; use another character", id)
	}
	return nil
}

func checkPart(kind, s string) error {
	if s == "" {
		return fault.New(fault.ArgumentInvalid, "%s id is empty", kind)
	}
	if len(s) > MaxLength {
		return fault.New(fault.ArgumentInvalid, "%s id has %d characters, the most is %d", kind, len(s), MaxLength)
	}
	for i := range len(s) {
		if !legal(s[i]) {
			return fault.New(fault.ArgumentInvalid, "%s id %q holds a character that is not allowed: %q", kind, s, s[i])
		}
	}
	return nil
}

func legal(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		strings.IndexByte("-:.+%_#*?!(),=@;$'", c) >= 0
}

// Claim is what a peer says about itself and the proof it brings. Heads make
// claims; auth judges them.
type Claim struct {
	ID    ID
	Host  string // host part of the user name or audience, as sent; never trusted
	Token string // shared access signature; empty when none was sent

	// Certificates is the chain the peer presented over TLS, leaf first. The
	// handshake does not verify it.
	Certificates []*x509.Certificate

	APIVersion string
	ClientType string // product info, for logs
	ModelID    string // DTMI announced by the device
	AuthChain  string // ids joined by ';' when acting for a child
	Remote     string // network address, for logs
}

// Principal is a peer whose claim was accepted.
type Principal struct {
	ID         ID
	Generation string // generation id of the identity
	Stamp      uint64 // of what the proof was judged by, to tell whether that is still so
	Method     string // JSON text for iothub-connection-auth-method
	ModelID    string // DTMI announced at connect

	// Expires is when the connection must end if the proof is not renewed, grace
	// included; zero for proofs that do not expire with the connection.
	Expires time.Time
}
