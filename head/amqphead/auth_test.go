package amqphead

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	azure "github.com/Azure/go-amqp"
	"github.com/google/uuid"

	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/trust/sas"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

var key = []byte("key")

// byToken is a judge that takes tokens signed with key for the identity, and
// certificates whose name it is.
func byToken(c *ident.Claim) (*ident.Principal, error) {
	if c.Token == "" {
		if len(c.Certificates) > 0 && c.Certificates[0].Subject.CommonName == c.ID.Device {
			return &ident.Principal{ID: c.ID, Generation: "x509"}, nil
		}
		return nil, fault.New(fault.Unauthorized, "no proof")
	}
	t, err := sas.Parse(c.Token)
	switch {
	case err != nil:
		return nil, fault.New(fault.Unauthorized, "unreadable")
	case !t.Verify(key):
		return nil, fault.New(fault.Unauthorized, "wrong key")
	case t.Policy == "device":
	case !strings.EqualFold(below(t.Audience()), c.ID.Resource()):
		return nil, fault.New(fault.Unauthorized, "token is for another")
	}
	expires := t.Expiry.Add(skew)
	if !expires.After(time.Now()) {
		return nil, fault.New(fault.Unauthorized, "expired")
	}
	return &ident.Principal{ID: c.ID, Generation: "sas", ModelID: c.ModelID, Expires: expires}, nil
}

// conditionOfErr is the condition in an error of the Go client.
func conditionOfErr(err error) string {
	if e, ok := errors.AsType[*azure.Error](err); ok {
		return string(e.Condition)
	}
	if e, ok := errors.AsType[*azure.LinkError](err); ok && e.RemoteErr != nil {
		return string(e.RemoteErr.Condition)
	}
	if e, ok := errors.AsType[*azure.ConnError](err); ok && e.RemoteErr != nil {
		return string(e.RemoteErr.Condition)
	}
	return ""
}

func TestTokens(t *testing.T) {
	r := serve(t, &headtest.Backend{Judge: byToken})
	c := r.dial(nil)
	x := c.cbs()
	good := tokenFor(dev)
	for _, id := range []any{"text", azure.UUID(uuid.New()), uint64(0), uint64(1 << 40), []byte{1, 2}} {
		code, text, answer := x.put(id, host+"/devices/dev", good)
		if b, ok := id.([]byte); ok {
			if got, ok := answer.Properties.CorrelationID.([]byte); !ok || string(got) != string(b) {
				t.Errorf("id %v comes back as %v", id, answer.Properties.CorrelationID)
			}
		} else if answer.Properties.CorrelationID != id {
			t.Errorf("id %v comes back as %v", id, answer.Properties.CorrelationID)
		}
		if code != 200 || text == "" {
			t.Errorf("%d %q", code, text)
		}
	}
	sign := func(resource string, key string, valid time.Duration, policy string) string {
		return sas.Sign(resource, []byte(key), time.Now().Add(valid), policy)
	}
	for _, q := range []struct {
		what, name, token string
		code              int32
	}{
		{"name escaped", "hub%2Fdevices%2Fdev", good, 200},
		{"name with scheme", "amqps://hub/devices/dev", good, 200},
		{"name is a host", host, good, 200},
		{"no name", "", good, 200},
		{"in grace", "", sign(host+"/devices/dev", "key", -time.Minute, ""), 200},
		{"expired", "", sign(host+"/devices/dev", "key", -time.Hour, ""), 401},
		{"wrong key", "", sign(host+"/devices/dev", "other", time.Hour, ""), 401},
		{"for a policy", "", sign(host, "key", time.Hour, "device"), 200},
		{"signed in lower case, named in full", host + "/devices/Dev", sign(host+"/devices/dev", "key", time.Hour, ""), 200},
		{"no token", "", "password", 401},
		{"bearer", "", "Bearer abc", 401},
	} {
		if code, text, _ := x.put("1", q.name, q.token); code != q.code || text == "" {
			t.Errorf("%s: %d %q", q.what, code, text)
		}
	}
	m := &azure.Message{Properties: &azure.MessageProperties{MessageID: "1"}, ApplicationProperties: map[string]any{"operation": "dance"}}
	if code, text, _ := x.request(m); code != 400 || text == "" {
		t.Errorf("an unknown operation: %d %q", code, text)
	}
	m.ApplicationProperties["operation"] = "put-token"
	if code, text, _ := x.request(m); code != 400 || text == "" {
		t.Errorf("no body: %d %q", code, text)
	}
	m.ApplicationProperties = map[string]any{"operation": "delete-token", "name": "x/devices/dev"}
	for _, want := range []int32{200, 404} {
		if code, _, _ := x.request(m); code != want {
			t.Errorf("delete-token: %d, want %d", code, want)
		}
	}
	m.ApplicationProperties["name"] = host
	if code, _, _ := x.request(m); code != 200 {
		t.Errorf("delete-token: %d", code)
	}
	if _, err := c.s.NewSender(soon(t), "/devices/dev/messages/events", nil); conditionOfErr(err) != "amqp:unauthorized-access" {
		t.Errorf("without its token: %v", err)
	}
}

// TestRefusedLinks wants a refusal as the Hub writes it.
func TestRefusedLinks(t *testing.T) {
	r := serve(t, &headtest.Backend{Judge: byToken})
	c := r.connect(dev)
	for _, q := range []struct {
		address, condition string
		receiver           bool
	}{
		{"/devices/other/messages/events", "amqp:unauthorized-access", false},
		{"/devices/dev/modules/mod/twin", "amqp:unauthorized-access", true},
		{"/devices/dev/messages/events", "amqp:not-found", true},
		{"/devices/dev/messages/devicebound", "amqp:not-found", false},
		{"/devices/dev/nowhere", "amqp:not-found", false},
		{"/messages/devicebound", "amqp:not-found", false},
		{"", "amqp:not-found", false},
	} {
		var err error
		if q.receiver {
			_, err = c.s.NewReceiver(soon(t), q.address, nil)
		} else {
			_, err = c.s.NewSender(soon(t), q.address, nil)
		}
		if conditionOfErr(err) != q.condition {
			t.Errorf("%s: %v", q.address, err)
			continue
		}
		e, _ := errors.AsType[*azure.Error](err)
		var told struct {
			ErrorCode                         int
			TrackingID, Message, TimestampUTC string
		}
		if e == nil || json.Unmarshal([]byte(e.Description), &told) != nil || told.ErrorCode == 0 || told.Message == "" || told.TrackingID == "" ||
			e.Info["com.microsoft:tracking-id"] != told.TrackingID {
			t.Errorf("%s: described as %+v", q.address, e)
			continue
		}
		r.awaitLog("WARN", "AMQP link refused", told.TrackingID)
	}
	s := c.sender("/devices/dev/messages/events", nil) // the connection has not suffered
	if err := s.Send(soon(t), azure.NewMessage(nil), nil); err != nil {
		t.Error(err)
	}
}

func TestLogins(t *testing.T) {
	services := &fakeServices{}
	r := serve(t, &headtest.Backend{Judge: byToken}, func(c *Config) { c.Services = services })
	odd := ident.ID{Device: "a@b%c"}
	policy := sas.Sign(host, key, time.Now().Add(time.Hour), "service")
	for _, q := range []struct {
		what           string
		opts           azure.SASLType
		address        string
		refused, fails bool
	}{
		{"device", azure.SASLTypePlain("dev@sas.hub", tokenFor(dev)), "devices/dev/messages/events", false, false},
		{"device without sas.", azure.SASLTypePlain("dev@hub", tokenFor(dev)), "devices/dev/messages/events", false, false},
		{"module", azure.SASLTypePlain("dev/modules/mod@sas.hub", tokenFor(mod)), "devices/dev/modules/mod/messages/events", false, false},
		{"odd device", azure.SASLTypePlain("a%40b%25c@sas.hub", tokenFor(odd)), "devices/a@b%25c/messages/events", false, false},
		{"another's link", azure.SASLTypePlain("dev@sas.hub", tokenFor(dev)), "devices/other/messages/events", false, true},
		{"wrong key", azure.SASLTypePlain("dev@sas.hub", sas.Sign(host+"/devices/dev", []byte("x"), time.Now().Add(time.Hour), "")), "", true, false},
		{"another's token", azure.SASLTypePlain("dev@sas.hub", tokenFor(mod)), "", true, false},
		{"no token", azure.SASLTypePlain("dev@sas.hub", "password"), "", true, false},
		{"nobody", azure.SASLTypePlain("", tokenFor(dev)), "", true, false},
		{"policy", azure.SASLTypePlain("service@sas.root.hub", policy), "", false, false},
		{"policy by key", azure.SASLTypePlain("service", base64.StdEncoding.EncodeToString(key)), "", false, false},
		{"policy by wrong key", azure.SASLTypePlain("service", base64.StdEncoding.EncodeToString([]byte("x"))), "", true, false},
		{"policy by something", azure.SASLTypePlain("service", "!"), "", true, false},
		{"policy with another's token", azure.SASLTypePlain("other@sas.root.hub", policy), "", true, false},
		{"anonymous", azure.SASLTypeAnonymous(), "devices/dev/messages/events", false, true},
		{"external without a certificate", azure.SASLTypeExternal(""), "", true, false},
	} {
		c, err := r.tryDial(&azure.ConnOptions{SASLType: q.opts})
		if (err != nil) != q.refused {
			t.Errorf("%s: %v", q.what, err)
		}
		if err != nil || q.address == "" {
			continue
		}
		if _, err := c.s.NewSender(soon(t), q.address, nil); (err != nil) != q.fails {
			t.Errorf("%s: %v", q.what, err)
		}
	}
}

// fakeServices takes tokens signed with key.
type fakeServices struct{}

func (*fakeServices) Service(_ context.Context, authorization, resource string, need Right) (string, error) {
	t, err := sas.Parse(authorization)
	if err != nil || !t.Verify(key) || t.Policy == "" {
		return "", fault.New(fault.UnauthorizedAccess, "not yours")
	}
	if need == 0x80 {
		return "", fault.New(fault.UnauthorizedAccess, "the right is missing")
	}
	if scope := below(t.Audience()); !strings.HasPrefix(resource, scope) {
		return "", fault.New(fault.UnauthorizedAccess, "the token is for %q, not %q", scope, resource)
	}
	return t.Policy, nil
}

// links serves /service/PATH to those whom Service lets in.
type links struct {
	need Right
	over chan error
}

func (l *links) Attach(c *Conn, address string, in *amqp.Incoming) bool {
	if !strings.HasPrefix(address, "service/") {
		return false
	}
	c.Go(func(ctx context.Context) {
		policy, expires, err := c.Service(ctx, address, l.need)
		if err != nil {
			in.Refuse(ErrorOf(err))
			return
		}
		r, err := in.Receiver(amqp.Accepting{Properties: amqp.Map{{Key: amqp.Symbol("policy"), Value: policy}}}, amqp.Receiving{Window: 10}, amqp.ReceiverFuncs{})
		if err == nil {
			c.Watch(address, l.need, expires, func(err error) {
				r.Detach(ErrorOf(err))
				l.over <- err
			})
		}
	})
	return true
}

func TestServices(t *testing.T) {
	t.Parallel()
	l := &links{over: make(chan error, 10)}
	r := serve(t, &headtest.Backend{Judge: byToken}, func(c *Config) { c.Services, c.Links = &fakeServices{}, l })
	c := r.dial(nil)
	x := c.cbs()
	if _, err := c.s.NewSender(soon(t), "amqps://hub/service/a", nil); conditionOfErr(err) != "amqp:unauthorized-access" {
		t.Errorf("without a token: %v", err)
	}
	put := func(scope string, left time.Duration) {
		t.Helper()
		token := sas.Sign("sb://"+host+"/"+scope, key, time.Now().Add(left-skew), "service")
		if code, text, _ := x.put("1", "sb://"+host, token); code != 200 {
			t.Fatalf("%d %s", code, text)
		}
	}
	put("service/a", 3*time.Second)
	if _, err := c.s.NewSender(soon(t), "service/b", nil); conditionOfErr(err) != "amqp:unauthorized-access" {
		t.Errorf("another's scope: %v", err)
	}
	s := c.sender("service/a", nil)
	if s.Properties()["policy"] != "service" {
		t.Errorf("%v", s.Properties())
	}
	// A newer token makes it last, one that ends in turn ends it.
	put("service/a", 4*time.Second)
	begun := time.Now()
	select {
	case err := <-l.over:
		if !fault.Is(err, fault.UnauthorizedAccess) || time.Since(begun) < 3*time.Second {
			t.Errorf("over after %v: %v", time.Since(begun), err)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("the link outlives its token")
	}
	if err := s.Send(soon(t), azure.NewMessage(nil), nil); conditionOfErr(err) != "amqp:unauthorized-access" {
		t.Errorf("after the end: %v", err)
	}
	l.need = 0x80
	put("", time.Hour)
	if _, err := c.s.NewSender(soon(t), "service/a", nil); conditionOfErr(err) != "amqp:unauthorized-access" {
		t.Errorf("without the right: %v", err)
	}
	// What logs in with a key has no end.
	byKey := r.dial(&azure.ConnOptions{SASLType: azure.SASLTypePlain("service", base64.StdEncoding.EncodeToString(key))})
	l.need = 1
	byKey.sender("service/a", nil)
}
