package client

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
)

func TestPublishKeepsEverything(t *testing.T) { eachProtocol(t, testPublishKeepsEverything) }

func testPublishKeepsEverything(t *testing.T, p Protocol) {
	r := serveBy(t, p, &headtest.Backend{})
	c := r.dial(mod)
	expiry := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	m := message.Message{
		Body: []byte{0, 1, 255},
		System: message.System{
			MessageID: "m-1", CorrelationID: "c 1", UserID: "ü&=", To: "/devices/dev/messages/events", ContentType: "application/json",
			ContentEncoding: "utf-8", CreationTime: "2026-01-02T03:04:05.1234560Z", Expiry: expiry, Schema: "s", Operation: "op", Ack: "full",
			Output: "out/1", InterfaceID: "urn:i", Component: "thermostat1",
			// Not the sender's to say:
			ConnectionDevice: "liar", ConnectionModule: "liar", Generation: "9", AuthMethod: "{}", Input: "in", Source: "x",
		},
		Properties: []message.Property{{Name: "a b", Value: "1+1=2&%/"}, {Name: "empty", Value: ""}, {Name: "$.x", Value: "☃"}},
	}
	if err := c.Send(within(t), &m); err != nil {
		t.Fatal(err)
	}
	got := r.b.Messages(t, 1)[0].Message
	want := m.Clone()
	s := &want.System
	s.ConnectionDevice, s.ConnectionModule, s.Generation, s.AuthMethod, s.Input, s.Source = "", "", "", "", "", ""
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestPublishInOrder(t *testing.T) { eachProtocol(t, testPublishInOrder) }

func testPublishInOrder(t *testing.T, p Protocol) {
	r := serveBy(t, p, &headtest.Backend{})
	c := r.dial(dev, func(c *Config) { c.Window = 10 })
	const batches, size = 3000, 13 // more ids than there are
	var mu sync.Mutex
	var done []int
	all := make(chan bool)
	n := 0
	for i := range batches {
		batch := make([]message.Message, size)
		for j := range batch {
			batch[j] = text(fmt.Sprint(n))
			n++
		}
		c.Publish(batch, func(err error) {
			if err != nil {
				t.Errorf("batch %d: %v", i, err)
			}
			mu.Lock()
			defer mu.Unlock()
			if done = append(done, i); len(done) == batches {
				close(all)
			}
		})
		clear(batch) // it was copied
	}
	wait(t, "all acknowledgements", all)
	for i, d := range done {
		if i != d {
			t.Fatalf("done call %d is that of batch %d", i, d)
		}
	}
	for i, m := range r.b.Messages(t, n) {
		if string(m.Body) != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, m.Body)
		}
	}
}

func TestPublishWaitsForWindow(t *testing.T) { eachProtocol(t, testPublishWaitsForWindow) }

func testPublishWaitsForWindow(t *testing.T, p Protocol) {
	r := serveBy(t, p, &headtest.Backend{Hold: true})
	c := r.dial(dev, func(c *Config) { c.Window = 2 })
	c.Publish(texts("a b"), func(error) {})
	r.b.Messages(t, 2)
	published, acked := make(chan bool), make(chan error, 1)
	go func() {
		c.Publish(texts("c"), func(err error) { acked <- err })
		close(published)
	}()
	// The answer to a twin request proves that the server has seen what was sent.
	if _, err := c.Twin(within(t)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-published:
		t.Error("Publish went beyond the window")
	default:
	}
	r.b.Release(r.b.Held(), nil)
	wait(t, "Publish", published)
	r.b.Messages(t, 3)
	r.b.Release(1, nil)
	if err := wait(t, "the acknowledgement", acked); err != nil {
		t.Error(err)
	}
}

// TestPublishFails checks the promises about done when the connection is lost, closed
// or used after that.
func TestPublishFails(t *testing.T) { eachProtocol(t, testPublishFails) }

func testPublishFails(t *testing.T, p Protocol) {
	for name, end := range map[string]func(*rig, *Client){
		"lost":    func(r *rig, _ *Client) { r.b.Attached(r.t, dev).Device.Close(errors.New("go away")) },
		"closed":  func(_ *rig, c *Client) { c.Close() },
		"refused": func(r *rig, _ *Client) { r.b.Release(1, fault.New(fault.Throttled, "no")) },
	} {
		t.Run(name, func(t *testing.T) {
			r := serveBy(t, p, &headtest.Backend{Hold: true})
			c := r.dial(dev, func(c *Config) { c.Window = 3 })
			calls := make(chan string, 10)
			done := func(name string) func(error) {
				return func(err error) {
					if err == nil {
						name += " without an error"
					}
					calls <- name
				}
			}
			c.Publish(texts("a"), done("a"))
			r.b.Messages(t, 1)
			c.Publish(texts("b b"), done("b"))
			blocked := make(chan bool)
			go func() {
				c.Publish(texts("c"), done("c"))
				close(blocked)
			}()
			end(r, c)
			wait(t, "Done", c.Done())
			wait(t, "the blocked Publish", blocked)
			c.Publish(texts("d"), done("d"))
			var got []string
			for range 4 {
				got = append(got, wait(t, "done", calls))
			}
			if s := strings.Join(got, " "); s != "a b c d" {
				t.Errorf("done calls: %s", s)
			}
			if c.Err() == nil {
				t.Error("Err() = nil")
			}
		})
	}
}

func TestTooLarge(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	c := r.dial(dev)
	for name, m := range map[string]message.Message{
		"body":  {Body: make([]byte, message.MaxTelemetry+1)},
		"topic": {Properties: []message.Property{{Name: "p", Value: strings.Repeat("%", 22000)}}},
	} {
		if err := c.Send(within(t), &m); !fault.Is(err, fault.MessageTooLarge) {
			t.Errorf("%s: Send() = %v", name, err)
		}
	}
	m := message.Message{Body: make([]byte, message.MaxTelemetry-1), Properties: []message.Property{{Name: "p", Value: ""}}}
	if err := c.Send(within(t), &m); err != nil {
		t.Errorf("the largest message: %v", err)
	}
	m = message.Message{Properties: []message.Property{{Name: "p", Value: strings.Repeat("%", 21700)}}}
	if err := c.Send(within(t), &m); err != nil {
		t.Errorf("the longest topic: %v", err)
	}

	// In a batch it costs the connection, once all before it is acknowledged.
	calls := make(chan error, 3)
	note := func(err error) { calls <- err }
	c.Publish(texts("a"), note)
	c.Publish([]message.Message{text("b"), {Body: make([]byte, message.MaxTelemetry+1)}}, note)
	c.Publish(texts("c"), note)
	if err := wait(t, "a", calls); err != nil {
		t.Errorf("a: %v", err)
	}
	for _, name := range []string{"b", "c"} {
		if err := wait(t, name, calls); !fault.Is(err, fault.MessageTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	wait(t, "Done", c.Done())
	if got := len(r.b.Messages(t, 3)); got != 3 {
		t.Errorf("%d messages arrived, want 3", got)
	}
}
