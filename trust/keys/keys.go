// Package keys keeps the secret of one installation: a random master key in a file
// that only its owner may read. It seals what else is stored and yields keys for
// further purposes.
package keys

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

const (
	fileName  = "master.key"
	blockType = "SELVEDGE MASTER KEY"
	keySize   = 32
	checkSize = 4 // of the SHA-256 of the key, after it
	maxFile   = 4 << 10
)

// Keys is the master key and what comes of it. Its methods may be called from many
// goroutines.
type Keys struct {
	master []byte
	seal   *sealer
}

// Open reads the master key from dir, or makes one when there is none. A file that
// is not whole is an error, never a reason for a new key, since what was sealed with
// the old one would be lost.
func Open(dir string) (*Keys, error) {
	name := filepath.Join(dir, fileName)
	master, err := load(name)
	if errors.Is(err, fs.ErrNotExist) {
		master, err = create(name)
	}
	if err != nil {
		return nil, fmt.Errorf("open master key: %w", err)
	}
	return from(master), nil
}

// OpenExisting is Open that makes nothing: without a key, the error is
// fs.ErrNotExist. It is for data that was sealed before, where a new key would only
// hide that the old one is lost.
func OpenExisting(dir string) (*Keys, error) {
	master, err := load(filepath.Join(dir, fileName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the master key is gone and what it sealed cannot be read: bring it back from a backup: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open master key: %w", err)
	}
	return from(master), nil
}

// OpenBeside is OpenExisting when data, a file or folder of what is sealed, is there
// already, and Open at the first start.
func OpenBeside(dir, data string) (*Keys, error) {
	if _, err := os.Lstat(data); errors.Is(err, fs.ErrNotExist) {
		return Open(dir)
	}
	return OpenExisting(dir)
}

func from(master []byte) *Keys {
	k := &Keys{master: master}
	k.seal = newSealer(k.Derive("seal", keySize))
	return k
}

// create makes the key. Whoever loses a race for the name takes the winner's.
func create(name string) ([]byte, error) {
	master := make([]byte, keySize)
	rand.Read(master) // never fails
	sum := sha256.Sum256(master)
	block := &pem.Block{Type: blockType, Bytes: append(append([]byte{}, master...), sum[:checkSize]...)}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return nil, err
	}
	err := SaveNew(name, pem.EncodeToMemory(block), 0o600)
	if errors.Is(err, fs.ErrExist) {
		return load(name)
	}
	return master, err
}

func load(name string) ([]byte, error) {
	text, err := Load(name)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != blockType || len(block.Bytes) != keySize+checkSize {
		return nil, fmt.Errorf("%s is damaged or no master key: bring it back from a backup; "+
			"without it, the stored device keys cannot be read", name)
	}
	master, check := block.Bytes[:keySize], block.Bytes[keySize:]
	if sum := sha256.Sum256(master); subtle.ConstantTimeCompare(sum[:checkSize], check) == 0 {
		return nil, fmt.Errorf("%s is damaged: its checksum is wrong; bring it back from a backup", name)
	}
	return master, nil
}

// Derive gives n bytes for a purpose, at most 8,160: always the same for the same
// purpose, and telling nothing of the master key or of other purposes (HKDF-SHA256).
func (k *Keys) Derive(purpose string, n int) []byte {
	key, err := hkdf.Key(sha256.New, k.master, nil, "selvedge "+purpose, n)
	if err != nil {
		panic("keys: " + err.Error()) // n is out of range
	}
	return key
}

// Load reads a file of a secret. One that others than its owner may read is closed
// to them first.
func Load(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s is not a file of a key", name)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		if err := f.Chmod(0o600); err != nil {
			return nil, fmt.Errorf("close %s to others than its owner: %w", name, err)
		}
	}
	text := make([]byte, info.Size())
	_, err = f.ReadAt(text, 0)
	return text, err
}
