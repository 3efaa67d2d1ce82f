package e2e

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/test/rig"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

// stranger dials from an address of its own, since the hub writes only so many lines
// about one host.
func stranger(id rig.Identity, n int) rig.Identity {
	id.From = fmt.Sprintf("127.0.1.%d", n+1)
	return id
}

// TestRefusedConnects holds the hub to the CONNACK codes of the reference and to a log
// line that names the cause and no secret.
func TestRefusedConnects(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	good := h.Device(t, "good")
	other := h.Device(t, "other")
	module := h.Module(t, "good", "mod")
	witness := dial(t, good) // must not be disturbed
	h.Must(t, "device", "create", "x509-1", "--auth", "x509-thumbprint", "--primary-thumbprint", strings.Repeat("AB", 32))
	hello := func(id rig.Identity, password string) mqtt.Connect {
		return mqtt.Connect{Version: mqtt.V311, ClientID: id.Name(), CleanSession: true, KeepAlive: 60, Username: id.User(),
			HasUsername: true, Password: []byte(password), HasPassword: password != ""}
	}
	valid := good.Token(time.Now().Add(time.Hour))
	wrong := good
	wrong.Key = base64.StdEncoding.EncodeToString([]byte("another key of thirty-two bytes."))
	unknown := wrong
	unknown.Device = "nobody"
	x509 := wrong
	x509.Device = "x509-1"
	changed := func(change func(*mqtt.Connect)) mqtt.Connect {
		p := hello(good, valid)
		change(&p)
		return p
	}
	t.Run("all", func(t *testing.T) {
		for n, c := range []struct {
			name  string
			hello mqtt.Connect
			says  []string // in the log, in one line
		}{
			{"wrong key", hello(good, wrong.Token(time.Now().Add(time.Hour))), []string{"good", "neither of its keys"}},
			{"unknown device", hello(unknown, unknown.Token(time.Now().Add(time.Hour))), []string{"nobody"}},
			{"key for a device with a certificate", hello(x509, x509.Token(time.Now().Add(time.Hour))), []string{"x509-1"}},
			{"expired token", hello(good, good.Token(time.Now().Add(-6*time.Minute))), []string{"good", "expired"}},
			{"token of another device", hello(good, other.Token(time.Now().Add(time.Hour))), []string{"good"}},
			{"token of a module", hello(good, module.Token(time.Now().Add(time.Hour))), []string{"good"}},
			{"token of its device", hello(module, valid), []string{"mod"}},
			{"token that is none", hello(good, "SharedAccessSignature nonsense"), []string{"good"}},
			{"no password", hello(good, ""), []string{"good"}},
			{"other client id", changed(func(p *mqtt.Connect) { p.ClientID = "other" }), []string{"good", "client id"}},
			{"no api-version", changed(func(p *mqtt.Connect) { p.Username = "localhost/good/?DeviceClientType=x" }), []string{"api-version"}},
			{"user name of one part", changed(func(p *mqtt.Connect) { p.Username = "good" }), []string{"user name"}},
			{"foreign will", changed(func(p *mqtt.Connect) {
				p.Will = &mqtt.Will{Topic: "devices/other/messages/events/", Payload: []byte("x")}
			}), []string{"good", "will topic"}},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel() // the hub lets those it refuses linger for a second
				conn, err := rig.DialRaw(t.Context(), stranger(good, n))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Drop()
				err = conn.Hello(&c.hello)
				if refusal, ok := errors.AsType[rig.Refusal](err); !ok || refusal != rig.Refusal(mqtt.RefusedNotAuthorized) {
					t.Fatalf("the answer is %v, want CONNACK 5", err)
				}
				conn.AwaitClose(t, 5*time.Second)
				from := fmt.Sprintf("127.0.1.%d:", n+1)
				rig.Eventually(t, fmt.Sprintf("a log line with %q", c.says), func() bool { return h.Err.Line(append(c.says, from)...) != "" })
				if c.hello.HasPassword && len(c.hello.Password) > 40 && h.Err.Contains(signature(string(c.hello.Password))) {
					t.Error("the log holds the signature")
				}
			})
		}
	})
	t.Run("just expired is good", func(t *testing.T) {
		id := other
		id.Password = other.Token(time.Now().Add(-time.Minute))
		dial(t, id).Close()
	})
	send(t, witness, "devices/good/messages/events/"+asJSON, `{"still":"here"}`)
}

// signature is the secret part of a token.
func signature(token string) string {
	_, rest, _ := strings.Cut(token, "sig=")
	sig, _, _ := strings.Cut(rest, "&")
	if sig == "" {
		return "no signature"
	}
	return sig
}

// TestMalformedPackets sends what no client should. The hub ends that connection, says
// why, and nobody else notices.
func TestMalformedPackets(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	good := h.Device(t, "good")
	witness := dial(t, good)
	publish := func(qos byte, topic string, size int) []byte {
		p := mqtt.Publish{Topic: topic, QoS: qos, Payload: make([]byte, size)}
		if qos > 0 {
			p.ID = 1
		}
		return p.Append(nil, mqtt.V311)
	}
	raw := func(b []byte) func(string) []byte { return func(string) []byte { return b } }
	first := func(level byte, name string) []byte { // CONNECT of another version
		b := append([]byte{0x10, byte(2 + len(name) + 4 + 2 + 1), 0, byte(len(name))}, name...)
		return append(b, level, 2, 0, 60, 0, 1, 'x')
	}
	for n, c := range []struct {
		name   string
		before bool                   // instead of CONNECT
		bytes  func(id string) []byte // what device id sends
		answer []byte                 // what may come before the end; nil: nothing
		says   string                 // in the log
	}{
		{"noise", true, raw([]byte("GET / HTTP/1.1\r\n\r\n")), nil, "MQTT"},
		{"zeros", true, raw(make([]byte, 64)), nil, "reserved"},
		{"PUBLISH first", true, raw(publish(1, "devices/x/messages/events/", 1)), nil, "not CONNECT"},
		{"other protocol", true, raw(first(4, "MQTX")), nil, "protocol name"},
		{"MQTT 3.1", true, raw(first(3, "MQIsdp")), nil, "protocol name"},
		{"MQTT 5", true, raw(first(5, "MQTT")), []byte{0x20, 2, 0, 1}, "version"},
		{"huge CONNECT", true, raw([]byte{0x10, 0xff, 0xff, 0xff, 0x7f}), nil, "larger"},
		{"second CONNECT", false, raw(first(4, "MQTT")), nil, "second CONNECT"},
		{"QoS 2", false, func(id string) []byte { return publish(2, "devices/"+id+"/messages/events/", 1) }, nil, "QoS 2"},
		{"QoS 3", false, raw([]byte{0x36, 5, 0, 1, 'x', 0, 1}), nil, "QoS"},
		{"packet id 0", false, raw([]byte{0x32, 5, 0, 1, 'x', 0, 0}), nil, "packet id"},
		{"other device", false, raw(publish(1, "devices/good/messages/events/", 1)), nil, "not allowed"},
		{"own module", false, func(id string) []byte { return publish(1, "devices/"+id+"/modules/m/messages/events/", 1) }, nil, "not allowed"},
		{"unknown topic", false, raw(publish(1, "some/topic", 1)), nil, "not allowed"},
		{"twin without request id", false, raw(publish(0, "$iothub/twin/GET/", 1)), nil, "twin"},
		{"300 KiB", false, func(id string) []byte { return publish(1, "devices/"+id+"/messages/events/", 300<<10) }, nil, "262144"},
		{"endless length", false, raw([]byte{0x30, 0xff, 0xff, 0xff, 0xff, 0x7f}), nil, "remaining length"},
		{"reserved type", false, raw([]byte{0xf0, 0}), nil, "reserved"},
		{"SUBSCRIBE to all", false, raw((&mqtt.Subscribe{ID: 1, Filters: []mqtt.Subscription{{Filter: "#"}}}).Append(nil, mqtt.V311)), nil, "#"},
		{"SUBSCRIBE to another", false, raw((&mqtt.Subscribe{ID: 1, Filters: []mqtt.Subscription{{Filter: "devices/good/messages/devicebound/#"}}}).Append(nil, mqtt.V311)), nil, "good"},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := stranger(h.Device(t, fmt.Sprintf("bad-%d", n)), n)
			var conn *rig.Client
			var err error
			if c.before {
				conn, err = rig.DialRaw(t.Context(), id)
			} else {
				conn, err = rig.Dial(t.Context(), id)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Drop()
			if b := c.bytes(id.Device); len(b) > 100<<10 {
				_ = conn.Write(b) // the hub need not read it all
			} else if err := conn.Write(b); err != nil {
				t.Fatal(err)
			}
			var got []byte
			for {
				f, err := conn.Next(10 * time.Second)
				if err != nil {
					if ne, ok := errors.AsType[interface {
						error
						Timeout() bool
					}](err); ok && ne.Timeout() {
						t.Error("the hub did not end the connection")
					}
					break
				}
				got = append(append(got, byte(f.Type)<<4|f.Flags, byte(len(f.Body))), f.Body...)
			}
			if string(got) != string(c.answer) {
				t.Errorf("the hub answered % x, want % x", got, c.answer)
			}
			rig.Eventually(t, fmt.Sprintf("a log line with %q", c.says), func() bool {
				return h.Err.Line("WARN", c.says, fmt.Sprintf("127.0.1.%d:", n+1)) != ""
			})
			send(t, witness, "devices/good/messages/events/"+asJSON, fmt.Sprintf(`{"after":%d}`, n))
		})
	}
	if h.Err.Contains("panic") {
		t.Error("the log holds a panic")
	}
	events := h.Events(t, "--device", "good")
	for n := range 20 {
		select {
		case e := <-events:
			if want := fmt.Sprintf(`{"after":%d}`, n); string(e.Body) != want {
				t.Errorf("event %d is %s, want %s", n, e.Body, want)
			}
		case <-time.After(rig.Patience):
			t.Fatalf("event %d is lost", n)
		}
	}
}

// TestRefusedTwins sends patches that the reference refuses; the connection lives on
// and the twin is as it was.
func TestRefusedTwins(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	c := dial(t, h.Device(t, "twin"))
	if err := c.Subscribe("$iothub/twin/res/#", 0); err != nil {
		t.Fatal(err)
	}
	ask := func(topic, body string) (status, answer string) {
		t.Helper()
		if err := c.Tell(topic, []byte(body)); err != nil {
			t.Fatal(err)
		}
		got, payload, err := c.Message(rig.Patience)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimPrefix(got, "$iothub/twin/res/"), payload
	}
	deep := strings.Repeat(`{"a":`, 12) + "1" + strings.Repeat("}", 12)
	for n, c := range []struct{ name, version, body, status, code string }{
		{"not JSON", "", `{"a":`, "400", "4000"},
		{"not an object", "", `[1]`, "400", "4000"},
		{"key with $", "", `{"good":1,"$bad":2}`, "400", "4000"},
		{"key with a dot", "", `{"a.b":1}`, "400", "4000"},
		{"too deep", "", deep, "400", "4000"},
		{"long string", "", `{"a":"` + strings.Repeat("x", 5000) + `"}`, "400", "4000"},
		{"large number", "", `{"a":4503599627370496}`, "400", "4000"},
		{"other version", "&$version=77", `{"a":1}`, "412", "412001"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, answer := ask(fmt.Sprintf("$iothub/twin/PATCH/properties/reported/?$rid=%d%s", n, c.version), c.body)
			if want := fmt.Sprintf("%s/?$rid=%d", c.status, n); status != want {
				t.Errorf("answered %q, want %q", status, want)
			}
			if !strings.Contains(answer, `"errorCode":`+c.code) || !strings.Contains(answer, `"message":`) {
				t.Errorf("the body is %q, want errorCode %s", answer, c.code)
			}
		})
	}
	var large []string
	for n := range 9 {
		large = append(large, fmt.Sprintf(`"k%d":%q`, n, strings.Repeat("x", 4000)))
	}
	if status, answer := ask("$iothub/twin/PATCH/properties/reported/?$rid=large", "{"+strings.Join(large, ",")+"}"); !strings.HasPrefix(status, "4") ||
		!strings.Contains(answer, `"errorCode":4`) {
		t.Errorf("a patch of 36 KB is answered %q with %q", status, answer)
	}
	status, answer := ask("$iothub/twin/GET/?$rid=end", " ")
	if status != "200/?$rid=end" || answer != `{"desired":{"$version":1},"reported":{"$version":1}}` {
		t.Errorf("after the refusals the twin is %q, %s", status, answer)
	}
	if status, _ := ask("$iothub/twin/PATCH/properties/reported/?$rid=good", `{"a":1}`); status != "204/?$rid=good&$version=2" {
		t.Errorf("a good patch is answered %q", status)
	}
}

// TestMessageSizes: 255 KiB are taken, and what is taken arrives whole.
func TestMessageSizes(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	c := dial(t, h.Device(t, "sizes"))
	body := `"` + strings.Repeat("x", 255<<10) + `"`
	send(t, c, "devices/sizes/messages/events/"+asJSON, body)
	select {
	case e := <-h.Events(t, "--device", "sizes"):
		if string(e.Body) != body {
			t.Errorf("the body came with %d bytes, want %d", len(e.Body), len(body))
		}
	case <-time.After(rig.Patience):
		t.Fatal("the message did not arrive")
	}
}
