package message

import (
	"strings"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/percent"
)

// Recipient reads the address of a cloud-to-device message,
// /devices/ID/messages/devicebound in any case. Clients disagree on whether the id is
// percent-encoded: if the raw one names a device it is that (service-protocol 8.1).
// known says with nil that there is a device, else with fault.DeviceNotFound or
// fault.ArgumentInvalid. It fails with fault.ArgumentInvalid for another address, and
// with what known says.
func Recipient(to string, known func(ident.ID) error) (ident.ID, error) {
	parts := strings.Split(strings.Trim(to, "/"), "/")
	if len(parts) != 4 || !strings.EqualFold(parts[0], "devices") || !strings.EqualFold(parts[2], "messages") ||
		!strings.EqualFold(parts[3], "devicebound") {
		return ident.ID{}, fault.New(fault.ArgumentInvalid,
			"a message must be addressed to /devices/ID/messages/devicebound, not to %.300q; messages go to devices only", to)
	}
	raw := ident.ID{Device: parts[1]}
	err := known(raw)
	if !fault.Is(err, fault.DeviceNotFound) && !fault.Is(err, fault.ArgumentInvalid) {
		return raw, err
	}
	decoded := ident.ID{Device: percent.Unescape(parts[1])}
	if decoded == raw {
		return raw, err
	}
	return decoded, known(decoded)
}

// ReadAck reads what feedback a sender asks for, iothub-ack: none, positive, negative or
// full in any case, or nothing. It fails with fault.ArgumentInvalid.
func ReadAck(s string) (string, error) {
	switch ack := strings.ToLower(s); ack {
	case "", "none", "positive", "negative", "full":
		return ack, nil
	}
	return "", fault.New(fault.ArgumentInvalid, "iothub-ack %.100q is none of none, positive, negative, full", s)
}
