package amqp

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// testHandler is a Handler of functions; without them, everything is accepted.
type testHandler struct {
	open     func(c *Conn, o *Open) error
	attach   func(in *Incoming)
	closed   func(c *Conn, err error)
	receiver ReceiverFuncs
	sender   SenderFuncs
	window   uint32
}

func (h *testHandler) Open(c *Conn, o *Open) error {
	if h.open != nil {
		return h.open(c, o)
	}
	return nil
}

func (h *testHandler) Attach(in *Incoming) {
	switch {
	case h.attach != nil:
		h.attach(in)
	case in.Role == RoleReceiver:
		in.Receiver(Accepting{}, Receiving{Window: or(h.window, 100)}, h.receiver)
	default:
		in.Sender(Accepting{}, h.sender)
	}
}

func (h *testHandler) Closed(c *Conn, err error) {
	if h.closed != nil {
		h.closed(c, err)
	}
}

// listen gives a pair of connected TCP sockets.
func socketPair(t testing.TB) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close(); client.Close() })
	return server, client
}

// serve runs a server on nc; wait gives its error.
func serve(t testing.TB, nc net.Conn, cfg Config) (wait func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() { result <- Serve(ctx, nc, cfg) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return func() error {
		select {
		case err := <-result:
			return err
		case <-time.After(10 * time.Second):
			t.Error("the server did not end")
			return nil
		}
	}
}

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// connect runs a server and a client; the client is closed at the end.
func connect(t testing.TB, server, client Config) (c *Conn, wait func() error) {
	t.Helper()
	a, b := socketPair(t)
	wait = serve(t, a, server)
	c, err := Connect(deadline(t), b, client)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(nil); <-c.Done() })
	return c, wait
}

func begin1(t testing.TB, c *Conn) *Session {
	t.Helper()
	s, err := c.Begin(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// next takes from ch, or fails.
func next[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// eventually waits for a condition that nothing signals.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

func condition(err error) Symbol {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Condition
	}
	return ""
}

// noGoroutines fails unless this package's goroutines end.
func noGoroutines(t testing.TB) {
	t.Helper()
	eventually(t, "goroutines end", func() bool {
		buf := make([]byte, 1<<20)
		all := string(buf[:runtime.Stack(buf, true)])
		return !strings.Contains(all, "amqp.(*Conn)") && !strings.Contains(all, "amqp.Serve")
	})
}
