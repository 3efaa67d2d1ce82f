package amqphead

import (
	"strings"

	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/percent"
)

// place is what an address of a device or module stands for.
type place uint8

const (
	nowhere     place = iota
	events            // telemetry from the peer; to it, the messages of a module's inputs
	deviceBound       // cloud-to-device messages
	methodCalls       // direct methods, both ways
	twinTalk          // twin requests and answers
)

// pathOf strips scheme and host, which mean nothing, and the slashes at both ends.
func pathOf(address string) string {
	if scheme, rest, ok := strings.Cut(address, "://"); ok && len(scheme) <= len("amqps") {
		_, address, _ = strings.Cut(rest, "/")
	}
	return strings.Trim(address, "/")
}

// parseAddress reads the path of a device's or module's address (device-protocol
// 6.6.1). Fixed parts may be in any case, ids are percent-encoded or raw; each is
// decoded once.
func parseAddress(path string) (place, ident.ID) {
	var id ident.ID
	var ok bool
	if path, ok = cutFold(path, "devices/"); !ok {
		return nowhere, ident.ID{}
	}
	id.Device, path, _ = strings.Cut(path, "/")
	if rest, ok := cutFold(path, "modules/"); ok {
		id.Module, path, _ = strings.Cut(rest, "/")
		if id.Module == "" {
			return nowhere, ident.ID{}
		}
	}
	id.Device, id.Module = percent.Unescape(id.Device), percent.Unescape(id.Module)
	if id.Check() != nil {
		return nowhere, ident.ID{}
	}
	switch {
	case strings.EqualFold(path, "messages/events"):
		return events, id
	case strings.EqualFold(path, "messages/devicebound"):
		return deviceBound, id
	case strings.EqualFold(path, "methods/devicebound"):
		return methodCalls, id
	case strings.EqualFold(path, "twin"):
		return twinTalk, id
	}
	return nowhere, ident.ID{}
}

// cutFold is strings.CutPrefix without regard to case.
func cutFold(s, prefix string) (rest string, ok bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}
