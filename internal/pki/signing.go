package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// EnsureSigningKey is ReadSigningKey. When the file is not there it makes a key of P-256 and keeps it there, for its owner
// only.
func EnsureSigningKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ReadSigningKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeSigningKey(path)
	}
	return key, err
}

// ReadSigningKey reads an EC private key from a file, PEM without a password.
func ReadSigningKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := ReadPrivateKey(text, "")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: a key of type %T; want an EC key", path, key)
	}
	return ec, nil
}

func makeSigningKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a signing key: %w", err)
	}
	text, err := EncodePrivateKey(key, "")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return key, WriteFile(path, text, secretMode)
}
