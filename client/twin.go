package client

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"

	"github.com/selvedge-io/selvedge/model/fault"
)

// maxRequests bounds the twin requests without an answer.
const maxRequests = 128

// requests are the twin requests without an answer.
type requests struct {
	mu         sync.Mutex
	last       uint64
	waiting    map[string]chan response
	subscribed bool
	opening    sync.Mutex // held while subscribing
}

// twinOp is what a twin request is for.
type twinOp uint8

const (
	getTwin twinOp = iota
	patchTwin
	watchTwin // to be told of changes; MQTT has subscriptions instead
)

type response struct {
	status  int
	version int64
	body    []byte
}

// open registers a request.
func (q *requests) open() (rid string, answered chan response, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) >= maxRequests {
		return "", nil, fault.New(fault.Throttled, "%d twin requests wait for their answer already", maxRequests)
	}
	if q.waiting == nil {
		q.waiting = make(map[string]chan response)
	}
	q.last++
	rid = strconv.FormatUint(q.last, 10)
	answered = make(chan response, 1)
	q.waiting[rid] = answered
	return rid, answered, nil
}

func (q *requests) forget(rid string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.waiting, rid)
}

// answer hands an answer to who waits for it; late ones are ignored.
func (q *requests) answer(rid string, r response) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if answered, ok := q.waiting[rid]; ok {
		delete(q.waiting, rid)
		answered <- r
	}
}

// Twin gives the twin as JSON: {"desired":{…,"$version":n},"reported":{…,"$version":m}}.
// Refusals are faults with the server's own code.
func (c *Client) Twin(ctx context.Context) ([]byte, error) {
	r, err := c.request(ctx, getTwin, nil)
	if err != nil {
		return nil, fmt.Errorf("get twin of %s: %w", c.id, err)
	}
	if !json.Valid(r.body) {
		return nil, fmt.Errorf("get twin of %s: %w", c.id, fault.New(fault.BadGateway, "%s answered with something that is not JSON", c.cfg.gateway()))
	}
	return r.body, nil
}

// Report merges a JSON object into the reported properties, null removing a property,
// and gives their new version: zero when the server does not tell it, as edgeHub.
// Refusals are faults with the server's own code.
func (c *Client) Report(ctx context.Context, patch []byte) (version int64, err error) {
	r, err := c.request(ctx, patchTwin, patch)
	if err != nil {
		return 0, fmt.Errorf("report properties of %s: %w", c.id, err)
	}
	return r.version, nil
}

// request sends a twin request and waits for its answer.
func (c *Client) request(ctx context.Context, op twinOp, body []byte) (response, error) {
	if err := c.listen(ctx); err != nil {
		return response{}, err
	}
	rid, answered, err := c.twin.open()
	if err != nil {
		return response{}, err
	}
	defer c.twin.forget(rid)
	if err := c.via.request(ctx, op, rid, body); err != nil {
		return response{}, err
	}
	select {
	case r := <-answered:
		return r, refusalOf(r)
	case <-c.done:
		return response{}, c.Err()
	case <-ctx.Done():
		return response{}, ctx.Err()
	}
}

// listen subscribes to answers, once.
func (c *Client) listen(ctx context.Context) error {
	q := &c.twin
	q.mu.Lock()
	subscribed := q.subscribed
	q.mu.Unlock()
	if subscribed {
		return nil
	}
	q.opening.Lock()
	defer q.opening.Unlock()
	q.mu.Lock()
	subscribed = q.subscribed
	q.mu.Unlock()
	if subscribed {
		return nil
	}
	if err := c.via.listen(ctx, twinAnswers); err != nil {
		return err
	}
	q.mu.Lock()
	q.subscribed = true
	q.mu.Unlock()
	return nil
}

// refusalOf is the fault in an answer (device-protocol 5.13.3), nil when it is none.
// edgeHub sends the status alone.
func refusalOf(r response) error {
	if r.status >= 200 && r.status < 300 {
		return nil
	}
	var problem struct {
		ErrorCode int    `json:"errorCode"`
		Message   string `json:"message"`
	}
	code := codeOf(r.status)
	if json.Unmarshal(r.body, &problem) == nil && problem.ErrorCode/1000 == r.status {
		code = fault.Code(problem.ErrorCode)
	}
	if problem.Message == "" {
		problem.Message = fmt.Sprintf("the server answered with status %d", r.status)
	}
	return fault.New(code, "%.500s", problem.Message)
}

// codeOf is the plainest fault with an HTTP status.
func codeOf(status int) fault.Code {
	switch status {
	case 400:
		return fault.ArgumentInvalid
	case 401:
		return fault.Unauthorized
	case 403:
		return fault.GenericForbidden
	case 404:
		return fault.GenericNotFound
	case 412:
		return fault.PreconditionFailed
	case 413:
		return fault.MessageTooLarge
	case 429:
		return fault.Throttled
	case 502:
		return fault.BadGateway
	case 503:
		return fault.Unavailable
	case 504:
		return fault.GatewayTimeout
	}
	return fault.ServerError
}

// OnDesired subscribes to changes of desired properties. changed is called for each,
// in order, with the new version and the JSON patch, which is valid during the call;
// it must not block, since nothing else of the connection moves meanwhile. What
// changed before, get with Twin. A later handler replaces an earlier one.
func (c *Client) OnDesired(ctx context.Context, changed func(version int64, patch []byte)) error {
	c.notify.Store(&changed)
	return c.via.listen(ctx, desiredChanges)
}

// desired takes a change. The version is in the patch too, should the topic lack it.
func (c *Client) desired(version int64, patch []byte) {
	changed := c.notify.Load()
	if changed == nil {
		return
	}
	var body struct {
		Version int64 `json:"$version"`
	}
	if version == 0 {
		if json.Unmarshal(patch, &body) != nil {
			return // not a patch
		}
		version = body.Version
	}
	(*changed)(version, patch)
}
