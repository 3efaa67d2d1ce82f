package amqp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// values are the types of part 1, section 6, with their encoding here.
var values = []struct {
	name string
	v    any
	wire string
}{
	{"null", nil, "40"},
	{"true", true, "41"},
	{"false", false, "42"},
	{"ubyte", uint8(200), "50 c8"},
	{"ushort", uint16(0x1234), "60 1234"},
	{"uint 0", uint32(0), "43"},
	{"uint small", uint32(200), "52 c8"},
	{"uint", uint32(0x12345678), "70 12345678"},
	{"ulong 0", uint64(0), "44"},
	{"ulong small", uint64(255), "53 ff"},
	{"ulong", uint64(256), "80 0000000000000100"},
	{"byte", int8(-2), "51 fe"},
	{"short", int16(-2), "61 fffe"},
	{"int small", int32(-128), "54 80"},
	{"int", int32(200), "71 000000c8"},
	{"long small", int64(127), "55 7f"},
	{"long", int64(-129), "81 ffffffffffffff7f"},
	{"float", float32(1.5), "72 3fc00000"},
	{"double", 1.5, "82 3ff8000000000000"},
	{"decimal32", Decimal32{1, 2, 3, 4}, "74 01020304"},
	{"decimal64", Decimal64{7: 9}, "84 0000000000000009"},
	{"decimal128", Decimal128{15: 9}, "94 00000000000000000000000000000009"},
	{"char", Char('€'), "73 000020ac"},
	{"timestamp", time.UnixMilli(0x13167b4b5e1).UTC(), "83 000001316 7b4b5e1"},
	{"before 1970", time.UnixMilli(-1).UTC(), "83 ffffffffffffffff"},
	{"uuid", UUID{0, 1, 15: 0xff}, "98 000100000000000000000000000000ff"},
	{"binary", []byte{1, 2}, "a0 02 0102"},
	{"binary long", bytes.Repeat([]byte{7}, 256), "b0 00000100" + strings.Repeat("07", 256)},
	{"string", "å", "a1 02 c3a5"},
	{"string long", strings.Repeat("a", 256), "b1 00000100" + strings.Repeat("61", 256)},
	{"symbol", Symbol("s"), "a3 01 73"},
	{"symbol long", Symbol(strings.Repeat("a", 300)), "b3 0000012c" + strings.Repeat("61", 300)},
	{"list empty", []any{}, "c0 01 00"},
	{"list", []any{"a", nil, true}, "c0 06 03 a10161 40 41"},
	{"list of 254 bytes", []any{strings.Repeat("a", 252)}, "c0 ff 01 a1 fc" + strings.Repeat("61", 252)},
	{"list of 255 bytes", []any{strings.Repeat("a", 253)}, "d0 00000103 00000001 a1 fd" + strings.Repeat("61", 253)},
	{"map", Map{{Symbol("k"), uint32(1)}, {"k", "v"}}, "c1 0c 04 a3016b 5201 a1016b a10176"},
	{"described", Described{uint64(0x24), []any{}}, "00 5324 c00100"},
	{"strings", []string{"0", "1"}, "f0 0000000f 00000002 b1 00000001 30 00000001 31"},
	{"symbols", []Symbol{"ab"}, "f0 0000000b 00000001 b3 00000002 6162"},
	{"array of int", Array{int32(1), int32(-1)}, "f0 0000000d 00000002 71 00000001 ffffffff"},
	{"array of bool", Array{true, false}, "f0 00000007 00000002 56 01 00"},
	{"array of map", Array{Map{{"a", nil}}}, "f0 00000011 00000001 d1 00000008 00000002 a10161 40"},
	{"array of array", Array{[]string{"x"}, Array{uint8(1)}}, "f0 0000001d 00000002 f0 0000000a 00000001 b1 00000001 78 00000006 00000001 50 01"},
	{"array of described", Array{Described{Symbol("d"), uint8(1)}}, "f0 0000000a 00000001 00 a30164 50 01"},
	{"array empty", Array{}, "f0 00000005 00000000 40"},
}

func TestValues(t *testing.T) {
	for _, test := range values {
		t.Run(test.name, func(t *testing.T) {
			wire := unhex(t, test.wire)
			got, err := AppendValue([]byte("before"), test.v)
			if err != nil || !bytes.Equal(got, append([]byte("before"), wire...)) {
				t.Errorf("encodes to %x, %v, want %x", got[6:], err, wire)
			}
			v, rest, err := ReadValue(append(wire, 0x99))
			if err != nil || len(rest) != 1 {
				t.Fatalf("decodes with %v, %d left", err, len(rest))
			}
			if !reflect.DeepEqual(v, test.v) {
				t.Errorf("decodes to %#v, want %#v", v, test.v)
			}
			for n := range len(wire) {
				if _, _, err := ReadValue(wire[:n]); !errors.Is(err, ErrMalformed) {
					t.Errorf("its first %d bytes give %v", n, err)
				}
			}
		})
	}
}

func TestOtherEncodings(t *testing.T) {
	for wire, want := range map[string]any{
		"56 01":                          true,
		"70 00000005":                    uint32(5),
		"45":                             []any{},
		"d0 00000005 00000001 40":        []any{nil},
		"e0 06 02 a1 01 61 01 62":        []string{"a", "b"},
		"e0 05 02 a3 00 01 62":           []Symbol{"", "b"},
		"e0 02 03 41":                    Array{true, true, true},
		"b1 00000001 61":                 "a",
		"00 a30161 00 5301 40":           Described{Symbol("a"), Described{uint64(1), nil}},
		"d1 00000008 00000002 a10161 42": Map{{"a", false}},
	} {
		v, rest, err := ReadValue(unhex(t, wire))
		if err != nil || len(rest) != 0 || !reflect.DeepEqual(v, want) {
			t.Errorf("%s decodes to %#v, %v, want %#v", wire, v, err, want)
		}
	}
}

func TestMalformedValues(t *testing.T) {
	for name, wire := range map[string]string{
		"nothing":                  "",
		"no type":                  "3f",
		"list of too many":         "d0 00000004 00ffffff",
		"map of an odd number":     "c1 04 01 a10161",
		"array of many nulls":      "f0 00000005 00100000 40",
		"array of many lists":      "e0 02 ff 45",
		"array of descriptors":     "e0 06 01 00 5301 00 40",
		"size beyond the end":      "b0 ffffffff 00",
		"element beyond its list":  "c0 02 01 50 05",
		"array without type":       "e0 01 00",
		"deep lists":               strings.Repeat("c0 ff 01", 40),
		"deep descriptions":        strings.Repeat("00", 200000),
		"compound without a count": "c0 00",
	} {
		if v, _, err := ReadValue(unhex(t, wire)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s gives %#v, %v", name, v, err)
		}
	}
}

func TestUnencodable(t *testing.T) {
	deep := []any{}
	for range 40 {
		deep = []any{deep}
	}
	for name, v := range map[string]any{
		"int":               1,
		"struct":            struct{}{},
		"within a map":      Map{{"k", 1}},
		"mixed array":       Array{uint8(1), "x"},
		"int array":         Array{1},
		"half described":    Array{Described{"d", "x"}, "x"},
		"int in an array":   Array{[]any{1}},
		"deep":              deep,
		"unknown in a list": []any{make(chan int)},
	} {
		got, err := AppendValue([]byte("x"), v)
		if !errors.Is(err, ErrType) || string(got) != "x" {
			t.Errorf("%s gives %q, %v", name, got, err)
		}
	}
}

func TestMapLookups(t *testing.T) {
	m := Map{{uint64(1), "n"}, {Symbol("s"), Symbol("x")}, {"t", "y"}, {"i", int32(-3)}, {"u", uint64(1 << 63)}, {"b", uint8(9)}}
	if s, ok := m.Text("s"); s != "x" || !ok {
		t.Errorf("Text(s) = %q, %v", s, ok)
	}
	if s, ok := m.Text("t"); s != "y" || !ok {
		t.Errorf("Text(t) = %q, %v", s, ok)
	}
	if _, ok := m.Text("i"); ok {
		t.Error("a number is text")
	}
	if n, ok := m.Integer("i"); n != -3 || !ok {
		t.Errorf("Integer(i) = %d, %v", n, ok)
	}
	if n, ok := m.Integer("b"); n != 9 || !ok {
		t.Errorf("Integer(b) = %d, %v", n, ok)
	}
	if _, ok := m.Integer("u"); ok {
		t.Error("2^63 fits int64")
	}
	if _, ok := m.Lookup("none"); ok {
		t.Error("found what is not there")
	}
	if got := (UUID{0x12, 0x34, 4: 0xab, 6: 0x40, 8: 0x80, 15: 1}).String(); got != "12340000-ab00-4000-8000-000000000001" {
		t.Errorf("UUID is %s", got)
	}
}
