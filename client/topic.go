package client

import (
	"strconv"
	"strings"

	"github.com/selvedge-io/selvedge/model/bag"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
)

// Fixed parts of topics (device-protocol 5.9). They are compared without case.
const (
	twinGet     = "$iothub/twin/GET/?$rid="
	twinPatch   = "$iothub/twin/PATCH/properties/reported/?$rid="
	twinRes     = "$iothub/twin/res/"
	desiredPush = "$iothub/twin/PATCH/properties/desired/"
	methodPost  = "$iothub/methods/POST/"
	methodRes   = "$iothub/methods/res/"
)

// own is the beginning of the topics of id; ids stand raw.
func own(id ident.ID) string { return id.Resource() + "/" }

// messageFilter is what a device or module subscribes to for its messages.
func messageFilter(id ident.ID) string {
	if id.IsModule() {
		return own(id) + "inputs/#"
	}
	return own(id) + "messages/devicebound/#"
}

// appendTelemetryTopic adds the topic of a message from id.
func appendTelemetryTopic(dst []byte, id ident.ID, m *message.Message) []byte {
	dst = append(append(dst, "devices/"...), id.Device...)
	if id.Module != "" {
		dst = append(append(dst, "/modules/"...), id.Module...)
	}
	return bag.AppendTelemetry(append(dst, "/messages/events/"...), m)
}

// topicKind is what a publish of the server is.
type topicKind uint8

const (
	foreign topicKind = iota // nothing we know
	toDevice
	toInput
	twinAnswer
	desiredChange
	methodCall
)

// topic is a parsed topic of the server. Its strings point into what was parsed.
type topic struct {
	kind    topicKind
	name    string // input or method
	bag     string // of toDevice and toInput
	status  int    // of twinAnswer
	rid     string
	version int64 // zero when there is none
}

// parseTopic reads a topic of the server for id.
func parseTopic(s string, id ident.ID) topic {
	if rest, ok := cutFold(s, twinRes); ok {
		status, rest, _ := strings.Cut(rest, "/")
		n, err := strconv.ParseUint(status, 10, 16)
		if err != nil {
			return topic{}
		}
		t := topic{kind: twinAnswer, status: int(n)}
		t.query(rest)
		return t
	}
	if rest, ok := cutFold(s, desiredPush); ok {
		t := topic{kind: desiredChange}
		t.query(rest)
		return t
	}
	if rest, ok := cutFold(s, methodPost); ok {
		name, rest, ok := strings.Cut(rest, "/")
		rid, hasRID := strings.CutPrefix(rest, "?$rid=") // all the rest is the request id
		if !ok || !hasRID || name == "" {
			return topic{}
		}
		return topic{kind: methodCall, name: name, rid: rid}
	}
	rest, ok := strings.CutPrefix(s, own(id))
	if !ok {
		return topic{}
	}
	if !id.IsModule() {
		if bag, ok := cutFold(rest, "messages/devicebound"); ok && (bag == "" || bag[0] == '/') {
			return topic{kind: toDevice, bag: strings.TrimPrefix(bag, "/")}
		}
		return topic{}
	}
	if rest, ok := cutFold(rest, "inputs/"); ok {
		input, bag, _ := strings.Cut(rest, "/")
		return topic{kind: toInput, name: input, bag: bag}
	}
	return topic{}
}

// query reads ?$rid=…&$version=…, where nothing is encoded.
func (t *topic) query(s string) {
	s = strings.TrimPrefix(s, "?")
	for pair := range strings.SplitSeq(s, "&") {
		name, value, _ := strings.Cut(pair, "=")
		switch {
		case strings.EqualFold(name, "$rid"):
			t.rid = value
		case strings.EqualFold(name, "$version"):
			t.version, _ = strconv.ParseInt(value, 10, 64) // zero when it is no number
		}
	}
}

// cutFold is strings.CutPrefix without case.
func cutFold(s, prefix string) (string, bool) {
	if len(s) >= len(prefix) && (s[:len(prefix)] == prefix || strings.EqualFold(s[:len(prefix)], prefix)) {
		return s[len(prefix):], true
	}
	return s, false
}
