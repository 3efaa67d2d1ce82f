package twins

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/twin"
)

// Update is a service's change of a twin. Nil sections stay as they are; keys that
// begin with $ are ignored (service-protocol 5.2).
type Update struct {
	ID      ident.ID
	Tags    *twin.Object
	Desired *twin.Object
	Replace bool // the sections replace what is there, instead of merging into it

	// Set replaces parts of the desired properties as a whole, after Desired.
	Set []Set
}

// Set is one part of desired properties. A null value deletes it.
type Set struct {
	Path  []string
	Value twin.Value
}

// Operations of twin change events.
const (
	opUpdate  = "updateTwin"
	opReplace = "replaceTwin"
)

// Apply makes a change and gives the twin as it is then. ifMatch is an etag without
// quotes; empty and * match any. It fails with fault.PreconditionFailed,
// fault.ArgumentInvalid for what breaks a limit, or a not-found fault.
func (t *Twins) Apply(ctx context.Context, u Update, ifMatch string) (Twin, error) {
	all, err := t.apply(ctx, []Update{u}, ifMatch)
	if err != nil {
		return Twin{}, err
	}
	return all[0], nil
}

// ApplyAll makes changes to several twins, or none of them when one fails.
func (t *Twins) ApplyAll(ctx context.Context, updates []Update) error {
	_, err := t.apply(ctx, updates, "")
	return err
}

func (t *Twins) apply(ctx context.Context, updates []Update, ifMatch string) ([]Twin, error) {
	steps := make([]step, len(updates))
	for i, u := range updates {
		if err := u.Check(); err != nil {
			return nil, err
		}
		steps[i] = step{id: u.ID, change: func(tw Twin, now time.Time) (outcome, error) {
			if ifMatch != "" && ifMatch != "*" && ifMatch != tw.Etag() {
				return outcome{}, fault.New(fault.PreconditionFailed, "the etag of twin %s is not %q any more", u.ID, ifMatch)
			}
			return u.change(tw, now)
		}}
	}
	return t.write(ctx, steps)
}

// Check says whether the update is within the limits, as far as that shows without
// the twin, and drops the keys to be ignored.
func (u *Update) Check() error {
	if err := u.ID.Check(); err != nil {
		return err
	}
	if u.Tags != nil {
		u.Tags = twin.StripReserved(u.Tags)
		if err := twin.CheckTags(u.Tags); err != nil {
			return err
		}
	}
	if u.Desired != nil {
		u.Desired = twin.StripReserved(u.Desired)
		if err := twin.CheckDesired(u.Desired); err != nil {
			return err
		}
	}
	for _, s := range u.Set {
		if err := twin.CheckDesired(twin.SetPath(nil, s.Path, s.Value)); err != nil {
			return err
		}
	}
	return nil
}

func (u *Update) change(tw Twin, now time.Time) (outcome, error) {
	next := tw
	o := outcome{op: opUpdate}
	if u.Tags != nil {
		if u.Replace {
			next.Tags = twin.Merge(nil, u.Tags)
		} else {
			next.Tags = twin.Merge(tw.Tags, u.Tags)
		}
		if err := twin.CheckTags(next.Tags); err != nil {
			return o, err
		}
		o.tags, o.tagsChanged = u.Tags, true
	}
	if u.Desired != nil || len(u.Set) > 0 {
		next.Desired, o.desired = u.desired(tw.Desired, now)
		if err := twin.CheckDesired(next.Desired.Values); err != nil {
			return o, err
		}
	}
	if u.Replace {
		o.op = opReplace
	}
	o.twin = next
	return o, nil
}

// desired gives the section as it will be and the patch that leads there.
func (u *Update) desired(was twin.Section, now time.Time) (next twin.Section, patch *twin.Object) {
	if !u.Replace && len(u.Set) == 0 {
		return was.Patch(u.Desired, now), u.Desired
	}
	values := was.Values
	if u.Desired != nil {
		if u.Replace {
			values = nil
		}
		values = twin.Merge(values, u.Desired)
	}
	for _, s := range u.Set {
		values = twin.SetPath(values, s.Path, s.Value)
	}
	patch = twin.Diff(was.Values, values)
	if u.Replace {
		return was.Replace(values, now), patch
	}
	return was.Patch(patch, now), patch
}

// Report merges a JSON patch into the reported properties and gives their new
// version. With ifVersion above zero it fails with fault.PreconditionFailed unless
// that is the version now.
func (t *Twins) Report(ctx context.Context, id ident.ID, patch []byte, ifVersion int64) (int64, error) {
	p, err := twin.Parse(patch)
	if err != nil {
		return 0, err
	}
	if err := twin.CheckReported(p); err != nil {
		return 0, err
	}
	all, err := t.write(ctx, []step{{id: id, change: func(tw Twin, now time.Time) (outcome, error) {
		if ifVersion > 0 && ifVersion != tw.Reported.Version {
			return outcome{}, fault.New(fault.PreconditionFailed, "the reported properties have version %d, not %d",
				tw.Reported.Version, ifVersion)
		}
		next := tw
		next.Reported = tw.Reported.Patch(p, now)
		return outcome{twin: next, op: opUpdate, reported: p}, twin.CheckReported(next.Reported.Values)
	}}})
	if err != nil {
		return 0, err
	}
	return all[0].Reported.Version, nil
}

// SetModel notes the model id that a device announced as it connected; empty
// means it announced none. It writes only when that is new.
func (t *Twins) SetModel(ctx context.Context, id ident.ID, model string) error {
	var known sql.NullString
	err := t.db.Read().QueryRowContext(ctx, "SELECT model_id FROM twins WHERE device = $1 AND module = $2", id.Device, id.Module).Scan(&known)
	if err != nil && err != sql.ErrNoRows {
		return fmt.Errorf("read model of %s: %w", id, err)
	}
	if known.String == model {
		return nil
	}
	_, err = t.write(ctx, []step{{id: id, change: func(tw Twin, _ time.Time) (outcome, error) {
		tw.ModelID = model
		return outcome{twin: tw}, nil
	}}})
	return err
}

// step is a change of one twin, as a function of what it is.
type step struct {
	id     ident.ID
	change func(tw Twin, now time.Time) (outcome, error)
}

// outcome is what a change led to; the patches are nil for sections it left alone.
type outcome struct {
	twin        Twin
	op          string // empty: nobody needs to know
	tags        *twin.Object
	tagsChanged bool
	desired     *twin.Object
	reported    *twin.Object
	at          time.Time
}

// write runs the steps in one transaction and tells the listener.
func (t *Twins) write(ctx context.Context, steps []step) ([]Twin, error) {
	var outcomes []outcome
	err := t.db.WriteThen(ctx, func(tx *sql.Tx) error {
		outcomes = make([]outcome, 0, len(steps))
		for _, s := range steps {
			o, err := t.step(tx, s)
			if err != nil {
				return err
			}
			outcomes = append(outcomes, o)
		}
		return nil
	}, func() {
		for _, o := range outcomes {
			t.cache.Put(t.cache.Epoch(), o.twin.ID, o.twin, nil)
			t.tell(o)
		}
	})
	if err != nil {
		return nil, err
	}
	all := make([]Twin, len(outcomes))
	for i, o := range outcomes {
		all[i] = o.twin
	}
	return all, nil
}

// step changes one twin. It starts from the cached state, without a read; when
// that turns out stale, or the change does not like it, it reads the row.
func (t *Twins) step(tx *sql.Tx, s step) (outcome, error) {
	now := t.now().UTC()
	if kept, ok := t.cache.Get(s.id); ok {
		if o, err := s.change(kept, now); err == nil {
			switch done, err := rewrite(tx, &o, kept, now); {
			case err != nil:
				return o, err
			case done:
				return o, nil
			}
		}
	}
	tw, isNew, err := load(context.Background(), tx, s.id)
	if err != nil {
		return outcome{}, err
	}
	o, err := s.change(tw, now)
	if err != nil {
		return outcome{}, err
	}
	if isNew {
		return o, insert(tx, &o, now)
	}
	done, err := rewrite(tx, &o, tw, now)
	if err == nil && !done {
		err = fmt.Errorf("twin %s changed under the writer", s.id)
	}
	return o, err
}

// advance counts up what every write counts up.
func (o *outcome) advance(now time.Time) {
	o.twin.Version++
	o.twin.etag++
	o.at = now
}

// rewrite writes the sections that changed; done is false when the row is not was
// any more.
func rewrite(tx *sql.Tx, o *outcome, was Twin, now time.Time) (done bool, err error) {
	o.advance(now)
	set := "UPDATE twins SET etag = $1, version = $2, model_id = $3"
	args := []any{o.twin.etag, o.twin.Version, o.twin.ModelID}
	add := func(column string, v any) {
		args = append(args, v)
		set += ", " + column + " = $" + strconv.Itoa(len(args))
	}
	if o.tagsChanged {
		add("tags", text(o.twin.Tags))
	}
	if o.desired != nil {
		add("desired", text(o.twin.Desired.Values))
		add("desired_meta", text(o.twin.Desired.Metadata))
		add("desired_version", o.twin.Desired.Version)
	}
	if o.reported != nil {
		add("reported", text(o.twin.Reported.Values))
		add("reported_meta", text(o.twin.Reported.Metadata))
		add("reported_version", o.twin.Reported.Version)
	}
	o.twin.stored = max(o.twin.stored, size(args))
	args = append(args, was.ID.Device, was.ID.Module, was.etag)
	n := len(args)
	res, err := tx.Exec(set+fmt.Sprintf(" WHERE device = $%d AND module = $%d AND etag = $%d", n-2, n-1, n), args...)
	if err != nil {
		return false, fmt.Errorf("write twin %s: %w", was.ID, err)
	}
	rows, err := res.RowsAffected()
	return rows == 1, err
}

func insert(tx *sql.Tx, o *outcome, now time.Time) error {
	o.advance(now)
	tw := &o.twin
	args := []any{tw.ID.Device, tw.ID.Module, tw.etag, tw.Version, tw.ModelID, text(tw.Tags),
		text(tw.Desired.Values), text(tw.Desired.Metadata), tw.Desired.Version,
		text(tw.Reported.Values), text(tw.Reported.Metadata), tw.Reported.Version}
	tw.stored = size(args)
	_, err := tx.Exec(`INSERT INTO twins (device, module, etag, version, model_id, tags, desired, desired_meta, desired_version,
		reported, reported_meta, reported_version) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`, args...)
	if err != nil {
		return fmt.Errorf("write twin %s: %w", tw.ID, err)
	}
	return nil
}

func text(o *twin.Object) string { return string(o.AppendJSON(nil)) }

func size(args []any) int {
	n := 0
	for _, a := range args {
		if s, ok := a.(string); ok {
			n += len(s)
		}
	}
	return n
}

// tell informs the listener of a durable change.
func (t *Twins) tell(o outcome) {
	if o.op == "" {
		return
	}
	tw := o.twin
	if o.desired != nil {
		t.listener.Desired(tw.ID, tw.Desired.Version, twin.WithVersion(o.desired, tw.Desired.Version))
	}
	t.listener.Changed(Event{ID: tw.ID, Op: o.op, At: o.at, Body: o.body()})
}

// body is the event's JSON: of an update what changed, of a replacement all.
func (o outcome) body() []byte {
	tw := o.twin
	b := append(make([]byte, 0, 512), `{"version":`...)
	b = strconv.AppendInt(b, tw.Version, 10)
	if o.op == opReplace {
		b = tw.Tags.AppendJSON(append(b, `,"tags":`...))
		b = append(append(b, `,"properties":{"desired":`...), tw.Desired.ServiceJSON()...)
		b = append(append(b, `,"reported":`...), tw.Reported.ServiceJSON()...)
		return append(b, "}}"...)
	}
	if o.tagsChanged {
		b = o.tags.AppendJSON(append(b, `,"tags":`...))
	}
	b = append(b, `,"properties":{`...)
	if o.desired != nil {
		b = append(append(b, `"desired":`...), tw.Desired.ChangeJSON(o.desired, o.at)...)
	}
	if o.reported != nil {
		if o.desired != nil {
			b = append(b, ',')
		}
		b = append(append(b, `"reported":`...), tw.Reported.ChangeJSON(o.reported, o.at)...)
	}
	return append(b, "}}"...)
}
