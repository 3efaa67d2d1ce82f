package server

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/hub/inbox"
	"github.com/selvedge-io/selvedge/hub/methods"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/method"
)

// attachment is the hub's end of one connection.
type attachment struct {
	b      *backend
	who    *ident.Principal
	device head.Device
	active atomic.Int64 // when the registry was last told of activity, Unix seconds
	line   atomic.Pointer[inbox.Line]
	calls  sync.WaitGroup // of methods that are in the device
	once   sync.Once      // for release

	// flows is held while flows open and shut, which may take the disk's time.
	flows sync.Mutex

	// mu is held for moments only: the database's writer takes it to tell of
	// desired properties.
	mu       sync.Mutex
	open     [head.Flows]bool
	ended    bool // no flow opens any more
	detached bool // nothing may reach the device any more
}

var (
	_ head.Attachment  = (*attachment)(nil)
	_ methods.Listener = (*attachment)(nil)
)

// Attach implements head.Backend.
func (b *backend) Attach(ctx context.Context, who *ident.Principal, d head.Device) (head.Attachment, error) {
	a := &attachment{b: b, who: who, device: d}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil, fault.New(fault.Unavailable, "the hub is stopping")
	}
	old := b.attached[who.ID]
	b.attached[who.ID] = a
	b.registry.Seen(who.ID, true) // under the lock, so that it stays in order with that of gone
	b.mu.Unlock()
	b.counters.attached.Add(1)
	if old != nil {
		old.close(fault.New(fault.TakenOver, "the identity connected again elsewhere"))
		old.once.Do(old.release) // what it had not settled is the newer one's
	}
	// From here on a change of the identity finds the attachment. One that came
	// since the claim was judged has not.
	rec, err := b.registry.Identity(ctx, who.ID)
	if err == nil && (!rec.Enabled || rec.Stamp() != who.Stamp) {
		err = fault.New(fault.Unauthorized, "the identity was disabled, made anew or given other credentials meanwhile")
	}
	if err != nil {
		a.Detach()
		return nil, err
	}
	if err := b.SetModel(ctx, who.ID, who.ModelID); err != nil {
		// It can still send what it has to say.
		b.log.Warn("model id of device not noted", "device", who.ID.Device, "module", who.ID.Module, "err", err)
	}
	return a, nil
}

// gone forgets an attachment, unless a newer one took its place.
func (b *backend) gone(a *attachment) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.attached[a.who.ID] == a {
		delete(b.attached, a.who.ID)
		b.registry.Seen(a.who.ID, false)
	}
}

// Open implements head.Attachment.
func (a *attachment) Open(f head.Flow) {
	a.flows.Lock()
	defer a.flows.Unlock()
	if !a.turn(f, true) {
		return
	}
	switch f {
	case head.ToDevice:
		if !a.who.ID.IsModule() { // cloud-to-device messages are for devices alone
			if a.line.Load() == nil {
				a.line.Store(a.b.inbox.Attach(a.who.ID, a.deliver))
			}
			a.line.Load().Open()
		}
	case head.Methods:
		a.b.methods.Open(a.who.ID, a)
	}
}

// Shut implements head.Attachment.
func (a *attachment) Shut(f head.Flow) {
	a.flows.Lock()
	defer a.flows.Unlock()
	if !a.turn(f, false) {
		return
	}
	switch f {
	case head.ToDevice:
		if line := a.line.Load(); line != nil {
			line.Shut()
		}
	case head.Methods:
		a.b.methods.Shut(a.who.ID, a)
	}
}

// turn notes that a flow is to be open or shut; it is false when it is so already.
func (a *attachment) turn(f head.Flow, open bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended || a.open[f] == open {
		return false
	}
	a.open[f] = open
	return true
}

// deliver sends cloud-to-device messages. The line is closed before the attachment
// is detached, so it needs no look at that.
func (a *attachment) deliver(batch []head.Delivery) {
	a.b.counters.delivered.Add(int64(len(batch)))
	a.device.Deliver(head.ToDevice, batch)
}

// Settle implements head.Attachment.
func (a *attachment) Settle(f head.Flow, token uint64, o head.Outcome) {
	if f != head.ToDevice {
		return
	}
	if line := a.line.Load(); line != nil {
		line.Settle(token, o)
	}
}

// desired announces a change if the device wants to know.
func (a *attachment) desired(version int64, patch []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.ended && a.open[head.Desired] {
		a.device.Desired(version, patch)
	}
}

// Invoke implements methods.Listener.
func (a *attachment) Invoke(ctx context.Context, c *method.Call) (method.Reply, error) {
	a.mu.Lock()
	if a.ended || !a.open[head.Methods] {
		a.mu.Unlock()
		return method.Reply{}, fault.New(fault.DeviceNotOnline, "%q does not listen for methods any more", a.who.ID)
	}
	a.calls.Add(1)
	a.mu.Unlock()
	defer a.calls.Done()
	return a.device.Invoke(ctx, c)
}

// close ends the connection; its head detaches it in its own time.
func (a *attachment) close(reason error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.detached {
		a.device.Close(reason)
	}
}

// breakOff breaks what a kind of fault names, or the whole connection where it knows
// no parts and that is meant as well.
func (a *attachment) breakOff(kind string, whole bool, reason error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.detached {
		return
	}
	if b, ok := a.device.(head.Breaker); ok && b.Break(kind, reason) {
		return
	}
	if whole {
		a.device.Close(reason)
	}
}

// release shuts all flows for good and gives unsettled deliveries back.
func (a *attachment) release() {
	a.mu.Lock()
	a.ended = true
	a.mu.Unlock()
	a.flows.Lock() // until what is opening is open
	defer a.flows.Unlock()
	a.b.methods.Shut(a.who.ID, a)
	if line := a.line.Load(); line != nil {
		line.Close()
	}
}

// Detach implements head.Attachment.
func (a *attachment) Detach() {
	a.mu.Lock()
	a.detached = true
	a.mu.Unlock()
	a.once.Do(a.release)
	a.calls.Wait() // the connection is over, so they return
	a.b.gone(a)
}

// activeEvery is how often the registry hears of the activity of one connection.
const activeEvery = 30 * time.Second

// due says whether the registry should hear of activity again.
func (a *attachment) due(now time.Time) bool {
	last := a.active.Load()
	return now.Unix()-last >= int64(activeEvery/time.Second) && a.active.CompareAndSwap(last, now.Unix())
}
