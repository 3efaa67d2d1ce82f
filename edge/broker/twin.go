package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/twin"
)

const (
	twinPrefix    = "twin/"
	pullTimeout   = 5 * time.Second  // how long a GET waits for the parent before the cache answers
	reportTimeout = 30 * time.Second // one attempt to hand a patch to the parent
	reportRetry   = time.Second      // first pause after one that went wrong
	maxRetry      = time.Minute

	maxPending = 64 // patches kept apart
)

// cached is a twin as it is kept on disk. Reported is what the module sees: what the
// parent had, with all of Pending laid over it.
type cached struct {
	Known           bool         `json:"known"` // it came from the parent at least once
	Desired         *twin.Object `json:"desired"`
	DesiredVersion  int64        `json:"desiredVersion"`
	Reported        *twin.Object `json:"reported"`
	ReportedVersion int64        `json:"reportedVersion"`

	// Pending are the patches the parent has not taken yet, oldest first. One that
	// can be joined with the one before it is.
	Pending []*twin.Object `json:"pending,omitempty"`
}

// twinState is the twin of one identity.
type twinState struct {
	id   ident.ID
	link chan struct{} // full while the parent is asked, so that answers come in order

	ctx  context.Context // ends with the identity
	quit context.CancelFunc

	mu      sync.Mutex // held over changes and until they are on disk
	cached             // what is on disk
	changes int        // of desired properties, applied one by one
	pushing bool       // push runs
	sending bool       // the first of Pending is under way and must not change
	gone    bool       // the identity is no more, so nothing of it is kept
}

// lockLink takes the right to ask the parent about the twin; unlockLink gives it back.
func (s *twinState) lockLink(ctx context.Context) error {
	select {
	case s.link <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *twinState) unlockLink() { <-s.link }

// deviceJSON is the twin as its device sees it.
func (c *cached) deviceJSON() []byte {
	out := append([]byte(`{"desired":`), twin.WithVersion(c.Desired, c.DesiredVersion)...)
	out = append(out, `,"reported":`...)
	out = append(out, twin.WithVersion(c.Reported, c.ReportedVersion)...)
	return append(out, '}')
}

// state finds the twin of an identity, in memory or on disk, or makes an empty one.
func (b *Broker) state(of ident.ID) (*twinState, error) {
	b.twinsMu.Lock()
	defer b.twinsMu.Unlock()
	if s := b.twins[of]; s != nil {
		return s, nil
	}
	s := &twinState{id: of, link: make(chan struct{}, 1), cached: cached{DesiredVersion: 1, ReportedVersion: 1}}
	s.ctx, s.quit = context.WithCancel(context.Background())
	if raw, ok := b.cfg.Store.Get(twinPrefix + of.String()); ok {
		plain, err := b.open(raw)
		if err == nil {
			err = json.Unmarshal(plain, &s.cached)
		}
		if err != nil {
			return nil, fmt.Errorf("read cached twin of %s: %w", of, err)
		}
	}
	b.twins[of] = s
	return s, nil
}

// forgetTwin drops the twin of an identity that is no more.
func (b *Broker) forgetTwin(ctx context.Context, of ident.ID) error {
	b.twinsMu.Lock() // nobody finds it before it is off the disk
	defer b.twinsMu.Unlock()
	if s := b.twins[of]; s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.gone = true
		s.quit()
		delete(b.twins, of)
	}
	if _, found := b.cfg.Store.Get(twinPrefix + of.String()); !found {
		return nil
	}
	if err := b.cfg.Store.Delete(ctx, twinPrefix+of.String()); err != nil {
		return fmt.Errorf("forget twin of %s: %w", of, err)
	}
	return nil
}

// save writes the next state of the twin and, when that is on disk, makes it the
// state. The caller holds s.mu.
func (b *Broker) save(ctx context.Context, s *twinState, next cached) error {
	if s.gone {
		return fault.New(fault.ModuleNotFound, "the identity of module %s was deleted", s.id)
	}
	raw, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("encode twin of %s: %w", s.id, err)
	}
	if raw, err = b.seal(raw); err != nil {
		return fmt.Errorf("seal twin of %s: %w", s.id, err)
	}
	if err := b.cfg.Store.Put(ctx, twinPrefix+s.id.String(), raw); err != nil {
		return fmt.Errorf("keep twin of %s: %w", s.id, err)
	}
	s.cached = next
	return nil
}

// Twin implements head.Backend: the parent's twin when it answers soon, else the
// cached one, which is empty for an identity that was never online.
func (b *Broker) Twin(ctx context.Context, of ident.ID) ([]byte, error) {
	s, err := b.state(of)
	if err != nil {
		return nil, err
	}
	if b.cfg.Parent.Online() {
		within, cancel := context.WithTimeout(ctx, pullTimeout)
		err := b.pull(within, s)
		cancel()
		if err != nil {
			b.log.Debug("twin comes from the cache", "module", of.Module, "err", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deviceJSON(), nil
}

// pull takes over the parent's twin and tells the device what changed in the desired
// properties.
func (b *Broker) pull(ctx context.Context, s *twinState) error {
	if err := s.lockLink(ctx); err != nil {
		return err
	}
	defer s.unlockLink()
	s.mu.Lock()
	changes := s.changes
	s.mu.Unlock()
	raw, err := b.cfg.Parent.Twin(ctx, s.id)
	if err != nil {
		return err
	}
	var doc struct {
		Desired, Reported json.RawMessage
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return fmt.Errorf("read twin of %s from the parent: %w", s.id, err)
	}
	desired, err := twin.ParseSection(doc.Desired, true)
	if err != nil {
		return fmt.Errorf("read desired properties of %s from the parent: %w", s.id, err)
	}
	reported, err := twin.ParseSection(doc.Reported, false)
	if err != nil {
		return fmt.Errorf("read reported properties of %s from the parent: %w", s.id, err)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changes != changes && desired.Version < s.DesiredVersion {
		desired.Values, desired.Version = s.Desired, s.DesiredVersion // a change overtook the answer
	}
	next := cached{
		Known:   true,
		Desired: desired.Values, DesiredVersion: desired.Version,
		Reported: reported.Values, ReportedVersion: reported.Version,
		Pending: s.Pending,
	}
	for _, patch := range s.Pending {
		next.Reported = twin.Merge(next.Reported, patch)
		next.ReportedVersion = max(reported.Version, s.ReportedVersion)
	}
	diff := twin.Diff(s.Desired, next.Desired)
	changed := diff.Len() > 0 || next.DesiredVersion != s.DesiredVersion
	if same(s.cached, next) {
		return nil
	}
	if err := b.save(ctx, s, next); err != nil {
		return err
	}
	if changed {
		b.desiredChanged(s, diff)
	}
	return nil
}

func same(a, b cached) bool {
	return a.Known == b.Known && a.DesiredVersion == b.DesiredVersion && a.ReportedVersion == b.ReportedVersion &&
		twin.Equal(a.Desired, b.Desired) && twin.Equal(a.Reported, b.Reported) && len(a.Pending) == len(b.Pending)
}

// desiredChanged tells whom it concerns. The caller holds s.mu, so that changes are
// told in order.
func (b *Broker) desiredChanged(s *twinState, patch *twin.Object) {
	if s.id == b.self {
		select {
		case b.reconfigure <- struct{}{}:
		default: // it is going to look anyway
		}
		return
	}
	if patch.Len() == 0 {
		return
	}
	if to := b.session(s.id); to != nil {
		to.desired(s.DesiredVersion, twin.WithVersion(patch, s.DesiredVersion))
	}
}

// Desired implements upstream's side of a change of desired properties. A gap in the
// versions means that changes were missed, so the whole twin is fetched.
func (b *Broker) Desired(ctx context.Context, of ident.ID, version int64, patch []byte) error {
	s, err := b.state(of)
	if err != nil {
		return err
	}
	doc, err := twin.Parse(patch)
	if err != nil {
		return fmt.Errorf("read change of desired properties of %s: %w", of, err)
	}
	s.mu.Lock()
	gap := !s.Known || version > s.DesiredVersion+1
	if gap || version <= s.DesiredVersion {
		s.mu.Unlock()
		if gap {
			return b.pull(ctx, s)
		}
		return nil
	}
	defer s.mu.Unlock()
	doc = doc.Without(twin.KeyVersion)
	next := s.cached
	next.Desired, next.DesiredVersion = twin.Merge(s.Desired, doc), version
	if err := b.save(ctx, s, next); err != nil {
		return err
	}
	s.changes++
	b.desiredChanged(s, doc)
	return nil
}

// Report implements head.Backend: the patch is merged and durable when it returns; the
// parent gets it when it can.
func (b *Broker) Report(ctx context.Context, of ident.ID, patch []byte, ifVersion int64) (int64, error) {
	doc, err := twin.Parse(patch)
	if err == nil {
		err = twin.CheckReported(doc)
	}
	if err != nil {
		return 0, err
	}
	version, err := b.report(ctx, of, doc, ifVersion)
	if err == nil && of.Module != ident.EdgeAgent { // whose reports are no client's (edge-runtime 4.1.1)
		b.twinChanged(doc)
	}
	return version, err
}

func (b *Broker) report(ctx context.Context, of ident.ID, doc *twin.Object, ifVersion int64) (int64, error) {
	s, err := b.state(of)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ifVersion > 0 && ifVersion != s.ReportedVersion {
		return 0, fault.New(fault.PreconditionFailed, "the reported properties have version %d, not %d", s.ReportedVersion, ifVersion)
	}
	next := s.cached
	next.Reported = twin.Merge(s.Reported, doc)
	next.ReportedVersion++
	next.Pending = s.queued(doc)
	if err := twin.CheckReported(next.Reported); err != nil {
		return 0, err
	}
	if err := b.save(ctx, s, next); err != nil {
		return 0, err
	}
	b.startPush(s)
	return s.ReportedVersion, nil
}

// queued is Pending with one patch more.
func (s *twinState) queued(patch *twin.Object) []*twin.Object {
	last := len(s.Pending) - 1
	if last < 0 || last == 0 && s.sending {
		return append(slices.Clone(s.Pending), patch)
	}
	joined, exact := overlay(s.Pending[last], patch)
	if !exact && len(s.Pending) < maxPending {
		return append(slices.Clone(s.Pending), patch)
	}
	return append(slices.Clone(s.Pending[:last]), joined)
}

// overlay joins two patches into one, nulls included. It is exact unless an object
// comes after a null or a scalar of the same key: that means "replace", for which a
// patch has no word.
func overlay(first, then *twin.Object) (out *twin.Object, exact bool) {
	out, exact = first, true
	for key, value := range then.All() {
		old, had := first.Get(key)
		if child, ok := value.Object(); ok && had {
			base, ok := old.Object()
			joined, fits := overlay(base, child)
			value, exact = twin.Of(joined), exact && ok && fits
		}
		out = out.With(key, value)
	}
	return out, exact
}

// startPush sees to it that pending changes reach the parent. The caller holds s.mu.
func (b *Broker) startPush(s *twinState) {
	if !s.pushing && len(s.Pending) > 0 {
		s.pushing = b.spawn(func(ctx context.Context) { b.push(ctx, s) })
	}
}

// push hands pending changes to the parent until there are none, or ctx ends.
func (b *Broker) push(ctx context.Context, s *twinState) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	release := b.cfg.Parent.Hold(s.id)
	defer release()
	pause := reportRetry
	for {
		s.mu.Lock()
		if len(s.Pending) == 0 || s.gone || ctx.Err() != nil {
			s.pushing = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		err := b.cfg.Parent.Await(ctx, s.id)
		if err == nil {
			err = b.pushOnce(ctx, s)
		}
		if err == nil {
			pause = reportRetry
			continue
		}
		if ctx.Err() == nil {
			b.log.Debug("reported properties wait for the parent", "module", s.id.Module, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, maxRetry)
	}
}

func (b *Broker) pushOnce(ctx context.Context, s *twinState) error {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	if err := s.lockLink(ctx); err != nil {
		return err
	}
	defer s.unlockLink()

	s.mu.Lock()
	patch := s.Pending[0]
	s.sending = true
	s.mu.Unlock()
	_, err := b.cfg.Parent.Report(ctx, s.id, patch.AppendJSON(nil))

	s.mu.Lock()
	defer s.mu.Unlock()
	s.sending = false
	switch {
	case fault.Is(err, fault.ArgumentInvalid), fault.Is(err, fault.IotHubFormatError):
		// It will never be taken, so it must not hold up what follows.
		b.log.Error("the parent refuses reported properties, they stay local", "module", s.id.Module, "err", err)
	case err != nil:
		return err
	}
	next := s.cached
	next.Pending = s.Pending[1:]
	return b.save(context.WithoutCancel(ctx), s, next)
}
