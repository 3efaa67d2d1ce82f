package auth

import (
	"strings"
	"testing"

	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/percent"
)

// Whatever the audience, it must name one of our hosts, and what covers a module
// must cover, or be below, its device.
func FuzzAudience(f *testing.F) {
	for _, sr := range []string{"hub.example.net", "hub.example.net%2Fdevices%2Fdev", "amqps://gateway:5671/devices/dev/modules/$edgeHub/x",
		"hub.example.net/devices/dev%2Fmodules", "://", "gateway//devices", "%67ateway/devices/dev/", "gateway:/devices"} {
		f.Add(sr, "dev", "$edgeHub")
	}
	v := newVerifier(newBook())
	f.Fuzz(func(t *testing.T, sr, device, module string) {
		id := ident.ID{Device: device, Module: module}
		if id.Check() != nil || module == "" {
			return
		}
		named := strings.ToLower(percent.Unescape(percent.Unescape(percent.Unescape(sr))))
		ours := strings.Contains(named, "hub.example.net") || strings.Contains(named, "gateway")
		if (v.owns(sr, id) || v.covers(sr, id) || v.prefixes(sr, "twins/"+device)) && !ours {
			t.Errorf("%q names none of our hosts", sr)
		}
		parent := ident.ID{Device: device}
		if v.owns(sr, id) && v.owns(sr, parent) {
			t.Errorf("%q is the audience of both %s and its device", sr, id)
		}
		if v.covers(sr, parent) && !strings.Contains(strings.ToLower(percent.Unescape(sr)), "/devices/") && !v.covers(sr, id) {
			t.Errorf("%q covers %s but not its module", sr, parent)
		}
	})
}
