package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/head/amqphead"
	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/head/mqtthead"
	"github.com/selvedge-io/selvedge/head/wshead"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/trust/sas"
)

const host = "hub.example.com"

var (
	dev      = ident.ID{Device: "dev"}
	mod      = ident.ID{Device: "dev", Module: "mod"}
	key      = []byte("0123456789abcdef0123456789abcdef")
	testTime = time.Unix(1<<31, 0)
)

// judge lets in who signed with key.
func judge(c *ident.Claim) (*ident.Principal, error) {
	t, err := sas.Parse(c.Token)
	if err != nil || !t.Verify(key) || t.Audience() != host+"/"+c.ID.Resource() || time.Now().After(t.Expiry) {
		return nil, fault.New(fault.Unauthorized, "no")
	}
	return &ident.Principal{ID: c.ID}, nil
}

// rig is the real server on a loopback port, with a backend in memory behind it.
type rig struct {
	t     testing.TB
	b     *headtest.Backend
	addr  string
	stop  func()
	speak Protocol
}

func serve(t testing.TB, b *headtest.Backend) *rig {
	t.Helper()
	return serveBy(t, MQTT, b)
}

// serveBy is serve in some protocol.
func serveBy(t testing.TB, p Protocol, b *headtest.Backend) *rig {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, p, b, l)
}

// eachProtocol runs a test in every protocol.
func eachProtocol(t *testing.T, test func(*testing.T, Protocol)) {
	for _, p := range []Protocol{MQTT, AMQP, MQTTWS, AMQPWS} {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			test(t, p)
		})
	}
}

func serveOn(t testing.TB, p Protocol, b *headtest.Backend, l net.Listener) *rig {
	ctx, cancel := context.WithCancel(context.Background())
	mqtt, amqp := mqtthead.New(mqtthead.Config{Backend: b}), amqphead.New(amqphead.Config{Backend: b})
	run := mqtt.Serve
	switch p {
	case AMQP:
		run = amqp.Serve
	case MQTTWS, AMQPWS:
		run = func(ctx context.Context, l net.Listener) error {
			sockets := wshead.New(map[string]wshead.Server{wshead.MQTT: mqtt, wshead.AMQP: amqp}, nil)
			web := &http.Server{Handler: sockets}
			go func() {
				<-ctx.Done()
				web.Close()
			}()
			if err := web.Serve(l); err != http.ErrServerClosed {
				return err
			}
			sockets.Close()
			return nil
		}
	}
	done := make(chan error, 1)
	go func() { done <- run(ctx, l) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve() = %v", err)
		}
	})
	t.Cleanup(stop)
	return &rig{t, b, l.Addr().String(), stop, p}
}

// config is for a plain connection to the rig.
func (r *rig) config(id ident.ID) Config {
	return Config{Protocol: r.speak, Host: host, Address: r.addr, ID: id, Credentials: SharedKey(key, ""), Plain: true}
}

func (r *rig) dial(id ident.ID, change ...func(*Config)) *Client {
	r.t.Helper()
	cfg := r.config(id)
	for _, f := range change {
		f(&cfg)
	}
	c, err := Dial(within(r.t), cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

// within is a context that ends a test that hangs.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func wait[T any](t testing.TB, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(15 * time.Second):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

func text(s string) message.Message { return message.Message{Body: []byte(s)} }

// texts makes a batch of one message for each word.
func texts(words string) []message.Message {
	var batch []message.Message
	for w := range strings.FieldsSeq(words) {
		batch = append(batch, text(w))
	}
	return batch
}

func bodies(ms []headtest.Received) string {
	var words []string
	for _, m := range ms {
		words = append(words, string(m.Body))
	}
	return strings.Join(words, " ")
}

// certificate makes a self-signed server certificate for name.
func certificate(t testing.TB, name string) (tls.Certificate, []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func serveTLS(t testing.TB, p Protocol, b *headtest.Backend, name string) (r *rig, root []byte) {
	t.Helper()
	cert, root := certificate(t, name)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, p, b, l), root
}
