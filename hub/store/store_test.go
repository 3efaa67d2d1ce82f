package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

func open(t testing.TB, path string) *DB {
	t.Helper()
	db, err := Open(t.Context(), Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

const insertPolicy = "INSERT INTO policies (name, primary_key, secondary_key, rights, created) VALUES ($1, '', '', $2, 0)"

func policies(t testing.TB, db *DB) (n int) {
	t.Helper()
	if err := db.Read().QueryRow("SELECT count(*) FROM policies").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSurvivesReopenAndIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a ?#%dir", "hub.db")
	db := open(t, path)
	if err := db.Write(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.Exec(insertPolicy, "p", 3)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, path + "-wal"} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.Write(t.Context(), func(*sql.Tx) error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
	if n := policies(t, open(t, path)); n != 1 {
		t.Errorf("%d policies after reopening, want 1", n)
	}
}

func TestCommitsAreSynced(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "hub.db"))
	for pragma, want := range map[string]int{"synchronous": 2, "foreign_keys": 1, "auto_vacuum": 2} {
		var got int
		if err := db.Write(t.Context(), func(tx *sql.Tx) error {
			return tx.QueryRow("PRAGMA " + pragma).Scan(&got)
		}); err != nil || got != want {
			t.Errorf("%s is %d, want %d (%v)", pragma, got, want, err)
		}
	}
	var mode string
	if err := db.Read().QueryRow("PRAGMA journal_mode").Scan(&mode); err != nil || mode != "wal" {
		t.Errorf("journal mode %q, %v", mode, err)
	}
}

func TestReadersCannotWrite(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "hub.db"))
	if _, err := db.Read().Exec(insertPolicy, "p", 1); err == nil {
		t.Error("the read pool wrote")
	}
}

// One caller's error, panic or cancellation leaves the others of its batch alone.
func TestCallersAreIsolated(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "hub.db"))
	boom := errors.New("boom")
	var committed atomic.Int32
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			defer func() {
				if p := recover(); (p != nil) != (i%10 == 5) {
					t.Errorf("caller %d: panic %v", i, p)
				}
			}()
			err := db.Write(t.Context(), func(tx *sql.Tx) error {
				if _, err := tx.Exec(insertPolicy, fmt.Sprint("p", i), 1); err != nil {
					return err
				}
				switch i % 10 {
				case 3:
					return boom
				case 5:
					panic("at the disco")
				case 7: // breaks a constraint after a good statement
					_, err := tx.Exec(insertPolicy, fmt.Sprint("p", i), 1)
					return err
				}
				return nil
			})
			switch i % 10 {
			case 3:
				if !errors.Is(err, boom) {
					t.Errorf("caller %d: %v", i, err)
				}
			case 7:
				if err == nil {
					t.Errorf("caller %d: no error", i)
				}
			default:
				if err != nil {
					t.Errorf("caller %d: %v", i, err)
				}
				committed.Add(1)
			}
		})
	}
	all.Wait()
	if n := policies(t, db); n != 140 || committed.Load() != 140 {
		t.Errorf("%d rows, %d acknowledged, want 140", n, committed.Load())
	}
}

func TestCancelledBeforeItsTurn(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "hub.db"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := db.Write(ctx, func(*sql.Tx) error { t.Error("fn ran"); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestCloseFinishesWhatWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	db := open(t, path)
	var all sync.WaitGroup
	var acked atomic.Int32
	for i := range 50 {
		all.Go(func() {
			err := db.Write(t.Context(), func(tx *sql.Tx) error {
				_, err := tx.Exec(insertPolicy, fmt.Sprint("p", i), 1)
				return err
			})
			switch {
			case err == nil:
				acked.Add(1)
			case !errors.Is(err, ErrClosed):
				t.Error(err)
			}
		})
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	all.Wait()
	if n := policies(t, open(t, path)); n != int(acked.Load()) {
		t.Errorf("%d rows, %d acknowledged", n, acked.Load())
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			db := open(b, filepath.Join(b.TempDir(), "hub.db"))
			var n atomic.Int64
			b.SetParallelism(callers / 2)
			if callers == 1 {
				b.SetParallelism(1)
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					name := fmt.Sprint(n.Add(1))
					if err := db.Write(context.Background(), func(tx *sql.Tx) error {
						_, err := tx.Exec(insertPolicy, name, 1)
						return err
					}); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

func TestThenComesInOrderOfTheWrites(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "hub.db"))
	var written, told []int
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			err := db.WriteThen(t.Context(), func(tx *sql.Tx) error {
				if i%7 == 0 {
					return errors.New("no")
				}
				written = append(written, i) // the writer runs one at a time
				_, err := tx.Exec(insertPolicy, fmt.Sprint("p", i), 1)
				return err
			}, func() { told = append(told, i) })
			if (err != nil) != (i%7 == 0) {
				t.Errorf("caller %d: %v", i, err)
			}
		})
	}
	all.Wait()
	if fmt.Sprint(written) != fmt.Sprint(told) {
		t.Errorf("written %v, told %v", written, told)
	}
}

// A statement may undo the whole transaction, as SQLite does by itself when the
// disk is full. Then nobody in the batch may be told that it is durable.
func TestTransactionLostUnderTheWriter(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "hub.db"))
	var all sync.WaitGroup
	acked := make([]bool, 200)
	for i := range acked {
		all.Go(func() {
			err := db.Write(t.Context(), func(tx *sql.Tx) error {
				_, err := tx.Exec(insertPolicy, fmt.Sprint("p", i), 1)
				if i%20 == 10 {
					_, err = tx.Exec("ROLLBACK")
				}
				return err
			})
			acked[i] = err == nil
		})
	}
	all.Wait()
	for i, ok := range acked {
		var n int
		if err := db.Read().QueryRow("SELECT count(*) FROM policies WHERE name = $1", fmt.Sprint("p", i)).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if ok != (n == 1) {
			t.Errorf("caller %d: acknowledged %v, rows %d", i, ok, n)
		}
	}
	if err := db.Write(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.Exec(insertPolicy, "after", 1)
		return err
	}); err != nil {
		t.Errorf("the writer did not recover: %v", err)
	}
}

// Commands read the database of a hub that runs, and of one that does not.
func TestOpenReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	if _, err := OpenReader(t.Context(), path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no database: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the reader made a file: %v", err)
	}
	db := open(t, path)
	if err := db.Write(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.Exec(insertPolicy, "p", 3)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{"running", "stopped"} {
		r, err := OpenReader(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if err := r.QueryRow("SELECT count(*) FROM policies").Scan(&n); err != nil || n != 1 {
			t.Errorf("%s: %d policies, %v", state, n, err)
		}
		if _, err := r.Exec("DELETE FROM policies"); err == nil {
			t.Errorf("%s: the reader could write", state)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
