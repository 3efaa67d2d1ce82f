package server

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/hub/store"
	"github.com/selvedge-io/selvedge/model/ident"
)

// sessions keeps the subscriptions of MQTT sessions until their identity is deleted.
// It implements head.Sessions for the backend.
type sessions struct {
	db   *store.DB
	read *sql.Stmt // every connection asks
}

func newSessions(ctx context.Context, db *store.DB) (*sessions, error) {
	read, err := db.Read().PrepareContext(ctx, "SELECT subscriptions FROM sessions WHERE device = $1 AND module = $2")
	if err != nil {
		return nil, fmt.Errorf("prepare sessions: %w", err)
	}
	return &sessions{db, read}, nil
}

// Subscriptions implements head.Sessions.
func (s *sessions) Subscriptions(ctx context.Context, of ident.ID) (subs []head.Subscription, found bool, err error) {
	var text string
	err = s.read.QueryRowContext(ctx, of.Device, of.Module).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, false, nil
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), &subs)
	}
	if err != nil {
		return nil, false, fmt.Errorf("read session of %s: %w", of, err)
	}
	return subs, true, nil
}

// SaveSubscriptions implements head.Sessions.
func (s *sessions) SaveSubscriptions(ctx context.Context, of ident.ID, subs []head.Subscription) error {
	statement, args := "DELETE FROM sessions WHERE device = $1 AND module = $2", []any{of.Device, of.Module}
	if subs != nil {
		text, err := json.Marshal(subs)
		if err != nil {
			return fmt.Errorf("save session of %s: %w", of, err)
		}
		statement = `INSERT INTO sessions (device, module, subscriptions) VALUES ($1, $2, $3)
			ON CONFLICT (device, module) DO UPDATE SET subscriptions = excluded.subscriptions`
		args = append(args, string(text))
	}
	err := s.db.Write(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(statement, args...)
		return err
	})
	if err != nil {
		return fmt.Errorf("save session of %s: %w", of, err)
	}
	return nil
}
