package mqtt

import (
	"io"

	"github.com/selvedge-io/selvedge/wire/intake"
)

// Reader cuts a byte stream into packets. It holds a small buffer while little
// comes in and borrows a large one under load. It is for one goroutine.
type Reader struct {
	limit   int
	version Version
	in      intake.Buffer
}

// NewReader reads packets of at most limit bytes, header included; zero means the
// standard's own limit.
func NewReader(src io.Reader, limit int) *Reader {
	r := &Reader{limit: limit, version: V311}
	r.in.Start(src)
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
		f, size, need, err := Split(r.in.Bytes(), r.limit)
		if err != nil {
			return Frame{}, err
		}
		if size > 0 {
			r.in.Skip(size)
			f.Version = r.version
			return f, nil
		}
		if err := r.in.Fill(need); err != nil {
			return Frame{}, err
		}
	}
}

// Buffered says whether Next would return at once, with a packet or an error,
// without reading.
func (r *Reader) Buffered() bool {
	_, size, _, err := Split(r.in.Bytes(), r.limit)
	return size > 0 || err != nil
}

// Release gives borrowed memory back. The Reader must not be used after it.
func (r *Reader) Release() { r.in.Release() }
