package amqphead

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	azure "github.com/Azure/go-amqp"
	"github.com/google/uuid"

	"github.com/selvedge-io/selvedge/head"
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

// TestExpiry: an identity whose token ends loses its links, unless it brings a new one
// in time; its neighbour keeps them.
func TestExpiry(t *testing.T) {
	t.Parallel()
	r := serve(t, &headtest.Backend{Judge: byToken})
	c := r.dial(nil)
	x := c.cbs()
	ids := []ident.ID{{Device: "ends"}, {Device: "renews"}, {Device: "stays"}}
	senders := map[ident.ID]*azure.Sender{}
	for i, left := range []time.Duration{2 * time.Second, 2 * time.Second, time.Hour} {
		token := sas.Sign(host+"/"+ids[i].Resource(), key, time.Now().Add(left-skew), "")
		if code, text, _ := x.put("1", "", token); code != 200 {
			t.Fatalf("%d %s", code, text)
		}
		senders[ids[i]] = c.sender(ids[i].Resource()+"/messages/events", nil)
	}
	if code, text, _ := x.put("1", "", tokenFor(ids[1])); code != 200 {
		t.Fatalf("%d %s", code, text)
	}
	r.b.AwaitGone(t, ids[0])
	if err := senders[ids[0]].Send(soon(t), azure.NewMessage(nil), nil); conditionOfErr(err) != "amqp:unauthorized-access" {
		t.Errorf("after its end: %v", err)
	}
	for _, id := range ids[1:] {
		if err := senders[id].Send(soon(t), azure.NewMessage(nil), nil); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	// It may come back.
	if code, _, _ := x.put("1", "", tokenFor(ids[0])); code != 200 {
		t.Error(code)
	}
	c.sender(ids[0].Resource()+"/messages/events", nil)
}

// TestLastIdentityExpires: a connection without any identity left is closed.
func TestLastIdentityExpires(t *testing.T) {
	t.Parallel()
	r := serve(t, &headtest.Backend{Judge: byToken})
	token := sas.Sign(host+"/devices/dev", key, time.Now().Add(time.Second-skew), "")
	c := r.dial(&azure.ConnOptions{SASLType: azure.SASLTypePlain("dev@sas.hub", token)})
	c.sender("devices/dev/messages/events", nil)
	select {
	case <-c.Conn.Done():
		if conditionOfErr(c.Conn.Err()) != "amqp:unauthorized-access" {
			t.Errorf("%v", c.Conn.Err())
		}
	case <-time.After(10 * time.Second):
		t.Error("the connection outlives its login")
	}
}

// TestUnproved: who proves nothing is not kept.
func TestUnproved(t *testing.T) {
	t.Parallel()
	r := serve(t, &headtest.Backend{Judge: byToken}, func(c *Config) { c.ConnectTimeout = 300 * time.Millisecond })
	c := r.dial(nil)
	select {
	case <-c.Conn.Done():
	case <-time.After(10 * time.Second):
		t.Error("the connection is kept")
	}
}

func TestTakeOver(t *testing.T) {
	r := serve(t, &headtest.Backend{Judge: byToken})
	other := ident.ID{Device: "other"}
	a := r.connect(dev, other)
	mine, neighbour := a.sender("devices/dev/messages/events", nil), a.sender("devices/other/messages/events", nil)
	in := a.receiver("devices/dev/messages/devicebound", nil)
	r.b.AwaitOpen(t, dev, head.ToDevice)
	b := r.connect(dev)
	second := b.sender("devices/dev/messages/events", nil)
	if _, err := in.Receive(soon(t), nil); conditionOfErr(err) != "amqp:link:stolen" {
		t.Errorf("the receiver of the first: %v", err)
	}
	if err := mine.Send(soon(t), azure.NewMessage(nil), nil); conditionOfErr(err) != "amqp:link:stolen" {
		t.Errorf("the sender of the first: %v", err)
	}
	for _, s := range []*azure.Sender{neighbour, second} {
		if err := s.Send(soon(t), azure.NewMessage(nil), nil); err != nil {
			t.Error(err)
		}
	}
	// A stranger takes nothing over.
	c := r.connect(other)
	if _, err := c.s.NewSender(soon(t), "devices/dev/messages/events", nil); conditionOfErr(err) != "amqp:unauthorized-access" {
		t.Error(err)
	}
	if err := second.Send(soon(t), azure.NewMessage(nil), nil); err != nil {
		t.Error(err)
	}
}

// TestModels: what a later link announces is told, too.
func TestModels(t *testing.T) {
	b := &modelBackend{Backend: headtest.Backend{Judge: byToken}, told: make(chan string, 1)}
	r := serveBackend(t, b, &b.Backend)
	c := r.connect(dev)
	c.receiver("devices/dev/twin", nil)
	c.sender("devices/dev/messages/events", &azure.SenderOptions{Properties: map[string]any{"com.microsoft:model-id": "dtmi:x;1"}})
	select {
	case model := <-b.told:
		if model != "dtmi:x;1" {
			t.Error(model)
		}
	case <-time.After(10 * time.Second):
		t.Error("the model is not told")
	}
}

type modelBackend struct {
	headtest.Backend
	told chan string
}

func (b *modelBackend) SetModel(_ context.Context, _ ident.ID, model string) error {
	b.told <- model
	return nil
}

// TestCertificates: an identity without a token is proved by the certificate of TLS.
func TestCertificates(t *testing.T) {
	r := serve(t, &headtest.Backend{Judge: byToken})
	mine := certificate(t, "dev")
	server := certificate(t, "localhost")
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequestClientCert})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	serving.Go(func() { r.s.Serve(ctx, l) })
	t.Cleanup(func() { cancel(); serving.Wait() })
	for _, sasl := range []azure.SASLType{nil, azure.SASLTypeExternal("")} {
		nc, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{Certificates: []tls.Certificate{mine}, InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := azure.NewConn(soon(t), nc, &azure.ConnOptions{SASLType: sasl})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		s, err := conn.NewSession(soon(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.NewSender(soon(t), "devices/dev/messages/events", nil); err != nil {
			t.Error(err)
		}
		if _, err := s.NewSender(soon(t), "devices/other/messages/events", nil); conditionOfErr(err) != "amqp:unauthorized-access" {
			t.Error(err)
		}
	}
}

// certificate makes a self-signed one.
func certificate(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
