package amqp

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestBuilderMakesWhatAppendMakes(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_123).UTC()
	long := strings.Repeat("x", 300)
	m := Message{
		DeliveryAnnotations:   Map{{Symbol("n"), int64(1 << 40)}},
		Annotations:           Map{{Symbol("a"), "b"}, {Symbol("t"), at}, {Symbol("n"), uint64(300)}, {Symbol("m"), uint8(7)}, {Symbol("long"), long}},
		Properties:            Properties{MessageID: "id", ContentType: "application/json", CreationTime: at},
		ApplicationProperties: Map{{"k", "v"}, {"", ""}},
		Data:                  [][]byte{[]byte("body")},
	}
	want, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	var b Builder
	for range 2 {
		b.Reset()
		b.DeliveryAnnotations()
		b.Long("n", 1<<40)
		b.End()
		b.Annotations()
		b.Text("a", "b")
		b.Time("t", at)
		b.Ulong("n", 300)
		b.Ubyte("m", 7)
		b.Text("long", long)
		b.End()
		b.Properties(&m.Properties)
		b.ApplicationProperties()
		b.Text("k", "v")
		b.Text("", "")
		b.End()
		b.Data([]byte("body"))
		if got, err := b.Bytes(); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%x (%v), want %x", got, err, want)
		}
	}
	var back Message
	if err := back.Decode(want); err != nil || !reflect.DeepEqual(back, m) {
		t.Errorf("%+v, %v", back, err)
	}
}

func TestBuilderLeavesEmptySectionsOut(t *testing.T) {
	var b Builder
	b.Annotations()
	b.End()
	b.Properties(&Properties{})
	b.ApplicationProperties()
	b.End()
	b.Data(nil)
	if got, err := b.Bytes(); err != nil || !bytes.Equal(got, []byte{0, 0x53, 0x75, 0xa0, 0}) {
		t.Errorf("%x, %v", got, err)
	}
}

func TestBuilderAllocatesNothing(t *testing.T) {
	var b Builder
	body, at := bytes.Repeat([]byte("x"), 1000), time.Now()
	p := Properties{MessageID: "id", ContentType: "text/plain"}
	build := func() {
		b.Reset()
		b.Annotations()
		b.Text("a", "b")
		b.Time("t", at)
		b.End()
		b.Properties(&p)
		b.Data(body)
	}
	build()
	if n := testing.AllocsPerRun(100, build); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
