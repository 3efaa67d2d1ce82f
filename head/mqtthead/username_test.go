package mqtthead

import (
	"strings"
	"testing"

	"github.com/selvedge-io/selvedge/model/ident"
)

func TestParseUserName(t *testing.T) {
	const h = "hub.azure-devices.net"
	claim := func(device, module, version, client, model string) ident.Claim {
		return ident.Claim{ID: ident.ID{Device: device, Module: module}, Host: h, APIVersion: version, ClientType: client, ModelID: model}
	}
	for _, test := range []struct {
		name, user string
		want       ident.Claim
	}{
		{"Node", h + "/dev/?api-version=2021-04-12&DeviceClientType=azure-iot-device%2F1.18.4%20(node%20v20)",
			claim("dev", "", "2021-04-12", "azure-iot-device/1.18.4 (node v20)", "")},
		{"Node, raw model", h + "/dev/?api-version=2021-04-12&model-id=dtmi:a:b;1&DeviceClientType=x",
			claim("dev", "", "2021-04-12", "x", "dtmi:a:b;1")},
		{"Python", h + "/dev/mod/?api-version=2019-10-01&DeviceClientType=azure-iot-device-iothub-py%2F2.14.0",
			claim("dev", "mod", "2019-10-01", "azure-iot-device-iothub-py/2.14.0", "")},
		{"Python, model", h + "/dev/?api-version=2020-09-30&DeviceClientType=x&model-id=dtmi%3Aa%3Ab%3B1",
			claim("dev", "", "2020-09-30", "x", "dtmi:a:b;1")},
		{"C", h + "/dev/?api-version=2020-09-30&DeviceClientType=iothubclient%2f1.13.0%20(native%3b%20Linux)",
			claim("dev", "", "2020-09-30", "iothubclient/1.13.0 (native; Linux)", "")},
		{"Java module", h + "/dev/mod/?api-version=2020-09-30&model-id=m&DeviceClientType=c",
			claim("dev", "mod", "2020-09-30", "c", "m")},
		{"Go device", h + "/dev/api-version=2020-09-30&model-id=m", claim("dev", "", "2020-09-30", "", "m")},
		{"Go module", h + "/dev/mod/?api-version=2018-06-30", claim("dev", "mod", "2018-06-30", "", "")},
		{"historical module", h + "/dev/mod/api-version=2016-11-14", claim("dev", "mod", "2016-11-14", "", "")},
		{"system module", h + "/dev/$edgeHub/?api-version=2018-06-30", claim("dev", "$edgeHub", "2018-06-30", "", "")},
		{"frozen", h + "/dev/mod" + frozenUser,
			claim("dev", "mod", "2017-06-30", "Microsoft.Azure.Devices.Client/1.5.1-preview-003", "")},
		{"question mark in id", h + "/?dev/?mod/?api-version=1", claim("?dev", "?mod", "1", "", "")},
		{"first value wins", h + "/dev/?api-version=1&api-version=2", claim("dev", "", "1", "", "")},
		{"unknown parameter", h + "/dev/?x=1&y&api-version=1", claim("dev", "", "1", "", "")},
		{"plus and stray percent", h + "/dev/?api-version=1&DeviceClientType=a+b%zz%4", claim("dev", "", "1", "a+b%zz%4", "")},
		{"white space", h + "/ dev /?api-version=1", claim("dev", "", "1", "", "")},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseUserName(test.user)
			if err != nil {
				t.Fatal(err)
			}
			if got.ID != test.want.ID || got.Host != test.want.Host || got.APIVersion != test.want.APIVersion ||
				got.ClientType != test.want.ClientType || got.ModelID != test.want.ModelID {
				t.Errorf("got %+v, want %+v", *got, test.want)
			}
		})
	}
	got, err := parseUserName(h + "/leaf/?api-version=1&auth-chain=leaf%3Bedge1%3Bedge2")
	if err != nil || got.AuthChain != "leaf;edge1;edge2" {
		t.Errorf("auth chain %q, %v, want leaf;edge1;edge2", got.AuthChain, err)
	}
}

func TestBadUserNames(t *testing.T) {
	for _, user := range []string{
		"", "dev", "h/dev", "h/dev/", "h/dev/mod", "dev?api-version=1", "h/?api-version=1",
		"h/dev/?DeviceClientType=x", "h/dev/?api-version=", "h//?api-version=1", "h/dev//?api-version=1",
		"h/dev/mod/more/?api-version=1", "h/de v/?api-version=1", "h/d\u00e9v/?api-version=1",
		"h/" + strings.Repeat("d", 129) + "/?api-version=1",
	} {
		if c, err := parseUserName(user); err == nil {
			t.Errorf("%q gave %+v, want an error", user, c)
		}
	}
}

func FuzzUserName(f *testing.F) {
	f.Add(user)
	f.Add("h/d/m" + frozenUser)
	f.Add("h/d/api-version=1&model-id=%")
	f.Fuzz(func(t *testing.T, user string) {
		c, err := parseUserName(user)
		if err != nil {
			return
		}
		if err := c.ID.Check(); err != nil || c.APIVersion == "" {
			t.Errorf("%q gave %+v: %v", user, c, err)
		}
	})
}
