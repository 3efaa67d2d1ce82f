package mqtthead

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"sync"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/method"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

// maxCalls bounds the direct methods a device has not answered.
const maxCalls = 100

// methods knows the direct methods under way on a connection.
type methods struct {
	mu    sync.Mutex
	last  uint64
	calls map[string]chan result // by request id
	over  bool
}

type result struct {
	reply method.Reply
	err   error
}

var errClosed = fault.New(fault.ConnectionClosed, "the connection of the device ended before it answered")

// open registers a call under a new request id.
func (m *methods) open() (rid string, answered chan result, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.over:
		return "", nil, errClosed
	case len(m.calls) >= maxCalls:
		return "", nil, fault.New(fault.TooManyInflight, "the device has %d direct methods to answer already", maxCalls)
	case m.calls == nil:
		m.calls = map[string]chan result{}
	}
	m.last++
	rid = strconv.FormatUint(m.last, 10)
	answered = make(chan result, 1)
	m.calls[rid] = answered
	return rid, answered, nil
}

// forget takes a call out; late answers to it are ignored.
func (m *methods) forget(rid string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.calls, rid)
}

// stop fails all calls: the connection is over.
func (m *methods) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over = true
	for rid, answered := range m.calls {
		answered <- result{err: errClosed}
		delete(m.calls, rid)
	}
}

// answer takes a publish to $iothub/methods/res/; rest is what follows that.
func (m *methods) answer(rest string, payload []byte) {
	status, ok, rid := parseAnswer(rest)
	m.mu.Lock()
	defer m.mu.Unlock()
	answered, known := m.calls[rid] // ours are digits, which have no case
	if !known {
		return
	}
	delete(m.calls, rid)
	answered <- resultOf(status, ok, payload)
}

// resultOf judges an answer; an empty payload means null.
func resultOf(status int, statusOK bool, payload []byte) result {
	switch {
	case !statusOK:
		return result{err: fault.New(fault.BadGateway, "the device answered without a status")}
	case len(payload) > method.MaxPayload:
		return result{err: fault.New(fault.BadGateway, "the device answered with %d bytes, the most is %d", len(payload), method.MaxPayload)}
	case len(payload) > 0 && !json.Valid(payload):
		return result{err: fault.New(fault.BadGateway, "the device answered with something that is not JSON")}
	}
	return result{reply: method.Reply{Status: status, Payload: slices.Clone(payload)}}
}

// null is sent for a call without payload: Node parses whatever comes.
var null = []byte("null")

// Invoke implements head.Device.
func (s *session) Invoke(ctx context.Context, c *method.Call) (method.Reply, error) {
	g := s.grants.Load()
	if !s.online.Load() || g.methods != nil && !slices.Contains(g.methods, c.Name) {
		return method.Reply{}, fault.New(fault.DeviceNotOnline, "device %s has not subscribed to direct methods", s.id)
	}
	if len(c.Name) > method.MaxName {
		return method.Reply{}, fault.New(fault.ArgumentInvalid, "methodName has %d characters, the most is %d", len(c.Name), method.MaxName)
	}
	if s.w.Buffered() > maxBuffered {
		s.end(errSlow)
		return method.Reply{}, errClosed
	}
	rid, answered, err := s.methods.open()
	if err != nil {
		return method.Reply{}, err
	}
	defer s.methods.forget(rid)
	p := mqtt.Publish{Topic: methodPost + c.Name + "/?$rid=" + rid, Payload: c.Payload}
	if len(p.Payload) == 0 {
		p.Payload = null
	}
	if s.w.Append(func(b []byte) []byte { return p.Append(b, mqtt.V311) }) != nil {
		return method.Reply{}, errClosed
	}
	select {
	case r := <-answered:
		return r.reply, r.err
	case <-ctx.Done():
		return method.Reply{}, fault.Wrap(ctx.Err(), fault.GatewayTimeout, "device %s did not answer method %s in time", s.id, c.Name)
	}
}
