package amqphead

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	azure "github.com/Azure/go-amqp"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/trust/sas"
)

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
