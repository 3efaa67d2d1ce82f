package client

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/method"
)

// maxCalls bounds the direct methods under way.
const maxCalls = 100

// calls are the direct methods under way on a connection.
type calls struct {
	mu      sync.Mutex
	handle  func(context.Context, *method.Call) method.Reply
	waiting []call // came before there was a handler
	running int
	quiet   chan struct{} // closed when none runs; nil unless somebody waits
}

// hurry is over: what cannot be done at once is left, as nothing may wait for it.
var hurry = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

type call struct {
	name    string
	rid     any // by which the protocol knows it
	payload []byte
}

// finished gives a channel that is closed when no method runs.
func (cs *calls) finished() <-chan struct{} {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	quiet := make(chan struct{})
	if cs.running == 0 {
		close(quiet)
	} else {
		cs.quiet = quiet
	}
	return quiet
}

// OnMethod subscribes to direct methods. handle runs in a goroutine of its own for
// each call, of which there are at most 100 at once; its context ends with the
// connection. The timeouts of the call are not known here. A reply that is no JSON or
// larger than method.MaxPayload becomes status 500. There can be one handler.
func (c *Client) OnMethod(ctx context.Context, handle func(ctx context.Context, c *method.Call) method.Reply) error {
	c.calls.mu.Lock()
	if c.calls.handle != nil {
		c.calls.mu.Unlock()
		return fault.New(fault.InvalidOperation, "there is a handler of methods already")
	}
	c.calls.handle = handle
	waiting := c.calls.waiting
	c.calls.waiting = nil
	c.calls.mu.Unlock()
	for _, w := range waiting {
		c.invoke(w)
	}
	return c.via.listen(ctx, methodCalls)
}

// invoke runs a method, or keeps it for the handler to come: a kept session lets the
// server call before OnMethod was.
func (c *Client) invoke(w call) {
	cs := &c.calls
	cs.mu.Lock()
	defer cs.mu.Unlock()
	switch {
	case cs.running+len(cs.waiting) >= maxCalls:
		c.via.reply(hurry, w.rid, failed(429, "too many direct methods are under way"))
		return
	case cs.handle == nil:
		cs.waiting = append(cs.waiting, w)
		return
	}
	handle := cs.handle
	// Should the connection be over, nobody waits for a reply.
	if c.start(func() { c.answer(handle, w) }) == nil {
		cs.running++
	}
}

func (c *Client) answer(handle func(context.Context, *method.Call) method.Reply, w call) {
	defer func() {
		c.calls.mu.Lock()
		defer c.calls.mu.Unlock()
		if c.calls.running--; c.calls.running == 0 && c.calls.quiet != nil {
			close(c.calls.quiet)
			c.calls.quiet = nil
		}
	}()
	m := method.Call{Name: w.name, Payload: w.payload}
	if len(w.payload) > method.MaxPayload || len(w.payload) > 0 && !json.Valid(w.payload) {
		c.via.reply(c.ctx, w.rid, failed(400, "the payload is not JSON or too large"))
		return
	}
	r := handle(c.ctx, &m)
	switch {
	case len(r.Payload) > method.MaxPayload:
		r = failed(500, "the payload of the reply is too large")
	case len(r.Payload) > 0 && !json.Valid(r.Payload):
		r = failed(500, "the payload of the reply is not JSON")
	}
	c.via.reply(c.ctx, w.rid, r)
}

func failed(status int, text string) method.Reply {
	payload, _ := json.Marshal(map[string]string{"message": text}) // strings always can be
	return method.Reply{Status: status, Payload: payload}
}
