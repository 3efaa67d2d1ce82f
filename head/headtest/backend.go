// Package headtest is a head.Backend in memory, for tests of heads and of clients.
// It keeps the promises of the contract and nothing more; each field bends one
// thing.
package headtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/twin"
)

// Backend is a backend in memory; its zero value works and lets everybody in. Set
// fields before the first call.
type Backend struct {
	// Judge decides about claims; nil makes a principal of each.
	Judge func(*ident.Claim) (*ident.Principal, error)
	// Refuse, when not nil, may refuse a batch of telemetry.
	Refuse func([]message.Message) error
	// Hold keeps messages from becoming durable until Release.
	Hold bool
	// Discard forgets messages at once, for benchmarks.
	Discard bool
	// OnSettle, when not nil, is told of settlements instead of keeping them.
	OnSettle func(Settlement)
	// BeforeReport, when not nil, is called before each Report.
	BeforeReport func()

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at each change
	claims   []ident.Claim
	received []Received
	batches  []int
	held     []func(error)
	twins    map[ident.ID]*document
	sessions map[ident.ID][]head.Subscription
	attached map[ident.ID]*Attachment
}

// Received is a message the backend took, with its sender.
type Received struct {
	From ident.ID
	message.Message
}

type document struct {
	desired, reported *twin.Object
	versions          [2]int64
}

var (
	_ head.Backend  = (*Backend)(nil)
	_ head.Sessions = (*Backend)(nil)
)

// note tells those who wait that something changed. It is called with the lock held.
func (b *Backend) note() {
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// Await blocks until cond holds, which is called with the lock held, and fails the
// test after ten seconds.
func (b *Backend) Await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		b.mu.Lock()
		if cond() {
			b.mu.Unlock()
			return
		}
		if b.changed == nil {
			b.changed = make(chan struct{})
		}
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// Messages waits until n messages have arrived and gives all there are.
func (b *Backend) Messages(t testing.TB, n int) []Received {
	t.Helper()
	b.Await(t, fmt.Sprintf("%d messages", n), func() bool { return len(b.received) >= n })
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.received)
}

// Batches is how many messages each call of Publish brought.
func (b *Backend) Batches() []int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.batches)
}

// Claims are all claims made so far.
func (b *Backend) Claims() []ident.Claim {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.claims)
}

// Held is the number of batches kept back by Hold.
func (b *Backend) Held() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.held)
}

// Release makes the oldest n batches durable, or fails them with err.
func (b *Backend) Release(n int, err error) {
	b.mu.Lock()
	done := slices.Clone(b.held[:n])
	b.held = b.held[n:]
	b.mu.Unlock()
	for _, d := range done {
		d(err)
	}
}

// Authenticate implements head.Backend.
func (b *Backend) Authenticate(_ context.Context, c *ident.Claim) (*ident.Principal, error) {
	b.mu.Lock()
	b.claims = append(b.claims, *c)
	b.note()
	b.mu.Unlock()
	if b.Judge != nil {
		return b.Judge(c)
	}
	return &ident.Principal{ID: c.ID, Generation: "1", ModelID: c.ModelID}, nil
}

// Publish implements head.Backend.
func (b *Backend) Publish(from *ident.Principal, batch []message.Message, done func(error)) {
	if b.Discard {
		done(nil)
		return
	}
	if b.Refuse != nil {
		if err := b.Refuse(batch); err != nil {
			done(err)
			return
		}
	}
	b.mu.Lock()
	for i := range batch {
		b.received = append(b.received, Received{from.ID, batch[i].Clone()})
	}
	b.batches = append(b.batches, len(batch))
	if b.Hold {
		b.held = append(b.held, done)
	}
	b.note()
	b.mu.Unlock()
	if !b.Hold {
		done(nil)
	}
}

// document is the twin of id. It is called with the lock held.
func (b *Backend) document(id ident.ID) *document {
	if b.twins == nil {
		b.twins = map[ident.ID]*document{}
	}
	d := b.twins[id]
	if d == nil {
		d = &document{desired: new(twin.Object), reported: new(twin.Object), versions: [2]int64{1, 1}}
		b.twins[id] = d
	}
	return d
}

// Twin implements head.Backend.
func (b *Backend) Twin(_ context.Context, of ident.ID) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.document(of)
	out := append([]byte(nil), `{"desired":`...)
	out = appendSection(out, d.desired, d.versions[0])
	out = append(out, `,"reported":`...)
	return append(appendSection(out, d.reported, d.versions[1]), '}'), nil
}

// appendSection adds o with its $version.
func appendSection(dst []byte, o *twin.Object, version int64) []byte {
	dst = o.AppendJSON(dst)
	dst = dst[:len(dst)-1]
	if o.Len() > 0 {
		dst = append(dst, ',')
	}
	return fmt.Appendf(dst, `"$version":%d}`, version)
}

// Report implements head.Backend.
func (b *Backend) Report(_ context.Context, of ident.ID, patch []byte, ifVersion int64) (int64, error) {
	if b.BeforeReport != nil {
		b.BeforeReport()
	}
	p, err := twin.Parse(patch)
	if err == nil {
		err = twin.CheckReported(p)
	}
	if err != nil {
		return 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.document(of)
	if ifVersion > 0 && ifVersion != d.versions[1] {
		return 0, fault.New(fault.PreconditionFailed, "the reported properties have version %d", d.versions[1])
	}
	d.reported = twin.Merge(d.reported, p)
	d.versions[1]++
	b.note()
	return d.versions[1], nil
}

// Desire merges a patch into the desired properties and announces it.
func (b *Backend) Desire(t testing.TB, of ident.ID, patch string) {
	t.Helper()
	p, err := twin.Parse([]byte(patch))
	if err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	d := b.document(of)
	d.desired = twin.Merge(d.desired, p)
	d.versions[0]++
	version, a := d.versions[0], b.attached[of]
	b.mu.Unlock()
	if a != nil && a.IsOpen(head.Desired) {
		a.Device.Desired(version, appendSection(nil, p, version))
	}
}

// Subscriptions implements head.Sessions.
func (b *Backend) Subscriptions(_ context.Context, of ident.ID) ([]head.Subscription, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	subs, found := b.sessions[of]
	return slices.Clone(subs), found, nil
}

// SaveSubscriptions implements head.Sessions.
func (b *Backend) SaveSubscriptions(_ context.Context, of ident.ID, subs []head.Subscription) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sessions == nil {
		b.sessions = map[ident.ID][]head.Subscription{}
	}
	if subs == nil {
		delete(b.sessions, of)
	} else {
		b.sessions[of] = slices.Clone(subs)
	}
	b.note()
	return nil
}

// Attachment is the backend's end of a connection.
type Attachment struct {
	Device head.Device

	b        *Backend
	who      ident.ID
	open     [head.Flows]bool
	settled  []Settlement
	detached bool
}

// Settlement is one call of Settle.
type Settlement struct {
	Flow    head.Flow
	Token   uint64
	Outcome head.Outcome
}

// Attach implements head.Backend.
func (b *Backend) Attach(_ context.Context, who *ident.Principal, d head.Device) (head.Attachment, error) {
	a := &Attachment{Device: d, b: b, who: who.ID}
	b.mu.Lock()
	old := b.attached[who.ID]
	if b.attached == nil {
		b.attached = map[ident.ID]*Attachment{}
	}
	b.attached[who.ID] = a
	b.note()
	b.mu.Unlock()
	if old != nil {
		old.Device.Close(fault.New(fault.TakenOver, "a new connection of %s took over", who.ID))
	}
	return a, nil
}

// Attached waits until id is connected and gives its attachment.
func (b *Backend) Attached(t testing.TB, id ident.ID) *Attachment {
	t.Helper()
	var a *Attachment
	b.Await(t, "the connection of "+id.String(), func() bool { a = b.attached[id]; return a != nil })
	return a
}

// AwaitOpen waits until flow f of id is open and gives the attachment.
func (b *Backend) AwaitOpen(t testing.TB, id ident.ID, f head.Flow) *Attachment {
	t.Helper()
	var a *Attachment
	b.Await(t, fmt.Sprintf("flow %d of %v", f, id), func() bool {
		a = b.attached[id]
		return a != nil && a.open[f]
	})
	return a
}

// AwaitGone waits until id is not connected.
func (b *Backend) AwaitGone(t testing.TB, id ident.ID) {
	t.Helper()
	b.Await(t, "the end of "+id.String(), func() bool { return b.attached[id] == nil })
}

// IsOpen says whether flow f is open.
func (a *Attachment) IsOpen(f head.Flow) bool {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	return a.open[f]
}

// Settled waits until n deliveries are settled and gives all there are.
func (a *Attachment) Settled(t testing.TB, n int) []Settlement {
	t.Helper()
	a.b.Await(t, fmt.Sprintf("%d settled deliveries", n), func() bool { return len(a.settled) >= n })
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	return slices.Clone(a.settled)
}

// Open implements head.Attachment.
func (a *Attachment) Open(f head.Flow) { a.set(f, true) }

// Shut implements head.Attachment.
func (a *Attachment) Shut(f head.Flow) { a.set(f, false) }

func (a *Attachment) set(f head.Flow, open bool) {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	a.open[f] = open
	a.b.note()
}

// Settle implements head.Attachment.
func (a *Attachment) Settle(f head.Flow, token uint64, o head.Outcome) {
	if a.b.OnSettle != nil {
		a.b.OnSettle(Settlement{f, token, o})
		return
	}
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	a.settled = append(a.settled, Settlement{f, token, o})
	a.b.note()
}

// Detach implements head.Attachment.
func (a *Attachment) Detach() {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	if a.detached {
		return
	}
	a.detached = true
	if a.b.attached[a.who] == a {
		delete(a.b.attached, a.who)
	}
	a.b.note()
}
