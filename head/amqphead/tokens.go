package amqphead

import (
	"slices"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/percent"
)

// skew is how much longer than it says a token is good (device-protocol 3.2.5).
const skew = 5 * time.Minute

// perScope is how many tokens are kept whose scopes look alike: one resource under two
// host names, ids that differ in case only.
const perScope = 4

// token is a shared access signature that the peer has brought.
type token struct {
	text     string
	resource string // what it is for, decoded once, in lower case
	policy   string // that signed it; empty: the identity itself
	expires  time.Time
	number   uint64 // the higher, the newer
}

// tokens are those of one connection, by scope.
type tokens struct {
	byScope map[string][]*token
	count   int
	last    uint64
}

// scopeOf is where a resource belongs: the path of the identity that it names or is
// below, else its whole path. It is fully decoded and in lower case, so that all ways
// to write an identity meet. Tokens of different identities may meet too; that does no
// harm, since each is judged for the identity in question.
func scopeOf(resource string) string {
	for range 3 {
		decoded := percent.Unescape(resource)
		if decoded == resource {
			break
		}
		resource = decoded
	}
	path := strings.ToLower(below(resource))
	parts := strings.SplitN(path, "/", 5)
	switch {
	case parts[0] != "devices" || len(parts) < 2:
		return path
	case len(parts) >= 4 && parts[2] == "modules":
		return strings.Join(parts[:4], "/")
	}
	return strings.Join(parts[:2], "/")
}

// below strips scheme and host off a resource, and slashes.
func below(resource string) string {
	if scheme, rest, ok := strings.Cut(resource, "://"); ok && len(scheme) <= len("amqps") {
		resource = rest
	}
	_, path, _ := strings.Cut(resource, "/")
	return strings.Trim(path, "/")
}

// put takes a token in, in place of an older one for the same. most bounds them all.
func (ts *tokens) put(t *token, most int, now time.Time) error {
	scope := scopeOf(t.resource)
	list := ts.byScope[scope]
	at := slices.IndexFunc(list, func(old *token) bool { return old.resource == t.resource && old.policy == t.policy })
	if at < 0 && ts.count >= most {
		ts.purge(now)
		if ts.count >= most {
			return fault.New(fault.MaxCbsTokens, "the connection holds %d tokens already", most)
		}
		list = ts.byScope[scope]
	}
	if ts.byScope == nil {
		ts.byScope = map[string][]*token{}
	}
	ts.last++
	t.number = ts.last
	switch {
	case at >= 0:
		list = slices.Delete(list, at, at+1)
	case len(list) >= perScope:
		list = slices.Delete(list, 0, 1)
	default:
		ts.count++
	}
	ts.byScope[scope] = append(list, t)
	return nil
}

// purge drops tokens that have ended.
func (ts *tokens) purge(now time.Time) {
	for scope, list := range ts.byScope {
		kept := slices.DeleteFunc(list, func(t *token) bool { return !t.expires.IsZero() && t.expires.Before(now) })
		ts.count -= len(list) - len(kept)
		if len(kept) == 0 {
			delete(ts.byScope, scope)
		} else {
			ts.byScope[scope] = kept
		}
	}
}

// remove drops the tokens for a resource and says whether there were any.
func (ts *tokens) remove(resource string) bool {
	scope := scopeOf(resource)
	n := len(ts.byScope[scope])
	ts.count -= n
	delete(ts.byScope, scope)
	return n > 0
}

// forIdentity gives the tokens that may prove id, the best first: its own, then those
// of policies for something above it; of one kind the newest.
func (ts *tokens) forIdentity(id ident.ID) (found []*token) {
	scopes := [...]string{scopeOf("/" + id.Resource()), "devices", ""}
	for i, scope := range scopes {
		found = appendNewest(found, ts.byScope[scope], i > 0)
		if i == 0 && id.IsModule() {
			found = appendNewest(found, ts.byScope[scopeOf("/devices/"+id.Device)], true)
		}
	}
	return found
}

func appendNewest(dst, list []*token, policies bool) []*token {
	for _, t := range slices.Backward(list) {
		if !policies || t.policy != "" {
			dst = append(dst, t)
		}
	}
	return dst
}

// mostTries bounds the tokens tried for one resource.
const mostTries = 16

// forService gives the tokens of policies whose scope includes a resource, the newest
// first.
func (ts *tokens) forService(resource string) (found []*token) {
	path := strings.ToLower(resource)
	for {
		found = appendNewest(found, ts.byScope[path], true)
		if path == "" {
			break
		}
		path = path[:max(0, strings.LastIndexByte(path, '/'))]
	}
	slices.SortFunc(found, func(a, b *token) int { return int(int64(b.number) - int64(a.number)) })
	return found[:min(len(found), mostTries)]
}
