package keys

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func open(t testing.TB, dir string) *Keys {
	t.Helper()
	k, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeyOutlivesRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "on the way")
	a, b := open(t, dir), open(t, dir)
	sealed, err := a.Seal([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := b.Open(sealed); err != nil || string(plain) != "secret" {
		t.Errorf("opened as %q, %v", plain, err)
	}
	if !bytes.Equal(a.Derive("x", 32), b.Derive("x", 32)) {
		t.Error("derived keys differ after a restart")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory holds %v, %v; want the key alone", entries, err)
	}
}

func TestDerivedKeysAreApart(t *testing.T) {
	k := open(t, t.TempDir())
	a, b := k.Derive("a", 64), k.Derive("b", 64)
	if bytes.Equal(a, b) || bytes.Contains(a, k.master) || bytes.Equal(a[:32], a[32:]) {
		t.Error("derived keys are not independent")
	}
	if len(k.Derive("a", 7)) != 7 {
		t.Error("wrong length")
	}
}

func TestFileIsForItsOwnerOnly(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	name := filepath.Join(dir, fileName)
	for _, mode := range []fs.FileMode{0o600, 0o644, 0o660} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
		open(t, dir)
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("with mode %o before: %v, %v", mode, info.Mode(), err)
		}
	}
}

func TestDamagedFileIsKept(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	name := filepath.Join(dir, fileName)
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	if flipped[len(flipped)/2] = 'A'; whole[len(whole)/2] == 'A' {
		flipped[len(flipped)/2] = 'B'
	}
	for what, text := range map[string][]byte{"empty": nil, "half": whole[:len(whole)/2], "changed": flipped,
		"huge": make([]byte, maxFile+1), "other": []byte("-----BEGIN X-----\nAAAA\n-----END X-----\n")} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(dir)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", what, err)
		}
		if after, err := os.ReadFile(name); err != nil || !bytes.Equal(after, text) {
			t.Errorf("%s: the file was changed (%v)", what, err)
		}
	}
}

func TestOpenBeside(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	first, err := OpenBeside(filepath.Join(dir, "keys"), data)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(data, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := OpenBeside(filepath.Join(dir, "keys"), data); err != nil || !bytes.Equal(again.master, first.master) {
		t.Errorf("second start: %v", err)
	}
	if _, err := OpenBeside(filepath.Join(dir, "lost"), data); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "backup") {
		t.Errorf("with its data but without the key: %v", err)
	}
}

func TestOpenExistingMakesNothing(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenExisting(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a key: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("made %v, %v", entries, err)
	}
	made := open(t, dir)
	if k, err := OpenExisting(dir); err != nil || !bytes.Equal(k.master, made.master) {
		t.Error(err)
	}
}

func TestManyStartsAgreeOnOneKey(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	keys := make([]*Keys, 16)
	for i := range keys {
		wg.Go(func() {
			var err error
			if keys[i], err = Open(dir); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, k := range keys {
		if k == nil || !bytes.Equal(k.master, keys[0].master) {
			t.Fatal("two starts have different keys")
		}
	}
}

func TestSaveNew(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := SaveNew(name, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := SaveNew(name, []byte("two"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over an old file: %v", err)
	}
	if text, err := Load(name); err != nil || string(text) != "one" {
		t.Errorf("%q, %v", text, err)
	}
	if err := SaveNew(filepath.Join(name, "below a file"), nil, 0o600); err == nil {
		t.Error("no error for a place that cannot be")
	}
	if entries, err := os.ReadDir(filepath.Dir(name)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
