package auth

import (
	"strings"
	"testing"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/trust/sas"
)

func TestService(t *testing.T) {
	v := newVerifier(newBook())
	for _, c := range []struct {
		name, sr, key, policy, resource string
		need                            Right
		want                            fault.Code // zero: allowed
	}{
		{"C# and CLI", "hub.example.net", "iothubowner1", "iothubowner", "devices/dev", RegistryWrite, 0},
		{"secondary key", "hub.example.net", "iothubowner2", "iothubowner", "devices/dev", RegistryWrite, 0},
		{"in another case", "HUB.EXAMPLE.NET", "service1", "service", "twins/dev", ServiceConnect, 0},
		{"encoded, with a scheme", "https%3a%2f%2fhub.example.net", "service1", "service", "twins/dev", ServiceConnect, 0},
		{"with a port and slash", "hub.example.net%3A443%2F", "service1", "service", "twins/dev", ServiceConnect, 0},
		{"prefix", "hub.example.net%2Fdevices", "registryRead1", "registryRead", "devices/dev", RegistryRead, 0},
		{"the resource itself", "hub.example.net%2Fdevices%2Fdev", "registryRead1", "registryRead", "devices/dev", RegistryRead, 0},
		{"resource with slashes around", "hub.example.net%2Fdevices%2Fdev", "registryRead1", "registryRead", "/devices/dev/", RegistryRead, 0},
		{"prefix in another case", "hub.example.net%2FDevices%2FDEV", "registryRead1", "registryRead", "devices/dev/modules", RegistryRead, 0},

		{"lacks the right", "hub.example.net", "registryRead1", "registryRead", "devices/dev", RegistryWrite, fault.UnauthorizedAccess},
		{"lacks one of two", "hub.example.net", "service1", "service", "x", ServiceConnect | RegistryRead, fault.UnauthorizedAccess},
		{"another host", "other", "service1", "service", "twins/dev", ServiceConnect, fault.UnauthorizedAccess},
		{"another resource", "hub.example.net%2Fdevices", "service1", "service", "twins/dev", ServiceConnect, fault.UnauthorizedAccess},
		{"part of a segment", "hub.example.net%2Fdevices%2Fde", "registryRead1", "registryRead", "devices/dev", RegistryRead, fault.UnauthorizedAccess},
		{"deeper than the resource", "hub.example.net%2Fdevices%2Fdev", "registryRead1", "registryRead", "devices", RegistryRead, fault.UnauthorizedAccess},
		{"wrong key", "hub.example.net", "device1", "service", "twins/dev", ServiceConnect, fault.UnauthorizedAccess},
		{"unknown policy", "hub.example.net", "service1", "nobody", "twins/dev", ServiceConnect, fault.UnauthorizedAccess},
		{"no policy", "hub.example.net%2Fdevices%2Fdev", "dev1", "", "twins/dev", ServiceConnect, fault.UnauthorizedAccess},
		{"a device's key under a policy's name", "hub.example.net", "dev1", "service", "twins/dev", ServiceConnect, fault.UnauthorizedAccess},
	} {
		name, err := v.Service(t.Context(), token(t, c.sr, c.key, later, c.policy), c.resource, c.need)
		if fault.CodeOf(err) != c.want || err == nil && name != c.policy {
			t.Errorf("%s: %q, %v; want code %d", c.name, name, err, c.want)
		}
		if err != nil && (name != "" || strings.Contains(err.Error(), "sig=")) {
			t.Errorf("%s: %q, %v", c.name, name, err)
		}
	}
	for _, text := range []string{"", "Bearer eyJ", "Basic eDp5", "SharedAccessSignature sr=x"} {
		if _, err := v.Service(t.Context(), text, "twins/dev", ServiceConnect); !fault.Is(err, fault.GenericUnauthorized) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestServiceRefusalsTellNothing(t *testing.T) {
	v := newVerifier(newBook())
	texts := map[string]bool{}
	for _, credentials := range []string{
		token(t, "hub.example.net", "service1", later, "nobody"), token(t, "hub.example.net", "x", later, "service"),
		token(t, "other", "service1", later, "service"),
	} {
		_, err := v.Service(t.Context(), credentials, "twins/dev", ServiceConnect)
		texts[fault.TextOf(err)] = true
	}
	if len(texts) != 1 {
		t.Errorf("refusals differ: %v", texts)
	}
}

// Clients of Event Hubs sign with the text of the key, and lower-case what they sign.
func TestServiceByEventHubsClients(t *testing.T) {
	v := newVerifier(newBook())
	sign := func(sr, key, policy string) string {
		return sas.Sign(sr, []byte(key), later, policy)
	}
	const resource = "selvedge/ConsumerGroups/$Default/Partitions/0"
	for _, key := range []string{secret("service1"), secret("service2")} {
		for _, sr := range []string{"sb://hub.example.net/selvedge", "amqps://hub.example.net/selvedge/consumergroups/$default/partitions/0", "hub.example.net"} {
			if name, err := v.Service(t.Context(), sign(sr, key, "service"), resource, ServiceConnect); err != nil || name != "service" {
				t.Errorf("%s: %q, %v", sr, name, err)
			}
		}
	}
	for what, text := range map[string]string{
		"the text of another key": sign("sb://hub.example.net/selvedge", secret("device1"), "service"),
		"no key":                  sign("sb://hub.example.net/selvedge", "", "service"),
		"an unknown policy":       sign("sb://hub.example.net/selvedge", "", "nobody"),
		"zeros":                   sign("sb://hub.example.net/selvedge", string(nobody[:]), "nobody"),
		"another place":           sign("sb://hub.example.net/selvedge/ConsumerGroups/other", secret("service1"), "service"),
	} {
		if name, err := v.Service(t.Context(), text, resource, ServiceConnect); !fault.Is(err, fault.UnauthorizedAccess) {
			t.Errorf("%s: %q, %v", what, name, err)
		}
	}
	if err := v.DeviceToken(t.Context(), sas.Sign("hub.example.net/devices/dev", []byte(secret("dev1")), later, ""), dev); !fault.Is(err, fault.Unauthorized) {
		t.Errorf("a device with the text of its key: %v", err)
	}
}
