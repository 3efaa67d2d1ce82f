package client

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

// raw is a server that sends what a test says. It accepts every CONNECT.
type raw struct {
	t testing.TB
	net.Conn
	r *mqtt.Reader
}

// dialRaw connects a client to a raw server.
func dialRaw(t testing.TB, change ...func(*Config)) (*Client, *raw) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	servers := make(chan *raw, 1)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			close(servers)
			return
		}
		s := &raw{t, nc, mqtt.NewReader(nc, 0)}
		nc.SetDeadline(time.Now().Add(15 * time.Second))
		if _, err := s.r.Next(); err == nil {
			ack := mqtt.Connack{}
			nc.Write(ack.Append(nil, mqtt.V311))
		}
		servers <- s
	}()
	cfg := Config{Host: host, Address: l.Addr().String(), ID: mod, Credentials: SharedKey(key, ""), Plain: true}
	for _, f := range change {
		f(&cfg)
	}
	c, err := Dial(within(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := <-servers
	t.Cleanup(func() { s.Close(); c.Close() })
	return c, s
}

// next reads a packet of the type wanted; others are skipped.
func (s *raw) next(want mqtt.Type) mqtt.Frame {
	s.t.Helper()
	for {
		f, err := s.r.Next()
		if err != nil {
			s.t.Fatalf("waiting for %v: %v", want, err)
		}
		if f.Type == want {
			return f
		}
	}
}

func (s *raw) send(packets ...[]byte) {
	s.t.Helper()
	for _, p := range packets {
		if _, err := s.Write(p); err != nil {
			s.t.Fatal(err)
		}
	}
}

func publish(topic, body string, qos byte, id uint16) []byte {
	p := mqtt.Publish{Topic: topic, Payload: []byte(body), QoS: qos, ID: id}
	return p.Append(nil, mqtt.V311)
}

func puback(id uint16) []byte {
	p := mqtt.Ack{Type: mqtt.TypePuback, ID: id}
	return p.Append(nil, mqtt.V311)
}

// TestPubacksOutOfOrder is what no good server does; the done calls stay in order.
func TestPubacksOutOfOrder(t *testing.T) {
	c, s := dialRaw(t)
	done := make(chan string, 4)
	for _, words := range []string{"a a", "b", "c"} {
		c.Publish(texts(words), func(err error) {
			if err != nil {
				words += err.Error()
			}
			done <- words
		})
	}
	var ids []uint16
	for range 4 {
		var p mqtt.Publish
		if err := p.Decode(s.next(mqtt.TypePublish)); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, p.ID)
	}
	s.send(puback(ids[3]), puback(ids[0]), puback(ids[2]), puback(40000), puback(20000), puback(ids[3]))
	s.send(publish("$iothub/twin/res/200/?$rid=none", "", 1, 77))
	s.next(mqtt.TypePuback) // so the client has read all that
	if len(done) > 0 {
		t.Fatalf("done call of %q with a message before it unacknowledged", <-done)
	}
	s.send(puback(ids[1]))
	for _, want := range []string{"a a", "b", "c"} {
		if got := wait(t, "done", done); got != want {
			t.Errorf("done call of %q, want %q", got, want)
		}
	}
}

func TestServerBreaksRules(t *testing.T) {
	for name, packet := range map[string][]byte{
		"garbage":       []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"QoS 2":         publish("devices/dev/modules/mod/inputs/in/%24.cdid=d", "", 2, 1),
		"a CONNECT":     {0x10, 0},
		"too large":     {0x30, 0xff, 0xff, 0xff, 0x7f},
		"puback id 0":   {0x40, 2, 0, 0},
		"second answer": {0x20, 2, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := dialRaw(t)
			acked := make(chan error, 1)
			c.Publish(texts("a"), func(err error) { acked <- err })
			s.send(packet)
			if err := wait(t, "done", acked); err == nil {
				t.Error("the message counts as acknowledged")
			}
			wait(t, "Done", c.Done())
		})
	}
}

// TestServerFloods sends more than a handler takes: memory stays bounded.
func TestServerFloods(t *testing.T) {
	c, s := dialRaw(t)
	entered := make(chan bool, 1)
	go s.subscribed()
	err := c.OnMessage(within(t), func(ctx context.Context, _ *message.Message) error {
		entered <- true
		<-ctx.Done()
		return ctx.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	body := strings.Repeat("x", message.MaxTelemetry-10)
	packet := publish("devices/dev/modules/mod/inputs/in/%24.cdid=d", body, 1, 1)
	go func() {
		for range 2 * maxInboxBytes / len(body) {
			if _, err := s.Write(packet); err != nil {
				return
			}
		}
	}()
	wait(t, "the handler", entered)
	wait(t, "Done", c.Done())
	if !fault.Is(c.Err(), fault.TooManyInflight) {
		t.Errorf("Err() = %v", c.Err())
	}
}

// subscribed grants the next subscription.
func (s *raw) subscribed() {
	f, err := s.r.Next()
	var p mqtt.Subscribe
	if err == nil && p.Decode(f) == nil {
		ack := mqtt.Suback{ID: p.ID, Codes: []byte{p.Filters[0].QoS}}
		s.Write(ack.Append(nil, mqtt.V311))
	}
}

func TestSubscriptionRefused(t *testing.T) {
	c, s := dialRaw(t)
	go func() {
		f, err := s.r.Next()
		var p mqtt.Subscribe
		if err == nil && p.Decode(f) == nil {
			ack := mqtt.Suback{ID: p.ID, Codes: []byte{mqtt.SubackFailure}}
			s.Write(ack.Append(nil, mqtt.V311))
		}
	}()
	if err := c.OnDesired(within(t), func(int64, []byte) {}); !fault.Is(err, fault.UnauthorizedAccess) {
		t.Errorf("OnDesired() = %v", err)
	}
}

// TestSilentServer checks that pings go out and that a server that does not answer
// them is given up.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	c, s := dialRaw(t, func(c *Config) { c.KeepAlive = time.Second })
	s.next(mqtt.TypePingreq)
	s.send(mqtt.AppendEmpty(nil, mqtt.TypePingresp))
	s.next(mqtt.TypePingreq) // and then nothing
	wait(t, "Done", c.Done())
	if !fault.Is(c.Err(), fault.GatewayTimeout) {
		t.Errorf("Err() = %v", c.Err())
	}
}

func TestServerGone(t *testing.T) {
	c, s := dialRaw(t)
	s.Close()
	wait(t, "Done", c.Done())
	if err := c.Err(); !fault.Temporary(err) && !errors.As(err, new(*net.OpError)) {
		t.Errorf("Err() = %v", err)
	}
	if _, err := c.Report(within(t), []byte(`{}`)); err == nil {
		t.Error("Report() went through")
	}
}

// TestTwinRefusals reads the answers of the Hub and of edgeHub.
func TestTwinRefusals(t *testing.T) {
	for _, test := range []struct {
		status int
		body   string
		code   fault.Code
		text   string
	}{
		{200, `{}`, 0, ""}, {204, ``, 0, ""},
		{400, `{"errorCode":400006,"message":"not JSON"}`, fault.IotHubFormatError, "not JSON"},
		{412, ``, fault.PreconditionFailed, "status 412"},
		{429, `{"errorCode":429001}`, fault.Throttled, "status 429"},
		{503, `{"errorCode":400001,"message":"m"}`, fault.Unavailable, "m"},
		{418, `<html>`, fault.ServerError, "status 418"},
		{101, ``, fault.ServerError, "status 101"},
	} {
		err := refusalOf(response{status: test.status, body: []byte(test.body)})
		if fault.CodeOf(err) != test.code || err != nil && !strings.Contains(err.Error(), test.text) {
			t.Errorf("%d %s: %v", test.status, test.body, err)
		}
	}
}
