package amqphead

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/trust/sas"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// Bounds of $cbs on one connection.
const (
	maxCBSLinks = 32
	maxPuts     = 1024 // requests not answered
	cbsWindow   = 100
	maxRequest  = 64 << 10 // bytes of a request
)

// isCBS says whether a path is that of the node that takes tokens.
func isCBS(path string) bool { return strings.EqualFold(path, "$cbs") }

// cbsLinks are the links that tokens come by, and those that answers go out on.
type cbsLinks struct {
	links    int
	requests []*amqp.Receiver
	answers  []*answers
	pending  int // requests
}

// answers is one link for answers.
type answers struct {
	box  outbox
	link *amqp.Sender
}

// put is a token that is being judged.
type put struct {
	done  chan struct{}
	after *put // that came before for the same scope
}

// attachCBS takes a link to or from $cbs in.
func (c *Conn) attachCBS(in *amqp.Incoming) {
	c.mu.Lock()
	full := c.cbs.links >= maxCBSLinks
	if !full {
		c.cbs.links++
	}
	c.mu.Unlock()
	if full {
		c.refuse(in, fault.New(fault.MaxCbsTokens, "the connection has %d links to $cbs already", maxCBSLinks))
		return
	}
	gone := func() {
		c.mu.Lock()
		c.cbs.links--
		c.mu.Unlock()
	}
	if in.Role == amqp.RoleReceiver {
		events := amqp.ReceiverFuncs{OnDelivered: c.cbsRequest, OnDetached: func(r *amqp.Receiver, _ error) {
			gone()
			c.mu.Lock()
			c.cbs.requests = slices.DeleteFunc(c.cbs.requests, func(other *amqp.Receiver) bool { return other == r })
			c.mu.Unlock()
		}}
		r, err := in.Receiver(amqp.Accepting{}, amqp.Receiving{Window: cbsWindow, MaxMessageSize: maxRequest}, events)
		if err != nil {
			gone()
			return
		}
		c.mu.Lock()
		c.cbs.requests = append(c.cbs.requests, r)
		c.mu.Unlock()
		return
	}
	a := &answers{}
	link, err := in.Sender(amqp.Accepting{}, replies{&a.box, func(*amqp.Sender) {
		gone()
		c.mu.Lock()
		c.cbs.answers = slices.DeleteFunc(c.cbs.answers, func(other *answers) bool { return other == a })
		c.mu.Unlock()
	}})
	if err != nil {
		gone()
		return
	}
	a.link = link
	a.box.attach(link)
	c.mu.Lock()
	c.cbs.answers = append(c.cbs.answers, a)
	c.mu.Unlock()
}

// cbsRequest takes a message to $cbs. What it says is copied: it is worked on when the
// reader has gone on.
func (c *Conn) cbsRequest(r *amqp.Receiver, d amqp.Delivery) {
	q, err := readRequest(d.Payload)
	reply := func(code int, description string) {
		if !d.Settled {
			r.Settle(d.ID, amqp.State{Outcome: amqp.Accepted}) // first: C gives up otherwise
		}
		c.answer(r.Session(), q.id, code, description)
	}
	if err != nil {
		if !d.Settled {
			r.Settle(d.ID, amqp.State{Outcome: amqp.Rejected, Error: ErrorOf(err)})
		}
		return
	}
	switch {
	case strings.EqualFold(q.operation, "put-token"):
		c.putToken(q, reply)
	case strings.EqualFold(q.operation, "delete-token"):
		c.mu.Lock()
		found := c.tokens.remove(q.name)
		c.mu.Unlock()
		if found {
			reply(200, "OK")
		} else {
			reply(404, "there is no token for that name")
		}
	default:
		reply(400, "the operation is neither put-token nor delete-token")
	}
}

// request is a message to $cbs.
type request struct {
	id        any // to be echoed, with its type
	operation string
	kind      string
	name      string
	token     string
	hasToken  bool
}

// readRequest reads a message to $cbs (device-protocol 6.4). Nothing of it points into
// payload.
func readRequest(payload []byte) (q request, err error) {
	var m amqp.Message
	if err := m.Decode(payload); err != nil {
		return q, fault.Wrap(err, fault.ArgumentInvalid, "the message to $cbs cannot be read")
	}
	if q.id = m.Properties.MessageID; q.id == nil {
		q.id = m.Properties.CorrelationID
	}
	if b, ok := q.id.([]byte); ok {
		q.id = bytes.Clone(b)
	}
	q.operation, _ = m.ApplicationProperties.Text("operation")
	q.kind, _ = m.ApplicationProperties.Text("type")
	q.name, _ = m.ApplicationProperties.Text("name")
	switch v := m.Value.(type) {
	case string:
		q.token, q.hasToken = v, true
	case []byte:
		q.token, q.hasToken = string(v), true
	case nil:
		if len(m.Data) > 0 {
			q.token, q.hasToken = string(m.Body()), true
		}
	}
	return q, nil
}

// answer sends the answer to a request: on a link of its session if there is one,
// else on another.
func (c *Conn) answer(session *amqp.Session, id any, code int, description string) {
	m := amqp.Message{
		Properties: amqp.Properties{CorrelationID: id},
		ApplicationProperties: amqp.Map{
			{Key: "status-code", Value: int32(code)},
			{Key: "status-description", Value: description},
		},
		HasValue: true,
	}
	b, err := m.Append(nil)
	if err != nil {
		return // the id came from the wire, so it has a form there
	}
	c.mu.Lock()
	var to *answers
	for _, a := range c.cbs.answers {
		if to == nil || a.link.Session() == session {
			to = a
		}
	}
	c.mu.Unlock()
	if to != nil && !to.box.put(parcel{payload: b}) {
		to.link.Detach(&amqp.Error{Condition: amqp.ErrResourceLimit, Description: "too many answers wait for credit"})
	}
}

// putToken judges a token, in a goroutine, and keeps it when it is good.
func (c *Conn) putToken(q request, reply func(code int, description string)) {
	if !q.hasToken {
		reply(400, "the body holds no token as a string")
		return
	}
	t, err := sas.Parse(q.token)
	if err != nil {
		reply(401, "the token is no shared access signature: "+err.Error())
		return
	}
	expires := t.Expiry.Add(skew)
	if now := time.Now(); now.After(expires) {
		reply(401, "the token expired at "+t.Expiry.UTC().Format(time.RFC3339)+" and it is "+now.UTC().Format(time.RFC3339)+" here; check the clocks")
		return
	}
	kept := &token{text: q.token, resource: strings.ToLower(t.Audience()), policy: t.Policy, expires: expires}
	claims := identitiesOf(t.Resource, q.name)
	scope := scopeOf(kept.resource)

	c.mu.Lock()
	if c.over || c.cbs.pending >= maxPuts {
		c.mu.Unlock()
		reply(503, "too many tokens are being judged; send fewer at a time")
		return
	}
	mine := &put{done: make(chan struct{}), after: c.puts[scope]}
	if c.puts == nil {
		c.puts = map[string]*put{}
	}
	c.puts[scope] = mine
	c.cbs.pending++
	c.spawn(func() {
		err := c.approve(mine, kept, claims)
		c.mu.Lock()
		if err == nil {
			err = c.tokens.put(kept, c.srv.cfg.MaxIdentities, time.Now())
		}
		c.cbs.pending--
		if c.puts[scope] == mine {
			delete(c.puts, scope)
		}
		c.mu.Unlock()
		close(mine.done)
		if err != nil {
			c.srv.refuse(c.remote, "AMQP token refused", "name", q.name, "err", err)
			reply(max(fault.CodeOf(err).Status(), 400), fault.TextOf(err))
			return
		}
		c.proved.Store(true)
		reply(200, "OK")
	})
	c.mu.Unlock()
}

// approve says whether a token is good for anything: for one of the identities that it
// may be meant for, or as that of a policy.
func (c *Conn) approve(mine *put, t *token, claims []ident.ID) error {
	ctx, cancel := context.WithTimeout(c.ctx, backendTimeout)
	defer cancel()
	if mine.after != nil { // so that the newest stays
		select {
		case <-mine.after.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		mine.after = nil
	}
	done, err := c.judge(ctx)
	if err != nil {
		return err
	}
	defer done()
	refused := error(fault.New(fault.Unauthorized, "the token is for nothing that is here"))
	for _, id := range claims {
		_, err := c.srv.cfg.Backend.Authenticate(ctx, &ident.Claim{ID: id, Token: t.text, Remote: c.remote})
		if err == nil {
			return nil
		}
		refused = err
	}
	if t.policy == "" {
		return refused
	}
	if c.srv.cfg.Services != nil {
		_, err := c.srv.cfg.Services.Service(ctx, t.text, below(t.resource), 0)
		return err
	}
	if len(claims) > 0 {
		return refused
	}
	return nil // each identity will say
}

// settled waits until the tokens that may be for id and came so far are judged.
func (c *Conn) settled(ctx context.Context, id ident.ID) error {
	scopes := [...]string{scopeOf("/" + id.Resource()), scopeOf("/devices/" + id.Device), "devices", ""}
	return c.await(ctx, scopes[:])
}

func (c *Conn) await(ctx context.Context, scopes []string) error {
	for _, scope := range scopes {
		c.mu.Lock()
		p := c.puts[scope]
		c.mu.Unlock()
		if p == nil {
			continue
		}
		select {
		case <-p.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
