// Package intake reads a byte stream for codecs that cut it into packets or frames.
package intake

import (
	"io"
	"sync"
)

const (
	// small is what an idle connection holds; it takes a login with a token and
	// ordinary telemetry.
	small = 1 << 10
	// large is borrowed while more than that arrives at once.
	large = 64 << 10
)

var larges = sync.Pool{New: func() any { return new([large]byte) }}

// Buffer holds what was read and not yet given out. It is small while little comes
// in and borrows a large one under load. It is for one goroutine and must not be
// copied once it is in use.
type Buffer struct {
	src io.Reader

	buf      []byte
	from, to int // what is read and not yet given out
	last     int // bytes of the last read
	borrowed *[large]byte
	own      [small]byte
}

// Start makes b read from src.
func (b *Buffer) Start(src io.Reader) {
	b.src = src
	b.buf = b.own[:]
}

// Bytes is what was read and not yet skipped. It is valid until the next Fill.
func (b *Buffer) Bytes() []byte { return b.buf[b.from:b.to] }

// Skip gives out the first n of Bytes. They too are valid until the next Fill.
func (b *Buffer) Skip(n int) { b.from += n }

// Fill reads once, with room for need bytes of what Bytes begins with. A stream that
// ends gives io.EOF, or io.ErrUnexpectedEOF when Bytes holds a beginning.
func (b *Buffer) Fill(need int) error {
	b.makeRoom(need)
	for range 100 {
		n, err := b.src.Read(b.buf[b.to:])
		b.to += n
		if n > 0 {
			b.last = n
			return nil // an error will come again
		}
		if err == io.EOF && b.from < b.to {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// Release gives borrowed memory back. The Buffer must not be used after it.
func (b *Buffer) Release() {
	b.giveBack()
	b.buf, b.from, b.to = nil, 0, 0
}

// makeRoom chooses the buffer for the next read and moves a packet cut in two to its
// start.
func (b *Buffer) makeRoom(need int) {
	kept := b.Bytes()
	switch {
	case need > large:
		if need > len(b.buf) {
			// Room for one such packet and the start of what follows.
			b.move(make([]byte, need+large), kept)
			return
		}
	case len(kept) == 0 && b.last < small && len(b.buf) > small:
		b.giveBack() // the burst is over
		b.buf, b.from, b.to = b.own[:], 0, 0
		return
	case len(b.buf) == small && (need > small || b.to == small):
		borrowed := larges.Get().(*[large]byte)
		b.move(borrowed[:], kept)
		b.borrowed = borrowed
		return
	}
	if len(kept) == 0 {
		b.from, b.to = 0, 0
	} else if b.from+need > len(b.buf) || b.to == len(b.buf) {
		copy(b.buf, kept)
		b.from, b.to = 0, len(kept)
	}
}

// move makes buf the buffer, beginning with kept.
func (b *Buffer) move(buf, kept []byte) {
	n := copy(buf, kept)
	b.giveBack()
	b.buf, b.from, b.to = buf, 0, n
}

func (b *Buffer) giveBack() {
	if b.borrowed != nil {
		larges.Put(b.borrowed)
		b.borrowed = nil
	}
}
