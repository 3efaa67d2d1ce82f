package mqtthead

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

const (
	host = "hub.example.com"
	user = host + "/dev/?api-version=2021-04-12&DeviceClientType=test"
)

var (
	dev = ident.ID{Device: "dev"}
	mod = ident.ID{Device: "dev", Module: "mod"}
)

// lines keeps what is logged.
type lines struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{} // closed and replaced at each write
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
	return l.b.Write(b)
}

func (l *lines) read() (text string, changed chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String(), l.changed
}

// rig is a server on a loopback port with a fake behind it.
type rig struct {
	t    testing.TB
	b    *headtest.Backend
	addr string
	log  *lines
	stop func() // ends Serve and waits for it
}

func serve(t testing.TB, b *headtest.Backend, change ...func(*Config)) *rig {
	t.Helper()
	log := &lines{changed: make(chan struct{})}
	cfg := Config{Backend: b, Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, c := range change {
		c(&cfg)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- New(cfg).Serve(ctx, l) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve() = %v", err)
		}
	})
	t.Cleanup(stop)
	return &rig{t, b, l.Addr().String(), log, stop}
}

// awaitLog waits for a line that holds all of parts.
func (r *rig) awaitLog(level string, parts ...string) {
	r.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		text, changed := r.log.read()
		for line := range strings.SplitSeq(text, "\n") {
			ok := strings.Contains(line, "level="+level)
			for _, p := range parts {
				ok = ok && strings.Contains(line, p)
			}
			if ok {
				return
			}
		}
		select {
		case <-changed:
		case <-timeout:
			r.t.Fatalf("no log line at %s with %q in:\n%s", level, parts, text)
		}
	}
}

// peer is a client that does nothing by itself.
type peer struct {
	t testing.TB
	net.Conn
	r *mqtt.Reader
}

func (r *rig) dial() *peer {
	r.t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	return newPeer(r.t, c)
}

func newPeer(t testing.TB, c net.Conn) *peer {
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(15 * time.Second))
	return &peer{t, c, mqtt.NewReader(c, 0)}
}

// connect dials and connects as id, and wants to be accepted.
func (r *rig) connect(id ident.ID, change ...func(*mqtt.Connect)) (p *peer, present bool) {
	r.t.Helper()
	p = r.dial()
	p.send(connectPacket(id, change...))
	ack := p.connack()
	if ack.Code != mqtt.Accepted {
		r.t.Fatalf("CONNACK %d", ack.Code)
	}
	return p, ack.SessionPresent
}

func connectPacket(id ident.ID, change ...func(*mqtt.Connect)) []byte {
	c := mqtt.Connect{
		Version: mqtt.V311, ClientID: id.String(), CleanSession: true, KeepAlive: 60,
		Username: host + "/" + id.String() + "/?api-version=2021-04-12", HasUsername: true,
		Password: []byte("SharedAccessSignature sr=x&sig=y&se=1"), HasPassword: true,
	}
	for _, f := range change {
		f(&c)
	}
	return c.Append(nil)
}

func keep(c *mqtt.Connect) { c.CleanSession = false }

func (p *peer) send(packets ...[]byte) {
	p.t.Helper()
	if _, err := p.Write(bytes.Join(packets, nil)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) next(want mqtt.Type) mqtt.Frame {
	p.t.Helper()
	f, err := p.r.Next()
	if err != nil {
		p.t.Fatalf("waiting for %v: %v", want, err)
	}
	if f.Type != want {
		p.t.Fatalf("got %v %q, want %v", f.Type, f.Body, want)
	}
	return f
}

func (p *peer) connack() (ack mqtt.Connack) {
	p.t.Helper()
	if err := ack.Decode(p.next(mqtt.TypeConnack)); err != nil {
		p.t.Fatal(err)
	}
	return ack
}

func (p *peer) puback() uint16 {
	p.t.Helper()
	var ack mqtt.Ack
	if err := ack.Decode(p.next(mqtt.TypePuback)); err != nil {
		p.t.Fatal(err)
	}
	return ack.ID
}

func (p *peer) wantPubacks(ids ...uint16) {
	p.t.Helper()
	for _, want := range ids {
		if got := p.puback(); got != want {
			p.t.Fatalf("PUBACK %d, want %d", got, want)
		}
	}
}

// publish waits for a PUBLISH and checks it; the payload is only compared when
// given.
func (p *peer) publish(topic string, payload ...string) mqtt.Publish {
	p.t.Helper()
	var got mqtt.Publish
	if err := got.Decode(p.next(mqtt.TypePublish)); err != nil {
		p.t.Fatal(err)
	}
	got.Topic, got.Payload = string([]byte(got.Topic)), bytes.Clone(got.Payload)
	if got.Topic != topic {
		p.t.Fatalf("publish to %q, want %q", got.Topic, topic)
	}
	if len(payload) > 0 && string(got.Payload) != payload[0] {
		p.t.Fatalf("publish to %q with %q, want %q", topic, got.Payload, payload[0])
	}
	if got.Retain {
		p.t.Errorf("publish to %q has RETAIN", topic)
	}
	return got
}

// subscribe asks for filters at qos and wants them granted.
func (p *peer) subscribe(qos byte, filters ...string) {
	p.t.Helper()
	s := mqtt.Subscribe{ID: 77}
	for _, f := range filters {
		s.Filters = append(s.Filters, mqtt.Subscription{Filter: f, QoS: qos})
	}
	p.send(s.Append(nil, mqtt.V311))
	var ack mqtt.Suback
	if err := ack.Decode(p.next(mqtt.TypeSuback)); err != nil {
		p.t.Fatal(err)
	}
	if want := bytes.Repeat([]byte{min(qos, 1)}, len(filters)); ack.ID != 77 || !bytes.Equal(ack.Codes, want) {
		p.t.Fatalf("SUBACK %d %v, want 77 %v", ack.ID, ack.Codes, want)
	}
}

// wantClosed wants the server to end the connection without another packet.
func (p *peer) wantClosed() {
	p.t.Helper()
	f, err := p.r.Next()
	if err == nil {
		p.t.Fatalf("got %v %q, want the connection closed", f.Type, f.Body)
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		p.t.Fatal("the connection was not closed")
	}
}

// wantQuiet wants nothing but the answer to a PINGREQ.
func (p *peer) wantQuiet() {
	p.t.Helper()
	p.send(mqtt.AppendEmpty(nil, mqtt.TypePingreq))
	p.next(mqtt.TypePingresp)
}

// pub encodes a publish; a QoS above zero takes id.
func pub(qos byte, id uint16, topic, payload string) []byte {
	p := mqtt.Publish{Topic: topic, Payload: []byte(payload), QoS: qos}
	if qos > 0 {
		p.ID = id
	}
	return p.Append(nil, mqtt.V311)
}

func puback(id uint16) []byte {
	return (&mqtt.Ack{Type: mqtt.TypePuback, ID: id}).Append(nil, mqtt.V311)
}
