package sas

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// ConnectionString is what a client needs to connect: a device or module, a service
// with a shared access policy, or a reader of the event stream with an Event Hubs
// client, which has an Endpoint instead of a HostName (device-protocol 3.3,
// service-protocol 2.1).
type ConnectionString struct {
	HostName              string
	Endpoint              string // sb://HOST/, for Event Hubs clients
	DeviceID              string
	ModuleID              string
	SharedAccessKeyName   string // the policy
	SharedAccessKey       string // base64
	SharedAccessSignature string // a token instead of a key
	X509                  bool   // a certificate instead of a key
	GatewayHostName       string // dial this instead of HostName
	EntityPath            string // name of the event stream
}

// maxConnectionString bounds what ParseConnectionString reads, in bytes. It has
// room for a token.
const maxConnectionString = 2 * MaxToken

// field of a connection string.
type field struct {
	name  string
	value *string
}

// fields are in the order of String, which is the one that Azure's tools print.
func (c *ConnectionString) fields() [9]field {
	return [...]field{
		{"HostName", &c.HostName}, {"Endpoint", &c.Endpoint}, {"DeviceId", &c.DeviceID}, {"ModuleId", &c.ModuleID},
		{"SharedAccessKeyName", &c.SharedAccessKeyName}, {"SharedAccessKey", &c.SharedAccessKey},
		{"SharedAccessSignature", &c.SharedAccessSignature},
		{"GatewayHostName", &c.GatewayHostName}, {"EntityPath", &c.EntityPath},
	}
}

// String is the connection string in its canonical form: Azure's order, no
// separator at the end. It holds the key; do not log it.
func (c ConnectionString) String() string {
	var b strings.Builder
	put := func(name, value string) {
		if value == "" {
			return
		}
		if b.Len() > 0 {
			b.WriteByte(';')
		}
		b.WriteString(name + "=" + value)
	}
	for _, f := range c.fields() {
		if f.name == "GatewayHostName" && c.X509 {
			put("x509", "true")
		}
		put(f.name, *f.value)
	}
	return b.String()
}

// Key is the decoded SharedAccessKey.
func (c ConnectionString) Key() ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(c.SharedAccessKey)
	if err != nil || len(key) == 0 {
		return nil, errors.New("SharedAccessKey of the connection string is missing or is not base64")
	}
	return key, nil
}

// ParseConnectionString reads a connection string with its parts in any order and
// their names in any case. Errors never quote a value.
func ParseConnectionString(s string) (ConnectionString, error) {
	var c ConnectionString
	if len(s) > maxConnectionString {
		return c, fmt.Errorf("connection string has %d bytes, the most is %d", len(s), maxConnectionString)
	}
	fields := c.fields()
	seen := map[string]bool{}
	for part := range strings.SplitSeq(s, ";") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		name, value, ok := strings.Cut(part, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || value == "" {
			return ConnectionString{}, errors.New("connection string holds a part that is not Name=Value")
		}
		if seen[strings.ToLower(name)] {
			return ConnectionString{}, fmt.Errorf("connection string has more than one %.40s", name)
		}
		seen[strings.ToLower(name)] = true
		if err := c.set(fields[:], name, value); err != nil {
			return ConnectionString{}, err
		}
	}
	return c, c.check()
}

func (c *ConnectionString) set(fields []field, name, value string) error {
	if strings.EqualFold(name, "x509") {
		c.X509 = strings.EqualFold(value, "true")
		if !c.X509 && !strings.EqualFold(value, "false") {
			return errors.New("x509 in the connection string is neither true nor false")
		}
		return nil
	}
	for _, f := range fields {
		if strings.EqualFold(name, f.name) {
			*f.value = value
			return nil
		}
	}
	return fmt.Errorf("connection string holds %.40q, which is none of HostName, DeviceId, ModuleId, SharedAccessKeyName, "+
		"SharedAccessKey, SharedAccessSignature, GatewayHostName, x509, Endpoint, EntityPath", name)
}

// check says whether the parts make sense together.
func (c *ConnectionString) check() error {
	switch {
	case c.HostName == "" && c.Endpoint == "":
		return errors.New("connection string has no HostName")
	case c.HostName != "" && c.Endpoint != "":
		return errors.New("connection string has both HostName and Endpoint")
	case c.ModuleID != "" && c.DeviceID == "":
		return errors.New("connection string has a ModuleId but no DeviceId")
	}
	if c.Endpoint != "" {
		if u, err := url.Parse(c.Endpoint); err != nil || u.Host == "" {
			return errors.New("the Endpoint of the connection string is not of the form sb://HOST/")
		}
	}
	return nil
}
