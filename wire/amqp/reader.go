package amqp

import (
	"encoding/binary"
	"io"

	"github.com/selvedge-io/selvedge/wire/intake"
)

const (
	headerSize = 8 // of a protocol header, and of a frame's
	// minFrameSize is the least that every peer takes (2.8.19).
	minFrameSize = 512
)

// Kinds of frames (2.3.1, 5.3.1).
const (
	frameAMQP = 0
	frameSASL = 1
)

// frame is one frame; its body belongs to the reader.
type frame struct {
	kind    byte
	channel uint16
	body    []byte
}

// split cuts the first frame off b. size is its whole length; it is zero when b does
// not hold a whole frame, and then need is the length that b must have at least
// before split can do better. limit is the largest frame accepted.
func split(b []byte, limit int) (f frame, size, need int, err error) {
	if len(b) < headerSize {
		return frame{}, 0, headerSize, nil
	}
	length := binary.BigEndian.Uint32(b)
	offset := 4 * int(b[4])
	switch {
	case uint64(length) > uint64(limit):
		return frame{}, 0, 0, malformed("a frame has %d bytes, the most is %d", length, limit)
	case offset < headerSize || uint64(length) < uint64(offset):
		return frame{}, 0, 0, malformed("a frame of %d bytes begins its body at %d", length, offset)
	case b[5] != frameAMQP && b[5] != frameSASL:
		return frame{}, 0, 0, malformed("a frame is of type %d", b[5])
	case len(b) < int(length):
		return frame{}, 0, int(length), nil
	}
	f = frame{b[5], binary.BigEndian.Uint16(b[6:]), b[offset:length:length]}
	return f, int(length), 0, nil
}

// reader cuts a byte stream into frames. It is for one goroutine.
type reader struct {
	limit int
	in    intake.Buffer
}

func newReader(src io.Reader, limit int) *reader {
	r := &reader{limit: limit}
	r.in.Start(src)
	return r
}

// next gives the next frame, reading when none is buffered whole. Frames stay valid
// until a next that has to read, that is one called while buffered was false. A
// stream that ends between frames gives io.EOF, within one io.ErrUnexpectedEOF.
func (r *reader) next() (frame, error) {
	for {
		f, size, need, err := split(r.in.Bytes(), r.limit)
		if err != nil {
			return frame{}, err
		}
		if size > 0 {
			r.in.Skip(size)
			return f, nil
		}
		if err := r.in.Fill(need); err != nil {
			return frame{}, err
		}
	}
}

// header reads a protocol header.
func (r *reader) header() (h [headerSize]byte, err error) {
	for len(r.in.Bytes()) < headerSize {
		if err := r.in.Fill(headerSize); err != nil {
			return h, err
		}
	}
	copy(h[:], r.in.Bytes())
	r.in.Skip(headerSize)
	return h, nil
}

// buffered says whether next would return at once, with a frame or an error, without
// reading.
func (r *reader) buffered() bool {
	_, size, _, err := split(r.in.Bytes(), r.limit)
	return size > 0 || err != nil
}

// release gives borrowed memory back. The reader must not be used after it.
func (r *reader) release() { r.in.Release() }
