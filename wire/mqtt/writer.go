package mqtt

import (
	"errors"
	"net"
	"sync"
	"time"
)

const (
	// writeChunk bounds one Write, so that the deadline judges progress and not
	// the size of what piled up.
	writeChunk = 256 << 10
	// keepBuffer is the largest buffer given back to the pool.
	keepBuffer = 128 << 10
	// firstBuffer is the capacity of a new buffer.
	firstBuffer = 4 << 10
)

// DefaultWriteTimeout is how long one write may take when nothing else is set.
const DefaultWriteTimeout = 30 * time.Second

// ErrWriterClosed is given to those who append to a closed Writer.
var ErrWriterClosed = errors.New("MQTT writer is closed")

var writeBuffers = sync.Pool{New: func() any { b := make([]byte, 0, firstBuffer); return &b }}

// Writer sends packets over a connection. Callers append to a buffer in memory and
// never wait; a flusher, started when there is something to write and gone when
// there is nothing, writes all that was appended meanwhile at once. A write that
// fails or takes too long closes the connection, so that its reader ends too.
type Writer struct {
	conn    net.Conn
	timeout time.Duration

	mu       sync.Mutex
	idle     sync.Cond // bytes were written, or the flusher ended
	buf      *[]byte   // being appended to; nil when empty
	appended uint64    // bytes ever appended
	written  uint64    // bytes ever written
	then     []after
	flushing bool
	closed   bool
	aborted  bool
	err      error
}

type after struct {
	at uint64
	fn func()
}

// NewWriter makes a Writer for conn. timeout bounds each write; zero means
// DefaultWriteTimeout. The caller still owns conn and closes it after Close.
func NewWriter(conn net.Conn, timeout time.Duration) *Writer {
	if timeout <= 0 {
		timeout = DefaultWriteTimeout
	}
	w := &Writer{conn: conn, timeout: timeout}
	w.idle.L = &w.mu
	return w
}

// Append lets encode add packets to the buffer and returns without writing. encode
// is called under the Writer's lock: it must be quick and must not call the
// Writer. The error is that of an earlier write, or ErrWriterClosed.
func (w *Writer) Append(encode func(dst []byte) []byte) error {
	return w.AppendThen(encode, nil)
}

// AppendThen is Append; then, if not nil, is called once the operating system has
// taken the bytes, in order, from the flusher, and never when the connection
// breaks before. It must not block or call Close; it may call Append.
func (w *Writer) AppendThen(encode func(dst []byte) []byte, then func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	if w.closed {
		return ErrWriterClosed
	}
	if w.buf == nil {
		w.buf = writeBuffers.Get().(*[]byte)
	}
	before := len(*w.buf)
	*w.buf = encode(*w.buf)
	w.appended += uint64(len(*w.buf) - before)
	if then != nil {
		w.then = append(w.then, after{w.appended, then})
	}
	if !w.flushing {
		w.flushing = true
		go w.flush()
	}
	return nil
}

// Buffered is the number of bytes appended and not yet written.
func (w *Writer) Buffered() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return int(w.appended - w.written)
}

// Wait blocks while more than most bytes are buffered: back-pressure for callers that
// may wait. It ends early with the error of writing, or with ErrWriterClosed.
func (w *Writer) Wait(most int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.err == nil && !w.closed && int(w.appended-w.written) > most {
		w.idle.Wait()
	}
	if w.err == nil && w.closed {
		return ErrWriterClosed
	}
	return w.err
}

// Err is the error that ended writing, nil while all is well.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Stop refuses further packets and ends every Wait, without waiting itself. What was
// appended is still written.
func (w *Writer) Stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.idle.Broadcast()
}

// Close refuses further packets, waits until those appended are written or the
// write timeout strikes, and returns the error of writing. It does not close the
// connection; closing that first cuts the wait short.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.idle.Broadcast()
	for w.flushing {
		w.idle.Wait()
	}
	return w.err
}

// Abort refuses further packets, drops what is buffered, cuts a write under way
// short and waits for the flusher. The connection is useless for writing then; the
// caller closes it.
func (w *Writer) Abort() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed, w.aborted = true, true
	w.buf, w.then = nil, nil
	w.idle.Broadcast()
	if w.flushing {
		w.conn.SetWriteDeadline(time.Unix(1, 0)) // a closed connection needs no cutting
	}
	for w.flushing {
		w.idle.Wait()
	}
}

// flush writes until nothing is left.
func (w *Writer) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.err == nil && w.buf != nil {
		b := w.buf
		w.buf = nil
		w.mu.Unlock()
		err := w.write(*b)
		w.mu.Lock()
		if err != nil {
			w.fail(err)
		} else {
			w.written += uint64(len(*b))
			w.idle.Broadcast()
			w.callThen()
		}
		if cap(*b) <= keepBuffer {
			*b = (*b)[:0]
			writeBuffers.Put(b)
		}
	}
	w.flushing = false
	w.idle.Broadcast()
}

// write sends b in chunks, each under its own deadline.
func (w *Writer) write(b []byte) error {
	for len(b) > 0 {
		n := min(len(b), writeChunk)
		if err := w.arm(); err != nil {
			return err
		}
		if _, err := w.conn.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// arm sets the deadline of the next write.
func (w *Writer) arm() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.aborted {
		return ErrWriterClosed
	}
	return w.conn.SetWriteDeadline(time.Now().Add(w.timeout))
}

// fail keeps err and drops what waits. It is called with the lock held.
func (w *Writer) fail(err error) {
	w.err = err
	w.buf, w.then = nil, nil
	w.idle.Broadcast()
	w.mu.Unlock()
	w.conn.Close() // the error worth telling is err
	w.mu.Lock()
}

// callThen runs what waited for the bytes written so far, without the lock.
func (w *Writer) callThen() {
	for len(w.then) > 0 && w.then[0].at <= w.written {
		fn := w.then[0].fn
		if w.then = w.then[1:]; len(w.then) == 0 {
			w.then = nil
		}
		w.mu.Unlock()
		fn()
		w.mu.Lock()
	}
}
