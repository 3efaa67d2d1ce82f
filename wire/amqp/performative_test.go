package amqp

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"testing"
	"time"
)

func samples() []codec {
	failure := &Error{Condition: ErrNotFound, Description: "text", Info: Map{{Symbol("k"), "v"}}}
	return []codec{
		&Open{
			ContainerID: "c", Hostname: "h", MaxFrameSize: 4096, ChannelMax: 7, IdleTimeout: 240 * time.Second,
			OutgoingLocales: []Symbol{"en"}, IncomingLocales: []Symbol{"de"}, OfferedCapabilities: []Symbol{"o"},
			DesiredCapabilities: []Symbol{"d", "e"}, Properties: Map{{Symbol("p"), "v"}},
		},
		&begin{remote: 3, answers: true, nextOutgoing: 1, incomingWindow: 1<<32 - 1, outgoingWindow: 5, handleMax: 9,
			offered: []Symbol{"o"}, desired: []Symbol{"d"}, properties: Map{}},
		&attach{
			name: "n", handle: 1, role: RoleSender, sndMode: SendUnsettled, rcvMode: ReceiveSecond,
			source: &Source{Address: "a", Durable: 1, ExpiryPolicy: "never", Timeout: 3, Dynamic: true,
				DynamicNodeProperties: Map{{Symbol("lifetime"), nil}}, DistributionMode: "move",
				Filter:         Map{{Symbol("f"), Described{Symbol("f"), "x > 1"}}},
				DefaultOutcome: Described{uint64(descReleased), []any{}}, Outcomes: []Symbol{"amqp:accepted:list"}, Capabilities: []Symbol{"queue"}},
			target:       &Target{Address: "b", Capabilities: []Symbol{"t"}, Timeout: 1},
			initialCount: 4, hasInitialCount: true, maxMessageSize: 1 << 20,
			offered: []Symbol{"o"}, desired: []Symbol{"d"}, properties: Map{{Symbol("com.microsoft:epoch"), int64(1)}},
		},
		&flow{nextIncoming: 1, hasNextIncoming: true, incomingWindow: 2, nextOutgoing: 3, outgoingWindow: 4,
			handle: 5, hasHandle: true, count: 6, hasCount: true, credit: 7, hasCredit: true, available: 8, drain: true, echo: true},
		&transfer{handle: 1, id: 2, hasID: true, tag: []byte("tag"), hasTag: true, format: BatchFormat, settled: true, more: true, aborted: true, batchable: true},
		&disposition{role: RoleReceiver, first: 1, last: 9, settled: true, state: State{Outcome: Accepted}},
		&disposition{first: 1, last: 1, state: State{Outcome: Rejected, Error: failure}},
		&disposition{first: 1, last: 1, state: State{Outcome: Released}},
		&disposition{first: 1, last: 1, state: State{Outcome: Modified, DeliveryFailed: true, UndeliverableHere: true, Annotations: Map{{Symbol("a"), "b"}}}},
		&detach{handle: 4, closed: true, err: failure},
	}
}

func TestPerformatives(t *testing.T) {
	for _, p := range samples() {
		var e encoder
		if p.encode(&e); e.err != nil {
			t.Fatal(e.err)
		}
		d := decoder{b: e.b}
		got := performatives()[d.descriptor()]
		f := d.composite()
		got.decode(&f)
		if d.err != nil || f.err != nil {
			t.Fatalf("%T: %v, %v", p, d.err, f.err)
		}
		if !reflect.DeepEqual(got, p) {
			t.Errorf("%T: got %+v\nwant %+v", p, got, p)
		}
	}
}

// fieldCounts are what each performative has in the standard. One client reads by
// position and fails when trailing nulls are left out.
var fieldCounts = map[uint64]int{
	descOpen: 10, descBegin: 8, descAttach: 14, descFlow: 11, descTransfer: 11, descDisposition: 6, descDetach: 3,
	descEnd: 1, descClose: 1,
}

func TestEveryFieldIsWritten(t *testing.T) {
	for n, p := range performatives() {
		var e encoder
		p.encode(&e)
		checkFields(t, n, e.b)
	}
	for _, n := range []byte{descEnd, descClose} {
		var e encoder
		e.ending(n, nil)
		checkFields(t, uint64(n), e.b)
	}
}

func checkFields(t *testing.T, n uint64, b []byte) {
	t.Helper()
	if !bytes.HasPrefix(b, []byte{0, codeUlongSmall, byte(n), codeList8}) {
		t.Errorf("0x%02x begins with %x", n, b[:4])
	}
	v, rest, err := ReadValue(b)
	if err != nil || len(rest) > 0 {
		t.Fatal(err)
	}
	if got := len(v.(Described).Value.([]any)); got != fieldCounts[n] {
		t.Errorf("0x%02x has %d fields, want %d", n, got, fieldCounts[n])
	}
}

func TestStatesAreNeverList0(t *testing.T) {
	for _, o := range []Outcome{Accepted, Rejected, Released, Modified} {
		var e encoder
		s := State{Outcome: o}
		s.encode(&e)
		if e.b[3] != codeList8 {
			t.Errorf("%v is %x", o, e.b)
		}
	}
}

func TestLenientFields(t *testing.T) {
	// A flow whose numbers are of other types, cut after the credit.
	d := decoder{b: unhex(t, "00 5313 d0 00000018 00000007 5001 600002 5403 800000000000000004 43 40 5507")}
	d.descriptor()
	f := d.composite()
	var p flow
	p.decode(&f)
	if f.err != nil || p.nextIncoming != 1 || p.incomingWindow != 2 || p.nextOutgoing != 3 || p.outgoingWindow != 4 ||
		!p.hasHandle || p.handle != 0 || p.hasCount || p.credit != 7 {
		t.Errorf("got %+v, %v", p, f.err)
	}
	d = decoder{b: unhex(t, "00 5313 c0 03 01 54ff")}
	d.descriptor()
	f = d.composite()
	if p.decode(&f); f.err == nil {
		t.Error("a negative transfer number passes")
	}
}

// wire encodes frames as a peer would.
type wire struct{ b []byte }

func (w *wire) frame(kind byte, channel uint16, encode func(e *encoder), payload ...byte) {
	at := len(w.b)
	e := encoder{b: append(w.b, 0, 0, 0, 0, 2, kind, byte(channel>>8), byte(channel))}
	if encode != nil {
		encode(&e)
	}
	if e.err != nil {
		panic(e.err)
	}
	w.b = append(e.b, payload...)
	binary.BigEndian.PutUint32(w.b[at:], uint32(len(w.b)-at))
}

func (w *wire) add(channel uint16, p codec, payload ...byte) {
	w.frame(frameAMQP, channel, p.encode, payload...)
}

// conversation is what a client might send, all pipelined.
func conversation(sasl bool) []byte {
	var w wire
	if sasl {
		w.b = append(w.b, headerSASL[:]...)
		init := saslFrame{descriptor: descInit, mechanism: Plain, response: []byte("\x00u\x00p")}
		w.frame(frameSASL, 0, init.encode)
	}
	w.b = append(w.b, headerAMQP[:]...)
	w.add(0, &Open{ContainerID: "c", MaxFrameSize: 512, ChannelMax: 3})
	w.add(1, &begin{incomingWindow: 3, outgoingWindow: 10, handleMax: 10})
	w.add(1, &attach{name: "l", handle: 0, role: RoleSender, source: &Source{}, target: &Target{Address: "t"}})
	w.add(1, &attach{name: "l", handle: 1, role: RoleReceiver, source: &Source{Address: "s"}, target: &Target{}, rcvMode: ReceiveSecond})
	w.add(1, &flow{incomingWindow: 3, handle: 1, hasHandle: true, hasCredit: true, credit: 5, drain: true, echo: true})
	w.add(1, &transfer{handle: 0, id: 0, hasID: true, hasTag: true, tag: []byte{1}, more: true}, 1, 2, 3)
	w.add(1, &transfer{handle: 0}, 4, 5)
	w.add(1, &transfer{handle: 0, id: 1, hasID: true, more: true})
	w.add(1, &transfer{handle: 0, aborted: true})
	w.add(1, &disposition{role: RoleReceiver, first: 0, last: 3, state: State{Outcome: Released}})
	w.add(1, &flow{hasNextIncoming: true, nextIncoming: 3, incomingWindow: 100})
	w.add(1, &disposition{role: RoleReceiver, first: 0, last: 1 << 30, settled: true, state: State{Outcome: Accepted}})
	w.frame(frameAMQP, 0, nil)
	w.add(1, &detach{handle: 0, closed: true})
	w.frame(frameAMQP, 1, func(e *encoder) { e.ending(descEnd, nil) })
	w.frame(frameAMQP, 0, func(e *encoder) { e.ending(descClose, nil) })
	return w.b
}
