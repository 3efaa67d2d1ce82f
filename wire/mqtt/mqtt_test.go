package mqtt

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// packet is anything the tables below can take both ways.
type packet interface {
	decode(Frame) error
	append([]byte) []byte
}

type (
	connect     struct{ *Connect }
	connack     struct{ *Connack }
	publish     struct{ *Publish }
	subscribe   struct{ *Subscribe }
	suback      struct{ *Suback }
	unsubscribe struct{ *Unsubscribe }
	ack         struct{ *Ack }
	empty       struct{ t Type }
)

func (p connect) decode(f Frame) error       { return p.Decode(f) }
func (p connect) append(b []byte) []byte     { return p.Append(b) }
func (p connack) decode(f Frame) error       { return p.Decode(f) }
func (p connack) append(b []byte) []byte     { return p.Append(b, V311) }
func (p publish) decode(f Frame) error       { return p.Decode(f) }
func (p publish) append(b []byte) []byte     { return p.Append(b, V311) }
func (p subscribe) decode(f Frame) error     { return p.Decode(f) }
func (p subscribe) append(b []byte) []byte   { return p.Append(b, V311) }
func (p suback) decode(f Frame) error        { return p.Decode(f) }
func (p suback) append(b []byte) []byte      { return p.Append(b, V311) }
func (p unsubscribe) decode(f Frame) error   { return p.Decode(f) }
func (p unsubscribe) append(b []byte) []byte { return p.Append(b, V311) }
func (p ack) decode(f Frame) error           { return p.Decode(f) }
func (p ack) append(b []byte) []byte         { return p.Append(b, V311) }
func (p empty) decode(f Frame) error         { return nil }
func (p empty) append(b []byte) []byte       { return AppendEmpty(b, p.t) }
func blank(f Frame) packet {
	switch f.Type {
	case TypeConnect:
		return connect{new(Connect)}
	case TypeConnack:
		return connack{new(Connack)}
	case TypePublish:
		return publish{new(Publish)}
	case TypeSubscribe:
		return subscribe{new(Subscribe)}
	case TypeSuback:
		return suback{new(Suback)}
	case TypeUnsubscribe:
		return unsubscribe{new(Unsubscribe)}
	case TypePingreq, TypePingresp, TypeDisconnect:
		return empty{f.Type}
	}
	return ack{new(Ack)}
}

var packets = []struct {
	name string
	wire string // hex, blanks ignored
	p    packet
}{
	{"connect, clean", "10 0d 0004 4d515454 04 02 003c 0001 61",
		connect{&Connect{Version: V311, ClientID: "a", CleanSession: true, KeepAlive: 60}}},
	{"connect, all fields", "10 20 0004 4d515454 04 f4 00b4 0003 642f6d 0001 74 0002 7731 0004 75736572 0002 7077",
		connect{&Connect{Version: V311, ClientID: "d/m", KeepAlive: 180,
			Username: "user", HasUsername: true, Password: []byte("pw"), HasPassword: true,
			Will: &Will{Topic: "t", Payload: []byte("w1"), QoS: 2, Retain: true}}}},
	{"connect, user name without password", "10 0f 0004 4d515454 04 82 0000 0000 0001 75",
		connect{&Connect{Version: V311, CleanSession: true, Username: "u", HasUsername: true}}},
	{"connack", "20 02 01 00", connack{&Connack{SessionPresent: true}}},
	{"connack, refused", "20 02 00 05", connack{&Connack{Code: RefusedNotAuthorized}}},
	{"publish, QoS 0", "30 05 0001 74 6869", publish{&Publish{Topic: "t", Payload: []byte("hi")}}},
	{"publish, QoS 1", "32 07 0001 74 000a 6869", publish{&Publish{Topic: "t", Payload: []byte("hi"), QoS: 1, ID: 10}}},
	{"publish, QoS 2, dup, retain", "3d 05 0001 74 ffff", publish{&Publish{Topic: "t", Payload: []byte{}, QoS: 2, ID: 65535, Dup: true, Retain: true}}},
	{"publish, bare wildcards", "30 05 0003 2b2f23", publish{&Publish{Topic: "+/#", Payload: []byte{}}}},
	{"puback", "40 02 1234", ack{&Ack{TypePuback, 0x1234}}},
	{"pubrec", "50 02 1234", ack{&Ack{TypePubrec, 0x1234}}},
	{"pubrel", "62 02 1234", ack{&Ack{TypePubrel, 0x1234}}},
	{"pubcomp", "70 02 1234", ack{&Ack{TypePubcomp, 0x1234}}},
	{"subscribe", "82 0a 0007 0001 61 01 0001 62 00", subscribe{&Subscribe{ID: 7, Filters: []Subscription{{"a", 1}, {"b", 0}}}}},
	{"suback", "90 04 0007 01 80", suback{&Suback{ID: 7, Codes: []byte{1, SubackFailure}}}},
	{"unsubscribe", "a2 08 0007 0001 61 0001 62", unsubscribe{&Unsubscribe{ID: 7, Filters: []string{"a", "b"}}}},
	{"unsuback", "b0 02 0007", ack{&Ack{TypeUnsuback, 7}}},
	{"pingreq", "c0 00", empty{TypePingreq}},
	{"pingresp", "d0 00", empty{TypePingresp}},
	{"disconnect", "e0 00", empty{TypeDisconnect}},
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPackets(t *testing.T) {
	for _, test := range packets {
		t.Run(test.name, func(t *testing.T) {
			wire := unhex(t, test.wire)
			f, size, _, err := Split(wire, 0)
			if err != nil || size != len(wire) {
				t.Fatalf("Split() = size %d, %v, want %d", size, err, len(wire))
			}
			got := blank(f)
			if err := got.decode(f); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, test.p) {
				t.Errorf("decoded %+v, want %+v", got, test.p)
			}
			if again := test.p.append(nil); !bytes.Equal(again, wire) {
				t.Errorf("encoded %x, want %x", again, wire)
			}
		})
	}
}

func TestMalformed(t *testing.T) {
	for _, test := range []struct{ name, wire string }{
		{"type 0", "00 00"},
		{"type 15", "f0 00"},
		{"five byte length", "30 ff ff ff ff 7f"},
		{"connect flags", "11 00"},
		{"connect, reserved connect flag", "10 0d 0004 4d515454 04 03 003c 0001 61"},
		{"connect, 3.1 name", "10 0f 0006 4d5149736470 03 02 003c 0001 61"},
		{"connect, will QoS without will", "10 0d 0004 4d515454 04 0a 003c 0001 61"},
		{"connect, will QoS 3", "10 13 0004 4d515454 04 1e 003c 0001 61 0001 74 0001 77"},
		{"connect, empty will topic", "10 12 0004 4d515454 04 06 003c 0001 61 0000 0001 77"},
		{"connect, password without user name", "10 10 0004 4d515454 04 42 003c 0001 61 0001 70"},
		{"connect, cut off", "10 0b 0004 4d515454 04 02 003c 00"},
		{"connect, too long", "10 0e 0004 4d515454 04 02 003c 0001 61 00"},
		{"connect, NUL in client id", "10 0d 0004 4d515454 04 02 003c 0001 00"},
		{"connect, bad UTF-8", "10 0d 0004 4d515454 04 02 003c 0001 ff"},
		{"connack, reserved flag", "20 02 02 00"},
		{"connack, short", "20 01 00"},
		{"publish, QoS 3", "36 05 0001 74 0001"},
		{"publish, dup at QoS 0", "38 03 0001 74"},
		{"publish, empty topic", "30 02 0000"},
		{"publish, topic cut off", "30 03 0002 74"},
		{"publish, no topic length", "30 01 00"},
		{"publish, no id", "32 04 0001 74 00"},
		{"publish, id 0", "32 05 0001 74 0000"},
		{"publish, NUL in topic", "30 03 0001 00"},
		{"publish, bad UTF-8", "30 04 0002 c328"},
		{"puback, id 0", "40 02 0000"},
		{"puback, long", "40 03 000100"},
		{"puback, flags", "42 02 0001"},
		{"pubrel, flags", "60 02 0001"},
		{"subscribe, flags", "80 06 0001 0001 61 00"},
		{"subscribe, no filter", "82 02 0001"},
		{"subscribe, id 0", "82 06 0000 0001 61 00"},
		{"subscribe, QoS 3", "82 06 0001 0001 61 03"},
		{"subscribe, no QoS", "82 05 0001 0001 61"},
		{"subscribe, empty filter", "82 05 0001 0000 00"},
		{"suback, no code", "90 02 0001"},
		{"suback, bad code", "90 03 0001 03"},
		{"unsubscribe, no filter", "a2 02 0001"},
		{"unsubscribe, flags", "a0 05 0001 0001 61"},
		{"pingreq, body", "c0 01 00"},
		{"disconnect, flags", "e1 00"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, size, need, err := Split(unhex(t, test.wire), 0)
			if err == nil {
				if size == 0 {
					t.Fatalf("Split() wants %d bytes, test is wrong", need)
				}
				err = blank(f).decode(f)
			}
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("error %v, want ErrMalformed", err)
			}
		})
	}
}

func TestConnectOfOtherVersion(t *testing.T) {
	f, _, _, err := Split(unhex(t, "10 10 0004 4d515454 05 02 003c 03 21 0014 0000"), 0)
	if err != nil {
		t.Fatal(err)
	}
	var p Connect
	if err := p.Decode(f); !errors.Is(err, ErrVersion) || p.Version != 5 {
		t.Errorf("Decode() = %v with version %d, want ErrVersion with 5", err, p.Version)
	}
}

func TestSplitNeed(t *testing.T) {
	long := (&Publish{Topic: "t", Payload: make([]byte, 300)}).Append(nil, V311)
	for _, test := range []struct {
		b     []byte
		limit int
		need  int
		err   error
	}{
		{nil, 0, 2, nil},
		{[]byte{0x30}, 0, 2, nil},
		{[]byte{0x30, 0x80}, 0, 3, nil},
		{[]byte{0x30, 0xff, 0xff, 0xff}, 0, 5, nil},
		{long[:3], 0, len(long), nil},
		{long[:len(long)-1], 0, len(long), nil},
		{long, len(long), 0, nil},
		{long[:3], len(long) - 1, 0, ErrTooLarge},
	} {
		_, _, need, err := Split(test.b, test.limit)
		if need != test.need || !errors.Is(err, test.err) {
			t.Errorf("Split(%x, %d) needs %d, %v; want %d, %v", test.b, test.limit, need, err, test.need, test.err)
		}
	}
}

func TestCheck(t *testing.T) {
	long := strings.Repeat("x", MaxString+1)
	for name, err := range map[string]error{
		"long topic":     (&Publish{Topic: long}).Check(),
		"no topic":       (&Publish{}).Check(),
		"bad topic":      (&Publish{Topic: "a\x00"}).Check(),
		"id at QoS 0":    (&Publish{Topic: "t", ID: 1}).Check(),
		"no id":          (&Publish{Topic: "t", QoS: 1}).Check(),
		"long client id": (&Connect{Version: V311, ClientID: long}).Check(),
		"long password":  (&Connect{Version: V311, Password: []byte(long)}).Check(),
		"no user":        (&Connect{Version: V311, HasPassword: true}).Check(),
		"empty will":     (&Connect{Version: V311, Will: &Will{}}).Check(),
	} {
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: Check() = %v, want ErrMalformed", name, err)
		}
	}
	if err := (&Connect{Version: 5}).Check(); !errors.Is(err, ErrVersion) {
		t.Errorf("version 5: Check() = %v, want ErrVersion", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, p := range packets {
		f.Add(unhex(f, p.wire))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		frame, size, need, err := Split(in, 1<<20)
		if err != nil {
			return
		}
		if size == 0 {
			if need <= len(in) {
				t.Fatalf("%x: needs %d, has %d", in, need, len(in))
			}
			return
		}
		p := blank(frame)
		if err := p.decode(frame); err != nil {
			return
		}
		wire := p.append(nil)
		frame, _, _, err = Split(wire, 0)
		if err != nil {
			t.Fatalf("%x became %x: %v", in[:size], wire, err)
		}
		again := blank(frame)
		if err := again.decode(frame); err != nil || !reflect.DeepEqual(p, again) {
			t.Fatalf("%x: %+v became %+v: %v", in[:size], p, again, err)
		}
	})
}
