package mqtthead

import (
	"strings"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/percent"
)

// frozenUser ends the user name of one old .NET release, which edgeHub froze into
// its grammar.
const frozenUser = "/api-version=2017-06-30/DeviceClientType=Microsoft.Azure.Devices.Client/1.5.1-preview-003"

// parseUserName reads the user name of CONNECT (device-protocol 5.3). Only the last
// segment tells the forms apart, since ids may hold question marks. The host is
// kept, never judged.
func parseUserName(user string) (*ident.Claim, error) {
	path, params, ok := splitUserName(user)
	parts := strings.Split(path, "/")
	if !ok || len(parts) < 2 || len(parts) > 3 {
		return nil, fault.New(fault.ArgumentInvalid,
			"user name %.200q is not HOST/DEVICE[/MODULE]/?api-version=VERSION", user)
	}
	c := &ident.Claim{Host: parts[0], ID: ident.ID{Device: strings.TrimSpace(parts[1])}}
	if len(parts) == 3 {
		if c.ID.Module = parts[2]; c.ID.Module == "" {
			return nil, fault.New(fault.ArgumentInvalid, "module id is empty in user name %.200q", user)
		}
	}
	if err := c.ID.Check(); err != nil {
		return nil, err
	}
	readParams(params, c)
	if c.APIVersion == "" {
		return nil, fault.New(fault.ArgumentInvalid, "user name %.200q names no api-version", user)
	}
	return c, nil
}

// splitUserName cuts HOST/DEVICE[/MODULE] from the parameters.
func splitUserName(user string) (path, params string, ok bool) {
	if path, ok = strings.CutSuffix(user, frozenUser); ok {
		return path, "api-version=2017-06-30&DeviceClientType=Microsoft.Azure.Devices.Client/1.5.1-preview-003", true
	}
	i := strings.LastIndexByte(user, '/')
	if i < 0 {
		return "", "", false
	}
	path, params = user[:i], user[i+1:]
	if rest, ok := strings.CutPrefix(params, "?"); ok {
		return path, rest, true
	}
	return path, params, strings.Contains(params, "api-version=")
}

// readParams fills the claim; a repeated name keeps its first value.
func readParams(params string, c *ident.Claim) {
	seen := func(field *string, value string) {
		if *field == "" {
			*field = percent.Unescape(value)
		}
	}
	for pair := range strings.SplitSeq(params, "&") {
		name, value, _ := strings.Cut(pair, "=")
		switch name {
		case "api-version":
			seen(&c.APIVersion, value)
		case "DeviceClientType":
			seen(&c.ClientType, value)
		case "model-id":
			seen(&c.ModelID, value)
		case "auth-chain":
			seen(&c.AuthChain, value)
		}
	}
}
