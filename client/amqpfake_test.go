package client

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// fakeHub is a server of AMQP that does what a client needs and no more. Its zero
// fields work; each that is set bends one thing. Nothing of it blocks.
type fakeHub struct {
	t    testing.TB
	addr string

	// judge says what becomes of a token for an audience; nil accepts all.
	judge func(audience, token string) (status int32, text string)
	// silent leaves requests for tokens without an answer.
	silent bool
	// refuse says why a link is not to be had.
	refuse func(address string) *amqp.Error
	// outcome decides about a transfer of telemetry; NoOutcome holds it back until
	// release. nil accepts.
	outcome func(address string, bodies []string) amqp.State
	credit  uint32 // of telemetry links, 100 when zero

	mu       sync.Mutex
	changed  chan struct{}
	l        net.Listener
	conns    []*amqp.Conn
	tokens   []string // audiences for which tokens were shown
	received []string // "address body", in order
	held     []heldTransfer
	senders  map[string]*amqp.Sender   // by address
	links    map[string]*amqp.Receiver // telemetry, by address
	answers  []string                  // replies to methods
	outcomes []string                  // what became of messages to the client
	gone     []string                  // addresses of telemetry links that are over
	served   sync.WaitGroup
}

type heldTransfer struct {
	r  *amqp.Receiver
	id uint32
}

func (h *fakeHub) start(t testing.TB) *fakeHub {
	t.Helper()
	h.t = t
	h.senders, h.links = map[string]*amqp.Sender{}, map[string]*amqp.Receiver{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.l, h.addr = l, l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	h.served.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			h.served.Go(func() {
				_ = amqp.Serve(ctx, nc, amqp.Config{Handler: h, CloseTimeout: time.Second})
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		h.served.Wait()
	})
	return h
}

func (h *fakeHub) config(id ident.ID) Config {
	return Config{Protocol: AMQP, Host: host, Address: h.addr, ID: id, Credentials: SharedKey(key, ""), Plain: true}
}

// note wakes who waits. The lock is held.
func (h *fakeHub) note() {
	if h.changed != nil {
		close(h.changed)
		h.changed = nil
	}
}

// await waits until cond holds, which is called with the lock held.
func (h *fakeHub) await(what string, cond func() bool) {
	h.t.Helper()
	timeout := time.After(15 * time.Second)
	for {
		h.mu.Lock()
		if cond() {
			h.mu.Unlock()
			return
		}
		if h.changed == nil {
			h.changed = make(chan struct{})
		}
		changed := h.changed
		h.mu.Unlock()
		select {
		case <-changed:
		case <-timeout:
			h.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// messages waits for n messages and gives all there are.
func (h *fakeHub) messages(n int) []string {
	h.t.Helper()
	h.await(fmt.Sprintf("%d messages", n), func() bool { return len(h.received) >= n })
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.received)
}

// release gives what is held back its outcome.
func (h *fakeHub) release(s amqp.State) {
	h.mu.Lock()
	held := h.held
	h.held = nil
	h.mu.Unlock()
	for _, x := range held {
		_ = x.r.Settle(x.id, s)
	}
}

// cut loses all connections.
func (h *fakeHub) cut() {
	h.mu.Lock()
	conns := h.conns
	h.conns = nil
	h.mu.Unlock()
	for _, c := range conns {
		c.NetConn().Close()
	}
}

// sender waits until the client receives from address.
func (h *fakeHub) sender(address string) (s *amqp.Sender) {
	h.t.Helper()
	h.await("a receiver of "+address, func() bool { s = h.senders[address]; return s != nil })
	return s
}

func (h *fakeHub) Open(c *amqp.Conn, _ *amqp.Open) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns = append(h.conns, c)
	h.note()
	return nil
}

func (h *fakeHub) Closed(*amqp.Conn, error) {}

func (h *fakeHub) Attach(in *amqp.Incoming) {
	var address string
	if in.Role == amqp.RoleReceiver {
		address = in.Target.Address
	} else {
		address = in.Source.Address
	}
	if h.refuse != nil {
		if err := h.refuse(address); err != nil {
			in.Refuse(err)
			return
		}
	}
	if in.Role == amqp.RoleSender {
		h.mu.Lock()
		defer h.mu.Unlock()
		s, err := in.Sender(amqp.Accepting{}, amqp.SenderFuncs{
			OnDisposed: func(_ *amqp.Sender, d amqp.Disposition) {
				h.mu.Lock()
				defer h.mu.Unlock()
				h.outcomes = append(h.outcomes, d.State.Outcome.String())
				h.note()
			},
		})
		if err == nil {
			h.senders[address] = s
			h.note()
		}
		return
	}
	window := h.credit
	if window == 0 {
		window = 100
	}
	take := h.telemetry
	switch {
	case address == "$cbs":
		take = h.token
	case strings.HasSuffix(address, "/twin"):
		take = h.twin
	case strings.HasSuffix(address, "/methods/deviceBound"):
		take = h.answered
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	r, err := in.Receiver(amqp.Accepting{}, amqp.Receiving{Window: window}, amqp.ReceiverFuncs{
		OnDelivered: func(r *amqp.Receiver, d amqp.Delivery) { take(address, r, d) },
		OnDetached: func(*amqp.Receiver, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.gone = append(h.gone, address)
			h.note()
		},
	})
	if err == nil && strings.HasSuffix(address, "/messages/events") {
		h.links[address] = r
	}
}

func (h *fakeHub) decode(r *amqp.Receiver, d amqp.Delivery) (m amqp.Message) {
	accept(r, d)
	if err := m.Decode(d.Payload); err != nil {
		h.t.Errorf("the client sends nonsense: %v", err)
	}
	return m
}

func (h *fakeHub) token(_ string, r *amqp.Receiver, d amqp.Delivery) {
	m := h.decode(r, d)
	audience, _ := m.ApplicationProperties.Text("name")
	kind, _ := m.ApplicationProperties.Text("type")
	operation, _ := m.ApplicationProperties.Text("operation")
	token, isText := m.Value.(string)
	if kind != "servicebus.windows.net:sastoken" || operation != "put-token" || !isText {
		h.t.Errorf("request for a token is %+v", m)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tokens = append(h.tokens, audience)
	h.note()
	if h.silent {
		return
	}
	status, text := int32(200), "OK"
	if h.judge != nil {
		status, text = h.judge(audience, token)
	}
	h.say("$cbs", &amqp.Message{
		Properties:            amqp.Properties{CorrelationID: m.Properties.MessageID},
		ApplicationProperties: amqp.Map{{Key: "status-code", Value: status}, {Key: "status-description", Value: text}},
		HasValue:              true,
	})
}

// say sends on the link at address, if there is one. The lock is held.
func (h *fakeHub) say(address string, m *amqp.Message) {
	if s := h.senders[address]; s != nil {
		if _, err := s.SendMessage(m, amqp.Sending{}); err != nil {
			h.t.Logf("the fake hub cannot send to %s: %v", address, err)
		}
	}
}

func (h *fakeHub) twin(address string, r *amqp.Receiver, d amqp.Delivery) {
	m := h.decode(r, d)
	operation, _ := m.Annotations.Text("operation")
	resource, _ := m.Annotations.Text("resource")
	out := &amqp.Message{Properties: amqp.Properties{CorrelationID: m.Properties.CorrelationID}, Data: [][]byte{nil}}
	status := func(n int32) {
		out.Annotations = append(out.Annotations, amqp.Entry{Key: amqp.Symbol("status"), Value: n})
	}
	switch operation + " " + resource {
	case "GET ":
		status(200)
		out.Data[0] = []byte(`{"desired":{"$version":1},"reported":{"$version":1}}`)
	case "PATCH " + reportedResource:
		if strings.Contains(string(m.Body()), "bad") {
			status(400)
			out.Data[0] = []byte(`{"errorCode":400006,"message":"bad is bad"}`)
			break
		}
		status(204)
		out.Annotations = append(out.Annotations, amqp.Entry{Key: amqp.Symbol("version"), Value: int64(7)})
	case "PUT " + desiredResource:
		status(200)
	default:
		h.t.Errorf("twin request %q of %q", operation, resource)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.say(address, out)
	if operation == "PUT" {
		h.say(address, &amqp.Message{
			Annotations: amqp.Map{{Key: amqp.Symbol("version"), Value: int64(2)}},
			Data:        [][]byte{[]byte(`{"x":1,"$version":2}`)},
		})
	}
}

func (h *fakeHub) answered(_ string, r *amqp.Receiver, d amqp.Delivery) {
	m := h.decode(r, d)
	status, _ := m.ApplicationProperties.Get("IoThub-status").(int32)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answers = append(h.answers, fmt.Sprint(m.Properties.CorrelationID, " ", status, " ", string(m.Body())))
	h.note()
}

func (h *fakeHub) telemetry(address string, r *amqp.Receiver, d amqp.Delivery) {
	var bodies []string
	for m, err := range amqp.Each(d.Format, d.Payload) {
		if err != nil {
			h.t.Errorf("the client sends nonsense: %v", err)
			return
		}
		bodies = append(bodies, string(m.Body()))
	}
	s := amqp.State{Outcome: amqp.Accepted}
	if h.outcome != nil {
		s = h.outcome(address, bodies)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range bodies {
		h.received = append(h.received, strings.TrimSuffix(strings.TrimPrefix(address, "/devices/"), "/messages/events")+" "+b)
	}
	if s.Outcome == amqp.NoOutcome {
		h.held = append(h.held, heldTransfer{r, d.ID})
	} else {
		_ = r.Settle(d.ID, s)
	}
	h.note()
}

func newUUID() (u amqp.UUID) {
	rand.Read(u[:])
	return u
}

// rejected is a refusal of a message.
func rejected(condition amqp.Symbol) amqp.State {
	return amqp.State{Outcome: amqp.Rejected, Error: &amqp.Error{Condition: condition}}
}
