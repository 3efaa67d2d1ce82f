// Package client is the device and module side of Azure's device protocols, MQTT 3.1.1
// and AMQP 1.0, each over TLS or WebSocket: telemetry, messages to devices and inputs,
// twins and direct methods.
//
// A Client is one identity's connection and never connects again: its owner decides
// what to do when it ends. Over MQTT each has a TCP connection of its own; a Mux is an
// AMQP connection that many share. A Session keeps one identity connected for the
// author of a module or device, and sends again what was not acknowledged.
//
//	s, err := client.FromEnvironment(os.Getenv)
//	…
//	s.OnMessage(func(ctx context.Context, m *message.Message) error {
//		return s.SendOutput(ctx, "output1", m)
//	})
//	err = s.Run(ctx)
package client

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
)

// Ends of a connection that are on purpose.
var (
	// ErrClosed says that the owner closed the Client, or that the Session's Run
	// has returned.
	ErrClosed = errors.New("the client is closed")
	// ErrRenew ends a Client before its token expires: MQTT can only show a new
	// one by connecting again. All that was published is acknowledged by then, or
	// has had its time. Over AMQP tokens are renewed in place.
	ErrRenew error = fault.New(fault.ConnectionClosed, "the token of the connection is about to expire; connect again")
)

const (
	closeGrace = time.Second      // for the last words when closing
	renewGrace = 30 * time.Second // for acknowledgements and methods under way when renewing
)

// Client is one connection of one identity. Its methods may be called from many
// goroutines.
type Client struct {
	cfg Config
	id  ident.ID
	via protocol

	ctx    context.Context // ends with the connection
	cancel context.CancelFunc
	done   chan struct{}
	ended  atomic.Pointer[error] // why, once it is over

	joined   sync.WaitGroup // all goroutines of the connection, and handlers
	starting sync.Mutex     // held to add to joined from elsewhere

	in     inbox
	calls  calls
	twin   requests
	notify atomic.Pointer[func(version int64, patch []byte)]
}

// protocol is what carries a Client: mqttConn or amqpConn. It calls back as the server
// sends things, and ends the Client by over.
type protocol interface {
	// publish is Client.Publish.
	publish(batch []message.Message, done func(error))
	// listen has the server send something, and waits until it will.
	listen(ctx context.Context, f flow) error
	// request sends a twin request, whose answer goes to Client.twin.
	request(ctx context.Context, op twinOp, rid string, body []byte) error
	// reply answers a direct method, acknowledge a message. Should the connection
	// be broken, that is found elsewhere. reply may wait until ctx ends for the
	// server to take it.
	reply(ctx context.Context, rid any, r method.Reply)
	acknowledge(id uint32)
	// stop is called once, when the connection is to end, and must not block. It
	// sees that over is called.
	stop(reason error)
}

// flow is something the server sends when asked to.
type flow uint8

const (
	twinAnswers flow = iota
	desiredChanges
	methodCalls
	messages
)

func newClient(cfg Config) *Client {
	c := &Client{cfg: cfg, id: cfg.ID, done: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.in.init()
	return c
}

// Done is closed when the connection is over.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is why the connection is over, nil while it lives: ErrClosed, ErrRenew, a
// fault, or the error of the network.
func (c *Client) Err() error {
	if p := c.ended.Load(); p != nil {
		return *p
	}
	return nil
}

// Close says goodbye and ends the connection: what is not acknowledged fails, the
// contexts of handlers end. It returns when all of the client's goroutines have, so it
// must not be called from a handler or a done function. A second Close only waits.
func (c *Client) Close() error {
	c.end(ErrClosed)
	c.joined.Wait()
	return nil
}

// ID is who the connection is for.
func (c *Client) ID() ident.ID { return c.id }

// end makes the connection end, for the reason given first. It never blocks.
func (c *Client) end(reason error) {
	if c.ended.CompareAndSwap(nil, &reason) {
		c.cancel()
		c.via.stop(reason)
	}
}

// over is called once by the protocol, from a goroutine that counts in joined, when the
// connection is over and nothing more comes. fail fails what is under way.
func (c *Client) over(fail func(error)) {
	close(c.done)
	fail(c.Err())
	c.starting.Lock() // who has not started by now will not
	defer c.starting.Unlock()
}

// deliberate says whether we end the connection while it is good.
func deliberate(reason error) bool {
	return reason == ErrClosed || errors.Is(reason, ErrRenew) || errors.Is(reason, errAgain)
}

// start runs f in a goroutine that Close waits for, unless the connection is over.
func (c *Client) start(f func()) error {
	c.starting.Lock()
	defer c.starting.Unlock()
	if err := c.Err(); err != nil {
		return err
	}
	c.joined.Go(f)
	return nil
}

// because is why the connection ended, or err when it has not.
func (c *Client) because(err error) error {
	if cause := c.Err(); cause != nil {
		return cause
	}
	return err
}
