package agent

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // #nosec: the wire's OAEP hash, where collisions do not matter
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"

	"keylime/internal/pki"
)

// transportKey (NK on the wire) is the RSA-2048 key that the shares of the bootstrap key are encrypted to. Each quote
// binds it: PCR 16 holds the digest of its PEM text. It is kept, so that a restart does not make the verifier start
// over.
type transportKey struct {
	private *rsa.PrivateKey
	public  string // SubjectPublicKeyInfo as PEM text, exactly as sent and quoted
}

const transportKeyBits = 2048

// openTransportKey reads the key, or makes it when the file is absent.
func openTransportKey(file, password string) (*transportKey, error) {
	signer, err := openPrivateKey(file, password, func() (crypto.Signer, error) {
		return rsa.GenerateKey(rand.Reader, transportKeyBits)
	})
	if err != nil {
		return nil, fmt.Errorf("payload key: %w", err)
	}
	private, ok := signer.(*rsa.PrivateKey)
	if !ok || private.N.BitLen() != transportKeyBits {
		return nil, fmt.Errorf("payload key %s: want RSA with %d bits", file, transportKeyBits)
	}
	der, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("payload key: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	return &transportKey{private: private, public: string(text)}, nil
}

// open decrypts a share: RSAES-OAEP with SHA-1 for both hashes and no label (wire).
func (k *transportKey) open(sealed []byte) ([]byte, error) {
	return rsa.DecryptOAEP(sha1.New(), nil, k.private, sealed, nil)
}

// openPrivateKey reads a private key, or makes one and keeps it when the file is absent.
func openPrivateKey(file, password string, generate func() (crypto.Signer, error)) (crypto.Signer, error) {
	text, err := readBounded(file, maxKeyFile)
	if err == nil {
		key, err := pki.ReadPrivateKey(text, password)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := generate()
	if err != nil {
		return nil, fmt.Errorf("generate: %w", err)
	}
	if text, err = pki.EncodePrivateKey(key, password); err != nil {
		return nil, err
	}
	return key, writePrivate(file, text)
}
