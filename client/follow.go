package client

import (
	"context"
	"slices"
	"time"

	"github.com/selvedge-io/selvedge/model/twin"
)

// desiredState is what a Session's handler of desired properties saw last.
type desiredState struct {
	seen    bool
	version int64
	doc     *twin.Object // without $version
}

// change of desired properties; version zero means that some were missed.
type change struct {
	version int64
	patch   []byte
}

// follower keeps a handler up to date with the desired properties on one connection.
type follower struct {
	c       *Client
	handle  func(ctx context.Context, version int64, desired []byte)
	last    *desiredState
	changes chan change
}

// note takes a change from the connection without holding it up. When too many wait,
// one is lost, and a look at the whole twin makes up for it.
func (f *follower) note(version int64, patch []byte) {
	select {
	case f.changes <- change{version, slices.Clone(patch)}:
		return
	default:
	}
	select {
	case <-f.changes:
	default:
	}
	select {
	case f.changes <- change{}:
	default:
	}
}

// run tells the handler of the state after connecting and of each change.
func (f *follower) run(ctx context.Context) {
	if !f.look(ctx) {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.c.Done():
			return
		case ch := <-f.changes:
			if !f.take(ch) && !f.look(ctx) {
				return
			}
		}
	}
}

// take applies a change; false means that the whole twin must be looked at.
func (f *follower) take(ch change) bool {
	switch {
	case ch.version == 0 || ch.version > f.last.version+1:
		return false
	case ch.version <= f.last.version:
		return true // known from the twin
	}
	patch, err := twin.Parse(ch.patch)
	if err != nil {
		f.c.cfg.Log.Warn("change of desired properties cannot be read", "device", f.c.id.Device, "module", f.c.id.Module, "err", err)
		return false
	}
	f.tell(ch.version, twin.Merge(f.last.doc, twin.StripReserved(patch)))
	return true
}

// look gets the whole twin, until that works; false means that the connection is over.
func (f *follower) look(ctx context.Context) bool {
	var b backoff
	for {
		version, doc, err := f.get(ctx)
		if err == nil {
			if !f.last.seen || version != f.last.version || !twin.Equal(doc, f.last.doc) {
				f.tell(version, doc)
			}
			return true
		}
		if f.c.Err() == nil && ctx.Err() == nil {
			f.c.cfg.Log.Warn("twin cannot be read, trying again", "device", f.c.id.Device, "module", f.c.id.Module, "err", err)
		}
		select {
		case <-time.After(b.next()):
		case <-f.c.Done():
			return false
		case <-ctx.Done():
			return false
		}
	}
}

func (f *follower) get(ctx context.Context) (version int64, doc *twin.Object, err error) {
	ctx, cancel := context.WithTimeout(ctx, twinTimeout)
	defer cancel()
	text, err := f.c.Twin(ctx)
	if err != nil {
		return 0, nil, err
	}
	whole, err := twin.Parse(text)
	if err != nil {
		return 0, nil, err
	}
	desired := whole.Child("desired")
	v, _ := desired.Get("$version")
	version, _ = v.Int() // zero without one, so that each change is followed by a look
	return version, twin.StripReserved(desired), nil
}

func (f *follower) tell(version int64, doc *twin.Object) {
	*f.last = desiredState{true, version, doc}
	f.handle(f.c.ctx, version, twin.WithVersion(doc, version))
}
