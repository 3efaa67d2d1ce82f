package message

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"strings"
	"testing"
	"time"
)

func full() Message {
	return Message{
		Body: []byte(`{"temperature":21.5}`),
		Properties: []Property{
			{"level", "storage"}, {"level", "again"}, {"empty", ""}, {"", "nameless"}, {strings.Repeat("n", 200), "x"},
		},
		System: System{
			MessageID: "m-1", CorrelationID: "c-1", UserID: "u", To: "/devices/d/messages/devicebound",
			ContentType: "application/json", ContentEncoding: "utf-8", CreationTime: "2026-01-02T03:04:05Z",
			Expiry: time.Date(9999, 12, 31, 23, 59, 59, 999999900, time.UTC), Schema: "s", Operation: "op",
			Ack: "full", Output: "out", InterfaceID: "urn:x", Component: "thermostat1", Input: "in",
			ConnectionDevice: "d", ConnectionModule: "m", Generation: "637", AuthMethod: `{"scope":"device"}`,
			ModelID: "dtmi:x;1", Source: Telemetry, Enqueued: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
			Sequence: 1 << 60, DeliveryCount: 255, LockToken: "6a9b",
		},
	}
}

func TestCodecKeepsEverything(t *testing.T) {
	m := full()
	v := reflect.ValueOf(m.System)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("the sample leaves %s empty, so it is not tested", v.Type().Field(i).Name)
		}
	}
	for name, m := range map[string]Message{
		"full":    m,
		"empty":   {},
		"body":    {Body: make([]byte, 300)},
		"ancient": {System: System{Expiry: time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC)}},
	} {
		t.Run(name, func(t *testing.T) {
			got := Message{Properties: make([]Property, 3), System: System{To: "left over"}}
			if err := got.Decode(m.Append([]byte("prefix"))[len("prefix"):]); err != nil {
				t.Fatal(err)
			}
			equal(t, got, m)
		})
	}
}

func equal(t *testing.T, got, want Message) {
	t.Helper()
	if !bytes.Equal(got.Body, want.Body) {
		t.Errorf("body %q, want %q", got.Body, want.Body)
	}
	if got.System != want.System {
		t.Errorf("system\n%+v, want\n%+v", got.System, want.System)
	}
	if len(got.Properties)+len(want.Properties) > 0 && !reflect.DeepEqual(got.Properties, want.Properties) {
		t.Errorf("properties %q, want %q", got.Properties, want.Properties)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, b := range map[string]string{
		"nothing":          "",
		"another version":  "\x02",
		"no length":        "\x01\x01",
		"endless length":   "\x01\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
		"longer than it":   "\x01\x01\x05abc",
		"huge length":      "\x01\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
		"property no name": "\x01\x02\x00",
		"property name":    "\x01\x02\x02\x05a",
		"empty time":       "\x01\x0a\x00",
		"half a time":      "\x01\x0a\x01\x02",
		"too many nanos":   "\x01\x0a\x07\x02" + string(binary.AppendUvarint(nil, 1<<36)),
		"empty number":     "\x01\x19\x00",
	} {
		if err := new(Message).Decode([]byte(b)); err == nil {
			t.Errorf("%s: %q was accepted", name, b)
		}
	}
}

func TestDecodeSkipsUnknownTags(t *testing.T) {
	b := append(full().encoded(), 200, 2, 'h', 'i', 0, 0)
	var m Message
	if err := m.Decode(b); err != nil {
		t.Fatal(err)
	}
	equal(t, m, full())
}

func (m Message) encoded() []byte { return m.Append(nil) }

func TestCloneOutlivesTheBuffer(t *testing.T) {
	b := full().encoded()
	var m Message
	if err := m.Decode(b); err != nil {
		t.Fatal(err)
	}
	kept := m.Clone()
	clear(b)
	m.Properties[0].Value = "changed"
	equal(t, kept, full())
}

func FuzzDecode(f *testing.F) {
	f.Add(full().encoded())
	f.Add(Message{}.encoded())
	f.Add([]byte("\x01\x02\x02\x05a"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m, again Message
		if m.Decode(b) != nil {
			return
		}
		first := m.Append(nil)
		if err := again.Decode(first); err != nil {
			t.Fatalf("%x does not decode again: %v", first, err)
		}
		if second := again.Append(nil); !bytes.Equal(first, second) {
			t.Fatalf("%x becomes %x in a second round", first, second)
		}
	})
}

func BenchmarkCodec(b *testing.B) {
	m := full()
	m.Body = make([]byte, 256)
	var dst []byte
	b.Run("Append", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			dst = m.Append(dst[:0])
		}
	})
	b.Run("Decode", func(b *testing.B) {
		b.ReportAllocs()
		var out Message
		for b.Loop() {
			if err := out.Decode(dst); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Clone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = m.Clone()
		}
	})
}
