package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
	"github.com/selvedge-io/selvedge/trust/sas"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// connect opens a Mux to the fake hub.
func (h *fakeHub) connect() *Mux {
	h.t.Helper()
	m, err := DialAMQP(within(h.t), h.config(ident.ID{}))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { m.Close() })
	return m
}

func (h *fakeHub) dial(m *Mux, id ident.ID, change ...func(*Config)) *Client {
	h.t.Helper()
	cfg := h.config(id)
	for _, f := range change {
		f(&cfg)
	}
	c, err := m.Dial(within(h.t), cfg)
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

func send(t testing.TB, c *Client, body string) {
	t.Helper()
	m := text(body)
	if err := c.Send(within(t), &m); err != nil {
		t.Errorf("Send(%s) of %v: %v", body, c.ID(), err)
	}
}

// judgeToken lets in who signed with key, for the resource that the token is for.
func judgeToken(_, token string) (int32, string) {
	t, err := sas.Parse(token)
	if err != nil || !t.Verify(key) || time.Now().After(t.Expiry) {
		return 401, `{"errorCode":401003,"message":"no such device"}`
	}
	return 200, "OK"
}

func TestMuxIdentitiesAreApart(t *testing.T) {
	h := (&fakeHub{judge: judgeToken, refuse: func(address string) *amqp.Error {
		if strings.HasPrefix(address, "/devices/disabled/") {
			return &amqp.Error{Condition: amqp.ErrUnauthorized, Description: `{"errorCode":401002,"message":"disabled"}`}
		}
		return nil
	}}).start(t)
	m := h.connect()
	good := h.dial(m, mod)
	for _, test := range []struct {
		cfg  func(*Config)
		want fault.Code
	}{
		{func(c *Config) { c.Credentials = SharedKey([]byte("wrong"), "") }, fault.Unauthorized},
		{func(c *Config) { c.TokenLife = time.Nanosecond }, fault.Unauthorized},
		{func(c *Config) { c.ID = ident.ID{Device: "disabled"} }, fault.UnauthorizedAccess},
	} {
		cfg := h.config(dev)
		test.cfg(&cfg)
		if _, err := m.Dial(within(t), cfg); !fault.Is(err, test.want) {
			t.Errorf("Dial() = %v, want code %d", err, test.want)
		}
		send(t, good, "x")
	}
	other := h.dial(m, ident.ID{Device: "d+1", Module: "$edgeHub"})
	send(t, other, "y")
	if got := h.messages(4)[3]; got != "d%2B1/modules/%24edgeHub y" {
		t.Errorf("arrived: %s", got)
	}
	h.mu.Lock()
	if got := h.tokens[len(h.tokens)-1]; got != host+"/devices/d%2B1/modules/%24edgeHub" || len(h.conns) != 1 {
		t.Errorf("token for %s, %d connections", got, len(h.conns))
	}
	h.mu.Unlock()
	other.Close()
	if other.Err() != ErrClosed || good.Err() != nil {
		t.Errorf("Err() = %v and %v", other.Err(), good.Err())
	}
	h.await("the end of the session", func() bool { return slices.Contains(h.gone, "/devices/d%2B1/modules/%24edgeHub/messages/events") })
	send(t, good, "z")
}

// TestMuxLinkLost lets the server end one identity's links.
func TestMuxLinkLost(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(r *amqp.Receiver)
		want fault.Code
	}{
		"stolen":       {func(r *amqp.Receiver) { r.Detach(&amqp.Error{Condition: amqp.ErrStolen}) }, fault.TakenOver},
		"expired":      {func(r *amqp.Receiver) { r.Detach(&amqp.Error{Condition: amqp.ErrUnauthorized}) }, fault.Unauthorized},
		"going away":   {func(r *amqp.Receiver) { r.Detach(&amqp.Error{Condition: amqp.ErrDetachForced}) }, fault.ConnectionClosed},
		"no reason":    {func(r *amqp.Receiver) { r.Detach(nil) }, fault.ConnectionClosed},
		"limit":        {func(r *amqp.Receiver) { r.Detach(&amqp.Error{Condition: amqp.ErrResourceLimit}) }, fault.Unavailable},
		"session":      {func(r *amqp.Receiver) { r.Session().End(&amqp.Error{Condition: amqp.ErrInternal}) }, fault.ServerError},
		"what is this": {func(r *amqp.Receiver) { r.Detach(&amqp.Error{Condition: "x:y", Description: "text"}) }, fault.ServerError},
	} {
		t.Run(name, func(t *testing.T) {
			h := (&fakeHub{}).start(t)
			m := h.connect()
			c, other := h.dial(m, dev), h.dial(m, mod)
			h.mu.Lock()
			r := h.links["/devices/dev/messages/events"]
			h.mu.Unlock()
			test.end(r)
			wait(t, "Done", c.Done())
			if !fault.Is(c.Err(), test.want) {
				t.Errorf("Err() = %v, want code %d", c.Err(), test.want)
			}
			send(t, other, "x")
			again := h.dial(m, dev)
			send(t, again, "y")
			if again.Close(); m.Err() != nil {
				t.Errorf("the connection ended: %v", m.Err())
			}
		})
	}
}

func TestMuxConnectionLost(t *testing.T) {
	h := (&fakeHub{outcome: func(string, []string) amqp.State { return amqp.State{} }}).start(t)
	m := h.connect()
	var clients []*Client
	failed := make(chan string, 10)
	for i := range 3 {
		c := h.dial(m, ident.ID{Device: fmt.Sprint("d", i)})
		c.Publish(texts("a b"), func(err error) { failed <- fmt.Sprint(i, fault.CodeOf(err)) })
		clients = append(clients, c)
	}
	h.messages(6)
	h.cut()
	wait(t, "the end of the connection", m.Done())
	var got []string
	for _, c := range clients {
		wait(t, "Done", c.Done())
		got = append(got, wait(t, "done", failed))
		if c.Close(); !fault.Is(c.Err(), fault.ConnectionClosed) {
			t.Errorf("Err() = %v", c.Err())
		}
	}
	if slices.Sort(got); fmt.Sprint(got) != "[0 404104 1 404104 2 404104]" {
		t.Errorf("failed: %v", got)
	}
	if _, err := m.Dial(within(t), h.config(dev)); !fault.Is(err, fault.ConnectionClosed) || !fault.Is(m.Err(), fault.ConnectionClosed) {
		t.Errorf("Dial() = %v, Err() = %v", err, m.Err())
	}
}

func TestMuxClose(t *testing.T) {
	h := (&fakeHub{}).start(t)
	m := h.connect()
	c := h.dial(m, dev)
	m.Close()
	wait(t, "Done", c.Done())
	if c.Err() != ErrClosed || m.Err() != ErrClosed {
		t.Errorf("Err() = %v and %v", c.Err(), m.Err())
	}
	if _, err := m.Dial(within(t), h.config(dev)); !errors.Is(err, ErrClosed) {
		t.Errorf("Dial() = %v", err)
	}
}

// TestTokenRenewed shows new tokens on the connection that there is.
func TestTokenRenewed(t *testing.T) {
	t.Parallel()
	h := (&fakeHub{}).start(t)
	h.judge = func(audience, token string) (int32, string) {
		if strings.Contains(audience, "doomed") && slices.Index(h.tokens, audience) < len(h.tokens)-1 {
			return 401, "revoked"
		}
		return judgeToken(audience, token)
	}
	m := h.connect()
	short := func(c *Config) { c.TokenLife = 3 * time.Second }
	c := h.dial(m, dev, short)
	doomed := h.dial(m, ident.ID{Device: "doomed"}, short)
	wait(t, "the end of who may not renew", doomed.Done())
	if !fault.Is(doomed.Err(), fault.Unauthorized) {
		t.Errorf("Err() = %v", doomed.Err())
	}
	h.await("two renewals", func() bool {
		n := 0
		for _, a := range h.tokens {
			if a == host+"/devices/dev" {
				n++
			}
		}
		return n >= 3
	})
	send(t, c, "x")
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.Err() != nil || len(h.conns) != 1 || len(h.gone) != 1 {
		t.Errorf("Err() = %v, %d connections, links lost: %v", c.Err(), len(h.conns), h.gone)
	}
}

// TestTokenLinksLost wants the links for tokens attached again.
func TestTokenLinksLost(t *testing.T) {
	h := (&fakeHub{}).start(t)
	m := h.connect()
	h.dial(m, dev)
	h.sender("$cbs").Detach(&amqp.Error{Condition: amqp.ErrDetachForced})
	h.await("the end of the session", func() bool { return slices.Contains(h.gone, "$cbs") })
	send(t, h.dial(m, mod), "x")
}

func TestTokenUnanswered(t *testing.T) {
	h := (&fakeHub{silent: true}).start(t)
	m := h.connect()
	ctx, cancel := context.WithCancel(within(t))
	go func() {
		h.await("the token", func() bool { return len(h.tokens) > 0 })
		cancel()
	}()
	if _, err := m.Dial(ctx, h.config(dev)); !errors.Is(err, context.Canceled) {
		t.Errorf("Dial() = %v", err)
	}
	h.silent = false
	send(t, h.dial(m, dev), "x")
}

func TestAMQPTwin(t *testing.T) {
	h := (&fakeHub{}).start(t)
	c := h.dial(h.connect(), mod)
	if doc, err := c.Twin(within(t)); err != nil || !strings.HasPrefix(string(doc), `{"desired":`) {
		t.Errorf("Twin() = %s, %v", doc, err)
	}
	if v, err := c.Report(within(t), []byte(`{"a":1}`)); v != 7 || err != nil {
		t.Errorf("Report() = %d, %v", v, err)
	}
	if _, err := c.Report(within(t), []byte(`{"bad":1}`)); !fault.Is(err, fault.IotHubFormatError) || !strings.Contains(err.Error(), "bad is bad") {
		t.Errorf("Report() = %v", err)
	}
	changes := make(chan string, 1)
	err := c.OnDesired(within(t), func(v int64, patch []byte) { changes <- fmt.Sprint(v, " ", string(patch)) })
	if err != nil {
		t.Fatal(err)
	}
	if got := wait(t, "a change", changes); got != `2 {"x":1,"$version":2}` {
		t.Errorf("changed: %s", got)
	}
	h.sender("/devices/dev/modules/mod/twin").Detach(&amqp.Error{Condition: amqp.ErrInternal})
	wait(t, "Done", c.Done())
	if _, err := c.Twin(within(t)); !fault.Is(err, fault.ServerError) {
		t.Errorf("Twin() = %v", err)
	}
}

// TestAMQPLinkRefused leaves the identity without the function, as MQTT does.
func TestAMQPLinkRefused(t *testing.T) {
	refuse := true
	h := (&fakeHub{refuse: func(address string) *amqp.Error {
		if refuse && !strings.HasSuffix(address, "/messages/events") && address != "$cbs" {
			return &amqp.Error{Condition: amqp.ErrNotAllowed}
		}
		return nil
	}}).start(t)
	c := h.dial(h.connect(), dev)
	if _, err := c.Twin(within(t)); !fault.Is(err, fault.InvalidOperation) {
		t.Errorf("Twin() = %v", err)
	}
	if err := c.OnMessage(within(t), func(context.Context, *message.Message) error { return nil }); !fault.Is(err, fault.InvalidOperation) {
		t.Errorf("OnMessage() = %v", err)
	}
	send(t, c, "x")
}

func TestAMQPMethods(t *testing.T) {
	h := (&fakeHub{}).start(t)
	c := h.dial(h.connect(), dev)
	release := make(chan bool)
	err := c.OnMethod(within(t), func(ctx context.Context, m *method.Call) method.Reply {
		if m.Name == "wait" {
			select {
			case <-release:
			case <-ctx.Done():
			}
		}
		return method.Reply{Status: 201, Payload: append(json.RawMessage(nil), m.Payload...)}
	})
	if err != nil {
		t.Fatal(err)
	}
	s := h.sender("/devices/dev/methods/deviceBound")
	call := func(name string, id any) {
		m := amqp.Message{
			Properties:            amqp.Properties{CorrelationID: id},
			ApplicationProperties: amqp.Map{{Key: "IoThub-methodname", Value: name}},
			Data:                  [][]byte{[]byte(`{"n":1}`)},
		}
		b, err := m.Append(nil)
		if err == nil {
			_, err = s.SendWait(within(t), amqp.Sending{Payload: b})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	u := newUUID()
	call("echo", u)
	h.await("an answer", func() bool { return len(h.answers) == 1 })
	call("echo", "text")
	h.await("an answer", func() bool { return len(h.answers) == 2 })
	call("", newUUID()) // nobody can answer that
	for i := range maxCalls + 5 {
		call("wait", fmt.Sprint(i))
	}
	h.await("refusals", func() bool { return len(h.answers) == 7 })
	close(release)
	h.await("the rest", func() bool { return len(h.answers) == maxCalls+7 })
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.answers[0] != u.String()+` 201 {"n":1}` || h.answers[1] != `text 201 {"n":1}` || !strings.Contains(h.answers[2], " 429 ") {
		t.Errorf("answers: %q", h.answers[:3])
	}
}

func TestAMQPMessages(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_000).UTC()
	for _, test := range []struct {
		id      ident.ID
		address string
		in      amqp.Message
		want    message.Message
	}{
		{
			dev, "/devices/dev/messages/deviceBound",
			amqp.Message{
				Annotations: amqp.Map{
					{Key: amqp.Symbol("x-opt-lock-token"), Value: "lock"}, {Key: amqp.Symbol("x-opt-sequence-number"), Value: uint64(7)},
					{Key: amqp.Symbol("iothub-enqueuedtime"), Value: at}, {Key: amqp.Symbol("iothub-deliverycount"), Value: uint8(3)},
				},
				Properties: amqp.Properties{MessageID: "m", CorrelationID: uint64(5), UserID: []byte("u"), To: "/devices/dev", AbsoluteExpiryTime: at, ContentType: "text/plain"},
				ApplicationProperties: amqp.Map{
					{Key: "iothub-ack", Value: "full"}, {Key: "a", Value: "b"}, {Key: "number", Value: int32(1)}, {Key: "iothub-creation-time-utc", Value: "t"},
				},
				Data: [][]byte{[]byte("bo"), []byte("dy")},
			},
			message.Message{
				Body: []byte("body"), Properties: []message.Property{{Name: "a", Value: "b"}},
				System: message.System{
					MessageID: "m", CorrelationID: "5", UserID: "u", To: "/devices/dev", Expiry: at, ContentType: "text/plain", Ack: "full",
					CreationTime: "t", LockToken: "lock", Sequence: 7, Enqueued: at, DeliveryCount: 3,
				},
			},
		},
		{
			mod, "/devices/dev/modules/mod/messages/events",
			amqp.Message{Annotations: amqp.Map{
				{Key: amqp.Symbol("x-opt-input-name"), Value: "in"}, {Key: amqp.Symbol("iothub-connection-device-id"), Value: "d"},
				{Key: amqp.Symbol("iothub-connection-module-id"), Value: "m"}, {Key: amqp.Symbol("dt-subject"), Value: "c"},
			}, Data: [][]byte{nil}},
			message.Message{System: message.System{Input: "in", ConnectionDevice: "d", ConnectionModule: "m", Component: "c"}},
		},
	} {
		h := (&fakeHub{}).start(t)
		c := h.dial(h.connect(), test.id)
		got := make(chan *message.Message, 3*inboundWindow)
		err := c.OnMessage(within(t), func(_ context.Context, m *message.Message) error {
			got <- m
			if string(m.Body) == "again" {
				return errors.New("not now")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		s := h.sender(test.address)
		post := func(m *amqp.Message) {
			b, err := m.Append(nil)
			if err == nil {
				_, err = s.SendWait(within(t), amqp.Sending{Payload: b})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		post(&test.in)
		if g := wait(t, "the message", got); fmt.Sprintf("%+v", *g) != fmt.Sprintf("%+v", test.want) {
			t.Errorf("got  %+v\nwant %+v", *g, test.want)
		}
		post(&amqp.Message{Data: [][]byte{[]byte("again")}})
		for range 2 * inboundWindow { // more than the window, save for the one that stays
			post(&amqp.Message{Data: [][]byte{[]byte("x")}})
		}
		wait(t, "again", got)
		for range 2 * inboundWindow {
			wait(t, "the rest", got)
		}
		h.await("outcomes", func() bool { return len(h.outcomes) >= 2*inboundWindow+1 })
		h.mu.Lock()
		if n := slices.IndexFunc(h.outcomes, func(s string) bool { return s != "accepted" }); n >= 0 {
			t.Errorf("outcomes: %v", h.outcomes)
		}
		h.mu.Unlock()
	}
}
