package amqphead

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/percent"
	"github.com/selvedge-io/selvedge/trust/sas"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// identitiesOf gives the identities that a token may be for, the likeliest first. The
// resource it was signed for may be encoded up to twice, and is in lower case with
// some clients; the name put beside it may be a mere host, or lack the module.
func identitiesOf(resource, name string) (found []ident.ID) {
	add := func(text string) {
		for range 3 {
			if id, ok := identityOf(text); ok && !slices.Contains(found, id) {
				found = append(found, id)
			}
			decoded := percent.Unescape(text)
			if decoded == text {
				return
			}
			text = decoded
		}
	}
	add(resource)
	add(name)
	return found
}

// identityOf reads HOST/devices/DEVICE[/modules/MODULE], whatever may follow.
func identityOf(audience string) (id ident.ID, ok bool) {
	parts := strings.SplitN(below(audience), "/", 5)
	if len(parts) < 2 || !strings.EqualFold(parts[0], "devices") {
		return id, false
	}
	id.Device = parts[1]
	if len(parts) >= 4 && strings.EqualFold(parts[2], "modules") {
		id.Module = parts[3]
	}
	return id, id.Check() == nil
}

// loginName is the user name of SASL PLAIN (device-protocol 6.1.1, service-protocol 9.1).
type loginName struct {
	id     ident.ID // of a device or module
	policy string   // when id is zero
}

// parseLogin reads DEVICE@sas.HUB, DEVICE/modules/MODULE@sas.HUB, both also without
// "sas.", POLICY@sas.root.HUB, and POLICY alone. Ids are percent-encoded.
func parseLogin(user string) (n loginName, err error) {
	at := strings.LastIndexByte(user, '@')
	if at < 0 {
		n.policy = user
	} else if _, ok := cutFold(user[at+1:], "sas.root."); ok {
		n.policy = percent.Unescape(user[:at])
	} else {
		device, module, isModule := strings.Cut(user[:at], "/")
		if isModule {
			rest, ok := cutFold(module, "modules/")
			if module = percent.Unescape(rest); !ok || module == "" {
				return n, fault.New(fault.ArgumentInvalid, "user name %.300q is not DEVICE/modules/MODULE@sas.HUB", user)
			}
		}
		n.id = ident.ID{Device: percent.Unescape(device), Module: module}
		return n, n.id.Check()
	}
	if n.policy == "" {
		return n, fault.New(fault.ArgumentInvalid, "the user name is empty")
	}
	return n, nil
}

// login decides about SASL. All but PLAIN leave the proof to tokens or certificates.
func (c *Conn) login(ctx context.Context, who amqp.Credentials) error {
	switch {
	case who.Mechanism == amqp.External && len(c.certificates) == 0:
		return errors.New("EXTERNAL without a client certificate")
	case who.Mechanism != amqp.Plain:
		return nil
	}
	name, err := parseLogin(who.Username)
	if err != nil {
		return err
	}
	t, err := c.loginToken(name, who)
	if err != nil {
		return err
	}
	if !name.id.IsZero() {
		_, err = c.srv.cfg.Backend.Authenticate(ctx, &ident.Claim{ID: name.id, Host: who.Hostname, Token: t.text, Remote: c.remote})
		// Whatever form the token has, it is this identity's.
		t.resource = "/" + strings.ToLower(name.id.Resource())
	} else if c.srv.cfg.Services == nil {
		err = fault.New(fault.Unauthorized, "there are no policies here")
	} else {
		_, err = c.srv.cfg.Services.Service(ctx, t.text, below(t.resource), 0)
	}
	if err != nil {
		return err
	}
	c.proved.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tokens.put(t, c.srv.cfg.MaxIdentities, time.Now())
}

// loginToken is the password as a token. A policy may bring its key instead, as Event
// Hubs clients do; one made with it says the same and does not end.
func (c *Conn) loginToken(name loginName, who amqp.Credentials) (*token, error) {
	if parsed, err := sas.Parse(who.Password); err == nil {
		if name.policy != "" && parsed.Policy != name.policy {
			return nil, fault.New(fault.Unauthorized, "the token is of another policy than the user name says")
		}
		return &token{text: who.Password, resource: strings.ToLower(parsed.Audience()), policy: parsed.Policy, expires: parsed.Expiry.Add(skew)}, nil
	} else if name.policy == "" {
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(who.Password)
	if err != nil || len(key) == 0 {
		return nil, fault.New(fault.Unauthorized, "the password is neither a token nor a key")
	}
	host := c.srv.cfg.Host
	if host == "" {
		host = who.Hostname
	}
	text := sas.Sign(host, key, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), name.policy)
	return &token{text: text, resource: strings.ToLower(host), policy: name.policy}, nil
}
