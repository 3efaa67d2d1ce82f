package kv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/selvedge-io/selvedge/storage/faultfs"
)

func openStore(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := OpenWith(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(t testing.TB, s *Store, key, value string) {
	t.Helper()
	if err := s.Put(t.Context(), key, []byte(value)); err != nil {
		t.Fatal(err)
	}
}

func content(s *Store) map[string]string {
	m := map[string]string{}
	for _, k := range s.Keys("") {
		v, _ := s.Get(k)
		m[k] = string(v)
	}
	return m
}

func want(t testing.TB, s *Store, want map[string]string) {
	t.Helper()
	if got := content(s); !maps.Equal(got, want) {
		t.Fatalf("store holds %q, want %q", got, want)
	}
}

func TestRemembers(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	put(t, s, "twin/a", "1")
	put(t, s, "twin/b", "2")
	put(t, s, "session/a", "")
	put(t, s, "twin/a", "3")
	put(t, s, "", "empty key")
	if err := s.Delete(t.Context(), "twin/b"); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "unknown"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		want(t, s, map[string]string{"twin/a": "3", "session/a": "", "": "empty key"})
		if keys := s.Keys("twin/"); !slices.Equal(keys, []string{"twin/a"}) {
			t.Errorf("keys %q", keys)
		}
		if v, ok := s.Get("session/a"); !ok || len(v) != 0 {
			t.Errorf("empty value reads as %q, %v", v, ok)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openStore(t, dir, Options{})
	}
	info, err := os.Stat(filepath.Join(dir, fileName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file is %v, %v", info.Mode(), err)
	}
}

func TestValuesAreCopied(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	b := []byte("mine")
	if err := s.Put(t.Context(), "k", b); err != nil {
		t.Fatal(err)
	}
	clear(b)
	want(t, s, map[string]string{"k": "mine"})
}

func TestCompacts(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{Compact: 1000})
	for i := range 500 {
		put(t, s, fmt.Sprint("key", i%3), fmt.Sprintf("%0100d", i))
	}
	held := content(s)
	s.Close()
	if info, err := os.Stat(filepath.Join(dir, fileName)); err != nil || info.Size() > 3000 {
		t.Errorf("file holds %d bytes, %v", info.Size(), err)
	}
	want(t, openStore(t, dir, Options{}), held)
}

func TestManyWriters(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{Compact: 1000})
	var writing sync.WaitGroup
	for w := range 8 {
		writing.Go(func() {
			key := fmt.Sprint("key", w)
			for i := range 50 {
				put(t, s, key, fmt.Sprint(i))
				if v, _ := s.Get(key); string(v) != fmt.Sprint(i) {
					t.Errorf("%s is %q after put %d", key, v, i)
				}
			}
		})
	}
	writing.Wait()
	if n := len(s.Keys("")); n != 8 {
		t.Errorf("%d keys", n)
	}
}

func TestRefuses(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	if err := s.Put(t.Context(), string(make([]byte, MaxKey+1)), nil); err == nil {
		t.Error("a key over the limit was taken")
	}
	if err := s.Put(t.Context(), "k", make([]byte, MaxValue+1)); err == nil {
		t.Error("a value over the limit was taken")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Put(ctx, "k", nil); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	s.Close()
	if err := s.Put(t.Context(), "k", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// sample is a file with some history, and what the store held after each record.
func sample(t testing.TB) (file []byte, ends []int, states []map[string]string) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	name := filepath.Join(dir, fileName)
	note := func() {
		file, _ = os.ReadFile(name)
		ends, states = append(ends, len(file)), append(states, content(s))
	}
	note()
	for i := range 8 {
		put(t, s, fmt.Sprint("key", i%3), fmt.Sprint("value", i))
		note()
	}
	if err := s.Delete(context.Background(), "key1"); err != nil {
		t.Fatal(err)
	}
	note()
	s.Close()
	return file, ends, states
}

func TestCutAtEveryByte(t *testing.T) {
	file, ends, states := sample(t)
	for n := ends[0]; n <= len(file); n++ {
		at := 0
		for at+1 < len(ends) && ends[at+1] <= n {
			at++
		}
		for _, tail := range []string{"", "\x00\x00\x00", "rubbish that is longer than a record header"} {
			dir := t.TempDir()
			os.WriteFile(filepath.Join(dir, fileName), append(bytes.Clone(file[:n]), tail...), 0o600)
			s := openStore(t, dir, Options{FS: &faultfs.FS{}})
			want(t, s, states[at])
			put(t, s, "after", "it")
			s.Close()
			s = openStore(t, dir, Options{FS: &faultfs.FS{}})
			if v, _ := s.Get("after"); string(v) != "it" || len(s.Keys("")) != len(states[at])+1 {
				t.Fatalf("cut at %d: store holds %q later", n, content(s))
			}
			s.Close()
		}
	}
}

func TestFlippedAtEveryByte(t *testing.T) {
	file, ends, states := sample(t)
	for n := ends[0]; n < len(file); n++ {
		at := 0
		for at+1 < len(ends) && ends[at+1] <= n {
			at++
		}
		dir := t.TempDir()
		bad := bytes.Clone(file)
		bad[n] ^= 0x10
		os.WriteFile(filepath.Join(dir, fileName), bad, 0o600)
		s := openStore(t, dir, Options{FS: &faultfs.FS{}})
		want(t, s, states[at])
		s.Close()
	}
}

func TestForeignFile(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, fileName), []byte("something else entirely"), 0o600)
	if s, err := Open(dir); err == nil {
		s.Close()
		t.Error("a foreign file was taken for a store")
	}
}

func FuzzOpen(f *testing.F) {
	file, _, _ := sample(f)
	f.Add(file[headerSize:])
	f.Add([]byte{})
	f.Add([]byte("\x02\x00\x00\x00\x00\x00\x00\x00\x01\x05"))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, fileName), append([]byte(magic), b...), 0o600)
		s := openStore(t, dir, Options{FS: &faultfs.FS{}})
		held := content(s)
		s.Close()
		s = openStore(t, dir, Options{FS: &faultfs.FS{}})
		want(t, s, held)
		s.Close()
	})
}

func BenchmarkPut(b *testing.B) {
	for _, writers := range []int{1, 32} {
		b.Run(fmt.Sprint("p=", writers), func(b *testing.B) {
			s := openStore(b, b.TempDir(), Options{})
			value := make([]byte, 1000)
			var all sync.WaitGroup
			for w := range writers {
				all.Go(func() {
					for i := w; i < b.N; i += writers {
						if err := s.Put(b.Context(), fmt.Sprint("key", i%100), value); err != nil {
							b.Error(err)
						}
					}
				})
			}
			all.Wait()
		})
	}
}
