package log

import (
	"errors"
	"fmt"
	"io"
)

// scanner reads records of one segment file through a buffer.
type scanner struct {
	file    File
	segment *segment
	own     bool // the file was opened here
	buf     []byte
	from    Offset // of buf[0]
	have    []byte // the part of buf that is filled
	err     error  // why the last call gave nothing
}

func (s *scanner) open(l *Log, seg *segment) error {
	if s.file != nil && s.segment == seg {
		return nil
	}
	s.close()
	f, err := l.o.FS.Open(l.path(seg.Base, extension))
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	s.file, s.segment, s.own = f, seg, true
	return nil
}

func (s *scanner) close() {
	if s.own {
		_ = s.file.Close() // it was only read
	}
	*s = scanner{}
}

// fresh starts a new buffer and forgets the old one.
func (s *scanner) fresh() { s.buf, s.have = make([]byte, readSize), nil }

// next gives the record at offset at, which may move the buffer.
func (s *scanner) next(at, end Offset) (Record, bool) { return s.more(at, end, true) }

// more gives the record at offset at, of a segment whose records end at end. It
// fills the buffer again only if refill says so.
func (s *scanner) more(at, end Offset, refill bool) (Record, bool) {
	s.err = nil
	for try := 0; ; try++ {
		var b []byte
		if at >= s.from && at <= s.from+Offset(len(s.have)) {
			b = s.have[at-s.from:]
		}
		payload, size, err := parseRecord(b, s.segment.salt, at)
		switch {
		case err == nil && size == 0:
			s.err = io.EOF // the rest was never written
			return Record{}, false
		case err == nil:
			return Record{Offset: at, Next: at + Offset(size), Payload: payload}, true
		case !errors.Is(err, errShort) || !refill || try == 2 || at+Offset(size) > end:
			s.err = err
			return Record{}, false
		}
		if size > len(s.buf) {
			s.buf = make([]byte, size)
		}
		n, err := s.file.ReadAt(s.buf[:min(int64(len(s.buf)), int64(end-at))], s.segment.position(at))
		s.from, s.have = at, s.buf[:n]
		if err != nil && !errors.Is(err, io.EOF) {
			s.err = fmt.Errorf("read segment %s: %w", fileName(s.segment.Base, extension), err)
			return Record{}, false
		}
	}
}
