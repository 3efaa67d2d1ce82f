package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
)

const (
	firstRetry       = 250 * time.Millisecond // longest pause before the first attempt to connect again
	maxRetry         = 30 * time.Second       // longest pause
	subscribeTimeout = 30 * time.Second
	twinTimeout      = 30 * time.Second
)

// Session keeps one identity connected while Run runs: it connects again with growing
// pauses, subscribes again, looks at the twin again, and sends again what was not
// acknowledged. Set the handlers before Run; all other methods may be called at any
// time and from handlers.
//
// Handlers get a context that ends with the connection they were called on, and the
// next connection waits for them to return.
type Session struct {
	cfg     Config
	message func(context.Context, *message.Message) error
	method  func(context.Context, *method.Call) method.Reply
	desired func(ctx context.Context, version int64, desired []byte)

	sends sends

	mu      sync.Mutex
	c       *Client       // nil while there is no connection
	changed chan struct{} // closed and replaced when c changes
	over    bool          // Run has returned
	acked   bool          // the server took something on this connection
}

// NewSession makes a Session that does nothing until Run.
func NewSession(cfg Config) *Session {
	s := &Session{cfg: cfg.withDefaults(), changed: make(chan struct{})}
	s.sends.init(s.cfg.Protocol.check(), s.cfg.Window, s.cfg.WindowBytes)
	return s
}

// errAgain ends a connection so that the server delivers a message again.
var errAgain = errors.New("a message was not handled and is to come again")

// OnMessage sets the handler of messages, which is called as Client.OnMessage says. An
// error from it makes the Session connect again after a pause that grows each time:
// then the server delivers the message once more, and after it those that follow, so
// that order is kept. Give nil for a message that will never be of use, or it holds up
// all others.
func (s *Session) OnMessage(handle func(ctx context.Context, m *message.Message) error) {
	s.message = handle
}

// OnMethod sets the handler of direct methods: see Client.OnMethod.
func (s *Session) OnMethod(handle func(ctx context.Context, c *method.Call) method.Reply) {
	s.method = handle
}

// OnDesired sets the handler of desired properties. It is called with all of them as
// JSON, $version included, whenever they are another version than it saw last: after
// connecting and after each change. Versions that came close together may be skipped.
// The calls come one after the other and may block.
func (s *Session) OnDesired(changed func(ctx context.Context, version int64, desired []byte)) {
	s.desired = changed
}

// Run keeps the connection until ctx ends, which is no error. It can be called once;
// what is still unacknowledged when it returns fails with ErrClosed.
func (s *Session) Run(ctx context.Context) error {
	if err := s.cfg.check(); err != nil {
		return err
	}
	defer s.stop()
	var b backoff
	var last desiredState
	told := false // the log knows that there is no connection
	log := s.cfg.Log.With("device", s.cfg.ID.Device, "module", s.cfg.ID.Module)
	for {
		c, err := Dial(ctx, s.cfg)
		if err == nil {
			log.Info("connected", "server", s.cfg.gateway())
			told = false
			began := time.Now()
			err = s.serve(ctx, c, &last)
			if s.progressed() && !errors.Is(err, errAgain) || time.Since(began) > maxRetry {
				b = 0
			}
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrRenew):
			log.Debug("connecting again with a new token")
			b = 0
			continue
		case told:
			log.Debug("still not connected", "server", s.cfg.gateway(), "err", err)
		default:
			told = true
			log.Warn("not connected, trying again", "server", s.cfg.gateway(), "err", err)
		}
		select {
		case <-time.After(b.next()):
		case <-ctx.Done():
			return nil
		}
	}
}

// backoff is a growing pause with chance in it, so that many do not come back in step.
type backoff time.Duration

func (b *backoff) next() time.Duration {
	*b = min(max(2**b, backoff(firstRetry)), backoff(maxRetry))
	half := time.Duration(*b) / 2
	return half + rand.N(half+1)
}

// serve uses a connection until it is over or ctx ends.
func (s *Session) serve(ctx context.Context, c *Client, last *desiredState) error {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer s.sends.lost() // all done functions were called by then
	defer work.Wait()
	defer cancel()
	defer c.Close()
	defer s.set(nil)

	f := follower{c: c, handle: s.desired, last: last, changes: make(chan change, 64)}
	if err := s.subscribe(ctx, c, &f); err != nil {
		return err
	}
	s.set(c)
	work.Go(func() { s.feed(ctx, c) })
	if s.desired != nil {
		work.Go(func() { f.run(ctx) })
	}
	select {
	case <-c.Done():
		return c.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// subscribe listens to all there is a handler for.
func (s *Session) subscribe(ctx context.Context, c *Client, f *follower) error {
	ctx, cancel := context.WithTimeout(ctx, subscribeTimeout)
	defer cancel()
	if s.desired != nil {
		if err := c.OnDesired(ctx, f.note); err != nil {
			return err
		}
	}
	if s.method != nil {
		if err := c.OnMethod(ctx, s.method); err != nil {
			return err
		}
	}
	if s.message != nil {
		return c.OnMessage(ctx, func(ctx context.Context, m *message.Message) error {
			err := s.message(ctx, m)
			if err != nil {
				c.end(fmt.Errorf("%w: %w", errAgain, err))
			}
			return err
		})
	}
	return nil
}

func (s *Session) set(c *Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c = c; c != nil {
		s.acked = false
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Session) progress() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = true
}

func (s *Session) progressed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked
}

// stop fails all who wait, for good.
func (s *Session) stop() {
	s.mu.Lock()
	s.over = true
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	s.sends.stop()
}

// await gives the connection as soon as there is one.
func (s *Session) await(ctx context.Context) (*Client, error) {
	for {
		s.mu.Lock()
		c, over, changed := s.c, s.over, s.changed
		s.mu.Unlock()
		switch {
		case over:
			return nil, ErrClosed
		case c != nil && c.Err() == nil:
			return c, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for connection: %w", ctx.Err())
		}
	}
}

// Twin gives the twin as Client.Twin does; it waits for a connection and asks again
// when that breaks.
func (s *Session) Twin(ctx context.Context) (twin []byte, err error) {
	err = s.ask(ctx, func(ctx context.Context, c *Client) error {
		twin, err = c.Twin(ctx)
		return err
	})
	return twin, err
}

// Report merges a JSON patch into the reported properties as Client.Report does; it
// waits for a connection and asks again when that breaks.
func (s *Session) Report(ctx context.Context, patch []byte) (version int64, err error) {
	err = s.ask(ctx, func(ctx context.Context, c *Client) error {
		version, err = c.Report(ctx, patch)
		return err
	})
	return version, err
}

// ask tries until it works, is refused for good, or ctx ends.
func (s *Session) ask(ctx context.Context, try func(context.Context, *Client) error) error {
	var b backoff
	for {
		c, err := s.await(ctx)
		if err != nil {
			return err
		}
		within, cancel := context.WithTimeout(ctx, twinTimeout)
		err = try(within, c)
		expired := within.Err() != nil
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil, c.Err() == nil && !expired && !fault.Temporary(err):
			return err
		}
		select {
		case <-time.After(b.next()):
		case <-ctx.Done():
			return err
		}
	}
}
