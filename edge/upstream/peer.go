package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/method"
	"github.com/selvedge-io/selvedge/storage/queue"
)

// peer is one identity at the parent: its connection, while somebody needs it, and its
// outbox.
type peer struct {
	l  *Link
	id ident.ID

	wake chan struct{} // something below changed

	mu      sync.Mutex
	needs   int // holds, and a pump that has messages
	holds   int
	methods bool
	outbox  *queue.Endpoint
	pumped  *queue.Endpoint // the outbox that has a pump; under Link.mu too
	conn    Conn
	err     error         // why the last attempt to connect failed; nil while connected
	changed chan struct{} // closed and replaced when conn or err changes
	acked   bool          // the parent took a message on this connection
}

func newPeer(l *Link, id ident.ID) *peer {
	return &peer{l: l, id: id, wake: make(chan struct{}, 1), changed: make(chan struct{})}
}

func (p *peer) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// openOutbox gives the outbox, and whether it was opened just now.
func (p *peer) openOutbox() (e *queue.Endpoint, isNew bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.outbox != nil {
		return p.outbox, false, nil
	}
	p.outbox, err = p.l.cfg.Queue.Endpoint(outboxPrefix + p.id.String())
	if err != nil {
		p.outbox = nil
		return nil, false, fmt.Errorf("open outbox of %s: %w", p.id, err)
	}
	return p.outbox, true, nil
}

// need counts holds.
func (p *peer) need(n int) {
	p.mu.Lock()
	p.holds += n
	p.needs += n
	p.mu.Unlock()
	p.poke()
}

// demand counts a pump with messages to send.
func (p *peer) demand(n int) {
	p.mu.Lock()
	p.needs += n
	p.mu.Unlock()
	p.poke()
}

// await gives the connection as soon as there is one. If eager it fails when the last
// attempt to connect did.
func (p *peer) await(ctx context.Context, eager bool) (Conn, error) {
	for {
		p.mu.Lock()
		c, err, changed := p.conn, p.err, p.changed
		p.mu.Unlock()
		if c != nil && !over(c) {
			return c, nil
		}
		if err != nil && eager {
			return nil, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func over(c Conn) bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}

func (p *peer) set(c Conn, err error) {
	p.mu.Lock()
	p.conn, p.err = c, err
	if c != nil {
		p.acked = false
	}
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
	if p.id == p.l.self {
		p.l.setOnline(c != nil, err)
	}
}

// run keeps a connection while it is needed.
func (p *peer) run(ctx context.Context) {
	b := backoff{first: p.l.cfg.FirstRetry, most: p.l.cfg.MaxRetry}
	told := false
	for p.needed(ctx) {
		c, err := p.dial(ctx)
		if err == nil {
			if told {
				p.l.log.Info("identity is connected to the hub again", "device", p.id.Device, "module", p.id.Module)
				told = false
			}
			began := time.Now()
			err = p.serve(ctx, c)
			if p.tookAny() || time.Since(began) > p.l.cfg.MaxRetry {
				b.reset()
			}
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil { // nobody needed it any more
			p.set(nil, nil)
			continue
		}
		p.set(nil, err)
		b.most = p.l.cfg.MaxRetry
		var kick <-chan struct{}
		if refused(err) {
			b.most = p.l.cfg.RefusedWait
			if !told {
				told = true
				p.l.log.Warn("the hub refuses an identity, its messages are kept", "device", p.id.Device, "module", p.id.Module, "err", err)
			}
		} else {
			kick = p.l.kicked()
		}
		select {
		case <-time.After(b.next()):
		case <-kick:
		case <-ctx.Done():
			return
		}
	}
}

// progress notes that the parent took a message.
func (p *peer) progress() {
	p.mu.Lock()
	p.acked = true
	p.mu.Unlock()
}

func (p *peer) tookAny() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acked
}

// needed waits until somebody needs the connection; false when ctx ends.
func (p *peer) needed(ctx context.Context) bool {
	for ctx.Err() == nil {
		p.mu.Lock()
		n := p.needs
		p.mu.Unlock()
		if n > 0 {
			return true
		}
		select {
		case <-p.wake:
		case <-ctx.Done():
		}
	}
	return false
}

func (p *peer) dial(ctx context.Context) (Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := p.l.cfg.Dial(ctx, p.id)
	if err != nil {
		return nil, fmt.Errorf("connect %s to the hub: %w", p.id, err)
	}
	return c, nil
}

// serve uses a connection until it is lost, nobody needs it (no error then), or ctx
// ends.
func (p *peer) serve(ctx context.Context, c Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	defer c.Close()
	p.set(c, nil)
	p.l.connected()

	subs := subscriptions{p: p, c: c, changes: make(chan change, 64)}
	var idle <-chan time.Time
	for {
		if err := subs.update(ctx, &work); err != nil {
			return err
		}
		p.mu.Lock()
		needed := p.needs > 0
		p.mu.Unlock()
		switch {
		case needed:
			idle = nil
		case idle == nil:
			idle = time.After(subs.patience())
		}
		select {
		case <-p.wake:
		case <-idle:
			return nil
		case <-c.Done():
			if err := c.Err(); err != nil {
				return fmt.Errorf("connection of %s to the hub: %w", p.id, err)
			}
			return fault.New(fault.ConnectionClosed, "the hub closed the connection of %s", p.id)
		case <-ctx.Done():
			p.settleDown()
			return ctx.Err()
		}
	}
}

// settleDown waits a little for acknowledgements that are on their way.
func (p *peer) settleDown() {
	ctx, cancel := context.WithTimeout(context.Background(), p.l.cfg.Grace)
	defer cancel()
	for {
		p.mu.Lock()
		idle := p.needs == p.holds
		p.mu.Unlock()
		if idle {
			return
		}
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
	}
}

// subscriptions is what a connection listens to.
type subscriptions struct {
	p                *peer
	c                Conn
	desired, methods bool
	changes          chan change
}

// change of desired properties; version zero means that some were missed.
type change struct {
	version int64
	patch   []byte
}

// patience is how long the connection stays when nobody needs it.
func (s *subscriptions) patience() time.Duration {
	if s.methods {
		return s.p.l.cfg.Linger // the hub must not call who is gone
	}
	return s.p.l.cfg.Idle
}

// update subscribes to what the identity wants by now. work counts the goroutines it
// starts.
func (s *subscriptions) update(ctx context.Context, work *sync.WaitGroup) error {
	p := s.p
	p.mu.Lock()
	desired, methods := p.holds > 0 && !s.desired, p.holds > 0 && p.methods && !s.methods
	p.mu.Unlock()
	if !desired && !methods {
		return nil
	}
	within, cancel := context.WithTimeout(ctx, subscribeTimeout)
	defer cancel()
	if desired {
		s.desired = true
		if err := s.c.OnDesired(within, s.note); err != nil {
			return fmt.Errorf("listen to desired properties of %s: %w", p.id, err)
		}
		work.Go(func() { s.follow(ctx) })
	}
	if methods {
		s.methods = true
		if err := s.c.OnMethod(within, s.invoke); err != nil {
			return fmt.Errorf("listen to methods of %s: %w", p.id, err)
		}
	}
	return nil
}

// note takes a change from the connection, which must not be held up.
func (s *subscriptions) note(version int64, patch []byte) {
	select {
	case s.changes <- change{version, append([]byte(nil), patch...)}:
	default:
		// So many wait that following fetches the whole twin anyway: each of them
		// that comes after a lost one is a gap, and the last is followed by a look.
		select {
		case <-s.changes:
		default:
		}
		select {
		case s.changes <- change{}:
		default:
		}
	}
}

// follow hands changes to the broker, in order; first it tells that we are here.
func (s *subscriptions) follow(ctx context.Context) {
	p := s.p
	p.l.child.Linked(ctx, p.id)
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-s.changes:
			if c.version == 0 {
				p.l.child.Linked(ctx, p.id)
				continue
			}
			if err := p.l.child.Desired(ctx, p.id, c.version, c.patch); err != nil && ctx.Err() == nil {
				p.l.log.Warn("change of desired properties is not taken over", "device", p.id.Device, "module", p.id.Module, "err", err)
			}
		}
	}
}

func (s *subscriptions) invoke(ctx context.Context, c *method.Call) method.Reply {
	r, err := s.p.l.child.Invoke(ctx, s.p.id, c)
	if err == nil {
		return r
	}
	r = method.Reply{Status: fault.CodeOf(err).Status()}
	r.Payload, _ = json.Marshal(map[string]string{"message": fault.TextOf(err)})
	return r
}

// backoff is a growing pause with chance in it, so that many peers do not come back in
// step.
type backoff struct {
	first, most time.Duration
	now         time.Duration
}

func (b *backoff) reset() { b.now = 0 }

func (b *backoff) next() time.Duration {
	if b.now == 0 {
		b.now = b.first
	} else {
		b.now = min(2*b.now, b.most)
	}
	return b.now/2 + rand.N(b.now/2+1)
}
