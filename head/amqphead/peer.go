package amqphead

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// phase is where an identity is on its way through a connection.
type phase uint8

const (
	joining phase = iota // its links wait for the proof to be judged
	joined
	gone
)

// wanted is a link that waits for its identity to join.
type wanted struct {
	at place
	in *amqp.Incoming
}

// peer is one identity on one connection: the device's side of one attachment,
// whatever the number of its links. What may take time is done by its worker, a
// goroutine that lives only while there is something to do.
type peer struct {
	c  *Conn
	id ident.ID

	who atomic.Pointer[ident.Principal] // once joined
	att head.Attachment                 // set by the worker before the phase is joined

	flows sync.Mutex // held while flows open and shut

	mu        sync.Mutex
	phase     phase
	busy      bool // the worker runs
	reason    error
	waiting   []wanted
	accepting int              // links that the reader is about to add
	model     string           // announced by the links
	links     map[link]bool    // false: over before it was noted
	count     int              // of them that are true
	open      [head.Flows]bool // what the links want
	opened    [head.Flows]bool // what the backend knows
	completed []settlement     // to be told to the backend by the worker

	toDevice, inputs pipe
	twin             twinLinks
	methods          methodLinks
}

// link is what all links can do.
type link interface {
	Detach(err *amqp.Error)
}

// settlement is an outcome that is not the peer's saying.
type settlement struct {
	flow    head.Flow
	token   uint64
	outcome head.Outcome
}

var _ head.Device = (*peer)(nil)

// attachDevice takes a link of a device or module in.
func (c *Conn) attachDevice(at place, id ident.ID, in *amqp.Incoming) {
	for {
		p, err := c.peer(id)
		if err != nil {
			c.refuse(in, err, "device", id.Device, "module", id.Module)
			return
		}
		if p.add(wanted{at, in}) {
			return
		}
	}
}

// peer finds the identity on the connection, or begins with it.
func (c *Conn) peer(id ident.ID) (*peer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.peers[id]; p != nil {
		return p, nil
	}
	if len(c.peers) >= c.srv.cfg.MaxIdentities {
		return nil, fault.New(fault.MaxCbsTokens, "the connection carries %d identities already", len(c.peers))
	}
	p := &peer{c: c, id: id}
	p.toDevice.init(p, head.ToDevice)
	p.inputs.init(p, head.Inputs)
	c.peers[id] = p
	return p, nil
}

// forget makes room for the identity to begin anew.
func (c *Conn) forget(p *peer) (last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.peers[p.id] == p {
		delete(c.peers, p.id)
	}
	return len(c.peers) == 0 && len(c.watch) == 0
}

// add accepts a link, now or when the identity has joined. It is false when the
// identity is gone from the connection.
func (p *peer) add(w wanted) bool {
	p.mu.Lock()
	if p.phase == gone || p.reason != nil {
		p.mu.Unlock()
		p.c.forget(p)
		return false
	}
	model, _ := w.in.Properties.Text("com.microsoft:model-id")
	announced := model != "" && model != p.model
	if announced {
		p.model = model
	}
	if p.phase == joined {
		p.accepting++
		p.mu.Unlock()
		if announced {
			p.announce()
		}
		p.accept(w)
		p.mu.Lock()
		if p.accepting--; p.count == 0 {
			p.kick()
		}
		p.mu.Unlock()
		return true
	}
	p.waiting = append(p.waiting, w)
	p.kick()
	p.mu.Unlock()
	return true
}

// kick starts the worker. The caller holds p.mu.
func (p *peer) kick() {
	if p.busy || p.phase == gone {
		return
	}
	p.busy = true
	p.c.mu.Lock()
	over := p.c.over
	p.c.spawn(p.run)
	p.c.mu.Unlock()
	if over {
		p.busy = false
	}
}

// run is the worker.
func (p *peer) run() {
	for {
		p.mu.Lock()
		var step func()
		switch {
		case p.phase == gone:
		case p.reason != nil:
			step = p.leave
		case p.phase == joining:
			step = p.join
		case len(p.completed) > 0:
			step = p.settle
		case p.open != p.opened:
			step = p.sync
		case p.count == 0 && p.accepting == 0:
			p.reason = errNoLinks
			step = p.leave
		}
		if step == nil {
			p.busy = false
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		step()
	}
}

// own notes a link, so that it ends with the identity. It is false when one of them is
// over.
func (p *peer) own(l link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, over := p.links[l]; over || p.phase == gone {
		delete(p.links, l)
		return false
	}
	if p.links == nil {
		p.links = map[link]bool{}
	}
	p.links[l] = true
	p.count++
	return true
}

// disown forgets a link; with the last one the identity leaves.
func (p *peer) disown(l link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase == gone {
		return
	}
	if _, noted := p.links[l]; !noted { // its end was faster than its beginning
		if p.links == nil {
			p.links = map[link]bool{}
		}
		p.links[l] = false
		return
	}
	delete(p.links, l)
	if p.count--; p.count == 0 {
		p.kick()
	}
}

// want says whether a flow is to be open.
func (p *peer) want(f head.Flow, open bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[f] = open
	p.kick()
}

// sync opens and shuts flows at the backend until it is as the links want.
func (p *peer) sync() {
	p.flows.Lock()
	defer p.flows.Unlock()
	for {
		p.mu.Lock()
		f := head.Flow(0)
		for f < head.Flows && p.open[f] == p.opened[f] {
			f++
		}
		if f == head.Flows || p.phase == gone {
			p.mu.Unlock()
			return
		}
		open := p.open[f]
		p.opened[f] = open
		p.mu.Unlock()
		if open {
			p.att.Open(f)
		} else {
			p.att.Shut(f)
		}
	}
}

// later has the worker settle a delivery, for those who may not.
func (p *peer) later(f head.Flow, token uint64, o head.Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.completed = append(p.completed, settlement{f, token, o})
	p.kick()
}

func (p *peer) settle() {
	p.mu.Lock()
	all := p.completed
	p.completed = nil
	p.mu.Unlock()
	for _, s := range all {
		p.att.Settle(s.flow, s.token, s.outcome)
	}
}

// expires is when the proof ends; zero when it does not or is not judged yet.
func (p *peer) expires() time.Time {
	if who := p.who.Load(); who != nil {
		return who.Expires
	}
	return time.Time{}
}

// Close implements head.Device.
func (p *peer) Close(reason error) {
	if reason == nil {
		reason = fault.New(fault.ConnectionClosed, "the server closed the connection")
	}
	p.end(reason)
}

// end makes the identity leave the connection, for the reason given first. It never
// blocks.
func (p *peer) end(reason error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reason == nil {
		p.reason = reason
		p.kick()
	}
}

// leave detaches all links of the identity and forgets it. The worker runs it, last.
func (p *peer) leave() {
	last := p.c.forget(p)
	p.mu.Lock()
	p.phase = gone
	reason, waiting := p.reason, p.waiting
	links := p.links
	p.waiting, p.links, p.completed = nil, nil, nil
	p.mu.Unlock()
	var told *amqp.Error
	if reason != errNoLinks {
		var tracking string
		told, tracking = tracked(reason)
		p.log(reason, tracking, len(waiting) > 0)
	}
	for _, w := range waiting {
		if told == nil { // it came as the others went
			p.c.attachDevice(w.at, p.id, w.in)
		} else {
			w.in.Refuse(told)
		}
	}
	// With nobody left on it the connection closes, whole: detached first, the Node SDK
	// would wait 45 s for its token links to be detached too.
	if last && told != nil && told.Condition == amqp.ErrUnauthorized && len(links) > 0 {
		p.c.amqp.Close(told)
	}
	for l := range links {
		l.Detach(told)
	}
	p.methods.stop()
	p.twin.stop()
	if p.att != nil {
		p.flows.Lock() // until what is opening is open
		p.att.Detach()
		p.flows.Unlock()
	}
}

// log tells why the identity left, unless that happens every day.
func (p *peer) log(reason error, tracking string, refused bool) {
	args := []any{"device", p.id.Device, "module", p.id.Module, "tracking", tracking, "err", reason}
	switch {
	case reason == errClosed || p.c.ctx.Err() != nil:
	case refused:
		p.c.srv.refuse(p.c.remote, "AMQP link refused", args...)
	case fault.Is(reason, fault.TakenOver):
		p.c.srv.cfg.Log.Debug("AMQP links ended", append(args, "remote", p.c.remote)...)
	default:
		p.c.srv.refuse(p.c.remote, "AMQP links ended", args...)
	}
}
