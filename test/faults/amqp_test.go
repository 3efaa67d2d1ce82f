package faults

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/test/rig"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// bounded fails when the hub has grown by more than most MB since before.
func bounded(t *testing.T, h *rig.Hub, before, most float64) {
	t.Helper()
	grown := h.Memory(t) - before
	t.Logf("the hub occupies %.1f MB, %.1f MB more than before", before+grown, grown)
	if grown > most {
		t.Errorf("the hub has grown by %.1f MB, the most is %.0f MB", grown, most)
	}
}

// TestHostileAMQP: whatever a peer that may connect does, it gets the protocol's error,
// costs bounded memory, and others are served.
func TestHostileAMQP(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	id := h.Device(t, "hostile")
	token := id.Token(time.Now().Add(time.Hour))
	const telemetry = "/devices/hostile/messages/events"
	well := func(t *testing.T) {
		t.Helper()
		good := h.Device(t, "good-"+t.Name()[len("TestHostileAMQP/"):])
		c, err := rig.Dial(t.Context(), good)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Drop()
		a := h.DialAMQP(t)
		if code := a.Put(good.Token(time.Now().Add(time.Hour)))[0]; code != 200 {
			t.Errorf("a token is answered with %d", code)
		}
	}

	t.Run("links", func(t *testing.T) {
		before := h.Memory(t)
		a := h.DialAMQP(t)
		a.Put(token)
		attached := 0
		var err error
		for ; attached < 10_000 && err == nil; attached++ {
			_, err = a.Sender(rig.Soon(t), amqp.Attaching{Target: &amqp.Target{Address: telemetry}}, amqp.SenderFuncs{})
		}
		if e, ok := errors.AsType[*amqp.Error](err); !ok || e.Condition != amqp.ErrResourceLimit || attached < 1000 {
			t.Errorf("link %d is answered with %v", attached, err)
		}
		bounded(t, h, before, 48)
		well(t)
	})

	t.Run("credit", func(t *testing.T) {
		for range 50 { // as many as wait for a device
			if a := h.Run(t, "message", "send", id.Device, string(bytes.Repeat([]byte("x"), 50_000))); a.Code != 0 {
				t.Fatal(a.Stderr)
			}
		}
		before := h.Memory(t)
		a := h.DialAMQP(t)
		a.Put(token, h.Token(t, time.Now().Add(time.Hour)))
		for range 500 { // each new one of a kind takes the place of the old one, or stands beside it
			for _, address := range []string{"/devices/hostile/messages/devicebound", "/messages/serviceBound/feedback"} {
				_, err := a.Receiver(rig.Soon(t), amqp.Attaching{Source: &amqp.Source{Address: address}}, amqp.Receiving{}, amqp.ReceiverFuncs{})
				if err != nil {
					t.Fatalf("%s: %v", address, err)
				}
			}
		}
		bounded(t, h, before, 48)
		well(t)
	})

	t.Run("endless", func(t *testing.T) {
		before := h.Memory(t)
		for range 10 {
			endless(t, h, id)
		}
		bounded(t, h, before, 48)
		well(t)
	})

	t.Run("deaf", func(t *testing.T) {
		before := h.Memory(t)
		for range 3 {
			deaf(t, h, id)
		}
		bounded(t, h, before, 48)
		well(t)
	})
}

// speak logs in with SASL PLAIN as a device, in bytes, and attaches links to telemetry
// (handle 0) and twin (1 in, 2 out). It reads nothing.
func speak(t *testing.T, h *rig.Hub, id rig.Identity) net.Conn {
	t.Helper()
	nc := h.DialTLS(t, h.AMQP)
	if err := nc.SetDeadline(time.Now().Add(rig.Patience)); err != nil {
		t.Fatal(err)
	}
	login := "\x00" + id.Device + "@sas." + id.Host + "\x00" + id.Token(time.Now().Add(time.Hour))
	path := "/devices/" + id.Device
	all := slices.Concat([]byte("AMQP\x03\x01\x00\x00"),
		frame(1, 0x41, symbol("PLAIN"), binary32([]byte(login))),
		[]byte("AMQP\x00\x01\x00\x00"),
		frame(0, 0x10, text("hostile")),
		frame(0, 0x11, null, number(0), number(1<<30), number(1<<30)),
		frame(0, 0x12, text("telemetry"), number(0), no, null, null, composite(0x28), composite(0x29, text(path+"/messages/events")), null, null, number(0)),
		frame(0, 0x12, text("in"), number(1), yes, null, null, composite(0x28, text(path+"/twin")), composite(0x29)),
		frame(0, 0x12, text("out"), number(2), no, null, null, composite(0x28), composite(0x29, text(path+"/twin")), null, null, number(0)),
		frame(0, 0x13, number(0), number(1<<30), number(0), number(1<<30), number(1), number(0), number(1<<30)))
	if _, err := nc.Write(all); err != nil {
		t.Fatal(err)
	}
	return nc
}

// awaitCredit reads until the hub has granted credit on telemetry, n times over.
func awaitCredit(t *testing.T, nc net.Conn, n int) []byte {
	t.Helper()
	var heard []byte
	b := make([]byte, 4096)
	for bytes.Count(heard, []byte{0, 0x53, 0x13}) < n {
		got, err := nc.Read(b)
		if heard = append(heard, b[:got]...); err != nil {
			t.Fatalf("%v after %q", err, heard)
		}
	}
	return heard
}

// endless sends a message that never ends and wants to be told so.
func endless(t *testing.T, h *rig.Hub, id rig.Identity) {
	t.Helper()
	nc := speak(t, h, id)
	heard := awaitCredit(t, nc, 2) // for telemetry and the twin
	done := make(chan []byte)
	go func() {
		rest, _ := io.ReadAll(nc) // until the deadline, at the latest
		done <- rest
	}()
	part := frame(0, 0x14, number(0), number(0), binary32([]byte("t")), number(0), no, yes)
	part = append(part, make([]byte, 60_000)...)
	binary.BigEndian.PutUint32(part, uint32(len(part)))
	for range 200 { // 12 MB
		if _, err := nc.Write(part); err != nil {
			break // shown out
		}
	}
	if _, err := nc.Write(frame(0, 0x18)); err != nil {
		t.Logf("close: %v", err)
	}
	heard = append(heard, <-done...)
	if !bytes.Contains(heard, []byte("amqp:link:message-size-exceeded")) {
		t.Errorf("a message without an end is not refused: %q", heard[max(0, len(heard)-300):])
	}
}

// deaf asks for its twin without end and reads no answer, until the hub takes no more.
func deaf(t *testing.T, h *rig.Hub, id rig.Identity) {
	t.Helper()
	nc := speak(t, h, id)
	awaitCredit(t, nc, 2)
	annotations := slices.Concat([]byte{0, 0x53, 0x72, 0xc1}, counted(2, symbol("operation"), text("GET")))
	if err := nc.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for n := uint32(0); n < 200_000; n++ {
		ask := frame(0, 0x14, number(2), number(n), binary32([]byte("t")), number(0), no)
		ask = append(ask, annotations...)
		binary.BigEndian.PutUint32(ask, uint32(len(ask)))
		if _, err := nc.Write(ask); err != nil {
			return // it takes no more, or has ended the connection
		}
	}
}

// The encodings of AMQP 1.0 that these tests need.
var null, yes, no = []byte{0x40}, []byte{0x41}, []byte{0x42}

func number(n uint32) []byte { return binary.BigEndian.AppendUint32([]byte{0x70}, n) }
func text(s string) []byte   { return append([]byte{0xa1, byte(len(s))}, s...) }
func symbol(s string) []byte { return append([]byte{0xa3, byte(len(s))}, s...) }
func binary32(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0xb0}, uint32(len(b))), b...)
}

// counted is the size, the count and the items of a small list or map.
func counted(n int, items ...[]byte) []byte {
	all := slices.Concat(items...)
	return append([]byte{byte(len(all) + 1), byte(n)}, all...)
}

// composite is a described list.
func composite(descriptor byte, fields ...[]byte) []byte {
	all := slices.Concat(fields...)
	b := []byte{0, 0x53, descriptor, 0xd0}
	b = binary.BigEndian.AppendUint32(b, uint32(len(all)+4))
	b = binary.BigEndian.AppendUint32(b, uint32(len(fields)))
	return append(b, all...)
}

// frame is one of AMQP (kind 0) or SASL (1) on channel 0.
func frame(kind, descriptor byte, fields ...[]byte) []byte {
	body := composite(descriptor, fields...)
	b := binary.BigEndian.AppendUint32(nil, uint32(len(body)+8))
	return append(append(b, 2, kind, 0, 0), body...)
}
