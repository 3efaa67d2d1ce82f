package kv

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/selvedge-io/selvedge/storage/faultfs"
)

// Each operation fails once, at its nth time: the change of that moment fails and
// is not seen, now or later; the next ones work.
func TestOneFault(t *testing.T) {
	for _, op := range []faultfs.Op{faultfs.Write, faultfs.Sync, faultfs.Create, faultfs.Rename, faultfs.SyncDir} {
		for nth := 1; nth <= 10; nth++ {
			t.Run(fmt.Sprint(op, nth), func(t *testing.T) {
				dir := t.TempDir()
				openStore(t, dir, Options{}).Close()
				n := 0
				fs := &faultfs.FS{Fail: func(o faultfs.Op, name string) error {
					if o == op {
						if n++; n == nth {
							return faultfs.ErrTorn
						}
					}
					return nil
				}}
				s := openStore(t, dir, Options{FS: fs, Compact: 100})
				held := map[string]string{}
				failed := 0
				for i := range 30 {
					key, value := fmt.Sprint("key", i%4), fmt.Sprint("value", i)
					err := s.Put(t.Context(), key, []byte(value))
					if err == nil {
						held[key] = value
					} else if failed++; !errors.Is(err, faultfs.ErrTorn) {
						t.Error(err)
					}
					want(t, s, held)
				}
				if failed > 1 {
					t.Errorf("%d puts failed", failed)
				}
				s.Close()
				want(t, openStore(t, dir, Options{}), held)
			})
		}
	}
}

func TestFullDisk(t *testing.T) {
	var full atomic.Bool
	fs := &faultfs.FS{Fail: func(op faultfs.Op, _ string) error {
		if full.Load() && (op == faultfs.Write || op == faultfs.Create) {
			return faultfs.ErrFull
		}
		return nil
	}}
	dir := t.TempDir()
	s := openStore(t, dir, Options{FS: fs})
	held := map[string]string{}
	for i := range 40 {
		full.Store(i/10%2 == 1)
		key := fmt.Sprint("key", i)
		err := s.Put(t.Context(), key, []byte("v"))
		if (err != nil) != full.Load() {
			t.Errorf("put %d: %v", i, err)
		}
		if err == nil {
			held[key] = "v"
		}
	}
	want(t, s, held)
	s.Close()
	want(t, openStore(t, dir, Options{}), held)
}

func TestPowerCuts(t *testing.T) {
	chance := rand.New(rand.NewPCG(3, 4))
	dir := t.TempDir()
	held := map[string]string{}
	for round := range 80 {
		fs := &faultfs.FS{}
		s := openStore(t, dir, Options{FS: fs, Compact: 300})
		for i := range chance.IntN(30) {
			key, value := fmt.Sprint("key", chance.IntN(5)), fmt.Sprint(round, "/", i)
			put(t, s, key, value)
			held[key] = value
		}
		last := make(chan error, 1)
		go func() { last <- s.Put(t.Context(), "last", []byte(fmt.Sprint(round))) }()
		if err := fs.CutPower(chance); err != nil {
			t.Fatal(err)
		}
		if <-last == nil {
			held["last"] = fmt.Sprint(round)
		}
		s.Close()
		s = openStore(t, dir, Options{})
		got := content(s)
		if got["last"] == fmt.Sprint(round) { // on disk, though nobody was told
			held["last"] = got["last"]
		}
		if !maps.Equal(got, held) {
			t.Fatalf("round %d: store holds %q, want %q", round, got, held)
		}
		s.Close()
	}
}
