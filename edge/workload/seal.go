package workload

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"fmt"
	"net/http"
)

// sealVersion begins every ciphertext. A nonce of 12 bytes, the text and its tag
// follow: AES-256-GCM under a key of the module's own. The caller's initialization
// vector is authenticated and not used as a nonce, which could not bear repetition.
const sealVersion = 1

// aead is the cipher of a module of one generation: another generation cannot read
// what it wrote (edge-runtime 3.2.2).
func (k *socket) aead(generation string) (cipher.AEAD, error) {
	block, err := aes.NewCipher(k.server.cfg.Derive(fmt.Sprintf("workload encryption %q %q", k.module, generation), 32))
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (k *socket) encrypt(_ context.Context, path []string, body []byte) (int, any, error) {
	var in struct {
		Plaintext *string `json:"plaintext"`
		Vector    *string `json:"initializationVector"`
	}
	if err := decode(body, &in); err != nil {
		return 0, nil, err
	}
	plain, err := unbase64("plaintext", in.Plaintext)
	if err != nil {
		return 0, nil, err
	}
	vector, err := unbase64("initializationVector", in.Vector)
	if err != nil {
		return 0, nil, err
	}
	a, err := k.aead(path[3])
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, struct {
		Ciphertext []byte `json:"ciphertext"`
	}{a.Seal([]byte{sealVersion}, nil, plain, vector)}, nil
}

func (k *socket) decrypt(_ context.Context, path []string, body []byte) (int, any, error) {
	var in struct {
		Ciphertext *string `json:"ciphertext"`
		Vector     *string `json:"initializationVector"`
	}
	if err := decode(body, &in); err != nil {
		return 0, nil, err
	}
	sealed, err := unbase64("ciphertext", in.Ciphertext)
	if err != nil {
		return 0, nil, err
	}
	vector, err := unbase64("initializationVector", in.Vector)
	if err != nil {
		return 0, nil, err
	}
	a, err := k.aead(path[3])
	if err != nil {
		return 0, nil, err
	}
	if len(sealed) == 0 || sealed[0] != sealVersion {
		return 0, nil, failure{http.StatusBadRequest, "ciphertext was not made here"}
	}
	plain, err := a.Open([]byte{}, nil, sealed[1:], vector)
	if err != nil {
		return 0, nil, failure{http.StatusBadRequest, "ciphertext was not made here for this module, generation and initializationVector"}
	}
	return http.StatusOK, struct {
		Plaintext []byte `json:"plaintext"`
	}{plain}, nil
}

// unbase64 reads a member of a body that must be there.
func unbase64(name string, text *string) ([]byte, error) {
	if text == nil {
		return nil, failure{http.StatusUnprocessableEntity, name + " is missing"}
	}
	raw, err := base64.StdEncoding.DecodeString(*text)
	if err != nil {
		return nil, failure{http.StatusBadRequest, name + " is not base64"}
	}
	return raw, nil
}
