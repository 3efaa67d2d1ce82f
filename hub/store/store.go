// Package store is the hub's SQL database: one file, one writer that lets many
// callers share a commit, and a pool of readers. The rooms of the hub keep their
// tables in it; each brings its schema as numbered files under migrations.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite" // also the driver named "sqlite"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Config says where the database is.
type Config struct {
	Path string // the file; its folder is made when missing

	// Readers bounds concurrent read connections; zero means 4.
	Readers int
}

// DB is the open database.
type DB struct {
	read   *sql.DB
	write  *sql.DB
	writer *writer
	close  func() error
}

// Open opens the database, makes it when it is new and brings its schema up to
// date. The file and its companions are readable by their owner only.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	if err := prepareFile(cfg.Path); err != nil {
		return nil, fmt.Errorf("prepare database: %w", err)
	}
	write, err := sql.Open("sqlite", dsn(cfg.Path, false))
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", cfg.Path, err)
	}
	write.SetMaxOpenConns(1)
	if err := migrate(ctx, write); err != nil {
		return nil, errors.Join(fmt.Errorf("bring database %s up to date: %w%s", cfg.Path, err, advice(err)), write.Close())
	}
	read, err := sql.Open("sqlite", dsn(cfg.Path, true))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", cfg.Path, err), write.Close())
	}
	readers := cfg.Readers
	if readers <= 0 {
		readers = 4
	}
	read.SetMaxOpenConns(readers)
	read.SetMaxIdleConns(readers)
	db := &DB{read: read, write: write, writer: newWriter(write)}
	db.close = sync.OnceValue(func() error {
		db.writer.stop()
		return errors.Join(read.Close(), write.Close())
	})
	return db, nil
}

// OpenReader opens the database that Open made, for reading only, whether or not
// another process has it open. It fails with fs.ErrNotExist when there is none.
func OpenReader(ctx context.Context, path string) (*sql.DB, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db, err := sql.Open("sqlite", dsn(path, true)+"&mode=rw") // made by nobody but Open
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w%s", path, err, advice(err)), db.Close())
	}
	return db, nil
}

// advice is what to do about an error of opening, empty when that is not known.
func advice(err error) string {
	const corrupt, notADatabase = 11, 26 // SQLite's result codes
	if e, ok := errors.AsType[*sqlite.Error](err); ok && (e.Code()&0xff == corrupt || e.Code()&0xff == notADatabase) {
		return "; the file is damaged: bring it back from a backup"
	}
	return ""
}

// Write runs fn in a transaction and returns when that is on disk. Callers that
// come together share one commit, each inside a savepoint of its own: an error of
// fn undoes what this fn did and nothing else, and is returned as it is. fn must
// not keep the transaction, must not block on anything but the database, may meet
// what others wrote before it in the transaction, and must use Exec and Query
// without a context: a statement that is interrupted would undo the others' work
// too. ctx counts until fn starts.
func (db *DB) Write(ctx context.Context, fn func(*sql.Tx) error) error {
	return db.writer.do(ctx, fn, nil)
}

// WriteThen is Write that calls then once fn's work is on disk and before it
// returns. The calls of then come one at a time, in the order of the writes; then
// must not block and must not write.
func (db *DB) WriteThen(ctx context.Context, fn func(*sql.Tx) error, then func()) error {
	return db.writer.do(ctx, fn, then)
}

// Read is the pool of read-only connections. It sees what is committed.
func (db *DB) Read() *sql.DB { return db.read }

// Close lets the writes under way finish and closes the file. Later writes fail
// with ErrClosed.
func (db *DB) Close() error { return db.close() }

// prepareFile makes the file before SQLite does, so that it and the write-ahead
// log beside it, which takes over its mode, are private from the first byte.
func prepareFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o600), f.Close())
}

func dsn(path string, readOnly bool) string {
	pragmas := []string{
		"auto_vacuum(incremental)", // counts only before the first table is made
		"journal_mode(wal)",
		"synchronous(full)", // in WAL mode: a commit returns after fsync
		"foreign_keys(1)",
		"busy_timeout(10000)",
		"journal_size_limit(33554432)",
	}
	if readOnly {
		pragmas = append(pragmas, "query_only(1)")
	}
	q := url.Values{"_pragma": pragmas, "_txlock": {"immediate"}}
	if readOnly {
		q.Set("_txlock", "deferred")
	}
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath(), RawQuery: q.Encode()}).String()
}

func migrate(ctx context.Context, db *sql.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}
