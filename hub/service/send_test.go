package service

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	azure "github.com/Azure/go-amqp"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
)

func toDevice(to, body string) *azure.Message {
	return &azure.Message{Properties: &azure.MessageProperties{To: &to}, Data: [][]byte{[]byte(body)}}
}

const toPump = "/devices/pump/messages/devicebound"

func (r *rig) sender(address string) *azure.Sender {
	r.t.Helper()
	snd, err := r.session().NewSender(deadline(r.t), address, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return snd
}

func TestSend(t *testing.T) {
	r := newRig(t, nil)
	at := time.Now().Add(time.Hour).Truncate(time.Millisecond).UTC()
	m := toDevice("/devices/a%23b/messages/deviceBound", "hello")
	m.Properties.MessageID, m.Properties.CorrelationID, m.Properties.UserID = azure.UUID{0x12}, "c", []byte("u")
	m.Properties.ContentType, m.Properties.ContentEncoding = new("text/plain"), new("utf-8")
	m.Properties.AbsoluteExpiryTime = &at
	m.ApplicationProperties = map[string]any{"iothub-ack": "Full", "k": "v", "n": int32(7), "yes": true, "none": nil, "iothub-creation-time-utc": "2026-01-01T00:00:00Z"}
	for i, address := range []string{"/messages/devicebound", "amqps://hub.example.test:5671/messages/deviceBound"} {
		if err := r.sender(address).Send(deadline(t), m, nil); err != nil {
			t.Fatal(err)
		}
		got := r.box.sent[i]
		want := message.System{MessageID: "12000000-0000-0000-0000-000000000000", CorrelationID: "c", UserID: "u", ContentType: "text/plain",
			ContentEncoding: "utf-8", Expiry: at, Ack: "full", CreationTime: "2026-01-01T00:00:00Z", To: "/devices/a#b/messages/devicebound"}
		if string(got.Body) != "hello" || got.System != want {
			t.Errorf("%+v, want\n%+v", got, want)
		}
		slices.SortFunc(got.Properties, func(a, b message.Property) int { return strings.Compare(a.Name, b.Name) })
		if fmt.Sprint(got.Properties) != "[{k v} {n 7} {none } {yes true}]" {
			t.Errorf("properties %v", got.Properties)
		}
	}
	text := toDevice(toPump, "")
	text.Data, text.Value = nil, "as a value"
	text.Header = &azure.MessageHeader{TTL: time.Minute}
	if err := r.sender("/messages/devicebound").Send(deadline(t), text, nil); err != nil {
		t.Fatal(err)
	}
	if got := r.box.sent[2]; string(got.Body) != "as a value" || time.Until(got.System.Expiry).Round(time.Minute) != time.Minute {
		t.Errorf("%+v", got)
	}
}

func TestSendRefuses(t *testing.T) {
	r := newRig(t, nil)
	snd := r.sender("/messages/devicebound")
	odd := toDevice(toPump, "x")
	odd.ApplicationProperties = map[string]any{"iothub-ack": "maybe"}
	sequence := &azure.Message{Properties: odd.Properties, Sequence: [][]any{{"x"}}}
	number := &azure.Message{Properties: odd.Properties, Value: int32(3)}
	batch := toDevice(toPump, "x")
	batch.Format = 0x80013700
	for what, c := range map[string]struct {
		m    *azure.Message
		want azure.ErrCond
	}{
		"nobody":     {toDevice("/devices/nobody/messages/devicebound", "x"), "amqp:not-found"},
		"a module":   {toDevice("/devices/pump/modules/m/messages/devicebound", "x"), "com.microsoft:argument-error"},
		"nowhere":    {&azure.Message{Data: [][]byte{{1}}}, "com.microsoft:argument-error"},
		"odd ack":    {odd, "com.microsoft:argument-error"},
		"a sequence": {sequence, "com.microsoft:argument-error"},
		"a number":   {number, "com.microsoft:argument-error"},
		"a batch":    {batch, "com.microsoft:argument-error"},
	} {
		if err := snd.Send(deadline(t), c.m, nil); condition(err) != c.want {
			t.Errorf("%s: %v", what, err)
		}
	}
	for code, want := range map[fault.Code]azure.ErrCond{
		fault.QueueFull: "amqp:resource-limit-exceeded", fault.MessageTooLarge: "amqp:link:message-size-exceeded",
		fault.Unavailable: "amqp:internal-error",
	} {
		r.box.fail(fault.New(code, "no"))
		if err := snd.Send(deadline(t), toDevice(toPump, "x"), nil); condition(err) != want {
			t.Errorf("%v: %v", code, err)
		}
	}
	r.box.fail(errors.New("disk on fire"))
	if err := snd.Send(deadline(t), toDevice(toPump, "x"), nil); err == nil || strings.Contains(err.Error(), "fire") {
		t.Errorf("an error of ours: %v", err)
	}
	r.box.fail(nil)
	if err := snd.Send(deadline(t), toDevice(toPump, "x"), nil); err != nil {
		t.Errorf("the link is of no use any more: %v", err)
	}
	if _, err := receive(t, r.session(), "/messages/devicebound", "", nil); condition(err) != "amqp:not-allowed" {
		t.Errorf("receiving there: %v", err)
	}
}

func TestSendKeepsOrder(t *testing.T) {
	r := newRig(t, nil)
	snd := r.sender("/messages/devicebound")
	const n = 3 * sendWindow
	var receipts []azure.SendReceipt
	for i := range n {
		receipt, err := snd.SendWithReceipt(deadline(t), toDevice([]string{toPump, "/devices/a%23b/messages/devicebound"}[i%2], fmt.Sprint(i)), nil)
		if err != nil {
			t.Fatal(err)
		}
		receipts = append(receipts, receipt)
	}
	for _, receipt := range receipts {
		if state, err := receipt.Wait(deadline(t)); err != nil {
			t.Fatalf("%v, %v", state, err)
		}
	}
	last := map[string]int{}
	for _, m := range r.box.sent {
		var i int
		fmt.Sscan(string(m.Body), &i)
		if before, ok := last[m.System.To]; ok && i < before {
			t.Errorf("%d came after %d", i, before)
		}
		last[m.System.To] = i
	}
	if len(r.box.sent) != n {
		t.Errorf("%d were sent", len(r.box.sent))
	}
	eventually(t, "no bytes are counted any more", func() bool { return r.backlog.n.Load() == 0 })
}

func TestSendIsBounded(t *testing.T) {
	r := newRig(t, nil)
	r.backlog.take(maxBacklog)
	snd := r.sender("/messages/devicebound")
	if err := snd.Send(deadline(t), toDevice(toPump, "x"), nil); err == nil || len(r.box.sent) > 0 {
		t.Errorf("%v", err)
	}
	r.backlog.give(maxBacklog)
	if err := snd.Send(deadline(t), toDevice(toPump, "x"), nil); err != nil {
		t.Error(err)
	}
}

func FuzzDeviceBound(f *testing.F) {
	m := toDevice(toPump, "hello")
	m.ApplicationProperties = map[string]any{"iothub-ack": "full"}
	b, err := m.MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		d := delivery{payload: b}
		if _, err := d.message(); err != nil && !fault.Is(err, fault.ArgumentInvalid) {
			t.Error(err)
		}
	})
}
