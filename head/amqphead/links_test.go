package amqphead

import (
	"context"
	"errors"
	"testing"
	"time"

	azure "github.com/Azure/go-amqp"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
)

func input(token uint64) []head.Delivery {
	return []head.Delivery{{Token: token, Message: &message.Message{Body: []byte{byte(token)}, System: message.System{Input: "in"}}}}
}

// TestLostInputs: what a module's link takes with it goes back, sent or not.
func TestLostInputs(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	c := r.connect(mod)
	c.sender("devices/dev/modules/mod/messages/events", nil) // keeps the identity
	in := c.receiver("devices/dev/modules/mod/messages/events", nil)
	a := r.b.AwaitOpen(t, mod, head.Inputs)
	a.Device.Deliver(head.Inputs, input(1)) // on its way, unanswered
	a.Device.Deliver(head.Inputs, input(2)) // there is credit for one only
	c.receive(in)
	in.Close(soon(t))
	back := map[uint64]bool{}
	for _, s := range a.Settled(t, 2) {
		back[s.Token] = s.Outcome == head.Abandoned
	}
	if !back[1] || !back[2] {
		t.Errorf("%v", back)
	}
	in = c.receiver("devices/dev/modules/mod/messages/events", nil)
	a = r.b.AwaitOpen(t, mod, head.Inputs)
	a.Device.Deliver(head.Inputs, input(3))
	if m := c.receive(in); m.GetData()[0] != 3 {
		t.Errorf("%v", m.GetData())
	}
}

// TestRefusedInputs: a module that rejects or releases has it again, and what waits
// behind it after it.
func TestRefusedInputs(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	c := r.connect(mod)
	in := c.receiver("devices/dev/modules/mod/messages/events", nil)
	a := r.b.AwaitOpen(t, mod, head.Inputs)
	a.Device.Deliver(head.Inputs, append(input(1), input(2)...))
	m := c.receive(in)
	if err := in.RejectMessage(soon(t), m, nil); err != nil {
		t.Fatal(err)
	}
	for i, s := range a.Settled(t, 1) {
		if s.Token != uint64(i+1) || s.Outcome != head.Abandoned {
			t.Errorf("%+v", s)
		}
	}
}

// TestReplacedLink: a second link of a kind takes the place of the first.
func TestReplacedLink(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	c := r.connect(dev)
	first := c.receiver("devices/dev/messages/devicebound", nil)
	second := c.receiver("devices/dev/messages/devicebound", nil)
	if _, err := first.Receive(soon(t), nil); conditionOfErr(err) != "amqp:link:stolen" {
		t.Errorf("%v", err)
	}
	a := r.b.AwaitOpen(t, dev, head.ToDevice)
	a.Device.Deliver(head.ToDevice, input(1))
	c.receive(second)
	// A twin link of another pair ends the one it does not belong to.
	pair := func(id string) map[string]any {
		return map[string]any{"com.microsoft:channel-correlation-id": "twin:" + id}
	}
	old := c.receiver("devices/dev/twin", &azure.ReceiverOptions{Properties: pair("1")})
	c.sender("devices/dev/twin", &azure.SenderOptions{Properties: pair("1")})
	c.sender("devices/dev/twin", &azure.SenderOptions{Properties: pair("2")})
	if _, err := old.Receive(soon(t), nil); conditionOfErr(err) != "amqp:link:stolen" {
		t.Errorf("%v", err)
	}
}

// TestLeaving: with its last link an identity is gone, with its connection too.
func TestLeaving(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	other := ident.ID{Device: "other"}
	c := r.connect(dev, other)
	one, two := c.sender("devices/dev/messages/events", nil), c.sender("devices/dev/messages/events", nil)
	c.sender("devices/other/messages/events", nil)
	c.receiver("devices/other/methods/devicebound", nil)
	one.Close(soon(t))
	if err := two.Send(soon(t), azure.NewMessage(nil), nil); err != nil {
		t.Fatal(err)
	}
	two.Close(soon(t))
	r.b.AwaitGone(t, dev)
	c.sender("devices/dev/messages/events", nil) // and may come back
	r.b.Attached(t, dev)
	a := r.b.AwaitOpen(t, other, head.Methods)
	called := make(chan error, 1)
	go func() {
		_, err := a.Device.Invoke(context.Background(), &method.Call{Name: "m"})
		called <- err
	}()
	c.Conn.Close()
	r.b.AwaitGone(t, dev)
	r.b.AwaitGone(t, other)
	select {
	case err := <-called:
		if !fault.Is(err, fault.ConnectionClosed) && !fault.Is(err, fault.DeviceNotOnline) {
			t.Errorf("the call ends with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the call does not end")
	}
	awaitThat(t, "the connection to end", func() bool { return r.s.Connections() == 0 })
}

// TestLateCalls: a call that nobody waits for any more is not made.
func TestLateCalls(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	c := r.connect(dev)
	in := c.receiver("devices/dev/methods/devicebound", &azure.ReceiverOptions{Credit: -1})
	a := r.b.AwaitOpen(t, dev, head.Methods)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := a.Device.Invoke(ctx, &method.Call{Name: "late"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	go a.Device.Invoke(soon(t), &method.Call{Name: "in time"})
	if err := in.IssueCredit(2); err != nil {
		t.Fatal(err)
	}
	if m := c.receive(in); m.ApplicationProperties["IoThub-methodname"] != "in time" {
		t.Errorf("%v", m.ApplicationProperties)
	}
}

// TestShutdown: peers are told why.
func TestShutdown(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	c := r.connect(dev)
	c.sender("devices/dev/messages/events", nil)
	r.stop()
	<-c.Conn.Done()
	if conditionOfErr(c.Conn.Err()) != "amqp:connection:forced" {
		t.Errorf("%v", c.Conn.Err())
	}
}

func TestMaxConnections(t *testing.T) {
	r := serve(t, &headtest.Backend{}, func(c *Config) { c.MaxConnections = 1 })
	r.connect(dev)
	if _, err := r.tryDial(nil); err == nil {
		t.Error("a second connection is served")
	}
	r.awaitLog("WARN", "too many connections")
}
