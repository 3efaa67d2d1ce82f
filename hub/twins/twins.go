// Package twins keeps the twins of the hub's devices and modules: tags, desired
// and reported properties with their versions. Changes are merged inside the
// store's one writer, so many of them share a commit; whoever listens is told of
// each change once it is durable, in the order of the versions.
package twins

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/selvedge-io/selvedge/hub/store"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/twin"
)

// Listener is told about changes after they are durable, one at a time, for each
// twin in the order of its versions. Its methods must not block and must not
// change twins.
type Listener interface {
	// Desired tells the owner of a twin, if it is connected, that its desired
	// properties changed: patch is the change as a JSON object with "$version" in
	// it and null for deleted keys, also when all was replaced.
	Desired(id ident.ID, version int64, patch []byte)
	// Changed is for the event stream.
	Changed(e Event)
}

// Event is a twin change event (device-protocol 9.4.4).
type Event struct {
	ID   ident.ID
	Op   string // "updateTwin" or "replaceTwin"
	At   time.Time
	Body []byte // JSON
}

// Config is what twins stand on.
type Config struct {
	DB         *store.DB
	Listener   Listener         // nil: nobody listens
	CacheBytes int              // bounds the twins kept parsed; zero means 16 MB
	Now        func() time.Time // nil means time.Now
}

// Twins is the store of all twins. Its methods may be called from many goroutines.
type Twins struct {
	db       *store.DB
	listener Listener
	now      func() time.Time

	// cache holds the last committed state of twins that were written lately. It
	// only saves parsing: a write on top of it checks that the row is still that.
	cache *store.Cache[ident.ID, Twin]
}

// New makes the store of twins over cfg.DB.
func New(cfg Config) *Twins {
	t := &Twins{db: cfg.DB, listener: cfg.Listener, now: cfg.Now}
	if t.listener == nil {
		t.listener = nobody{}
	}
	if t.now == nil {
		t.now = time.Now
	}
	size := cfg.CacheBytes
	if size <= 0 {
		size = 16 << 20
	}
	t.cache = store.NewCache[ident.ID](size, func(tw Twin) int { return 4*tw.stored + 1024 })
	return t
}

type nobody struct{}

func (nobody) Desired(ident.ID, int64, []byte) {}
func (nobody) Changed(Event)                   {}

// Twin is one twin as it stands.
type Twin struct {
	ID       ident.ID
	Version  int64 // one more with each write of any part
	ModelID  string
	Tags     *twin.Object
	Desired  twin.Section
	Reported twin.Section

	etag   int64
	stored int // bytes of JSON, to weigh the cache
}

// Etag is the twin's entity tag, without quotes.
func (t Twin) Etag() string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, uint64(t.etag)))
}

// blank is a twin that was never written; it has no row.
func blank(id ident.ID) Twin {
	return Twin{ID: id, Version: 2, Tags: &twin.Object{}, Desired: twin.NewDesired(), Reported: twin.NewReported(), etag: 1}
}

// Get gives a twin, or fault.DeviceNotFound or fault.ModuleNotFound.
func (t *Twins) Get(ctx context.Context, id ident.ID) (Twin, error) {
	if err := id.Check(); err != nil {
		return Twin{}, err
	}
	tw, _, err := load(ctx, t.db.Read(), id)
	return tw, err
}

// DeviceView is the twin as its owner sees it: desired and reported properties with
// their versions, no metadata and no tags (device-protocol 5.13.1).
func (t *Twins) DeviceView(ctx context.Context, id ident.ID) ([]byte, error) {
	var desired, reported sql.NullString
	var desiredVersion, reportedVersion sql.NullInt64
	err := t.db.Read().QueryRowContext(ctx, `SELECT t.desired, t.desired_version, t.reported, t.reported_version `+fromTwins,
		id.Device, id.Module).Scan(&desired, &desiredVersion, &reported, &reportedVersion)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, missing(ctx, t.db.Read(), id)
	}
	if err != nil {
		return nil, fmt.Errorf("read twin %s: %w", id, err)
	}
	b := append(make([]byte, 0, 64+len(desired.String)+len(reported.String)), `{"desired":`...)
	b = appendVersioned(b, desired.String, max(desiredVersion.Int64, 1))
	b = append(b, `,"reported":`...)
	b = appendVersioned(b, reported.String, max(reportedVersion.Int64, 1))
	return append(b, '}'), nil
}

// appendVersioned adds "$version" to the stored JSON of an object.
func appendVersioned(b []byte, stored string, version int64) []byte {
	if len(stored) <= len("{}") {
		b = append(b, '{')
	} else {
		b = append(append(b, stored[:len(stored)-1]...), ',')
	}
	b = append(b, `"$version":`...)
	return append(strconv.AppendInt(b, version, 10), '}')
}

// querier is a transaction or the pool of readers.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

const fromTwins = `FROM identities i LEFT JOIN twins t ON t.device = i.device AND t.module = i.module
	WHERE i.device = $1 AND i.module = $2`

// load reads a twin; isNew says that it has no row yet.
func load(ctx context.Context, q querier, id ident.ID) (tw Twin, isNew bool, err error) {
	var etag, version, desiredVersion, reportedVersion sql.NullInt64
	var model, tags, desired, desiredMeta, reported, reportedMeta sql.NullString
	err = q.QueryRowContext(ctx, `SELECT t.etag, t.version, t.model_id, t.tags, t.desired, t.desired_meta, t.desired_version,
		t.reported, t.reported_meta, t.reported_version `+fromTwins, id.Device, id.Module).Scan(&etag, &version, &model, &tags,
		&desired, &desiredMeta, &desiredVersion, &reported, &reportedMeta, &reportedVersion)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Twin{}, false, missing(ctx, q, id)
	case err != nil:
		return Twin{}, false, fmt.Errorf("read twin %s: %w", id, err)
	case !etag.Valid:
		return blank(id), true, nil
	}
	tw = Twin{ID: id, Version: version.Int64, ModelID: model.String, etag: etag.Int64,
		Desired:  twin.Section{Version: desiredVersion.Int64, Desired: true},
		Reported: twin.Section{Version: reportedVersion.Int64}}
	for _, part := range []struct {
		text string
		into **twin.Object
	}{
		{tags.String, &tw.Tags}, {desired.String, &tw.Desired.Values}, {desiredMeta.String, &tw.Desired.Metadata},
		{reported.String, &tw.Reported.Values}, {reportedMeta.String, &tw.Reported.Metadata},
	} {
		if *part.into, err = twin.Parse([]byte(part.text)); err != nil {
			return Twin{}, false, fmt.Errorf("parse stored twin %s: %w", id, err)
		}
		tw.stored += len(part.text)
	}
	return tw, false, nil
}

// missing says which part of id does not exist.
func missing(ctx context.Context, q querier, id ident.ID) error {
	if id.IsModule() {
		var one int
		err := q.QueryRowContext(ctx, "SELECT 1 FROM identities WHERE device = $1 AND module = ''", id.Device).Scan(&one)
		if err == nil {
			return fault.New(fault.ModuleNotFound, "device %q has no module %q", id.Device, id.Module)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("look up device %s: %w", id.Device, err)
		}
	}
	return fault.New(fault.DeviceNotFound, "there is no device %q", id.Device)
}
