// Package method holds the words for direct methods: a call to a connected
// device or module and its reply.
package method

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
)

// Limits of a call (device-protocol 9.1 and 9.5).
const (
	MaxPayload             = 128 << 10 // bytes, each way
	MaxName                = 100       // characters
	DefaultResponseTimeout = 30 * time.Second
	MinResponseTimeout     = 5 * time.Second
	MaxResponseTimeout     = 300 * time.Second
	MaxConnectTimeout      = 300 * time.Second
)

// Call asks a device or module to run a method.
type Call struct {
	Name            string
	Payload         json.RawMessage // any JSON value; empty means null
	ResponseTimeout time.Duration   // from delivery to answer
	ConnectTimeout  time.Duration   // how long to wait for the device to connect
}

// Reply is the device's answer. A device's own error is a status, not a Go error.
type Reply struct {
	Status  int
	Payload json.RawMessage // any JSON value; empty means null
}

// Check says whether the call is within the limits.
func (c Call) Check() error {
	switch {
	case c.Name == "":
		return fault.New(fault.ArgumentNull, "methodName is missing")
	case len(c.Name) > MaxName:
		return fault.New(fault.ArgumentInvalid, "methodName has %d characters, the most is %d", len(c.Name), MaxName)
	case !validName(c.Name):
		return fault.New(fault.ArgumentInvalid, "methodName %q holds a character that is not allowed", c.Name)
	case len(c.Payload) > MaxPayload:
		return fault.New(fault.ArgumentInvalid, "payload has %d bytes, the most is %d", len(c.Payload), MaxPayload)
	case len(c.Payload) > 0 && !json.Valid(c.Payload):
		return fault.New(fault.ArgumentInvalid, "payload is not valid JSON")
	case c.ResponseTimeout < MinResponseTimeout || c.ResponseTimeout > MaxResponseTimeout:
		return fault.New(fault.ArgumentInvalid, "responseTimeoutInSeconds must be from 5 to 300")
	case c.ConnectTimeout < 0 || c.ConnectTimeout > MaxConnectTimeout:
		return fault.New(fault.ArgumentInvalid, "connectTimeoutInSeconds must be from 0 to 300")
	}
	return nil
}

func validName(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || strings.IndexByte(`$()<>@,;:\"/[]?={}`, s[i]) >= 0 {
			return false
		}
	}
	return true
}
