package workload

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Bounds of one socket.
const (
	maxConns  = 16
	maxHeader = 16 << 10 // bytes, the request line included
	maxBody   = 1 << 20

	idleTime  = 30 * time.Second // until the next call on a connection
	bodyTime  = 5 * time.Second  // from the header to the end of the body (edge-runtime 3.1)
	writeTime = 10 * time.Second
	callTime  = 30 * time.Second // for the work itself, which may ask the hub
)

// socket is what one module talks to. It has its own HTTP server because net/http's
// refuses the path of the socket as Host, which is what Java's and C's SDKs send.
type socket struct {
	server   *Server
	module   string
	listener *net.UnixListener
	path     string
	file     fs.FileInfo
	ctx      context.Context // of all calls
	cancel   context.CancelFunc
	joined   sync.WaitGroup

	mu         sync.Mutex
	generation string
	conns      map[net.Conn]bool
	closed     bool
}

func (k *socket) uri() string { return "unix://" + k.path }

// stands says whether the socket's file is still there.
func (k *socket) stands() bool {
	info, err := os.Lstat(k.path)
	return err == nil && os.SameFile(info, k.file)
}

func (k *socket) setGeneration(g string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.generation = g
}

func (k *socket) hasGeneration(g string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.generation == g
}

func (k *socket) close() {
	k.mu.Lock()
	k.closed = true
	if !k.stands() {
		k.listener.SetUnlinkOnClose(false) // another file has the name
	}
	k.listener.Close()
	for c := range k.conns {
		c.Close()
	}
	k.mu.Unlock()
	k.cancel()
	k.joined.Wait()
}

func (k *socket) accept() {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		c, err := k.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, for now
			k.server.log.Warn("workload socket cannot accept", "module", k.module, "err", err)
			pause.Reset(time.Second)
			select {
			case <-pause.C:
				continue
			case <-k.ctx.Done():
				return
			}
		}
		if !k.admit(c) {
			c.Close()
		}
	}
}

// admit takes a connection in, or says on it that there are too many.
func (k *socket) admit(c net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return false
	}
	if len(k.conns) >= maxConns {
		// The socket's buffer has room for it; nobody waits.
		c.SetWriteDeadline(time.Now().Add(time.Millisecond))
		c.Write(failed(http.StatusServiceUnavailable, "too many connections").bytes(true))
		return false
	}
	k.conns[c] = true
	k.joined.Go(func() {
		k.serve(c)
		c.Close()
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.conns, c)
	})
	return true
}

// serve answers the calls on one connection.
func (k *socket) serve(c net.Conn) {
	limit := &io.LimitedReader{R: c}
	r := bufio.NewReader(limit)
	for {
		c.SetReadDeadline(time.Now().Add(idleTime))
		limit.N = maxHeader
		req, err := http.ReadRequest(r)
		if err != nil {
			k.complain(c, limit, err)
			return
		}
		a, body := answer{}, []byte(nil)
		c.SetReadDeadline(time.Now().Add(bodyTime))
		limit.N = maxBody + maxHeader // the body's own bound is exact
		if strings.EqualFold(req.Header.Get("Expect"), "100-continue") {
			c.SetWriteDeadline(time.Now().Add(writeTime))
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
		}
		body, err = io.ReadAll(io.LimitReader(req.Body, maxBody+1))
		last := req.Close
		switch {
		case len(body) > maxBody:
			a, last = failed(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has more than %d bytes", maxBody)), true
		case errors.Is(err, os.ErrDeadlineExceeded):
			a, last = failed(http.StatusRequestTimeout, "the body did not arrive in time"), true
		case err != nil:
			a, last = failed(http.StatusBadRequest, "the body is broken"), true
		default:
			ctx, cancel := context.WithTimeout(k.ctx, callTime)
			a = k.answer(ctx, req, body)
			cancel()
		}
		c.SetWriteDeadline(time.Now().Add(writeTime))
		if _, err := c.Write(a.bytes(last)); err != nil || last {
			return
		}
	}
}

// complain answers what is no request, unless nothing came at all.
func (k *socket) complain(c net.Conn, limit *io.LimitedReader, err error) {
	if errors.Is(err, io.EOF) && limit.N > 0 || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	text := "this is not an HTTP request"
	if limit.N <= 0 {
		text = "the header is too long"
	}
	c.SetWriteDeadline(time.Now().Add(writeTime))
	c.Write(failed(http.StatusBadRequest, text).bytes(true))
}

// answer is the answer to a call.
type answer struct {
	status int
	body   []byte // JSON
}

// bytes is the answer as it goes over the wire, in one piece: always with a length and
// never chunked, since the SDKs' own parsers know no better (edge-runtime 3.2.6).
func (a answer) bytes(last bool) []byte {
	b := make([]byte, 0, 256+len(a.body))
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(a.status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(a.status)...)
	b = append(b, "\r\nDate: "...)
	b = time.Now().UTC().AppendFormat(b, http.TimeFormat)
	if len(a.body) > 0 {
		b = append(b, "\r\nContent-Type: application/json"...)
	}
	b = append(b, "\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(a.body)), 10)
	if last {
		b = append(b, "\r\nConnection: close"...)
	}
	b = append(b, "\r\n\r\n"...)
	return append(b, a.body...)
}
