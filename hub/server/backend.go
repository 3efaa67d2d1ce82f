package server

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/auth"
	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/hub/events"
	"github.com/selvedge-io/selvedge/hub/inbox"
	"github.com/selvedge-io/selvedge/hub/methods"
	"github.com/selvedge-io/selvedge/hub/registry"
	"github.com/selvedge-io/selvedge/hub/twins"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
)

// backend stands behind the protocol heads.
type backend struct {
	*sessions
	log      *slog.Logger
	auth     *auth.Verifier
	registry *registry.Registry
	twins    *twins.Twins
	events   *events.Stream
	inbox    *inbox.Inbox
	methods  *methods.Methods
	faults   *faults // nil: not obeyed
	counters *counters

	mu       sync.RWMutex
	attached map[ident.ID]*attachment
	closed   bool
}

var (
	_ head.Backend  = (*backend)(nil)
	_ head.Sessions = (*backend)(nil)
	_ head.Models   = (*backend)(nil)
)

// Authenticate implements head.Backend.
func (b *backend) Authenticate(ctx context.Context, c *ident.Claim) (*ident.Principal, error) {
	p, err := b.auth.Device(ctx, c)
	if err == nil && b.faults != nil {
		err = b.faults.connect(p.ID)
	}
	if err != nil {
		b.counters.denied.Add(1)
		return nil, err
	}
	return p, nil
}

// SetModel implements head.Models.
func (b *backend) SetModel(ctx context.Context, of ident.ID, model string) error {
	return b.twins.SetModel(ctx, of, model)
}

// Publish implements head.Backend.
func (b *backend) Publish(from *ident.Principal, batch []message.Message, done func(error)) {
	start, n := time.Now(), int64(len(batch))
	bytes, err := b.accept(from, batch, start)
	if err != nil {
		b.counters.refused.Add(n)
		b.events.Append(from.ID.Device, nil, func(error) { done(err) }) // empty: the refusal comes in its turn
		return
	}
	b.sent(from.ID, start)
	b.events.Append(from.ID.Device, batch, func(err error) {
		if err == nil {
			b.counters.messages.Add(n)
			b.counters.bytes.Add(bytes)
			b.counters.commit.observe(time.Since(start))
		} else {
			b.counters.refused.Add(n)
		}
		done(err)
	})
}

// accept judges a batch and stamps it, in place, with who sent it and when
// (device-protocol 4.3). Nothing of this may come from the sender.
func (b *backend) accept(from *ident.Principal, batch []message.Message, now time.Time) (bytes int64, err error) {
	if b.faults != nil {
		if err := b.faults.telemetry(from.ID, batch); err != nil {
			return 0, err
		}
	}
	for i := range batch {
		m := &batch[i]
		n := m.Size()
		if n > message.MaxTelemetry {
			return 0, fault.New(fault.MessageTooLarge, "the message has %d bytes, the most is %d", n, message.MaxTelemetry)
		}
		bytes += int64(n)
		s := &m.System
		s.ConnectionDevice, s.ConnectionModule = from.ID.Device, from.ID.Module
		s.Generation, s.AuthMethod, s.ModelID = from.Generation, from.Method, from.ModelID
		s.Source, s.Enqueued = message.Telemetry, now
		s.Input, s.Sequence, s.DeliveryCount, s.LockToken = "", 0, 0, ""
	}
	return bytes, nil
}

// sent tells the registry that id is active, not more often than that needs.
func (b *backend) sent(id ident.ID, now time.Time) {
	b.mu.RLock()
	a := b.attached[id]
	b.mu.RUnlock()
	if a == nil || a.due(now) {
		b.registry.Active(id)
	}
}

// Twin implements head.Backend.
func (b *backend) Twin(ctx context.Context, of ident.ID) ([]byte, error) {
	return b.twins.DeviceView(ctx, of)
}

// Report implements head.Backend.
func (b *backend) Report(ctx context.Context, of ident.ID, patch []byte, ifVersion int64) (int64, error) {
	return b.twins.Report(ctx, of, patch, ifVersion)
}

// connection is the attachment of id, nil when it is not connected.
func (b *backend) connection(id ident.ID) *attachment {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.attached[id]
}

// connected is how many devices and modules are connected.
func (b *backend) connected() int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.attached)
}

// identityChanged cuts the connection of an identity whose credentials are void, and
// has the inbox forget a device that is gone.
func (b *backend) identityChanged(c registry.Change) {
	if c.Kind == registry.Deleted {
		b.cut(c.Identity.ID, fault.New(fault.Unauthorized, "the identity was deleted"))
		if err := b.inbox.Forget(context.Background(), c.Identity.ID); err != nil {
			b.log.Warn("messages of deleted device stay in memory", "device", c.Identity.ID.Device, "err", err)
		}
	} else if c.Revoked {
		b.cut(c.Identity.ID, fault.New(fault.Unauthorized, "the identity was disabled or its credentials changed"))
	}
}

// cut ends the connection of id, if there is one.
func (b *backend) cut(id ident.ID, reason error) {
	if a := b.connection(id); a != nil {
		a.close(reason)
	}
}

// breakOff lets an ordered fault happen to the connection of id, if there is one.
func (b *backend) breakOff(id ident.ID, kind string, reason error) {
	if a := b.connection(id); a != nil {
		a.breakOff(kind, effects[kind].close, reason)
	}
}

// stop lets nobody attach any more.
func (b *backend) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
}
