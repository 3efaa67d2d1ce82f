package keys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
)

// A sealed text is its version (1), a nonce (24), and the ciphertext with its tag
// (16); the version is authenticated with it. The cipher is XAES-256-GCM (C2SP):
// AES-256-GCM under a key that is derived from the first half of the nonce. So nonces
// may be random however much is sealed, while plain AES-GCM allows for no more than
// 2^32 texts, which a busy edge device gets to.
const (
	sealVersion = 1
	nonceSize   = 24
	tagSize     = 16
)

// ErrSeal is why Open fails: the text is damaged, cut off, or sealed with another
// master key.
var ErrSeal = errors.New("sealed text is damaged, or sealed with another master key")

// Seal encrypts plain so that only Open with the same master key reads it and every
// change of it is found.
func (k *Keys) Seal(plain []byte) ([]byte, error) {
	out := make([]byte, 1+nonceSize, 1+nonceSize+len(plain)+tagSize)
	out[0] = sealVersion
	rand.Read(out[1:]) // never fails
	return k.seal.seal(out, out[1:], plain, out[:1])
}

// Open gives what was sealed, or ErrSeal.
func (k *Keys) Open(sealed []byte) ([]byte, error) {
	if len(sealed) < 1+nonceSize+tagSize {
		return nil, ErrSeal
	}
	if sealed[0] != sealVersion {
		return nil, fmt.Errorf("%w: its format %d is not known", ErrSeal, sealed[0])
	}
	return k.seal.open(sealed[1:1+nonceSize], sealed[1+nonceSize:], sealed[:1])
}

// sealer is XAES-256-GCM under one key.
type sealer struct {
	block cipher.Block
	k1    [aes.BlockSize]byte // CMAC's first subkey
}

func newSealer(key []byte) *sealer {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("keys: " + err.Error()) // the key has the wrong length
	}
	s := &sealer{block: block}
	block.Encrypt(s.k1[:], s.k1[:])
	var carry byte
	for i := len(s.k1) - 1; i >= 0; i-- {
		carry, s.k1[i] = s.k1[i]>>7, s.k1[i]<<1|carry
	}
	s.k1[len(s.k1)-1] ^= carry * 0x87
	return s
}

// forNonce is AES-256-GCM under the key for a nonce; its own nonce is the rest.
func (s *sealer) forNonce(nonce []byte) (cipher.AEAD, error) {
	var key [2 * aes.BlockSize]byte
	for half := range 2 {
		b := key[half*aes.BlockSize:][:aes.BlockSize]
		b[1], b[2] = byte(half+1), 'X'
		copy(b[4:], nonce[:12])
		for i := range b {
			b[i] ^= s.k1[i]
		}
		s.block.Encrypt(b, b)
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (s *sealer) seal(dst, nonce, plain, extra []byte) ([]byte, error) {
	gcm, err := s.forNonce(nonce)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return gcm.Seal(dst, nonce[12:nonceSize], plain, extra), nil
}

func (s *sealer) open(nonce, text, extra []byte) ([]byte, error) {
	gcm, err := s.forNonce(nonce)
	if err != nil {
		return nil, fmt.Errorf("unseal: %w", err)
	}
	plain, err := gcm.Open(nil, nonce[12:nonceSize], text, extra)
	if err != nil {
		return nil, ErrSeal
	}
	return plain, nil
}
