package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// hold keeps every transfer of telemetry without an outcome.
func hold(string, []string) amqp.State { return amqp.State{} }

// TestOutcomesOutOfOrder is what servers may do; the done calls stay in order.
func TestOutcomesOutOfOrder(t *testing.T) {
	h := (&fakeHub{outcome: hold}).start(t)
	c := h.dial(h.connect(), dev)
	done := make(chan string, 3)
	for _, words := range []string{"a a", "b", "c"} {
		c.Publish(texts(words), func(err error) { done <- words + fmt.Sprint(err) })
	}
	h.messages(4)
	h.mu.Lock()
	held := h.held
	h.mu.Unlock()
	for _, i := range []int{2, 1} {
		held[i].r.Settle(held[i].id, amqp.State{Outcome: amqp.Accepted})
	}
	if _, err := c.Twin(within(t)); err != nil { // so the client has read all that
		t.Fatal(err)
	}
	if len(done) > 0 {
		t.Fatalf("done call of %q before that of what is older", <-done)
	}
	held[0].r.Settle(held[0].id, amqp.State{Outcome: amqp.Accepted})
	for _, want := range []string{"a a", "b", "c"} {
		if got := wait(t, "done", done); got != want+"<nil>" {
			t.Errorf("done call of %q, want %q", got, want)
		}
	}
}

// TestOutcomes says what refusals of a batch mean for it and for what follows.
func TestOutcomes(t *testing.T) {
	for name, test := range map[string]struct {
		state amqp.State
		want  fault.Code
		alone bool // the connection stays
	}{
		"accepted":      {amqp.State{Outcome: amqp.Accepted}, 0, true},
		"too large":     {rejected(amqp.ErrMessageSize), fault.MessageTooLarge, true},
		"bad argument":  {rejected("com.microsoft:argument-error"), fault.ArgumentInvalid, true},
		"not allowed":   {rejected(amqp.ErrNotAllowed), fault.InvalidOperation, true},
		"throttled":     {rejected("com.microsoft:device-container-throttled"), fault.Throttled, false},
		"quota":         {rejected(amqp.ErrResourceLimit), fault.QuotaExceeded, false},
		"broken":        {rejected(amqp.ErrInternal), fault.ServerError, false},
		"without cause": {amqp.State{Outcome: amqp.Rejected}, fault.ServerError, false},
		"released":      {amqp.State{Outcome: amqp.Released}, fault.Unavailable, false},
		"modified":      {amqp.State{Outcome: amqp.Modified}, fault.Unavailable, false},
		"in the text": {amqp.State{Outcome: amqp.Rejected, Error: &amqp.Error{
			Condition: "amqp:x", Description: `{"errorCode":413001,"message":"much"}`,
		}}, fault.MessageTooLarge, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := (&fakeHub{outcome: func(_ string, bodies []string) amqp.State {
				if bodies[0] == "odd" {
					return test.state
				}
				return amqp.State{Outcome: amqp.Accepted}
			}}).start(t)
			m := h.connect()
			c, other := h.dial(m, dev), h.dial(m, mod)
			done := make(chan error, 3)
			for _, words := range []string{"before", "odd odd", "behind"} {
				c.Publish(texts(words), func(err error) { done <- err })
			}
			if err := wait(t, "done", done); err != nil {
				t.Errorf("what was before: %v", err)
			}
			if err := wait(t, "done", done); fault.CodeOf(err) != test.want {
				t.Errorf("%v, want code %d", err, test.want)
			}
			behind := wait(t, "done", done)
			if test.alone {
				if behind != nil || c.Err() != nil {
					t.Errorf("what follows: %v, the connection: %v", behind, c.Err())
				}
			} else {
				wait(t, "Done", c.Done())
				if fault.CodeOf(c.Err()) != test.want {
					t.Errorf("Err() = %v", c.Err())
				}
			}
			send(t, other, "x")
		})
	}
}

// TestPublishWithoutCredit waits for the server's leave, and for no longer than the
// connection lasts.
func TestPublishWithoutCredit(t *testing.T) {
	h := (&fakeHub{outcome: hold, credit: 2}).start(t)
	c := h.dial(h.connect(), dev)
	calls := make(chan error, 4)
	published := make(chan bool, 4)
	go func() {
		for _, words := range []string{"a", "b", "c", "d"} {
			c.Publish(texts(words), func(err error) { calls <- err })
			published <- true
		}
	}()
	h.messages(2)
	wait(t, "a", published)
	wait(t, "b", published)
	h.release(amqp.State{Outcome: amqp.Accepted})
	h.messages(4)
	wait(t, "c", published)
	wait(t, "d", published)
	go func() {
		c.Publish(texts("e"), func(err error) { calls <- err })
		published <- true
	}()
	for range 2 {
		if err := wait(t, "done", calls); err != nil {
			t.Error(err)
		}
	}
	c.Close()
	wait(t, "e", published)
	for range 3 {
		if err := wait(t, "done", calls); err != ErrClosed {
			t.Errorf("done(%v)", err)
		}
	}
}

// TestBatches keeps to what fits into a transfer.
func TestBatches(t *testing.T) {
	var mu sync.Mutex
	var sizes []string
	h := (&fakeHub{outcome: func(_ string, bodies []string) amqp.State {
		mu.Lock()
		defer mu.Unlock()
		sizes = append(sizes, fmt.Sprint(len(bodies)))
		return amqp.State{Outcome: amqp.Accepted}
	}}).start(t)
	c := h.dial(h.connect(), dev, func(c *Config) { c.Window, c.WindowBytes = 4096, 64<<20 })
	large := func(n, size int) (batch []message.Message) {
		for range n {
			batch = append(batch, message.Message{Body: make([]byte, size)})
		}
		return batch
	}
	done := make(chan error, 10)
	for _, batch := range [][]message.Message{
		large(1, 10), large(3, 10), large(0, 0), large(600, 10), large(3, 150<<10), large(5, 70<<10), large(2, batchBytes/2),
	} {
		c.Publish(batch, func(err error) { done <- err })
	}
	for range 7 {
		if err := wait(t, "done", done); err != nil {
			t.Error(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Join(sizes, " "); got != "1 3 256 256 88 1 1 1 2 2 1 1 1" {
		t.Errorf("transfers of %s messages", got)
	}
}

func TestAMQPTooLarge(t *testing.T) {
	h := (&fakeHub{}).start(t)
	c := h.dial(h.connect(), dev)
	m := message.Message{Body: make([]byte, message.MaxTelemetry+1)}
	if err := c.Send(within(t), &m); !fault.Is(err, fault.MessageTooLarge) {
		t.Errorf("Send() = %v", err)
	}
	m = message.Message{Properties: []message.Property{{Name: "p", Value: strings.Repeat("%", message.MaxTelemetry-1)}}}
	if err := c.Send(within(t), &m); err != nil { // MQTT's topics are shorter than that
		t.Errorf("Send() = %v", err)
	}
	calls := make(chan error, 3)
	note := func(err error) { calls <- err }
	c.Publish(texts("a"), note)
	c.Publish([]message.Message{text("b"), {Body: make([]byte, message.MaxTelemetry+1)}}, note)
	c.Publish(texts("c"), note)
	for _, want := range []fault.Code{0, fault.MessageTooLarge, 0} {
		if err := wait(t, "done", calls); fault.CodeOf(err) != want {
			t.Errorf("done(%v), want code %d", err, want)
		}
	}
}

// TestSessionOrderOverLosses cuts the connection again and again while messages are
// under way: each arrives, and first arrivals are in order.
func TestSessionOrderOverLosses(t *testing.T) {
	t.Parallel()
	h := (&fakeHub{}).start(t)
	h.outcome = func(string, []string) amqp.State {
		switch rand.N(400) {
		case 0:
			return rejected("com.microsoft:device-container-throttled")
		case 1:
			return amqp.State{}
		}
		return amqp.State{Outcome: amqp.Accepted}
	}
	s := NewSession(h.config(dev))
	run(t, s)
	const n = 2000
	var all sync.WaitGroup
	all.Add(n)
	go func() {
		for i := range n {
			err := s.Publish(within(t), texts(fmt.Sprint(i)), func(err error) {
				if err != nil {
					t.Error(err)
				}
				all.Done()
			})
			if err != nil {
				t.Error(err)
				all.Done()
			}
		}
	}()
	settled := make(chan bool)
	go func() {
		all.Wait()
		close(settled)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.note()
	}()
	for cuts := 0; ; cuts++ {
		h.await("messages, or the end of them", func() bool {
			select {
			case <-settled:
				return true
			default:
				return len(h.received) > cuts*200 || len(h.held) > 0
			}
		})
		select {
		case <-settled:
		default:
			h.mu.Lock()
			h.held = nil // these never get an outcome
			h.mu.Unlock()
			h.cut()
			continue
		}
		break
	}
	next := 0
	for _, m := range h.messages(n) {
		if m == fmt.Sprint("dev ", next) {
			next++
		}
	}
	if next != n {
		t.Errorf("the first %d arrived in order, want %d", next, n)
	}
}

// TestSessionRefused has a session tell of a batch that no server will take.
func TestSessionRefused(t *testing.T) {
	h := (&fakeHub{outcome: func(_ string, bodies []string) amqp.State {
		if bodies[0] == "odd" {
			return rejected("com.microsoft:argument-error")
		}
		return amqp.State{Outcome: amqp.Accepted}
	}}).start(t)
	s := NewSession(h.config(dev))
	run(t, s)
	for _, word := range []string{"a", "odd", "b", "odd"} {
		m := text(word)
		if err := s.Send(within(t), &m); fault.Is(err, fault.ArgumentInvalid) != (word == "odd") {
			t.Errorf("Send(%s) = %v", word, err)
		}
	}
}

// TestSessionEndsHandlers closes with a handler that only its context ends.
func TestSessionEndsHandlers(t *testing.T) {
	h := (&fakeHub{}).start(t)
	s := NewSession(h.config(dev))
	entered := make(chan bool, 1)
	s.OnMessage(func(ctx context.Context, _ *message.Message) error {
		entered <- true
		<-ctx.Done()
		return errors.New("ended")
	})
	stop := run(t, s)
	b, err := (&amqp.Message{Data: [][]byte{[]byte("x")}}).Append(nil)
	if err == nil {
		_, err = h.sender("/devices/dev/messages/deviceBound").SendWait(within(t), amqp.Sending{Payload: b})
	}
	if err != nil {
		t.Fatal(err)
	}
	wait(t, "the handler", entered)
	stop()
}

// FuzzAMQPDelivery lets a server send anything on the links that there are.
func FuzzAMQPDelivery(f *testing.F) {
	for _, m := range []amqp.Message{
		{Data: [][]byte{[]byte(`{"$version":1}`)}, Annotations: amqp.Map{{Key: amqp.Symbol("version"), Value: int64(1)}}},
		{Properties: amqp.Properties{CorrelationID: "1"}, Annotations: amqp.Map{{Key: amqp.Symbol("status"), Value: int32(200)}}},
		{Properties: amqp.Properties{CorrelationID: newUUID()}, ApplicationProperties: amqp.Map{{Key: "IoThub-methodname", Value: "m"}}},
		{Properties: amqp.Properties{CorrelationID: "1"}, ApplicationProperties: amqp.Map{{Key: "status-code", Value: int32(401)}}},
	} {
		b, err := m.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		c := newClient(Config{Host: host, ID: mod}.withDefaults())
		m := &Mux{cfg: c.cfg}
		m.tokens.m = m
		a := &amqpConn{c: c, mux: m}
		c.via = a
		c.notify.Store(new(func(int64, []byte) {}))
		_, answered, err := m.tokens.expect()
		if err != nil {
			t.Fatal(err)
		}
		rid, response, err := c.twin.open()
		if err != nil {
			t.Fatal(err)
		}
		d := amqp.Delivery{Settled: true, Payload: payload}
		r := &amqp.Receiver{}
		m.tokens.delivered(r, d)
		a.twinDelivered(r, d)
		a.methodDelivered(r, d)
		a.messageDelivered(r, d)
		if len(answered) > 1 || len(response) > 1 || rid == "" {
			t.Error("one request is answered twice")
		}
	})
}
