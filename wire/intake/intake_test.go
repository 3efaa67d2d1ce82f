package intake

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

// TestPackets reads packets of a length byte pair and a body, of all sizes, from
// sources that give as little or as much as they like.
func TestPackets(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var stream bytes.Buffer
	var want [][]byte
	for range 300 {
		size := random.IntN(3 * small)
		if random.IntN(20) == 0 {
			size = random.IntN(4 * large)
		}
		body := make([]byte, size)
		for i := range body {
			body[i] = byte(random.Uint32())
		}
		stream.Write([]byte{byte(size >> 16), byte(size >> 8), byte(size)})
		stream.Write(body)
		want = append(want, body)
	}
	for name, src := range map[string]io.Reader{
		"whole": bytes.NewReader(stream.Bytes()), "halves": iotest.HalfReader(bytes.NewReader(stream.Bytes())),
		"single bytes": iotest.OneByteReader(bytes.NewReader(stream.Bytes())), "data with the end": iotest.DataErrReader(bytes.NewReader(stream.Bytes())),
	} {
		var b Buffer
		b.Start(src)
		for i, body := range want {
			need := 3
			for len(b.Bytes()) < need {
				if err := b.Fill(need); err != nil {
					t.Fatalf("%s: packet %d: %v", name, i, err)
				}
				if head := b.Bytes(); len(head) >= 3 {
					need = 3 + int(head[0])<<16 + int(head[1])<<8 + int(head[2])
				}
			}
			head := b.Bytes()
			need = 3 + int(head[0])<<16 + int(head[1])<<8 + int(head[2])
			for len(b.Bytes()) < need {
				if err := b.Fill(need); err != nil {
					t.Fatalf("%s: packet %d: %v", name, i, err)
				}
			}
			if !bytes.Equal(b.Bytes()[3:need], body) {
				t.Fatalf("%s: packet %d came changed", name, i)
			}
			b.Skip(need)
		}
		if err := b.Fill(1); err != io.EOF {
			t.Errorf("%s: the end is %v", name, err)
		}
		b.Release()
	}
}

func TestEnds(t *testing.T) {
	var b Buffer
	b.Start(bytes.NewReader([]byte("half")))
	if err := b.Fill(8); err != nil {
		t.Fatal(err)
	}
	if err := b.Fill(8); err != io.ErrUnexpectedEOF {
		t.Errorf("within a packet: %v", err)
	}
	broken := errors.New("broken")
	b = Buffer{}
	b.Start(iotest.ErrReader(broken))
	if err := b.Fill(1); err != broken {
		t.Errorf("a broken source: %v", err)
	}
	b = Buffer{}
	b.Start(nothing{})
	if err := b.Fill(1); err != io.ErrNoProgress {
		t.Errorf("a source that gives nothing: %v", err)
	}
}

type nothing struct{}

func (nothing) Read([]byte) (int, error) { return 0, nil }

// TestGivesBack sees that a burst leaves no large buffer behind.
func TestGivesBack(t *testing.T) {
	var b Buffer
	b.Start(io.MultiReader(bytes.NewReader(make([]byte, small)), bytes.NewReader(make([]byte, 2*small)), bytes.NewReader([]byte("x")), bytes.NewReader([]byte("y"))))
	for len(b.Bytes()) < 3*small {
		if err := b.Fill(3 * small); err != nil {
			t.Fatal(err)
		}
	}
	if b.borrowed == nil {
		t.Fatal("nothing was borrowed")
	}
	b.Skip(3 * small)
	for range 2 {
		if err := b.Fill(1); err != nil {
			t.Fatal(err)
		}
		b.Skip(1)
	}
	if b.borrowed != nil || len(b.buf) != small {
		t.Error("the large buffer is still there")
	}
}
