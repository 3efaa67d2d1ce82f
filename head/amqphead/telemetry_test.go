package amqphead

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// TestBatches: Microsoft's batch format is one transfer, taken or refused as a whole.
func TestBatches(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	c := r.own(dev)
	states := make(chan amqp.State, 10)
	s := c.send("devices/dev/messages/events", amqp.SenderFuncs{OnDisposed: func(_ *amqp.Sender, d amqp.Disposition) { states <- d.State }})
	send := func(bodies ...[]byte) amqp.State {
		t.Helper()
		var batch []byte
		for _, body := range bodies {
			m := amqp.Message{Data: [][]byte{body}, ApplicationProperties: amqp.Map{{Key: "k", Value: "v"}}}
			inner, err := m.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			batch = amqp.AppendData(batch, inner)
		}
		if _, err := s.SendWait(soon(t), amqp.Sending{Payload: batch, Format: amqp.BatchFormat}); err != nil {
			t.Fatal(err)
		}
		select {
		case state := <-states:
			return state
		case <-time.After(10 * time.Second):
			t.Fatal("no disposition")
		}
		return amqp.State{}
	}
	if got := send([]byte("one")); got.Outcome != amqp.Accepted {
		t.Errorf("%v", got)
	}
	fifty := make([][]byte, 50)
	for i := range fifty {
		fifty[i] = fmt.Append(nil, i)
	}
	if got := send(fifty...); got.Outcome != amqp.Accepted {
		t.Errorf("%v", got)
	}
	if got := send([]byte("good"), make([]byte, 300<<10), []byte("good")); got.Outcome != amqp.Rejected || got.Error == nil || got.Error.Condition != amqp.ErrMessageSize {
		t.Errorf("%v", got)
	}
	if got := send(make([][]byte, maxInner+1)...); got.Outcome != amqp.Rejected || got.Error.Condition != amqp.ErrMessageSize {
		t.Errorf("%v", got)
	}
	if got := send(); got.Outcome != amqp.Accepted { // of nothing
		t.Errorf("%v", got)
	}
	if _, err := s.SendWait(soon(t), amqp.Sending{Payload: []byte("garbage")}); err != nil {
		t.Fatal(err)
	}
	if got := <-states; got.Outcome != amqp.Rejected || got.Error.Condition != errArgument {
		t.Errorf("%v", got)
	}
	if got := send([]byte("last")); got.Outcome != amqp.Accepted {
		t.Errorf("%v", got)
	}
	all := r.b.Messages(t, 52)
	if len(all) != 52 || string(all[51].Body) != "last" || string(all[50].Body) != "49" || all[7].Properties[0].Value != "v" {
		t.Errorf("%d messages", len(all))
	}
}

// TestRefusedTelemetry: the backend's refusal reaches the sender with its condition.
func TestRefusedTelemetry(t *testing.T) {
	var refusal error
	r := serve(t, &headtest.Backend{Refuse: func([]message.Message) error { return refusal }})
	c := r.own(dev)
	states := make(chan amqp.State, 1)
	s := c.send("devices/dev/messages/events", amqp.SenderFuncs{OnDisposed: func(_ *amqp.Sender, d amqp.Disposition) { states <- d.State }})
	b, err := (&amqp.Message{Data: [][]byte{{}}}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	for code, want := range map[fault.Code]amqp.Symbol{
		fault.Throttled: "com.microsoft:device-container-throttled", fault.QuotaExceeded: "amqp:resource-limit-exceeded",
		fault.ServerError: "amqp:internal-error", fault.PreconditionFailed: "com.microsoft:precondition-failed",
		fault.InvalidOperation: "amqp:not-allowed", fault.Unauthorized: "amqp:unauthorized-access",
	} {
		refusal = fault.New(code, "no")
		if _, err := s.SendWait(soon(t), amqp.Sending{Payload: b}); err != nil {
			t.Fatal(err)
		}
		if got := <-states; got.Outcome != amqp.Rejected || got.Error == nil || got.Error.Condition != want {
			t.Errorf("%v: %v", code, got)
		}
	}
}

// TestSecondMode: .NET waits until the server has settled what it decided.
func TestSecondMode(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	c := r.own(dev)
	in := make(chan amqp.Delivery, 10)
	link, err := c.s.Receiver(soon(t), amqp.Attaching{Source: &amqp.Source{Address: "devices/dev/messages/devicebound"}, ReceiverSettleMode: amqp.ReceiveSecond},
		amqp.Receiving{Window: 2}, amqp.ReceiverFuncs{OnDelivered: func(_ *amqp.Receiver, d amqp.Delivery) {
			d.Tag = bytes.Clone(d.Tag)
			in <- d
		}})
	if err != nil {
		t.Fatal(err)
	}
	if _, mode := link.SettleModes(); mode != amqp.ReceiveSecond {
		t.Errorf("mode %v", mode)
	}
	a := r.b.AwaitOpen(t, dev, head.ToDevice)
	outcomes := []struct {
		said amqp.Outcome
		want head.Outcome
	}{{amqp.Rejected, head.Rejected}, {amqp.Modified, head.Abandoned}, {amqp.Accepted, head.Completed}, {amqp.Released, head.Abandoned}}
	var batch []head.Delivery
	for i := range outcomes {
		batch = append(batch, head.Delivery{Token: uint64(i), Message: &message.Message{System: message.System{Sequence: uint64(i + 1)}}})
	}
	a.Device.Deliver(head.ToDevice, batch)
	for i, o := range outcomes { // only two fit the window until they are settled
		select {
		case d := <-in:
			if len(d.Tag) != 16 {
				t.Errorf("tag %x", d.Tag)
			}
			link.Settle(d.ID, amqp.State{Outcome: o.said})
		case <-time.After(10 * time.Second):
			t.Fatalf("delivery %d does not come", i)
		}
	}
	for i, s := range a.Settled(t, len(outcomes)) {
		if s.Token != uint64(i) || s.Outcome != outcomes[i].want {
			t.Errorf("%+v", s)
		}
	}
}
