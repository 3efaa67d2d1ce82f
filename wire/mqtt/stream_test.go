package mqtt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/iotest"
	"time"
)

// stream is n publishes whose sizes cross every buffer the Reader has.
func stream(n int) (wire []byte, sizes []int) {
	for i := range n {
		size := []int{1, 200, 1 << 10, 5 << 10, 64 << 10, 200 << 10}[i%6] + i
		p := Publish{Topic: "t", Payload: bytes.Repeat([]byte{byte(i)}, size), QoS: 1, ID: uint16(i + 1)}
		wire, sizes = p.Append(wire, V311), append(sizes, size)
	}
	return wire, sizes
}

func TestReader(t *testing.T) {
	wire, sizes := stream(40)
	for name, src := range map[string]io.Reader{
		"whole":    bytes.NewReader(wire),
		"bytewise": iotest.OneByteReader(bytes.NewReader(wire)),
		"half":     iotest.HalfReader(bytes.NewReader(wire)),
		"data err": iotest.DataErrReader(bytes.NewReader(wire)),
	} {
		t.Run(name, func(t *testing.T) {
			r := NewReader(src, 0)
			defer r.Release()
			for i, size := range sizes {
				f, err := r.Next()
				if err != nil {
					t.Fatalf("packet %d: %v", i, err)
				}
				var p Publish
				if err := p.Decode(f); err != nil {
					t.Fatalf("packet %d: %v", i, err)
				}
				if int(p.ID) != i+1 || !bytes.Equal(p.Payload, bytes.Repeat([]byte{byte(i)}, size)) {
					t.Fatalf("packet %d: id %d with %d bytes, want %d bytes", i, p.ID, len(p.Payload), size)
				}
			}
			if _, err := r.Next(); err != io.EOF {
				t.Errorf("after the last packet: %v, want EOF", err)
			}
		})
	}
}

// TestReaderKeepsFrames checks the promise batches rest on: frames given while
// more was buffered stay whole.
func TestReaderKeepsFrames(t *testing.T) {
	wire, _ := stream(60)
	r := NewReader(bytes.NewReader(wire), 0)
	defer r.Release()
	seen := 0
	for {
		f, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		batch := []Frame{f}
		for r.Buffered() {
			f, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			batch = append(batch, f)
		}
		for _, f := range batch {
			var p Publish
			if err := p.Decode(f); err != nil {
				t.Fatal(err)
			}
			if seen++; int(p.ID) != seen || p.Payload[len(p.Payload)-1] != byte(seen-1) {
				t.Fatalf("packet %d was overwritten", seen)
			}
		}
	}
	if seen != 60 {
		t.Errorf("saw %d packets, want 60", seen)
	}
}

func TestReaderErrors(t *testing.T) {
	r := NewReader(bytes.NewReader([]byte{0x30, 10, 0}), 0)
	if _, err := r.Next(); err != io.ErrUnexpectedEOF {
		t.Errorf("cut off: %v, want ErrUnexpectedEOF", err)
	}
	r = NewReader(bytes.NewReader([]byte{0x30, 0xff, 0x7f}), 100)
	if _, err := r.Next(); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v, want ErrTooLarge", err)
	}
	r = NewReader(iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader([]byte{0xc0, 0}))), 0)
	if _, err := r.Next(); err != iotest.ErrTimeout {
		t.Errorf("time out: %v, want ErrTimeout", err)
	}
	if f, err := r.Next(); err != nil || f.Type != TypePingreq {
		t.Errorf("after a time out: %v, %v, want PINGREQ", f.Type, err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func TestWriterCoalescesInOrder(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	w := NewWriter(near, time.Minute)
	const n = 1000
	var called []int
	for i := range n {
		p := Ack{TypePuback, uint16(i + 1)}
		err := w.AppendThen(func(b []byte) []byte { return p.Append(b, V311) }, func() { called = append(called, i) })
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := w.Buffered(); got != 4*n {
		t.Errorf("Buffered() = %d before anything is read, want %d", got, 4*n)
	}
	r := NewReader(far, 0)
	for i := range n {
		f, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		var p Ack
		if err := p.Decode(f); err != nil || int(p.ID) != i+1 {
			t.Fatalf("packet %d has id %d: %v", i+1, p.ID, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if len(called) != n || !slices.IsSorted(called) {
		t.Errorf("%d calls after writing, want %d in order", len(called), n)
	}
	if err := w.Append(func(b []byte) []byte { return b }); err != ErrWriterClosed {
		t.Errorf("Append after Close: %v, want ErrWriterClosed", err)
	}
}

func TestWriterFails(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	w := NewWriter(near, 10*time.Millisecond) // nobody reads
	if err := w.AppendThen(func(b []byte) []byte { return AppendEmpty(b, TypePingreq) }, func() {
		t.Error("told that bytes were written that nobody read")
	}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err == nil {
		t.Error("Close() = nil after a write that nobody read")
	}
	if _, err := near.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is open after a failed write")
	}
}

func TestWriterAbortAndWait(t *testing.T) {
	near, far := net.Pipe() // nobody reads
	defer far.Close()
	defer near.Close()
	w := NewWriter(near, time.Hour)
	if err := w.Append(func(b []byte) []byte { return append(b, make([]byte, 100)...) }); err != nil {
		t.Fatal(err)
	}
	if err := w.Wait(100); err != nil {
		t.Errorf("Wait(100) with 100 bytes buffered: %v", err)
	}
	waited := make(chan error)
	go func() { waited <- w.Wait(99) }()
	w.Stop()
	if err := <-waited; err != ErrWriterClosed {
		t.Errorf("Wait ended with %v, want ErrWriterClosed", err)
	}
	w.Abort() // hangs unless it cuts the write
	if err := w.Append(func(b []byte) []byte { return b }); err == nil {
		t.Error("Append after Abort went through")
	}
}

func TestWriterManyCallers(t *testing.T) {
	near, far := net.Pipe()
	w := NewWriter(near, time.Minute)
	var callers sync.WaitGroup
	for c := range 8 {
		callers.Go(func() {
			for i := range 500 {
				p := Publish{Topic: fmt.Sprint(c), Payload: []byte{byte(i), byte(i >> 8)}}
				if err := w.Append(func(b []byte) []byte { return p.Append(b, V311) }); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	go func() { callers.Wait(); w.Close(); near.Close() }()
	next := map[string]int{}
	for r := NewReader(far, 0); ; {
		f, err := r.Next()
		if err != nil {
			break
		}
		var p Publish
		if err := p.Decode(f); err != nil {
			t.Fatal(err)
		}
		topic := string([]byte(p.Topic))
		if got := int(p.Payload[0]) | int(p.Payload[1])<<8; got != next[topic] {
			t.Fatalf("caller %s: packet %d, want %d", topic, got, next[topic])
		}
		next[topic]++
	}
	for topic, n := range next {
		if n != 500 {
			t.Errorf("caller %s: %d packets arrived, want 500", topic, n)
		}
	}
}

func BenchmarkDecodePublish(b *testing.B) {
	p := Publish{Topic: "devices/dev0001/messages/events/%24.ct=application%2Fjson", Payload: make([]byte, 256), QoS: 1, ID: 7}
	wire := p.Append(nil, V311)
	b.SetBytes(int64(len(wire)))
	b.ReportAllocs()
	for b.Loop() {
		f, _, _, err := Split(wire, 0)
		if err != nil {
			b.Fatal(err)
		}
		if err := p.Decode(f); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendPublish(b *testing.B) {
	p := Publish{Topic: "devices/dev0001/messages/events/%24.ct=application%2Fjson", Payload: make([]byte, 256), QoS: 1, ID: 7}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = p.Append(buf[:0], V311)
	}
}

func BenchmarkReader(b *testing.B) {
	p := Publish{Topic: "devices/dev0001/messages/events/", Payload: make([]byte, 256), QoS: 1, ID: 7}
	one := p.Append(nil, V311)
	b.SetBytes(int64(len(one)))
	b.ReportAllocs()
	rest := b.N
	r := NewReader(readerFunc(func(buf []byte) (int, error) {
		n := 0
		for rest > 0 && n+len(one) <= len(buf) {
			n += copy(buf[n:], one)
			rest--
		}
		if n == 0 && rest == 0 {
			return 0, io.EOF
		}
		return n, nil
	}), 0)
	for {
		f, err := r.Next()
		if err != nil {
			break
		}
		if err := p.Decode(f); err != nil {
			b.Fatal(err)
		}
	}
}
