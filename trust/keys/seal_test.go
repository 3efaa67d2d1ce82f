package keys

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
)

// The vectors are those of C2SP's XAES-256-GCM specification.
func TestCipherFollowsItsSpecification(t *testing.T) {
	const nonce, plain = "ABCDEFGHIJKLMNOPQRSTUVWX", "XAES-256-GCM"
	for _, c := range []struct {
		key   byte
		extra string
		want  string
	}{
		{1, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
		{3, "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"},
	} {
		s := newSealer(bytes.Repeat([]byte{c.key}, 32))
		got, err := s.seal(nil, []byte(nonce), []byte(plain), []byte(c.extra))
		if err != nil || hex.EncodeToString(got) != c.want {
			t.Errorf("key %d: %x %v, want %s", c.key, got, err, c.want)
		}
		back, err := s.open([]byte(nonce), got, []byte(c.extra))
		if err != nil || string(back) != plain {
			t.Errorf("key %d: opened as %q, %v", c.key, back, err)
		}
	}
}

func TestSealedTextIsReadBackAndHidden(t *testing.T) {
	k := open(t, t.TempDir())
	for _, plain := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("twin"), 10_000)} {
		a, err := k.Seal(plain)
		if err != nil {
			t.Fatal(err)
		}
		b, err := k.Seal(plain)
		if err != nil || bytes.Equal(a, b) {
			t.Errorf("sealing twice gives the same text (%v)", err)
		}
		if len(plain) > 8 && bytes.Contains(a, plain[:8]) {
			t.Error("the text can be read")
		}
		back, err := k.Open(a)
		if err != nil || !bytes.Equal(back, plain) {
			t.Errorf("opened %d bytes as %d, %v", len(plain), len(back), err)
		}
	}
}

func TestChangedTextIsNotOpened(t *testing.T) {
	k := open(t, t.TempDir())
	sealed, err := k.Seal([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := k.Open(bad); !errors.Is(err, ErrSeal) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if _, err := k.Open(sealed[:i]); !errors.Is(err, ErrSeal) {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
	}
	if _, err := open(t, t.TempDir()).Open(sealed); !errors.Is(err, ErrSeal) {
		t.Errorf("with another key: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	k := open(f, f.TempDir())
	sealed, err := k.Seal([]byte("secret"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add([]byte{sealVersion})
	f.Fuzz(func(t *testing.T, text []byte) {
		if plain, err := k.Open(text); err == nil && !bytes.Equal(text, sealed) {
			t.Errorf("forged text opened as %q", plain)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	k := open(b, b.TempDir())
	plain := make([]byte, 64)
	for b.Loop() {
		k.Seal(plain)
	}
}
