package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
)

// book is a directory in memory.
type book struct {
	records  map[ident.ID]Record
	policies map[string]Policy
	trouble  error // what every question is answered with, when set
}

func (b *book) Identity(_ context.Context, id ident.ID) (Record, error) {
	if b.trouble != nil {
		return Record{}, b.trouble
	}
	r, ok := b.records[id]
	switch {
	case !ok && id.IsModule():
		return Record{}, fault.New(fault.ModuleNotFound, "no module %s", id)
	case !ok:
		return Record{}, fault.New(fault.DeviceNotFound, "no device %s", id)
	}
	return r, nil
}

func (b *book) Policy(_ context.Context, name string) (Policy, error) {
	if b.trouble != nil {
		return Policy{}, b.trouble
	}
	p, ok := b.policies[name]
	if !ok {
		return Policy{}, fault.New(fault.Unauthorized, "no policy %s", name)
	}
	return p, nil
}

// secret is a key, different for each text.
func secret(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// noon is the time in all tests.
var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

var (
	dev    = ident.ID{Device: "dev"}
	mod    = ident.ID{Device: "dev", Module: "$edgeHub"}
	other  = ident.ID{Device: "device"}
	odd    = ident.ID{Device: "a#b%41(c)!"}
	off    = ident.ID{Device: "off"}
	thumb  = ident.ID{Device: "thumb"}
	signed = ident.ID{Device: "signed"}
	none   = ident.ID{Device: "dev", Module: "none"}
	absent = ident.ID{Device: "absent"}
)

// newBook has an identity of every kind. Keys are named KIND1 and KIND2.
func newBook() *book {
	b := &book{records: map[ident.ID]Record{}, policies: map[string]Policy{}}
	for id, name := range map[ident.ID]string{dev: "dev", mod: "mod", other: "other", odd: "odd", off: "off"} {
		b.records[id] = Record{ID: id, Enabled: id != off, Generation: "gen-" + name, Type: TypeSAS,
			Keys: [2]string{secret(name + "1"), secret(name + "2")}}
	}
	b.records[thumb] = Record{ID: thumb, Enabled: true, Generation: "gen-thumb", Type: TypeThumbprint}
	b.records[signed] = Record{ID: signed, Enabled: true, Generation: "gen-signed", Type: TypeAuthority}
	b.records[none] = Record{ID: none, Enabled: true, Generation: "gen-none", Type: TypeNone}
	for name, rights := range map[string]Right{"iothubowner": RegistryRead | RegistryWrite | ServiceConnect | DeviceConnect,
		"service": ServiceConnect, "device": DeviceConnect, "registryRead": RegistryRead} {
		b.policies[name] = Policy{Name: name, Rights: rights, Keys: [2]string{secret(name + "1"), secret(name + "2")}}
	}
	return b
}

func newVerifier(b *book) *Verifier {
	return New(Config{Directory: b, Hosts: []string{"Hub.Example.net", "gateway"}, Now: func() time.Time { return noon }})
}

// token signs an audience as it stands with the key of a name.
func token(t testing.TB, sr, key string, expires time.Time, policy string) string {
	t.Helper()
	k, err := base64.StdEncoding.DecodeString(secret(key))
	if err != nil {
		t.Fatal(err)
	}
	se := fmt.Sprint(expires.Unix())
	mac := hmac.New(sha256.New, k)
	fmt.Fprintf(mac, "%s\n%s", sr, se)
	text := "SharedAccessSignature sr=" + sr + "&sig=" + url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil))) + "&se=" + se
	if policy != "" {
		text += "&skn=" + policy
	}
	return text
}
