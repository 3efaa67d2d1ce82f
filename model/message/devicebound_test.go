package message

import (
	"testing"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
)

func TestRecipient(t *testing.T) {
	known := func(id ident.ID) error {
		switch id.Device {
		case "pump", "a%41", "a#b", "a+b":
			return nil
		case "down":
			return fault.New(fault.Unavailable, "the database is not there")
		}
		return fault.New(fault.DeviceNotFound, "no")
	}
	for to, want := range map[string]struct {
		device string
		code   fault.Code
	}{
		"/devices/pump/messages/devicebound":           {"pump", 0},
		"devices/pump/Messages/deviceBound/":           {"pump", 0},
		"/devices/a%41/messages/devicebound":           {"a%41", 0},
		"/devices/a%23b/messages/devicebound":          {"a#b", 0},
		"/devices/a+b/messages/devicebound":            {"a+b", 0},
		"/devices/a%2Bb/messages/devicebound":          {"a+b", 0},
		"/devices/nobody/messages/devicebound":         {"", fault.DeviceNotFound},
		"/devices/no%20body/messages/devicebound":      {"", fault.DeviceNotFound},
		"/devices/down/messages/devicebound":           {"", fault.Unavailable},
		"":                                             {"", fault.ArgumentInvalid},
		"/devices/pump":                                {"", fault.ArgumentInvalid},
		"/devices/pump/modules/m/messages/devicebound": {"", fault.ArgumentInvalid},
	} {
		id, err := Recipient(to, known)
		if fault.CodeOf(err) != want.code || err == nil && id != (ident.ID{Device: want.device}) {
			t.Errorf("%q: %v, %v", to, id, err)
		}
	}
}

func TestReadAck(t *testing.T) {
	for in, want := range map[string]string{"": "", "none": "none", "Positive": "positive", "NEGATIVE": "negative", "full": "full"} {
		if got, err := ReadAck(in); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	if _, err := ReadAck("yes"); !fault.Is(err, fault.ArgumentInvalid) {
		t.Error(err)
	}
}
