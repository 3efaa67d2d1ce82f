package amqp

import (
	"encoding/binary"
	"io"
	"sync"
)

const (
	// smallBuffer is what an idle connection holds; it takes ordinary telemetry.
	smallBuffer = 1 << 10
	// largeBuffer is borrowed while more than that arrives at once.
	largeBuffer = 64 << 10

	headerSize = 8 // of a protocol header, and of a frame's
	// minFrameSize is the least that every peer takes (2.8.19).
	minFrameSize = 512
)

// Kinds of frames (2.3.1, 5.3.1).
const (
	frameAMQP = 0
	frameSASL = 1
)

var largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

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

// reader cuts a byte stream into frames. It holds a small buffer while little comes
// in and borrows a large one under load. It is for one goroutine.
type reader struct {
	src   io.Reader
	limit int

	buf      []byte
	from, to int // what is read and not yet given out
	last     int // bytes of the last read
	borrowed *[largeBuffer]byte
	small    [smallBuffer]byte
}

func newReader(src io.Reader, limit int) *reader {
	r := &reader{src: src, limit: limit}
	r.buf = r.small[:]
	return r
}

// next gives the next frame, reading when none is buffered whole. Frames stay valid
// until a next that has to read, that is one called while buffered was false. A
// stream that ends between frames gives io.EOF, within one io.ErrUnexpectedEOF.
func (r *reader) next() (frame, error) {
	for {
		f, size, need, err := split(r.buf[r.from:r.to], r.limit)
		if err != nil {
			return frame{}, err
		}
		if size > 0 {
			r.from += size
			return f, nil
		}
		if err := r.fill(need); err != nil {
			return frame{}, err
		}
	}
}

// header reads a protocol header.
func (r *reader) header() (h [headerSize]byte, err error) {
	for r.to-r.from < headerSize {
		if err := r.fill(headerSize); err != nil {
			return h, err
		}
	}
	copy(h[:], r.buf[r.from:])
	r.from += headerSize
	return h, nil
}

// buffered says whether next would return at once, with a frame or an error, without
// reading.
func (r *reader) buffered() bool {
	_, size, _, err := split(r.buf[r.from:r.to], r.limit)
	return size > 0 || err != nil
}

// release gives borrowed memory back. The reader must not be used after it.
func (r *reader) release() {
	r.giveBack()
	r.buf, r.from, r.to = nil, 0, 0
}

// fill reads once, with room for need bytes of what starts at from.
func (r *reader) fill(need int) error {
	r.makeRoom(need)
	for range 100 {
		n, err := r.src.Read(r.buf[r.to:])
		r.to += n
		if n > 0 {
			r.last = n
			return nil // an error will come again
		}
		if err == io.EOF && r.from < r.to {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// makeRoom chooses the buffer for the next read and moves a frame cut in two to its
// start.
func (r *reader) makeRoom(need int) {
	kept := r.buf[r.from:r.to]
	switch {
	case need > largeBuffer:
		if need > len(r.buf) {
			// Room for one such frame and the start of what follows.
			r.move(make([]byte, need+largeBuffer), kept)
			return
		}
	case len(kept) == 0 && r.last < smallBuffer && len(r.buf) > smallBuffer:
		r.giveBack() // the burst is over
		r.buf, r.from, r.to = r.small[:], 0, 0
		return
	case len(r.buf) == smallBuffer && (need > smallBuffer || r.to == smallBuffer):
		borrowed := largeBuffers.Get().(*[largeBuffer]byte)
		r.move(borrowed[:], kept)
		r.borrowed = borrowed
		return
	}
	if len(kept) == 0 {
		r.from, r.to = 0, 0
	} else if r.from+need > len(r.buf) || r.to == len(r.buf) {
		copy(r.buf, kept)
		r.from, r.to = 0, len(kept)
	}
}

// move makes b the buffer, beginning with kept.
func (r *reader) move(b, kept []byte) {
	n := copy(b, kept)
	r.giveBack()
	r.buf, r.from, r.to = b, 0, n
}

func (r *reader) giveBack() {
	if r.borrowed != nil {
		largeBuffers.Put(r.borrowed)
		r.borrowed = nil
	}
}
