package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/method"
	"github.com/selvedge-io/selvedge/storage/queue"
)

// session is one connected module: the backend's end of its connection.
type session struct {
	b       *Broker
	who     *ident.Principal
	device  head.Device
	release func() // of the hold on the parent's connection

	gone  chan struct{}   // closed when Detach is through
	ctx   context.Context // of the session, for calls of methods
	end   context.CancelFunc
	calls sync.WaitGroup

	mu     sync.Mutex
	open   [head.Flows]bool
	ended  bool
	starts uint64                     // of outlets
	inputs map[string]*queue.Endpoint // by input name, as the routes in force have it

	// outlets by the index that tokens carry, nil once stopped. Changed under mu,
	// read without: a device may settle while an outlet is being stopped.
	outlets atomic.Pointer[[]*outlet]
}

var _ head.Attachment = (*session)(nil)

// Attach implements head.Backend.
func (b *Broker) Attach(_ context.Context, who *ident.Principal, d head.Device) (head.Attachment, error) {
	s := &session{b: b, who: who, device: d, gone: make(chan struct{})}
	s.ctx, s.end = context.WithCancel(context.Background())
	s.outlets.Store(new([]*outlet))
	b.mu.Lock()
	if b.stopped {
		b.mu.Unlock()
		s.end()
		return nil, fault.New(fault.Unavailable, "the edge broker is stopping")
	}
	s.release = b.cfg.Parent.Hold(who.ID)
	old := b.sessions[who.ID]
	b.sessions[who.ID] = s
	b.noteClient(who.ID, true)
	b.mu.Unlock()
	if old != nil {
		old.device.Close(fault.New(fault.TakenOver, "the identity connected again elsewhere"))
		old.Detach()
	}
	s.connect()
	b.tellClient(who.ID, "connected")
	return s, nil
}

// Revoke ends the connection of a module whose identity is no longer what it proved:
// it was deleted or has another key. It does not block.
func (b *Broker) Revoke(of ident.ID) {
	if s := b.session(of); s != nil {
		s.device.Close(fault.New(fault.Unauthorized, "the identity was deleted or has another key; connect again"))
	}
}

// Forget drops all that is kept of an identity that is no more: its session, its twin
// and what of that the parent has not taken. Another one of the same name begins anew.
// Messages that it sent stay.
func (b *Broker) Forget(ctx context.Context, of ident.ID) error {
	if of.Module == ident.EdgeAgent || of.Module == ident.EdgeHub {
		return nil // they are this device, whatever becomes of their identities
	}
	b.Revoke(of)
	err := errors.Join(b.forgetTwin(ctx, of), b.SaveSubscriptions(ctx, of, nil))
	b.mu.Lock()
	if c, ok := b.clients[of]; ok {
		c.gone, c.changed = true, true
		b.clients[of] = c
	}
	b.mu.Unlock()
	select {
	case b.presence <- struct{}{}:
	default:
	}
	return err
}

// desired announces a change if the module wants to know.
func (s *session) desired(version int64, patch []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended && s.open[head.Desired] {
		s.device.Desired(version, patch)
	}
}

// invoke calls a direct method; the call ends with the session.
func (s *session) invoke(ctx context.Context, c *method.Call) (method.Reply, error) {
	s.mu.Lock()
	if s.ended || !s.open[head.Methods] {
		s.mu.Unlock()
		return method.Reply{}, fault.New(fault.DeviceNotOnline, "module %s is not connected to the edge broker or takes no methods", s.who.ID)
	}
	s.calls.Add(1)
	s.mu.Unlock()
	defer s.calls.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(s.ctx, cancel)()
	defer cancel()
	return s.device.Invoke(ctx, c)
}

// Open implements head.Attachment.
func (s *session) Open(f head.Flow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.open[f] {
		return
	}
	s.open[f] = true
	switch f {
	case head.Inputs:
		s.balance()
	case head.Methods:
		s.b.cfg.Parent.Methods(s.who.ID, true)
	}
}

// Shut implements head.Attachment.
func (s *session) Shut(f head.Flow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || !s.open[f] {
		return
	}
	s.open[f] = false
	switch f {
	case head.Inputs:
		s.balance()
	case head.Methods:
		s.b.cfg.Parent.Methods(s.who.ID, false)
	}
}

// connect makes the session serve the inputs that the routes in force lead to.
func (s *session) connect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.b.table.Load()
	s.inputs = make(map[string]*queue.Endpoint)
	for i, e := range r.table.Endpoints() {
		if r.inputs[i] != nil && e.Module == s.who.ID.Module && s.who.ID.Device == s.b.cfg.Device {
			s.inputs[e.Input] = r.inputs[i]
		}
	}
	s.balance()
}

// balance starts and stops outlets so that there is one for each input while the
// flow is open. The caller holds s.mu.
func (s *session) balance() {
	want := s.inputs
	if s.ended || !s.open[head.Inputs] {
		want = nil
	}
	outlets := slices.Clone(*s.outlets.Load())
	running := make(map[string]bool)
	for i, o := range outlets {
		switch {
		case o == nil:
		case want[o.input] == o.from:
			running[o.input] = true
		default:
			o.stop()
			outlets[i] = nil
		}
	}
	var started []*outlet
	for input, from := range want {
		if running[input] {
			continue
		}
		index := slices.Index(outlets, nil)
		if index < 0 {
			index = len(outlets)
			outlets = append(outlets, nil)
		}
		s.starts++
		outlets[index] = newOutlet(s, index, input, from, s.starts<<32)
		started = append(started, outlets[index])
	}
	s.outlets.Store(&outlets) // before the first delivery can be settled
	for _, o := range started {
		o.start()
	}
}

// Settle implements head.Attachment.
func (s *session) Settle(f head.Flow, token uint64, o head.Outcome) {
	if f != head.Inputs {
		return
	}
	index, count := splitToken(token)
	if outlets := *s.outlets.Load(); index < len(outlets) && outlets[index] != nil {
		outlets[index].settle(count, o)
	}
}

// Detach implements head.Attachment. Whoever calls it second waits for the first, so
// that the end of an old connection cannot undo what a new one has begun.
func (s *session) Detach() {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		<-s.gone
		return
	}
	s.ended = true
	s.balance()
	hadMethods := s.open[head.Methods]
	s.mu.Unlock()
	s.end()
	s.calls.Wait()
	if hadMethods {
		s.b.cfg.Parent.Methods(s.who.ID, false)
	}
	s.release()
	s.b.mu.Lock()
	mine := s.b.sessions[s.who.ID] == s
	if mine {
		delete(s.b.sessions, s.who.ID)
		s.b.noteClient(s.who.ID, false)
	}
	s.b.mu.Unlock()
	close(s.gone)
	if mine {
		s.b.tellClient(s.who.ID, "disconnected")
	}
}

const sessionPrefix = "session/"

// Subscriptions implements head.Sessions.
func (b *Broker) Subscriptions(_ context.Context, of ident.ID) ([]head.Subscription, bool, error) {
	raw, found := b.cfg.Store.Get(sessionPrefix + of.String())
	if !found {
		return nil, false, nil
	}
	var subs []head.Subscription
	if err := json.Unmarshal(raw, &subs); err != nil {
		return nil, false, fmt.Errorf("read kept session of %s: %w", of, err)
	}
	return subs, true, nil
}

// SaveSubscriptions implements head.Sessions.
func (b *Broker) SaveSubscriptions(ctx context.Context, of ident.ID, subs []head.Subscription) error {
	key := sessionPrefix + of.String()
	if subs == nil {
		if _, found := b.cfg.Store.Get(key); !found {
			return nil
		}
		return b.cfg.Store.Delete(ctx, key)
	}
	raw, err := json.Marshal(subs)
	if err != nil {
		return fmt.Errorf("encode session of %s: %w", of, err)
	}
	return b.cfg.Store.Put(ctx, key, raw)
}
