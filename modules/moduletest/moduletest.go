// Package moduletest is an edge runtime for tests of modules: the real MQTT head over
// TLS with a backend in memory behind it, and the workload API on a Unix socket.
package moduletest

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
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/head/mqtthead"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/trust/sas"
)

const (
	hub     = "hub.example.com"
	gateway = "gateway.local"
)

// Edge is an edge device with one module.
type Edge struct {
	*headtest.Backend
	ID  ident.ID          // of the module
	Env map[string]string // of the module; tests add to it

	t       testing.TB
	key     []byte
	token   uint64      // of the last delivery
	reports chan string // patches of reported properties, taken over
}

// Start makes an edge whose broker lets in the module alone.
func Start(t testing.TB) *Edge {
	t.Helper()
	e := &Edge{Backend: &headtest.Backend{}, ID: ident.ID{Device: "edge", Module: "module"}, t: t, key: []byte(rand.Text()), reports: make(chan string, 100)}
	e.Judge = e.judge
	cert, root := certificate(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := mqtthead.New(mqtthead.Config{Backend: e}).Serve(ctx, l); err != nil {
			t.Errorf("serve MQTT: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); serving.Wait() })
	e.Env = map[string]string{
		"IOTEDGE_WORKLOADURI": "unix://" + e.workload(root), "IOTEDGE_DEVICEID": e.ID.Device, "IOTEDGE_MODULEID": e.ID.Module,
		"IOTEDGE_MODULEGENERATIONID": "1", "IOTEDGE_IOTHUBHOSTNAME": hub, "IOTEDGE_AUTHSCHEME": "sasToken",
		"IOTEDGE_GATEWAYHOSTNAME": gateway, "SELVEDGE_GATEWAY_MQTT": l.Addr().String(),
	}
	return e
}

// judge knows the module by its key.
func (e *Edge) judge(c *ident.Claim) (*ident.Principal, error) {
	token, err := sas.Parse(c.Token)
	if err != nil || !token.Verify(e.key) || token.Audience() != hub+"/"+e.ID.Resource() || c.ID != e.ID {
		return nil, fault.New(fault.Unauthorized, "this is not %s", e.ID)
	}
	return &ident.Principal{ID: c.ID}, nil
}

// Report implements head.Backend.
func (e *Edge) Report(ctx context.Context, of ident.ID, patch []byte, ifVersion int64) (int64, error) {
	version, err := e.Backend.Report(ctx, of, patch, ifVersion)
	if err == nil {
		select {
		case e.reports <- string(patch):
		default: // the test is not interested
		}
	}
	return version, err
}

// Reported waits for the module's next patch of reported properties.
func (e *Edge) Reported() string {
	e.t.Helper()
	select {
	case patch := <-e.reports:
		return patch
	case <-time.After(10 * time.Second):
		e.t.Fatal("the module reports nothing")
		return ""
	}
}

// workload serves the workload API (edge-runtime 3.2) and gives its socket.
func (e *Edge) workload(root []byte) (socket string) {
	e.t.Helper()
	socket = filepath.Join(e.t.TempDir(), "w.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		e.t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /modules/"+e.ID.Module+"/genid/1/sign", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Data []byte }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, `{"message":"not JSON"}`, http.StatusUnprocessableEntity)
			return
		}
		digest := base64.StdEncoding.EncodeToString(sas.Derive(e.key, string(in.Data)))
		json.NewEncoder(w).Encode(map[string]string{"digest": digest})
	})
	mux.HandleFunc("GET /trust-bundle", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(map[string]string{"certificate": string(root)})
	})
	server := &http.Server{Handler: mux}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(l) })
	e.t.Cleanup(func() { server.Close(); serving.Wait() })
	return socket
}

// certificate makes a server certificate that is its own root.
func certificate(t testing.TB) (cert tls.Certificate, root []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: gateway}, DNSNames: []string{gateway},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// Run runs a module until the returned function, or the end of the test, stops it, and
// wants it to stop cleanly.
func (e *Edge) Run(run func(ctx context.Context, env func(string) string, log *slog.Logger) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, func(name string) string { return e.Env[name] }, slog.New(slog.NewTextHandler(e.t.Output(), nil)))
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				e.t.Errorf("the module ended with %v", err)
			}
		case <-time.After(10 * time.Second):
			e.t.Error("the module does not stop")
		}
	})
	e.t.Cleanup(stop)
	return stop
}

// Connected waits until the module takes messages, and gives its connection.
func (e *Edge) Connected() *headtest.Attachment {
	e.t.Helper()
	return e.AwaitOpen(e.t, e.ID, head.Inputs)
}

// Deliver sends messages to an input of the module.
func (e *Edge) Deliver(a *headtest.Attachment, input string, ms ...message.Message) {
	var batch []head.Delivery
	for i := range ms {
		e.token++
		ms[i].System.Input = input
		batch = append(batch, head.Delivery{Token: e.token, Message: &ms[i]})
	}
	a.Device.Deliver(head.Inputs, batch)
}
