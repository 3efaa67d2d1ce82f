package amqp

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func fullMessage() Message {
	return Message{
		Header:              Header{Durable: true, Priority: 7, TTL: 5 * time.Second, FirstAcquirer: true, DeliveryCount: 2},
		DeliveryAnnotations: Map{{Symbol("d"), int64(1)}},
		Annotations:         Map{{Symbol("x-opt-sequence-number"), int64(300)}, {Symbol("status"), int32(200)}},
		Properties: Properties{
			MessageID: "id", UserID: []byte("user"), To: "to", Subject: "subject", ReplyTo: "reply", CorrelationID: uint64(9),
			ContentType: "application/json", ContentEncoding: "utf-8",
			AbsoluteExpiryTime: time.UnixMilli(1700000000000).UTC(), CreationTime: time.UnixMilli(1).UTC(),
			GroupID: "group", GroupSequence: 3, ReplyToGroupID: "reply group",
		},
		ApplicationProperties: Map{{"a", "b"}, {"n", int32(1)}},
		Data:                  [][]byte{[]byte("body")},
		Footer:                Map{{Symbol("f"), true}},
	}
}

func TestMessages(t *testing.T) {
	data, sequence, value := fullMessage(), fullMessage(), fullMessage()
	data.Data = [][]byte{[]byte("one"), {}, []byte("two")}
	sequence.Data, sequence.Sequences = nil, [][]any{{"a", uint8(1)}, {}}
	value.Data, value.HasValue, value.Value = nil, true, Map{{"ids", []string{"0", "1"}}}
	tests := map[string]Message{
		"empty": {}, "full": fullMessage(), "several data": data, "sequences": sequence, "value": value,
		"null value": {HasValue: true}, "empty data": {Data: [][]byte{{}}},
	}
	for _, id := range []any{"s", uint64(1 << 40), UUID{1}, []byte{1, 2}, uint64(0)} {
		tests["id "+reflect.TypeOf(id).String()] = Message{Properties: Properties{MessageID: id, CorrelationID: id}}
	}
	for name, m := range tests {
		t.Run(name, func(t *testing.T) {
			b, err := m.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			var got Message
			if err := got.Decode(b); err != nil {
				t.Fatal(err)
			}
			got.Data = append([][]byte(nil), got.Data...) // nil when empty
			if !reflect.DeepEqual(got, m) {
				t.Errorf("got %+v\nwant %+v", got, m)
			}
		})
	}
	if got := string(data.Body()); got != "onetwo" {
		t.Errorf("Body is %q", got)
	}
	if _, err := (&Message{Annotations: Map{{"k", 1}}}).Append(nil); !errors.Is(err, ErrType) {
		t.Errorf("a Go int gives %v", err)
	}
}

func TestMalformedMessages(t *testing.T) {
	for name, wire := range map[string]string{
		"not described":        "a0 01 00",
		"unknown section":      "00 5399 40",
		"header twice":         "00 5370 45 00 5370 45",
		"out of order":         "00 5375 a000 00 5373 45",
		"data that is text":    "00 5375 a100",
		"properties not list":  "00 5373 40",
		"annotations not map":  "00 5372 45",
		"two kinds of body":    "00 5375 a000 00 5377 40",
		"value twice":          "00 5377 40 00 5377 40",
		"id cut":               "00 5373 c0 03 01 a1 05",
		"field missing":        "00 5373 c0 01 02",
		"sequence not a list":  "00 5376 a100",
		"symbolic unknown":     "00 a301 78 45",
		"priority too high":    "00 5370 c0 08 02 41 70 00000100",
		"content-type integer": "00 5373 c0 08 07 40 40 40 40 40 40 43",
	} {
		var m Message
		if err := m.Decode(unhex(t, wire)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s gives %v, %+v", name, err, m)
		}
	}
	// The other forms of descriptors.
	var m Message
	if err := m.Decode(unhex(t, "00 80 0000000000000075 a00161 00 a3 10 616d71703a646174613a62696e617279 a00162")); err != nil || string(m.Body()) != "ab" {
		t.Errorf("got %q, %v", m.Body(), err)
	}
}

func TestBatches(t *testing.T) {
	var batch []byte
	for _, body := range []string{"one", "two", "three"} {
		inner := Message{Data: [][]byte{[]byte(body)}, ApplicationProperties: Map{{"b", body}}}
		b, err := inner.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		batch = AppendData(batch, b)
	}
	each := func(format uint32, payload []byte) (bodies []string, err error) {
		for m, err := range Each(format, payload) {
			if err != nil {
				return bodies, err
			}
			bodies = append(bodies, string(m.Body()))
		}
		return bodies, nil
	}
	if got, err := each(BatchFormat, batch); err != nil || strings.Join(got, " ") != "one two three" {
		t.Errorf("the batch holds %q, %v", got, err)
	}
	if got, err := each(0, batch); err != nil || len(got) != 1 {
		t.Errorf("as one message it gives %d, %v", len(got), err)
	}
	if got, err := each(BatchFormat, AppendData(batch, []byte{1})); !errors.Is(err, ErrMalformed) || len(got) != 3 {
		t.Errorf("a broken batch gives %q, %v", got, err)
	}
	if _, err := each(BatchFormat, unhex(t, "00 5377 40")); !errors.Is(err, ErrMalformed) {
		t.Errorf("a batch of a value gives %v", err)
	}
}

func BenchmarkMessageDecode(b *testing.B) {
	m := Message{
		Properties:            Properties{MessageID: "0123456789", ContentType: "application/json", ContentEncoding: "utf-8"},
		ApplicationProperties: Map{{"alert", "true"}, {"level", "3"}},
		Data:                  [][]byte{bytes.Repeat([]byte("x"), 256)},
	}
	wire, err := m.Append(nil)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(wire)))
	b.ReportAllocs()
	for b.Loop() {
		if err := m.Decode(wire); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMessageAppend(b *testing.B) {
	m := fullMessage()
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buf, err = m.Append(buf[:0]); err != nil {
			b.Fatal(err)
		}
	}
}
