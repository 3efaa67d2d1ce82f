package amqphead

import (
	"context"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
)

// Service judges whether the peer may do what needs a right on a resource, by the
// tokens of policies that it has brought so far: on $cbs, or by SASL PLAIN. The resource
// is a decoded path without host and slashes at its ends. expires is when the token
// ends, grace included; zero for logins that do not end. It may block. The error is a
// fault for ErrorOf.
func (c *Conn) Service(ctx context.Context, resource string, need Right) (policy string, expires time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, backendTimeout)
	defer cancel()
	resource = strings.Trim(resource, "/")
	if c.srv.cfg.Services == nil {
		return "", time.Time{}, fault.New(fault.UnauthorizedAccess, "no service is let in here")
	}
	if err := c.awaitAll(ctx); err != nil {
		return "", time.Time{}, err
	}
	c.mu.Lock()
	found := c.tokens.forService(resource)
	c.mu.Unlock()
	err = fault.New(fault.UnauthorizedAccess, "no token of a policy for %.300q was put on $cbs", resource)
	for i, t := range found {
		policy, refused := c.srv.cfg.Services.Service(ctx, t.text, resource, need)
		if refused == nil {
			return policy, t.expires, nil
		}
		if i == 0 {
			err = refused
		}
	}
	return "", time.Time{}, err
}

// awaitAll waits until all tokens that came so far are judged.
func (c *Conn) awaitAll(ctx context.Context) error {
	c.mu.Lock()
	scopes := make([]string, 0, len(c.puts))
	for scope := range c.puts {
		scopes = append(scopes, scope)
	}
	c.mu.Unlock()
	return c.await(ctx, scopes)
}

// watching is what Service allowed and somebody relies on.
type watching struct {
	c        *Conn
	resource string
	need     Right
	over     func(error)

	// Under the connection's lock.
	expires time.Time
	asking  bool
}

// Watch calls over once, in a goroutine that the connection waits for, when what
// Service allowed until expires has ended and no newer token allows it; over is given
// the fault. It is not called once stop has returned, nor after the connection's end.
func (c *Conn) Watch(resource string, need Right, expires time.Time, over func(err error)) (stop func()) {
	if expires.IsZero() {
		return func() {}
	}
	w := &watching{c: c, resource: resource, need: need, over: over, expires: expires}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watch == nil {
		c.watch = map[*watching]struct{}{}
	}
	c.watch[w] = struct{}{}
	c.wake(expires)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.watch, w)
	}
}

// renew asks again when the time has come.
func (w *watching) renew() {
	c := w.c
	_, expires, err := c.Service(c.ctx, w.resource, w.need)
	if err == nil && !expires.IsZero() && !expires.After(time.Now()) {
		err = fault.New(fault.UnauthorizedAccess, "the token has expired; put a new one on $cbs in time")
	}
	c.mu.Lock()
	_, watched := c.watch[w]
	w.asking, w.expires = false, expires
	switch {
	case !watched:
	case err != nil, expires.IsZero():
		delete(c.watch, w)
	default:
		c.wake(expires)
	}
	c.mu.Unlock()
	if watched && err != nil && c.ctx.Err() == nil {
		w.over(err)
	}
}
