package mqtthead

import (
	"strconv"
	"strings"

	"github.com/selvedge-io/selvedge/model/ident"
)

// Fixed parts of topics (device-protocol 5.9). They are compared without case and
// emitted in this spelling.
const (
	twinGet     = "$iothub/twin/GET/"
	twinPatch   = "$iothub/twin/PATCH/properties/reported/"
	twinRes     = "$iothub/twin/res/"
	desiredPush = "$iothub/twin/PATCH/properties/desired/"
	methodPost  = "$iothub/methods/POST/"
	methodRes   = "$iothub/methods/res/"
)

// topicKind is what a publish of a client asks for.
type topicKind uint8

const (
	foreign topicKind = iota // not a topic this client may publish to
	telemetry
	twinRead
	twinReport
	methodAnswer
)

// classify says what a topic of the client id means. rest is the property bag of
// telemetry and, for the others, what follows the fixed part.
func classify(topic string, id ident.ID) (kind topicKind, rest string) {
	if rest, ok := cutFold(topic, "$iothub/"); ok {
		for _, t := range []struct {
			prefix string
			kind   topicKind
		}{{twinGet, twinRead}, {twinPatch, twinReport}, {methodRes, methodAnswer}} {
			if rest, ok := cutFold(topic, t.prefix); ok {
				return t.kind, rest
			}
		}
		return foreign, rest
	}
	rest, ok := cutOwn(topic, id)
	if !ok {
		return foreign, ""
	}
	rest, ok = cutFold(rest, "messages/events")
	switch {
	case !ok:
		return foreign, ""
	case rest == "":
		return telemetry, ""
	case rest[0] == '/':
		return telemetry, rest[1:]
	}
	return foreign, ""
}

// cutOwn cuts devices/{d}/ or devices/{d}/modules/{m}/ of id off s.
func cutOwn(s string, id ident.ID) (rest string, ok bool) {
	if s, ok = cutFold(s, "devices/"); !ok {
		return "", false
	}
	if s, ok = cutSegment(s, id.Device); !ok || id.Module == "" {
		return s, ok
	}
	if s, ok = cutFold(s, "modules/"); !ok {
		return "", false
	}
	return cutSegment(s, id.Module)
}

// cutSegment cuts exactly segment and a slash off s.
func cutSegment(s, segment string) (string, bool) {
	if len(s) > len(segment) && s[:len(segment)] == segment && s[len(segment)] == '/' {
		return s[len(segment)+1:], true
	}
	return "", false
}

// cutFold is strings.CutPrefix without case.
func cutFold(s, prefix string) (string, bool) {
	if len(s) >= len(prefix) && (s[:len(prefix)] == prefix || strings.EqualFold(s[:len(prefix)], prefix)) {
		return s[len(prefix):], true
	}
	return "", false
}

// query is the ?$rid=…&$version=… of $iothub topics, where nothing is encoded.
type query struct {
	rid     string
	hasRID  bool
	version string
}

// parseQuery reads s, which must be empty or start with a question mark.
func parseQuery(s string) (q query, ok bool) {
	if s == "" {
		return q, true
	}
	if s, ok = strings.CutPrefix(s, "?"); !ok {
		return q, false
	}
	for pair := range strings.SplitSeq(s, "&") {
		name, value, _ := strings.Cut(pair, "=")
		switch {
		case strings.EqualFold(name, "$rid") && !q.hasRID:
			q.rid, q.hasRID = value, true
		case strings.EqualFold(name, "$version"):
			q.version = value
		}
	}
	return q, true
}

// parseAnswer reads what follows methodRes: {status}/?$rid={rid}. statusOK is false
// when the status is not a number.
func parseAnswer(s string) (status int, statusOK bool, rid string) {
	text, rest, _ := strings.Cut(s, "/")
	q, _ := parseQuery(rest)
	n, err := strconv.ParseInt(text, 10, 32)
	return int(n), err == nil, q.rid
}

// grantKind is what a subscription opens.
type grantKind uint8

const (
	grantNothing grantKind = iota // granted, but nothing is ever sent
	grantToDevice
	grantInputs
	grantDesired
	grantMethods
	grantTwin
	grantKinds
)

// classifyFilter says what a subscription of the client id opens; ok is false when
// it reaches outside the client's own topics (device-protocol 5.10).
func classifyFilter(filter string, id ident.ID) (kind grantKind, ok bool) {
	if rest, ok := cutFold(filter, "$iothub/"); ok {
		if !validFilter(rest) {
			return grantNothing, false
		}
		for _, t := range []struct {
			prefix string
			kind   grantKind
		}{{twinRes, grantTwin}, {desiredPush, grantDesired}, {methodPost, grantMethods}} {
			if rest, ok := cutFold(filter, t.prefix); ok && strings.HasSuffix(rest, "#") {
				return t.kind, true
			}
		}
		return grantNothing, true
	}
	rest, ok := cutOwn(filter, id)
	if !ok || !validFilter(rest) {
		return grantNothing, false
	}
	if !id.IsModule() {
		if rest, ok := cutFold(rest, "messages/devicebound/"); ok && rest == "#" {
			return grantToDevice, true
		}
		return grantNothing, true
	}
	if rest == "#" {
		return grantInputs, true
	}
	if rest, ok := cutFold(rest, "inputs/"); ok && strings.HasSuffix(rest, "#") {
		return grantInputs, true
	}
	return grantNothing, true
}

// validFilter checks wildcards: each stands alone in its segment, # at the end.
func validFilter(s string) bool {
	for s != "" {
		segment, rest, more := strings.Cut(s, "/")
		if strings.ContainsAny(segment, "+#") && (len(segment) > 1 || segment == "#" && more) {
			return false
		}
		s = rest
	}
	return true
}

// methodOf is the method a grantMethods filter is for, empty for all.
func methodOf(filter string) string {
	rest, _ := cutFold(filter, methodPost)
	name, _, more := strings.Cut(rest, "/")
	if !more || name == "+" {
		return ""
	}
	return name
}
