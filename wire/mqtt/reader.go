package mqtt

import (
	"io"
	"sync"
)

const (
	// smallBuffer is what an idle connection holds; it takes a CONNECT with a
	// token and ordinary telemetry.
	smallBuffer = 1 << 10
	// largeBuffer is borrowed while more than that arrives at once.
	largeBuffer = 64 << 10
)

var largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// Reader cuts a byte stream into packets. It holds a small buffer while little
// comes in and borrows a large one under load. It is for one goroutine.
type Reader struct {
	src     io.Reader
	limit   int
	version Version

	buf      []byte
	from, to int // what is read and not yet given out
	last     int // bytes of the last read
	borrowed *[largeBuffer]byte
	small    [smallBuffer]byte
}

// NewReader reads packets of at most limit bytes, header included; zero means the
// standard's own limit.
func NewReader(src io.Reader, limit int) *Reader {
	r := &Reader{src: src, limit: limit, version: V311}
	r.buf = r.small[:]
	return r
}

// SetLimit changes the size of the largest packet accepted from now on.
func (r *Reader) SetLimit(limit int) { r.limit = limit }

// Next gives the next packet, reading from the source when none is buffered whole.
// Frames stay valid until a Next that has to read, that is one called while
// Buffered was false. A stream that ends between packets gives io.EOF, within one
// io.ErrUnexpectedEOF.
func (r *Reader) Next() (Frame, error) {
	for {
		f, size, need, err := Split(r.buf[r.from:r.to], r.limit)
		if err != nil {
			return Frame{}, err
		}
		if size > 0 {
			r.from += size
			f.Version = r.version
			return f, nil
		}
		if err := r.fill(need); err != nil {
			return Frame{}, err
		}
	}
}

// Buffered says whether Next would return at once, with a packet or an error,
// without reading.
func (r *Reader) Buffered() bool {
	_, size, _, err := Split(r.buf[r.from:r.to], r.limit)
	return size > 0 || err != nil
}

// Release gives borrowed memory back. The Reader must not be used after it.
func (r *Reader) Release() {
	r.giveBack()
	r.buf, r.from, r.to = nil, 0, 0
}

// fill reads once, with room for need bytes of the packet that starts at from.
func (r *Reader) fill(need int) error {
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

// makeRoom chooses the buffer for the next read and moves a packet cut in two to
// its start.
func (r *Reader) makeRoom(need int) {
	kept := r.buf[r.from:r.to]
	switch {
	case need > largeBuffer:
		if need > len(r.buf) {
			// Room for one such packet and the start of what follows.
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
func (r *Reader) move(b, kept []byte) {
	n := copy(b, kept)
	r.giveBack()
	r.buf, r.from, r.to = b, 0, n
}

func (r *Reader) giveBack() {
	if r.borrowed != nil {
		largeBuffers.Put(r.borrowed)
		r.borrowed = nil
	}
}
