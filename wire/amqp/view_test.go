package amqp

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"
)

// viewed compares what a View and a Message make of b.
func viewed(t *testing.T, b []byte) {
	t.Helper()
	var m Message
	var v View
	strict, lax := m.Decode(b), v.Decode(b)
	if lax != nil && !errors.Is(lax, ErrMalformed) {
		t.Errorf("%v", lax)
	}
	if strict != nil {
		return // a View does not look into values that nobody asks for
	}
	if lax != nil {
		t.Fatalf("%x is a message, but viewing it gives %v", b, lax)
	}
	p := ViewProperties{UserID: m.Properties.UserID, To: m.Properties.To, ContentType: string(m.Properties.ContentType),
		ContentEncoding: string(m.Properties.ContentEncoding), AbsoluteExpiryTime: m.Properties.AbsoluteExpiryTime}
	if !reflect.DeepEqual(v.Properties.MessageID.Any(), m.Properties.MessageID) || !reflect.DeepEqual(v.Properties.CorrelationID.Any(), m.Properties.CorrelationID) {
		t.Errorf("ids %v %v", v.Properties.MessageID, v.Properties.CorrelationID)
	}
	v.Properties.MessageID, v.Properties.CorrelationID = Raw{}, Raw{}
	if !reflect.DeepEqual(v.Properties, p) || v.Header != m.Header || v.HasValue != m.HasValue || v.Sequences != len(m.Sequences) || !bytes.Equal(v.Body(), m.Body()) || len(v.Data) != len(m.Data) {
		t.Errorf("%+v, want %+v", v, m)
	}
	if m.HasValue && !reflect.DeepEqual(v.Value.Any(), m.Value) {
		t.Errorf("value %v, want %v", v.Value.Any(), m.Value)
	}
	for _, s := range []struct {
		got  []Pair
		want Map
	}{{v.Annotations, m.Annotations}, {v.ApplicationProperties, m.ApplicationProperties}} {
		n := 0
		for _, e := range s.want {
			var name string
			switch k := e.Key.(type) {
			case string:
				name = k
			case Symbol:
				name = string(k)
			default:
				continue
			}
			if n >= len(s.got) || s.got[n].Key != name || !reflect.DeepEqual(s.got[n].Value.Any(), e.Value) {
				t.Fatalf("%v, want %v", s.got, s.want)
			}
			if text, ok := s.got[n].Value.Text(); ok && text != "" {
				if want, _ := s.want[:].Text(name); want == "" && len(s.want) == 1 {
					t.Errorf("text %q", text)
				}
			}
			n++
		}
		if n != len(s.got) {
			t.Errorf("%v, want %v", s.got, s.want)
		}
	}
	if body, ok := SoleData(b[v.Head:]); ok && (!bytes.Equal(body, m.Body()) || len(m.Data) != 1) {
		t.Errorf("the sole data is %x", body)
	} else if !ok && len(m.Data) == 1 && len(m.Footer) == 0 && v.Head+5 <= len(b) && b[v.Head+1] == codeUlongSmall && bytes.HasSuffix(b, m.Data[0]) && v.Head+5+len(m.Data[0]) == len(b) {
		t.Error("there is sole data")
	}
}

func messagesToView(t testing.TB) (all [][]byte) {
	t.Helper()
	for _, m := range []Message{
		{},
		{Data: [][]byte{nil}},
		{Data: [][]byte{[]byte("a"), bytes.Repeat([]byte("b"), 300)}, Footer: Map{{Symbol("f"), int32(1)}}},
		{Header: Header{TTL: time.Minute, Priority: 3}, DeliveryAnnotations: Map{{Symbol("d"), true}}, Data: [][]byte{[]byte("x")}},
		{Annotations: Map{{Symbol("a"), "b"}, {Symbol("n"), nil}, {Symbol("l"), []any{"x", uint64(1)}}, {uint64(7), "number"}}},
		{Properties: Properties{MessageID: "id", CorrelationID: UUID{1, 2}, UserID: []byte("u"), To: "to", Subject: "s", ContentType: "ct", ContentEncoding: "ce", AbsoluteExpiryTime: time.UnixMilli(5).UTC(), GroupID: "g"}},
		{ApplicationProperties: Map{{"s", "v"}, {"i", int64(-5)}, {"f", 1.5}, {"t", time.UnixMilli(1).UTC()}, {"y", Symbol("sym")}, {"b", []byte{1}}, {"d", Described{uint64(9), "x"}}}, Data: [][]byte{{1}}},
		{Value: Map{{"k", []string{"a", "b"}}}, HasValue: true},
		{Value: nil, HasValue: true},
		{Sequences: [][]any{{"a"}, {uint32(1)}}},
	} {
		b, err := m.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

func TestViewSeesWhatMessageReads(t *testing.T) {
	for _, b := range messagesToView(t) {
		viewed(t, b)
		for n := range b { // cut short
			viewed(t, b[:n])
		}
	}
}

func TestViewAllocatesNothing(t *testing.T) {
	all := messagesToView(t)
	var v View
	view := func() {
		for _, b := range all {
			if err := v.Decode(b); err != nil {
				t.Fatal(err)
			}
		}
	}
	view()
	if n := testing.AllocsPerRun(100, view); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzView(f *testing.F) {
	for _, b := range messagesToView(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { viewed(t, b) })
}
