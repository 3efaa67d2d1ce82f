package mqtthead

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/head/wshead"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

func TestConnect(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p, present := r.connect(dev, func(c *mqtt.Connect) {
		c.Username = user + "&model-id=dtmi%3Aa%3Bb"
		c.Password = []byte("token")
	})
	if present {
		t.Error("SESSION PRESENT at the first connect")
	}
	p.wantQuiet()
	c := r.b.Claims()[0]
	if c.ID != dev || c.Host != host || c.Token != "token" || c.ClientType != "test" || c.ModelID != "dtmi:a;b" ||
		c.APIVersion != "2021-04-12" || c.Remote != p.LocalAddr().String() {
		t.Errorf("claim %+v", c)
	}
	p.send(mqtt.AppendEmpty(nil, mqtt.TypeDisconnect))
	p.wantClosed()
	r.b.AwaitGone(t, dev)
	r.awaitLog("DEBUG", "device=dev", "DISCONNECT")
}

func TestConnackCodes(t *testing.T) {
	refuse := func(err error) func(*ident.Claim) (*ident.Principal, error) {
		return func(*ident.Claim) (*ident.Principal, error) { return nil, err }
	}
	for _, test := range []struct {
		name   string
		judge  func(*ident.Claim) (*ident.Principal, error)
		change func(*mqtt.Connect)
		want   mqtt.Code
	}{
		{"malformed user name", nil, func(c *mqtt.Connect) { c.Username = "dev" }, mqtt.RefusedNotAuthorized},
		{"no user name", nil, func(c *mqtt.Connect) { c.HasUsername, c.HasPassword = false, false }, mqtt.RefusedNotAuthorized},
		{"no api-version", nil, func(c *mqtt.Connect) { c.Username = host + "/dev/?x=y" }, mqtt.RefusedNotAuthorized},
		{"other client id", nil, func(c *mqtt.Connect) { c.ClientID = "Dev" }, mqtt.RefusedNotAuthorized},
		{"empty client id", nil, func(c *mqtt.Connect) { c.ClientID = "" }, mqtt.RefusedNotAuthorized},
		{"foreign will", nil, func(c *mqtt.Connect) { c.Will = &mqtt.Will{Topic: "devices/other/messages/events/"} }, mqtt.RefusedNotAuthorized},
		{"wrong key", refuse(fault.New(fault.Unauthorized, "no")), nil, mqtt.RefusedNotAuthorized},
		{"disabled", refuse(fault.New(fault.DeviceDisabled, "no")), nil, mqtt.RefusedNotAuthorized},
		{"unknown", refuse(fault.New(fault.DeviceNotFound, "no")), nil, mqtt.RefusedNotAuthorized},
		{"internal", refuse(errors.New("disk on fire")), nil, mqtt.RefusedUnavailable},
		{"unavailable", refuse(fault.New(fault.Unavailable, "later")), nil, mqtt.RefusedUnavailable},
		{"throttled", refuse(fault.New(fault.Throttled, "later")), nil, mqtt.RefusedUnavailable},
		{"time-out", refuse(context.DeadlineExceeded), nil, mqtt.RefusedUnavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := serve(t, &headtest.Backend{Judge: test.judge})
			p := r.dial()
			change := test.change
			if change == nil {
				change = func(*mqtt.Connect) {}
			}
			// What is pipelined must not cost the client its CONNACK.
			p.send(connectPacket(dev, change), pub(1, 1, "devices/dev/messages/events/", string(make([]byte, 30_000))))
			if got := p.connack(); got.Code != test.want || got.SessionPresent {
				t.Errorf("CONNACK %+v, want code %d", got, test.want)
			}
			p.wantClosed()
			p.Close() // or the server lingers for its CONNACK to be read
			r.awaitLog("WARN", "MQTT connection refused")
			if text, _ := r.log.read(); len(text) > 0 && containsSecret(text) {
				t.Errorf("the log holds the token:\n%s", text)
			}
		})
	}
}

func containsSecret(s string) bool {
	for i := range len(s) - 20 {
		if s[i:i+21] == "SharedAccessSignature" {
			return true
		}
	}
	return false
}

func TestProtocolLevels(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	for level, answered := range map[byte]bool{3: true, 5: true} {
		p := r.dial()
		p.send([]byte{0x10, 13, 0, 4, 'M', 'Q', 'T', 'T', level, 2, 0, 60, 0, 1, 'a'})
		if got := p.connack(); answered && got.Code != mqtt.RefusedVersion {
			t.Errorf("level %d: CONNACK %d, want 1", level, got.Code)
		}
		p.wantClosed()
	}
	p := r.dial() // MQTT 3.1
	p.send([]byte{0x10, 15, 0, 6, 'M', 'Q', 'I', 's', 'd', 'p', 3, 2, 0, 60, 0, 1, 'a'})
	p.wantClosed()
}

func TestBadStart(t *testing.T) {
	r := serve(t, &headtest.Backend{}, func(c *Config) { c.ConnectTimeout = 50 * time.Millisecond })
	for name, test := range map[string]struct {
		b    []byte
		line string
	}{
		"not CONNECT": {mqtt.AppendEmpty(nil, mqtt.TypePingreq), "first packet is PINGREQ"},
		"too large":   {connectPacket(dev, func(c *mqtt.Connect) { c.Password = make([]byte, maxFirst) }), "larger than allowed"},
		"garbage":     {[]byte("GET / HTTP/1.1\r\n\r\n"), "malformed"},
		"silence":     {nil, "no CONNECT arrived"},
		"half":        {connectPacket(dev)[:10], "no CONNECT arrived"},
	} {
		t.Run(name, func(t *testing.T) {
			p := r.dial()
			p.send(test.b)
			p.wantClosed()
			r.awaitLog("WARN", test.line)
		})
	}
}

func TestSessionsAreKept(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p, _ := r.connect(dev, keep)
	p.subscribe(1, "devices/dev/messages/devicebound/#", "$iothub/methods/POST/#")
	p.subscribe(0, "$iothub/twin/PATCH/properties/desired/#", "$iothub/twin/res/#")
	p.send(mqtt.AppendEmpty(nil, mqtt.TypeDisconnect))
	p.wantClosed()
	r.b.AwaitGone(t, dev)

	p, present := r.connect(dev, keep)
	if !present {
		t.Error("no SESSION PRESENT")
	}
	a := r.b.AwaitOpen(t, dev, head.Methods)
	deliver(a, head.ToDevice, 1, toDevice("m1"))
	got := p.publish("devices/dev/messages/devicebound/%24.mid=m1&%24.to=%2Fdevices%2Fdev%2Fmessages%2Fdevicebound")
	if got.QoS != 1 {
		t.Errorf("QoS %d of a restored subscription, want 1", got.QoS)
	}
	r.b.Desire(t, dev, `{"a":1}`)
	p.publish("$iothub/twin/PATCH/properties/desired/?$version=2")
	p.send((&mqtt.Unsubscribe{ID: 5, Filters: []string{"devices/dev/messages/devicebound/#"}}).Append(nil, mqtt.V311))
	p.next(mqtt.TypeUnsuback)
	if subs, found, _ := r.b.Subscriptions(t.Context(), dev); !found || len(subs) != 3 {
		t.Errorf("%v kept after UNSUBSCRIBE, want three", subs)
	}

	// A clean session forgets, and is not kept itself.
	p, present = r.connect(dev)
	if present {
		t.Error("SESSION PRESENT for a clean session")
	}
	p.subscribe(1, "devices/dev/messages/devicebound/#")
	if _, present = r.connect(dev, keep); present {
		t.Error("SESSION PRESENT after a clean session")
	}
}

func TestTakeOver(t *testing.T) {
	b := &headtest.Backend{Judge: func(c *ident.Claim) (*ident.Principal, error) {
		if c.Token == "wrong" {
			return nil, fault.New(fault.Unauthorized, "no")
		}
		return &ident.Principal{ID: c.ID}, nil
	}}
	r := serve(t, b)
	will := func(c *mqtt.Connect) {
		c.Will = &mqtt.Will{Topic: "devices/dev/messages/events/a=b&%24.mid=w", Payload: []byte("gone"), QoS: 1, Retain: true}
	}
	old, _ := r.connect(dev, will)
	module, _ := r.connect(mod)

	bad := r.dial()
	bad.send(connectPacket(dev, func(c *mqtt.Connect) { c.Password = []byte("wrong") }))
	if got := bad.connack().Code; got != mqtt.RefusedNotAuthorized {
		t.Errorf("CONNACK %d, want 5", got)
	}
	old.wantQuiet()

	young, _ := r.connect(dev)
	old.wantClosed()
	young.wantQuiet()
	module.wantQuiet()
	m := b.Messages(t, 1)[0]
	if string(m.Body) != "gone" || m.From != dev || m.System.MessageID != "w" {
		t.Errorf("will %+v", m)
	}
	for name, want := range map[string]string{"a": "b", "iothub-MessageType": "Will", "mqtt-retain": "true"} {
		if got, _ := m.Get(name); got != want {
			t.Errorf("will has %s=%q, want %q", name, got, want)
		}
	}
	r.awaitLog("DEBUG", "device=dev", "took over")
}

func TestWill(t *testing.T) {
	will := func(c *mqtt.Connect) {
		c.Will = &mqtt.Will{Topic: "devices/dev/messages/events/", Payload: []byte("gone")}
	}
	for name, test := range map[string]struct {
		end  func(p *peer)
		want int
	}{
		"disconnect": {func(p *peer) { p.send(mqtt.AppendEmpty(nil, mqtt.TypeDisconnect)) }, 0},
		"cut":        {func(p *peer) { p.Close() }, 1},
		"violation":  {func(p *peer) { p.send(pub(0, 0, "home/kitchen", "x")) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := serve(t, &headtest.Backend{})
			p, _ := r.connect(dev, will)
			test.end(p)
			r.b.AwaitGone(t, dev)
			if got := len(r.b.Messages(t, 0)); got != test.want {
				t.Errorf("%d wills published, want %d", got, test.want)
			}
		})
	}
}

func TestKeepAlive(t *testing.T) {
	// The cap stands for the keep-alive, also for a client that wants none.
	r := serve(t, &headtest.Backend{}, func(c *Config) { c.MaxKeepAlive = 100 * time.Millisecond })
	for _, seconds := range []uint16{0, 600} {
		start := time.Now()
		p, _ := r.connect(dev, func(c *mqtt.Connect) { c.KeepAlive = seconds })
		p.wantClosed()
		if d := time.Since(start); d < 100*time.Millisecond {
			t.Errorf("keep-alive %d: closed after %v", seconds, d)
		}
		r.b.AwaitGone(t, dev)
	}
	r.awaitLog("DEBUG", "keep-alive")

	r = serve(t, &headtest.Backend{})
	start := time.Now()
	p, _ := r.connect(dev, func(c *mqtt.Connect) { c.KeepAlive = 1 })
	p.wantClosed()
	if d := time.Since(start); d < 1500*time.Millisecond || d > 3*time.Second {
		t.Errorf("keep-alive 1 s: closed after %v, want 1.5 s", d)
	}
}

func TestTokenExpires(t *testing.T) {
	b := &headtest.Backend{Judge: func(c *ident.Claim) (*ident.Principal, error) {
		return &ident.Principal{ID: c.ID, Expires: time.Now().Add(100 * time.Millisecond)}, nil
	}}
	r := serve(t, b)
	p, _ := r.connect(dev, func(c *mqtt.Connect) { c.KeepAlive = 1 })
	p.wantClosed()
	r.b.AwaitGone(t, dev)
	r.awaitLog("DEBUG", "device=dev", "expired")
}

func TestShutdown(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	p, _ := r.connect(dev)
	silent := r.dial()
	r.stop()
	p.wantClosed()
	silent.wantClosed()
	r.b.AwaitGone(t, dev)
}

func TestMaxConnections(t *testing.T) {
	r := serve(t, &headtest.Backend{}, func(c *Config) { c.MaxConnections = 1 })
	first, _ := r.connect(dev)
	r.dial().wantClosed()
	r.awaitLog("WARN", "too many connections")
	first.send(mqtt.AppendEmpty(nil, mqtt.TypeDisconnect))
	first.wantClosed()
}

// certificate makes a self-signed one.
func certificate(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestTLS(t *testing.T) {
	b := &headtest.Backend{}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate(t, "server")}, ClientAuth: tls.RequestClientCert})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- New(Config{Backend: b}).Serve(ctx, l) }()
	plain, err := net.Dial("tcp", l.Addr().String()) // never says a word
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{certificate(t, "dev")}})
	if err != nil {
		t.Fatal(err)
	}
	p := newPeer(t, c)
	p.send(connectPacket(dev, func(c *mqtt.Connect) { c.HasPassword, c.Password = false, nil }))
	p.connack()
	claim := b.Claims()[0]
	if claim.Token != "" || len(claim.Certificates) != 1 || claim.Certificates[0].Subject.CommonName != "dev" {
		t.Errorf("claim %+v, want the certificate of dev and no token", claim)
	}
	p.send(pub(1, 1, "devices/dev/messages/events/", "x"))
	p.wantPubacks(1)
	cancel()
	p.wantClosed()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWebSocket(t *testing.T) {
	b := &headtest.Backend{}
	log := &lines{changed: make(chan struct{})}
	server := New(Config{Backend: b, MaxKeepAlive: time.Second,
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	h := wshead.New(map[string]wshead.Server{wshead.MQTT: server}, nil)
	srv := httptest.NewUnstartedServer(h)
	srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	srv.StartTLS()
	defer srv.Close()
	defer h.Close()
	client := srv.Client()
	defer client.CloseIdleConnections()
	dial := func() *peer {
		ws, _, err := websocket.Dial(t.Context(), srv.URL+"/$iothub/websocket", &websocket.DialOptions{HTTPClient: client, Subprotocols: []string{"MQTT"}})
		if err != nil {
			t.Fatal(err)
		}
		return newPeer(t, websocket.NetConn(t.Context(), ws, websocket.MessageBinary))
	}
	p := dial()
	hello := connectPacket(dev)
	p.send(hello[:7]) // cut in two frames
	p.send(hello[7:], pub(1, 1, "devices/dev/messages/events/", string(make([]byte, 200_000))))
	p.connack()
	p.wantPubacks(1)
	if got := len(b.Messages(t, 1)[0].Body); got != 200_000 {
		t.Errorf("body of %d bytes arrived", got)
	}
	r := rig{t: t, b: b, log: log}
	p.subscribe(0, "devices/dev/messages/devicebound/#")
	a := r.b.AwaitOpen(t, dev, head.ToDevice)
	a.Device.Close(fault.New(fault.Unauthorized, "identity deleted"))
	p.wantClosed()
	b.AwaitGone(t, dev)
	r.awaitLog("WARN", "device=dev", "identity deleted")

	p = dial()
	p.send(connectPacket(dev))
	p.connack()
	p.wantClosed() // by silence
	r.awaitLog("DEBUG", "device=dev", "keep-alive")
}
