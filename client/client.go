// Package client is the device and module side of Azure's device protocol, over
// MQTT 3.1.1: telemetry, messages to devices and inputs, twins and direct methods.
//
// A Client is one connection and never connects again: its owner decides what to do
// when it ends. A Session keeps one identity connected for the author of a module or
// device, and sends again what was not acknowledged.
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
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/selvedge-io/selvedge/model/bag"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

// Ends of a connection that are on purpose.
var (
	// ErrClosed says that the owner closed the Client, or that the Session's Run
	// has returned.
	ErrClosed = errors.New("the client is closed")
	// ErrRenew ends a Client before its token expires: MQTT can only show a new
	// one by connecting again. All that was published is acknowledged by then, or
	// has had its time.
	ErrRenew error = fault.New(fault.ConnectionClosed, "the token of the connection is about to expire; connect again")
)

const (
	maxBuffered  = 8 << 20          // output that may wait before reading pauses, in bytes
	closeGrace   = time.Second      // for the last packets when closing
	renewGrace   = 30 * time.Second // for acknowledgements and methods under way when renewing
	maxSubscribe = 256              // subscriptions that wait for their SUBACK
)

// Client is one connection of one identity. Its methods may be called from many
// goroutines.
type Client struct {
	cfg Config
	id  ident.ID
	nc  net.Conn
	r   *mqtt.Reader
	w   *mqtt.Writer

	ctx    context.Context // ends with the connection
	cancel context.CancelFunc
	done   chan struct{}
	ended  atomic.Pointer[error] // why, once it is over
	armed  time.Time             // read deadline in force; owned by the reader
	bag    bag.Bag               // of the message being read; owned by the reader

	joined   sync.WaitGroup // reader, keeper, and handlers
	starting sync.Mutex     // held to add to joined from elsewhere

	out    outbox
	in     inbox
	calls  calls
	twin   requests
	notify atomic.Pointer[func(version int64, patch []byte)]

	subMu sync.Mutex
	subID uint16
	subs  map[uint16]chan byte // SUBSCRIBEs that wait, by packet id
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

// end makes the connection end, for the reason given first. It never blocks: the
// reader wakes up and cleans up.
func (c *Client) end(reason error) {
	if !c.ended.CompareAndSwap(nil, &reason) {
		return
	}
	if deliberate(reason) {
		// Should it fail the server sees the connection close instead.
		_ = c.w.Append(func(b []byte) []byte { return mqtt.AppendEmpty(b, mqtt.TypeDisconnect) })
	}
	c.w.Stop()
	c.cancel()
	c.nc.SetReadDeadline(time.Unix(1, 0)) // a closed connection needs no waking
}

// deliberate says whether we end the connection while it is good.
func deliberate(reason error) bool {
	return reason == ErrClosed || errors.Is(reason, ErrRenew) || errors.Is(reason, errAgain)
}

// run is the reader: it serves the connection and cleans up behind it.
func (c *Client) run() {
	c.end(c.read())
	if deliberate(c.Err()) {
		cut := time.AfterFunc(closeGrace, c.w.Abort)
		c.w.Close() // the error worth telling is Err
		cut.Stop()
	} else {
		c.w.Abort()
	}
	c.nc.Close()
	c.r.Release()
	close(c.done)
	c.out.stop(c.Err())
	c.starting.Lock() // who has not started by now will not
	defer c.starting.Unlock()
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

// keep sends pings, and ends the connection before its token expires.
func (c *Client) keep(renew <-chan time.Time) {
	ping := time.NewTicker(c.cfg.KeepAlive / 2)
	defer ping.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-ping.C:
			// The answer moves the read deadline; a failed write ends the reader.
			_ = c.w.Append(func(b []byte) []byte { return mqtt.AppendEmpty(b, mqtt.TypePingreq) })
		case <-renew:
			c.retire()
			return
		}
	}
}

// retire lets what is under way finish, within limits, and ends the connection.
func (c *Client) retire() {
	patience := time.NewTimer(renewGrace)
	defer patience.Stop()
	await := func(finished <-chan struct{}) {
		select {
		case <-finished:
		case <-c.done:
		case <-patience.C:
			c.end(ErrRenew)
		}
	}
	await(c.in.retire()) // the handler may still send what comes of its message
	c.out.refuse(ErrRenew)
	acknowledged := make(chan struct{})
	c.joined.Go(func() { c.Publish(nil, func(error) { close(acknowledged) }) }) // after all others
	await(acknowledged)
	await(c.calls.finished())
	c.end(ErrRenew)
}

// read handles packets until the connection ends, and says why it did.
func (c *Client) read() error {
	for {
		if !c.r.Buffered() {
			c.out.settle()
			if err := c.w.Wait(maxBuffered); err != nil {
				return c.readError(err)
			}
			c.arm()
			if err := c.Err(); err != nil {
				return err
			}
		}
		f, err := c.r.Next()
		if err != nil {
			return c.readError(err)
		}
		if err := c.handle(f); err != nil {
			return err
		}
	}
}

// arm moves the read deadline: the server owes at least the answer to a ping. Moving
// it costs, so it is set with some slack and then left alone.
func (c *Client) arm() {
	idle := c.cfg.KeepAlive * 3 / 2
	if deadline := time.Now().Add(idle); deadline.After(c.armed) {
		c.armed = deadline.Add(idle / 16)
		c.nc.SetReadDeadline(c.armed) // Read fails when this does
	}
}

// readError says what a failed read or wait means.
func (c *Client) readError(err error) error {
	if cause := c.Err(); cause != nil {
		return cause
	}
	if werr := c.w.Err(); werr != nil {
		return fmt.Errorf("write to %s: %w", c.cfg.gateway(), werr)
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return fault.New(fault.GatewayTimeout, "%s was silent for one and a half times the keep-alive", c.cfg.gateway())
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fault.Wrap(err, fault.ConnectionClosed, "%s closed the connection", c.cfg.gateway())
	}
	return fmt.Errorf("read from %s: %w", c.cfg.gateway(), err)
}

func (c *Client) handle(f mqtt.Frame) error {
	switch f.Type {
	case mqtt.TypePuback:
		var p mqtt.Ack
		if err := p.Decode(f); err != nil {
			return err
		}
		c.out.acknowledged(p.ID)
		return nil
	case mqtt.TypePublish:
		return c.published(f)
	case mqtt.TypeSuback:
		return c.subscribed(f)
	case mqtt.TypePingresp:
		return nil
	}
	return fmt.Errorf("%w: a server must not send %v here", mqtt.ErrMalformed, f.Type)
}

// subscribe asks for a filter and waits for the answer.
func (c *Client) subscribe(ctx context.Context, filter string, qos byte) error {
	id, granted, err := c.openSubscribe()
	if err != nil {
		return err
	}
	defer func() {
		c.subMu.Lock()
		delete(c.subs, id)
		c.subMu.Unlock()
	}()
	p := mqtt.Subscribe{ID: id, Filters: []mqtt.Subscription{{Filter: filter, QoS: qos}}}
	if err := c.w.Append(func(b []byte) []byte { return p.Append(b, mqtt.V311) }); err != nil {
		return fmt.Errorf("subscribe to %s: %w", filter, c.over(err))
	}
	select {
	case code := <-granted:
		if code == mqtt.SubackFailure {
			return fault.New(fault.UnauthorizedAccess, "%s refuses the subscription to %s", c.cfg.gateway(), filter)
		}
		return nil
	case <-c.done:
		return fmt.Errorf("subscribe to %s: %w", filter, c.Err())
	case <-ctx.Done():
		return fmt.Errorf("subscribe to %s: %w", filter, ctx.Err())
	}
}

// openSubscribe gives a free packet id above those of telemetry.
func (c *Client) openSubscribe() (id uint16, granted chan byte, err error) {
	c.subMu.Lock()
	defer c.subMu.Unlock()
	if len(c.subs) >= maxSubscribe {
		return 0, nil, fault.New(fault.Throttled, "%d subscriptions wait for their answer already", maxSubscribe)
	}
	if c.subs == nil {
		c.subs = make(map[uint16]chan byte)
	}
	for taken := true; taken; _, taken = c.subs[id] {
		c.subID++
		id = c.subID | firstControlID
	}
	granted = make(chan byte, 1)
	c.subs[id] = granted
	return id, granted, nil
}

func (c *Client) subscribed(f mqtt.Frame) error {
	var p mqtt.Suback
	if err := p.Decode(f); err != nil {
		return err
	}
	c.subMu.Lock()
	defer c.subMu.Unlock()
	if granted, ok := c.subs[p.ID]; ok {
		granted <- p.Codes[0]
		delete(c.subs, p.ID)
	}
	return nil
}

// over is why the connection ended, or err when it has not.
func (c *Client) over(err error) error {
	if cause := c.Err(); cause != nil {
		return cause
	}
	return err
}
