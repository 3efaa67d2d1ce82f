package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/selvedge-io/selvedge/edge/runtime"
)

// reader reads a module's output for one caller.
type reader struct {
	o      *output
	ctx    context.Context // ends following
	pos    int64           // offset plus what was cut from the file
	end    int64           // where to stop, as pos; negative while following
	closed chan struct{}
	once   sync.Once
}

// read answers a query.
func (o *output) read(ctx context.Context, q runtime.LogQuery) (io.ReadCloser, error) {
	if err := o.look(); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return io.NopCloser(eof{}), nil
	}
	at, err := o.from(q.Tail, q.Since)
	if err != nil {
		return nil, err
	}
	r := &reader{o: o, ctx: ctx, pos: at + o.cut, end: o.size + o.cut, closed: make(chan struct{})}
	if q.Follow {
		r.end = -1
	}
	return r, nil
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// Read gives what is there; when following it waits for more. It ends with io.EOF.
func (r *reader) Read(b []byte) (int, error) {
	for {
		select {
		case <-r.closed:
			return 0, io.ErrClosedPipe
		default:
		}
		n, grew, err := r.some(b)
		if n > 0 || err != nil || len(b) == 0 {
			return n, err
		}
		select {
		case <-grew:
		case <-r.closed:
		case <-r.ctx.Done():
			return 0, io.EOF
		}
	}
}

// some reads what is there now. Without any, grew says when to try again.
func (r *reader) some(b []byte) (n int, grew <-chan struct{}, err error) {
	o := r.o
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return 0, nil, io.EOF
	}
	if r.pos-o.cut > o.size { // somebody emptied the file
		if r.end >= 0 {
			return 0, nil, io.EOF
		}
		r.pos = o.cut
	}
	r.pos = max(r.pos, o.start+o.cut) // we were slow, and what was there is gone
	// Not further than was looked at: a position beyond that means an emptied file.
	end := o.size + o.cut
	if r.end >= 0 {
		end = min(end, r.end)
	}
	if r.pos >= end {
		if r.end >= 0 {
			return 0, nil, io.EOF
		}
		return 0, o.grew, nil
	}
	n, err = o.file.ReadAt(b[:min(int64(len(b)), end-r.pos)], r.pos-o.cut)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, nil, fmt.Errorf("read module's log: %w", err)
	}
	if n == 0 && r.end >= 0 {
		return 0, nil, io.EOF
	}
	r.pos += int64(n)
	return n, o.grew, nil
}

// Close ends a Read under way.
func (r *reader) Close() error {
	r.once.Do(func() { close(r.closed) })
	return nil
}
