package mqtthead

import (
	"context"
	"slices"
	"strconv"
	"sync"

	"github.com/selvedge-io/selvedge/head/problem"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

// Bounds of twin requests that wait, per connection.
const (
	maxRequests     = 256
	maxRequestBytes = 1 << 20
)

// maxRID is the longest request id that is echoed; SDKs send up to 36 characters.
const maxRID = 1 << 10

// request is a twin operation of the client.
type request struct {
	kind    topicKind
	query   query
	payload []byte
	ack     uint64 // group of its PUBACK, when acked
	acked   bool
}

// requests is the queue of a connection's serial worker, which lives only while
// there is work.
type requests struct {
	mu      sync.Mutex
	queue   []request
	bytes   int
	busy    bool
	working sync.WaitGroup
}

// twinRequest takes a publish to a twin topic.
func (s *session) twinRequest(kind topicKind, rest string, p *mqtt.Publish) error {
	q, ok := parseQuery(rest)
	if !ok || kind == twinRead && !q.hasRID || len(q.rid) > maxRID {
		return violated("malformed twin topic %.200q", p.Topic)
	}
	// What is queued outlives the read buffer.
	q.rid, q.version = string([]byte(q.rid)), string([]byte(q.version))
	r := request{kind: kind, query: q}
	if kind == twinReport {
		r.payload = slices.Clone(p.Payload)
	}
	if p.QoS == 1 {
		r.ack, r.acked = s.acks.add([]uint16{p.ID}, 1, 0), true
		if kind == twinRead { // nothing to make durable
			s.acks.done(r.ack, s.w)
			r.acked = false
		}
	}
	if !s.enqueue(r) {
		s.answerFault(&r, fault.New(fault.Throttled, "too many twin requests are waiting; send fewer at a time"))
		s.acknowledge(&r)
	}
	return nil
}

// enqueue gives r to the worker, starting it when there is none. It is false when
// too much waits already.
func (s *session) enqueue(r request) bool {
	q := &s.requests
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) >= maxRequests || q.bytes > 0 && q.bytes+len(r.payload) > maxRequestBytes {
		return false
	}
	q.queue = append(q.queue, r)
	q.bytes += len(r.payload)
	if !q.busy {
		q.busy = true
		q.working.Go(s.work)
	}
	return true
}

// work answers requests, one after the other, until none is left.
func (s *session) work() {
	q := &s.requests
	for {
		q.mu.Lock()
		if len(q.queue) == 0 || s.ctx.Err() != nil {
			q.queue, q.busy = nil, false
			q.mu.Unlock()
			return
		}
		r := q.queue[0]
		q.queue = q.queue[1:]
		q.bytes -= len(r.payload)
		q.mu.Unlock()
		s.answer(&r)
		s.acknowledge(&r)
	}
}

// acknowledge lets the PUBACK of r go.
func (s *session) acknowledge(r *request) {
	if r.acked {
		s.acks.done(r.ack, s.w)
	}
}

// answer carries a request out and publishes the result (device-protocol 5.13).
func (s *session) answer(r *request) {
	ctx, cancel := context.WithTimeout(s.ctx, backendTimeout)
	defer cancel()
	if r.kind == twinRead {
		twin, err := s.srv.cfg.Backend.Twin(ctx, s.id)
		if err != nil {
			s.answerFault(r, err)
			return
		}
		s.push(grantTwin, answerTopic(200, r.query.rid, 0), twin)
		return
	}
	var ifVersion int64
	if r.query.version != "" {
		n, err := strconv.ParseInt(r.query.version, 10, 64)
		if err != nil || n < 0 {
			s.answerFault(r, fault.New(fault.ArgumentInvalid, "$version %.20q in the topic is not a version", r.query.version))
			return
		}
		ifVersion = n
	}
	version, err := s.srv.cfg.Backend.Report(ctx, s.id, r.payload, ifVersion)
	switch {
	case err != nil:
		s.answerFault(r, err)
	case r.query.hasRID:
		s.push(grantTwin, answerTopic(204, r.query.rid, version), nil)
	}
}

// answerTopic is the topic of a twin answer; a version of zero is left out.
func answerTopic(status int, rid string, version int64) []byte {
	b := append(make([]byte, 0, 96), twinRes...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(append(b, "/?$rid="...), rid...)
	if version != 0 {
		b = strconv.AppendInt(append(b, "&$version="...), version, 10)
	}
	return b
}

// answerFault publishes an error and writes it to the log under its tracking id.
func (s *session) answerFault(r *request, err error) {
	if s.ctx.Err() != nil {
		return // the connection is over and so is the request
	}
	body, tracking := problem.JSON(err)
	s.srv.refuse(s.nc.RemoteAddr().String(), "twin request refused", append(s.names(), "tracking", tracking, "err", err)...)
	if r.query.hasRID {
		s.push(grantTwin, answerTopic(fault.CodeOf(err).Status(), r.query.rid, 0), body)
	}
}
