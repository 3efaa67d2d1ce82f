package amqphead

import (
	"context"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/wire/amqp"
)

// Conn is one connection.
type Conn struct {
	srv    *Server
	ctx    context.Context
	amqp   *amqp.Conn
	remote string
	work   sync.WaitGroup
}

// Go runs f in a goroutine that the connection waits for when it ends; ctx ends with
// the connection.
func (c *Conn) Go(f func(ctx context.Context)) { c.work.Go(func() { f(c.ctx) }) }

// Remote is the network address of the peer.
func (c *Conn) Remote() string { return c.remote }

// Service judges whether the peer may do what needs a right on a resource, by the
// tokens of policies that it has brought so far: on $cbs, or by SASL PLAIN. expires is
// when the token ends, grace included; zero for logins that do not end. It may block.
// The error is a fault for ErrorOf.
func (c *Conn) Service(ctx context.Context, resource string, need Right) (policy string, expires time.Time, err error) {
	return "", time.Time{}, nil
}

// Watch calls over once, in a goroutine that the connection waits for, when what
// Service allowed until expires has ended and no newer token allows it; over is given
// the fault. It is not called once stop has been, nor after the connection's end.
func (c *Conn) Watch(resource string, need Right, expires time.Time, over func(err error)) (stop func()) {
	return func() {}
}

// ErrorOf is how a peer is told about err: the condition that SDKs know and, as a JSON
// text, what the Hub would say (device-protocol 6.6.4).
func ErrorOf(err error) *amqp.Error { return nil }
