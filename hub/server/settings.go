package server

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/selvedge-io/selvedge/hub/store"
)

// Names of settings.
const (
	settingScope      = "idScope"    // string
	settingHosts      = "hostnames"  // list of strings, the first is the hub's own
	settingPartitions = "partitions" // number, of the event stream
)

// readSetting fills v; found is false when there is none.
func readSetting(ctx context.Context, db *sql.DB, name string, v any) (found bool, err error) {
	var text string
	err = db.QueryRowContext(ctx, "SELECT value FROM settings WHERE name = $1", name).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), v)
	}
	if err != nil {
		return false, fmt.Errorf("read setting %s: %w", name, err)
	}
	return true, nil
}

func writeSetting(ctx context.Context, db *store.DB, name string, v any) error {
	text, err := json.Marshal(v)
	if err == nil {
		err = db.Write(ctx, func(tx *sql.Tx) error {
			_, err := tx.Exec("INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
				name, string(text))
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("write setting %s: %w", name, err)
	}
	return nil
}

// settle makes what is made once at the first start, and notes the host names for
// commands that have only the data directory. It gives the partitions of the event
// stream.
func settle(ctx context.Context, db *store.DB, cfg *Config) (partitions int, err error) {
	var scope string
	if err := once(ctx, db, settingScope, &scope, newScope); err != nil {
		return 0, err
	}
	if err := once(ctx, db, settingPartitions, &partitions, func() int { return cfg.Partitions }); err != nil {
		return 0, err
	}
	var hosts []string
	if _, err := readSetting(ctx, db.Read(), settingHosts, &hosts); err != nil || slices.Equal(hosts, cfg.Hostnames) {
		return partitions, err
	}
	return partitions, writeSetting(ctx, db, settingHosts, cfg.Hostnames)
}

// once reads a setting, or makes it when there is none.
func once[T any](ctx context.Context, db *store.DB, name string, v *T, make func() T) error {
	found, err := readSetting(ctx, db.Read(), name, v)
	if err != nil || found {
		return err
	}
	*v = make()
	return writeSetting(ctx, db, name, *v)
}

// newScope makes an id scope in the form of Azure's (provisioning-protocol 1).
func newScope() string {
	var b [4]byte
	rand.Read(b[:]) // never fails
	return fmt.Sprintf("0ne%08X", b)
}
