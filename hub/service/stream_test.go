package service

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	azure "github.com/Azure/go-amqp"

	"github.com/selvedge-io/selvedge/hub/events"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

const first = "selvedge/ConsumerGroups/$Default/Partitions/"

// device gives the name of a device in a partition.
func (r *rig) device(partition int) string {
	for i := 0; ; i++ {
		if name := fmt.Sprint("d", i); r.stream.PartitionOf(name) == partition {
			return name
		}
	}
}

// receive attaches a receiver with a selector, none when empty.
func receive(t testing.TB, s *azure.Session, address, selector string, change func(*azure.ReceiverOptions)) (*azure.Receiver, error) {
	t.Helper()
	o := &azure.ReceiverOptions{Credit: 100}
	if selector != "" {
		o.Filters = append(o.Filters, azure.NewSelectorFilter("amqp.annotation."+selector))
	}
	if change != nil {
		change(o)
	}
	return s.NewReceiver(deadline(t), address, o)
}

func mustReceive(t testing.TB, s *azure.Session, address, selector string, change func(*azure.ReceiverOptions)) *azure.Receiver {
	t.Helper()
	r, err := receive(t, s, address, selector, change)
	if err != nil {
		t.Fatalf("attach %s: %v", address, err)
	}
	return r
}

func epoch(n int64, name string) func(*azure.ReceiverOptions) {
	return func(o *azure.ReceiverOptions) {
		o.Properties = map[string]any{epochProperty: n, nameProperty: name}
	}
}

// wants reads events and wants these bodies.
func wants(t testing.TB, r *azure.Receiver, bodies ...string) (last *azure.Message) {
	t.Helper()
	for _, want := range bodies {
		m, err := r.Receive(deadline(t), nil)
		if err != nil {
			t.Fatalf("waiting for %s: %v", want, err)
		}
		if got := string(m.GetData()); got != want {
			t.Fatalf("received %q, want %q", got, want)
		}
		last = m
	}
	return last
}

func TestStreamFromEveryPosition(t *testing.T) {
	r := newRig(t, nil)
	d := r.device(1)
	r.append(d, "a", "b", "c")
	s := r.session()
	m := wants(t, mustReceive(t, s, first+"1", "", nil), "a", "b", "c")
	offset, _ := m.Annotations["x-opt-offset"].(string)
	sequence, _ := m.Annotations["x-opt-sequence-number"].(int64)
	at, _ := m.Annotations["x-opt-enqueued-time"].(time.Time)
	if offset == "" || sequence != 2 || at.IsZero() {
		t.Fatalf("annotations %v", m.Annotations)
	}
	eventually(t, "another millisecond", func() bool { return time.Now().UnixMilli() > at.UnixMilli() })
	latest := mustReceive(t, s, first+"1", "x-opt-offset > '@latest'", nil)
	r.append(d, "d")
	wants(t, latest, "d")
	for selector, want := range map[string][]string{
		"x-opt-offset > '-1'":                                        {"a", "b", "c", "d"},
		"x-opt-offset > '" + offset + "'":                            {"d"},
		"x-opt-offset >= '" + offset + "'":                           {"c", "d"},
		"x-opt-sequence-number > '1'":                                {"c", "d"},
		"x-opt-sequence-number >= '1'":                               {"b", "c", "d"},
		"x-opt-enqueued-time > '" + fmt.Sprint(at.UnixMilli()) + "'": {"d"},
	} {
		recv := mustReceive(t, s, "/SELVEDGE/consumergroups/SECOND/partitions/1", selector, nil)
		wants(t, recv, want...)
		recv.Close(deadline(t))
	}
	other := mustReceive(t, s, "amqps://hub.example.test:5671/"+first+"0", "", nil)
	r.append(r.device(0), "elsewhere")
	wants(t, other, "elsewhere")
}

func TestStreamRefuses(t *testing.T) {
	r := newRig(t, nil)
	s := r.session()
	for address, want := range map[string]azure.ErrCond{
		"selvedge/ConsumerGroups/none/Partitions/0":     "amqp:not-found",
		"selvedge/ConsumerGroups/$Default/Partitions/2": "amqp:not-found",
		"selvedge/ConsumerGroups/$Default/Partitions/x": "amqp:not-found",
		"elsewhere": "amqp:not-found",
	} {
		if _, err := receive(t, s, address, "", nil); condition(err) != want {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := receive(t, s, first+"0", "x-opt-offset < '3'", nil); err == nil {
		t.Error("a bad selector was taken")
	}
	if _, err := receive(t, s, first+"0", "", func(o *azure.ReceiverOptions) { o.Properties = map[string]any{epochProperty: "high"} }); err == nil {
		t.Error("an epoch that is no number was taken")
	}
	if _, err := s.NewSender(deadline(t), first+"0", nil); condition(err) != "amqp:not-allowed" {
		t.Errorf("sending to the stream: %v", err)
	}
	r.allow(func(resource string) bool { return strings.HasPrefix(resource, first+"1") })
	if _, err := receive(t, s, first+"0", "", nil); condition(err) != "amqp:unauthorized-access" {
		t.Errorf("without the right: %v", err)
	}
	mustReceive(t, s, first+"1", "", nil)
	r.allow(func(resource string) bool { return strings.HasPrefix(resource, "messages/events") })
	mustReceive(t, s, first+"0", "", nil)
}

func TestTokenEndsLink(t *testing.T) {
	r := newRig(t, nil)
	recv := mustReceive(t, r.session(), first+"0", "", nil)
	var over func(error)
	eventually(t, "the watch", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		over = r.watched[first+"0"]
		return over != nil
	})
	ended := fault.New(fault.UnauthorizedAccess, "the token has ended")
	over(ended)
	if _, err := recv.Receive(deadline(t), nil); condition(err) != azure.ErrCond(errorOf(ended).Condition) {
		t.Errorf("%v", err)
	}
	eventually(t, "the watch to stop", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.watched) == 0
	})
}

func TestCreditIsHonoured(t *testing.T) {
	r := newRig(t, nil)
	d := r.device(0)
	r.append(d, "a", "b", "c", "d", "e")
	recv := mustReceive(t, r.session(), first+"0", "", func(o *azure.ReceiverOptions) { o.Credit = -1 })
	for _, want := range []string{"a b", "c", "d e"} {
		bodies := strings.Fields(want)
		if err := recv.IssueCredit(uint32(len(bodies))); err != nil {
			t.Fatal(err)
		}
		wants(t, recv, bodies...)
		if m := recv.Prefetched(); m != nil {
			t.Fatalf("%q came beyond the credit", m.GetData())
		}
	}
}

func TestSettleModes(t *testing.T) {
	r := newRig(t, nil)
	r.append(r.device(0), "a", "b")
	for _, mode := range []azure.SenderSettleMode{azure.SenderSettleModeUnsettled, azure.SenderSettleModeSettled, azure.SenderSettleModeMixed} {
		for _, second := range []azure.ReceiverSettleMode{azure.ReceiverSettleModeFirst, azure.ReceiverSettleModeSecond} {
			recv := mustReceive(t, r.session(), first+"0", "", func(o *azure.ReceiverOptions) {
				o.RequestedSenderSettleMode, o.SettlementMode = &mode, &second
			})
			for _, want := range []string{"a", "b"} {
				if m := wants(t, recv, want); mode == azure.SenderSettleModeUnsettled {
					if err := recv.AcceptMessage(deadline(t), m); err != nil {
						t.Errorf("mode %v, %v: %v", mode, second, err)
					}
				}
			}
			recv.Close(deadline(t))
		}
	}
}

func TestOwnerLevels(t *testing.T) {
	r := newRig(t, nil)
	d := r.device(0)
	s := r.session()
	plain := []*azure.Receiver{}
	for range maxReaders {
		plain = append(plain, mustReceive(t, s, first+"0", "", nil))
	}
	if _, err := receive(t, s, first+"0", "", nil); condition(err) != "amqp:resource-limit-exceeded" {
		t.Errorf("one too many: %v", err)
	}
	plain[0].Close(deadline(t))
	eventually(t, "room for another", func() bool {
		another, err := receive(t, s, first+"0", "", nil)
		if err == nil {
			plain[0] = another
		}
		return err == nil
	})
	stolen := func(what string, recv *azure.Receiver) {
		t.Helper()
		if _, err := recv.Receive(deadline(t), nil); condition(err) != "amqp:link:stolen" {
			t.Errorf("%s: %v", what, err)
		}
	}
	low := mustReceive(t, s, first+"0", "", epoch(0, "low"))
	for _, p := range plain {
		stolen("a receiver without level", p)
	}
	other := mustReceive(t, s, "selvedge/ConsumerGroups/second/Partitions/0", "", nil)
	elsewhere := mustReceive(t, s, first+"1", "", nil)
	high := mustReceive(t, s, first+"0", "", epoch(2, "high"))
	stolen("the lower level", low)
	stolen("a lower level", mustReceive(t, s, first+"0", "", epoch(1, "late")))
	stolen("no level", mustReceive(t, s, first+"0", "", nil))
	same := mustReceive(t, r.session(), first+"0", "", epoch(2, "same"))
	stolen("an older one of the same level", high)
	r.append(d, "x")
	r.append(r.device(1), "y")
	wants(t, same, "x")
	wants(t, other, "x")
	wants(t, elsewhere, "y")
	same.Close(deadline(t))
	eventually(t, "the partition to be free", func() bool {
		recv := mustReceive(t, s, first+"0", "", nil)
		m, err := recv.Receive(deadline(t), nil)
		return err == nil && string(m.GetData()) == "x"
	})
}

func TestRuntimeMetrics(t *testing.T) {
	r := newRig(t, nil)
	r.append(r.device(0), "a", "b")
	recv := mustReceive(t, r.session(), first+"0", "", func(o *azure.ReceiverOptions) { o.DesiredCapabilities = []string{string(wantsMetrics)} })
	m := wants(t, recv, "a")
	info, _ := r.stream.Info(0)
	if m.DeliveryAnnotations["last_enqueued_sequence_number"] != int64(1) ||
		m.DeliveryAnnotations["last_enqueued_offset"] != fmt.Sprint(info.LastOffset) {
		t.Errorf("%v", m.DeliveryAnnotations)
	}
	for _, name := range []string{"last_enqueued_time_utc", "runtime_info_retrieval_time_utc"} {
		if at, ok := m.DeliveryAnnotations[name].(time.Time); !ok || time.Since(at).Abs() > time.Minute {
			t.Errorf("%s is %v", name, m.DeliveryAnnotations[name])
		}
	}
}

func TestEventForm(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_123).UTC()
	e := &events.Event{Partition: 1, Offset: 4096, Sequence: 7, Enqueued: at, Message: message.Message{
		Body: []byte(`{"t":1}`), Properties: []message.Property{{Name: "k", Value: "v"}, {Name: "k", Value: "again"}, {Name: "", Value: ""}},
		System: message.System{
			MessageID: "m", CorrelationID: "c", UserID: "u", To: "/devices/d/messages/events", ContentType: "application/json",
			ContentEncoding: "utf-8", CreationTime: "2023-11-14T22:13:20Z", Expiry: at, Schema: "s", Operation: "op", Output: "out",
			InterfaceID: "urn:x", Component: "thermostat", ConnectionDevice: "d", ConnectionModule: "mod", Generation: "g",
			AuthMethod: `{"scope":"module"}`, ModelID: "dtmi:x;1", Source: message.Telemetry, Enqueued: at,
		}}}
	var w eventWriter
	b, err := w.encode(e, nil)
	if err != nil {
		t.Fatal(err)
	}
	var m amqp.Message
	if err := m.Decode(b); err != nil {
		t.Fatal(err)
	}
	want := amqp.Message{
		Annotations: amqp.Map{
			{Key: amqp.Symbol("x-opt-sequence-number"), Value: int64(7)}, {Key: amqp.Symbol("x-opt-offset"), Value: "4096"},
			{Key: amqp.Symbol("x-opt-enqueued-time"), Value: at}, {Key: amqp.Symbol("x-opt-partition-key"), Value: "d"},
			{Key: amqp.Symbol("iothub-connection-device-id"), Value: "d"}, {Key: amqp.Symbol("iothub-connection-module-id"), Value: "mod"},
			{Key: amqp.Symbol("iothub-connection-auth-generation-id"), Value: "g"},
			{Key: amqp.Symbol("iothub-connection-auth-method"), Value: `{"scope":"module"}`},
			{Key: amqp.Symbol("iothub-enqueuedtime"), Value: at}, {Key: amqp.Symbol("iothub-message-source"), Value: "Telemetry"},
			{Key: amqp.Symbol("dt-dataschema"), Value: "dtmi:x;1"}, {Key: amqp.Symbol("dt-subject"), Value: "thermostat"},
			{Key: amqp.Symbol("iothub-interface-id"), Value: "urn:x"}, {Key: amqp.Symbol("iothub-creation-time-utc"), Value: "2023-11-14T22:13:20Z"},
			{Key: amqp.Symbol("iothub-operation"), Value: "op"}, {Key: amqp.Symbol("iothub-outputname"), Value: "out"},
		},
		Properties: amqp.Properties{MessageID: "m", UserID: []byte("u"), To: "/devices/d/messages/events", CorrelationID: "c",
			ContentType: "application/json", ContentEncoding: "utf-8", AbsoluteExpiryTime: at, CreationTime: time.Unix(1_700_000_000, 0).UTC()},
		ApplicationProperties: amqp.Map{{Key: "iothub-message-schema", Value: "s"}, {Key: "k", Value: "v"}, {Key: "", Value: ""}},
		Data:                  [][]byte{[]byte(`{"t":1}`)},
	}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("%+v, want\n%+v", m, want)
	}
}

func TestRepeatedPropertiesComeOnce(t *testing.T) {
	for _, n := range []int{3, manyProperties, manyProperties + 1, 100} {
		e := &events.Event{}
		for i := range 2 * n {
			e.Message.Properties = append(e.Message.Properties, message.Property{Name: strconv.Itoa(i % n), Value: strconv.Itoa(i)})
		}
		var w eventWriter
		for range 2 {
			b, err := w.encode(e, nil)
			if err != nil {
				t.Fatal(err)
			}
			var m amqp.Message
			if err := m.Decode(b); err != nil || len(m.ApplicationProperties) != n {
				t.Fatalf("%d of %d, %v", len(m.ApplicationProperties), n, err)
			}
			for i, p := range m.ApplicationProperties {
				if p.Key != strconv.Itoa(i) || p.Value != strconv.Itoa(i) {
					t.Errorf("%v at %d", p, i)
				}
			}
		}
	}
}

func TestLargeEvents(t *testing.T) {
	r := newRig(t, nil)
	body := strings.Repeat("x", message.MaxTelemetry)
	bodies := slices.Repeat([]string{body}, 20)
	r.append(r.device(0), bodies...)
	wants(t, mustReceive(t, r.session(), first+"0", "", nil), bodies...)
	if _, err := receive(t, r.session(), first+"0", "", func(o *azure.ReceiverOptions) { o.MaxMessageSize = 1000 }); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkEncodeEvent(b *testing.B) {
	e := &events.Event{Offset: 1 << 30, Sequence: 1 << 20, Enqueued: time.Now(), Message: message.Message{
		Body: bytes.Repeat([]byte("x"), 200), Properties: []message.Property{{Name: "level", Value: "high"}},
		System: message.System{MessageID: "some-message-id", ContentType: "application/json", ContentEncoding: "utf-8", ConnectionDevice: "device-17",
			Generation: "638000000000000000", AuthMethod: `{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}`,
			Source: message.Telemetry, Enqueued: time.Now()}}}
	var w eventWriter
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.encode(e, nil); err != nil {
			b.Fatal(err)
		}
	}
}
