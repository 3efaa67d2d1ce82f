package auth

import (
	"strings"

	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/percent"
)

// reach is how an audience relates to an identity.
type reach uint8

const (
	elsewhere reach = iota // nothing to do with it
	above                  // a prefix of it: the host, its devices, the module's device
	at                     // the identity itself, or something of its own
)

// owns says whether an audience is the identity's own. Nobody but the holder of the
// identity's key can have signed it, so it does no harm to be generous: clients
// leave it as it is (C), encode it once (most), or encode an id that is already
// encoded (.NET).
func (v *Verifier) owns(resource string, id ident.ID) bool {
	for range 3 {
		if v.reach(resource, id) == at {
			return true
		}
		decoded := percent.Unescape(resource)
		if decoded == resource {
			return false
		}
		resource = decoded
	}
	return false
}

// covers says whether a policy's audience includes the identity. It is decoded once
// only: twice, a token for a device called a%41 would be one for aA too.
func (v *Verifier) covers(resource string, id ident.ID) bool {
	return v.reach(percent.Unescape(resource), id) != elsewhere
}

// reach compares segment by segment, without regard to case (device-protocol 3.2.4).
func (v *Verifier) reach(audience string, id ident.ID) reach {
	rest, ok := v.cutHost(audience)
	if !ok {
		return elsewhere
	}
	path := [...]string{"devices", id.Device, "modules", id.Module}
	wanted := path[:2]
	if id.IsModule() {
		wanted = path[:4]
	}
	for _, want := range wanted {
		if rest == "" {
			return above
		}
		var got string
		if got, rest, _ = strings.Cut(rest, "/"); !strings.EqualFold(got, want) {
			return elsewhere
		}
	}
	// What follows is some tool's decoration, unless it names another identity.
	if next, _, _ := strings.Cut(rest, "/"); !id.IsModule() && strings.EqualFold(next, "modules") {
		return elsewhere
	}
	return at
}

// prefixes says whether a policy's audience is a prefix, by whole segments, of a
// resource below the host (service-protocol 2.2).
func (v *Verifier) prefixes(resource, of string) bool {
	rest, ok := v.cutHost(percent.Unescape(resource))
	for ok && rest != "" {
		if of == "" {
			return false
		}
		var got, want string
		got, rest, _ = strings.Cut(rest, "/")
		want, of, _ = strings.Cut(of, "/")
		ok = strings.EqualFold(got, want)
	}
	return ok
}

// cutHost takes an accepted host, with or without scheme and port, from the front
// of an audience, and a slash from its end.
func (v *Verifier) cutHost(audience string) (path string, ok bool) {
	if i := strings.Index(audience, "://"); i >= 0 && i <= len("amqps") {
		audience = audience[i+len("://"):]
	}
	host, path, _ := strings.Cut(audience, "/")
	if i := strings.LastIndexByte(host, ':'); i > 0 && digits(host[i+1:]) && !v.hosts[strings.ToLower(host)] {
		host = host[:i]
	}
	return strings.TrimSuffix(path, "/"), v.hosts[strings.ToLower(host)]
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
