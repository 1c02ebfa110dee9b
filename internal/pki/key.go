package pki

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/youmark/pkcs8"
)

// ReadPrivateKey reads the first private key of a PEM text: PKCS#8 plain or encrypted (PBES2), PKCS#1 and SEC1,
// also with the older encryption of RFC 1421. password is used only by an encrypted key.
func ReadPrivateKey(text []byte, password string) (crypto.Signer, error) {
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, errors.New("no private key in PEM form found")
		}
		if block.Type == "PRIVATE KEY" || block.Type == "ENCRYPTED PRIVATE KEY" ||
			block.Type == "RSA PRIVATE KEY" || block.Type == "EC PRIVATE KEY" {
			return parsePrivateKey(block, password)
		}
		text = rest
	}
}

func parsePrivateKey(block *pem.Block, password string) (crypto.Signer, error) {
	der := block.Bytes
	encrypted := block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != ""
	if encrypted && password == "" {
		return nil, errors.New("the private key is encrypted and no password is configured")
	}
	if block.Headers["DEK-Info"] != "" {
		var err error
		//lint:ignore SA1019 administrators still own keys in this form; it is only ever read
		if der, err = x509.DecryptPEMBlock(block, []byte(password)); err != nil {
			return nil, fmt.Errorf("decrypt private key: %w", err)
		}
	}
	var key any
	var err error
	switch block.Type {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(der)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(der)
	case "ENCRYPTED PRIVATE KEY":
		if key, err = pkcs8.ParsePKCS8PrivateKey(der, []byte(password)); err != nil {
			return nil, fmt.Errorf("decrypt private key (wrong password?): %w", err)
		}
	default:
		key, err = x509.ParsePKCS8PrivateKey(der)
	}
	if err != nil {
		return nil, fmt.Errorf("parse private key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", key)
	}
	return signer, nil
}

// keyRounds makes guessing a password slow, yet starting a role, or a command of the tenant's, not noticeably slower.
const keyRounds = 100_000

// EncodePrivateKey writes a key as PKCS#8 PEM, encrypted (PBES2, AES-256-CBC) when password is not empty.
func EncodePrivateKey(key crypto.Signer, password string) ([]byte, error) {
	if password == "" {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, fmt.Errorf("encode private key: %w", err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
	}
	der, err := pkcs8.MarshalPrivateKey(key, []byte(password), &pkcs8.Opts{
		Cipher:  pkcs8.AES256CBC,
		KDFOpts: pkcs8.PBKDF2Opts{SaltSize: 16, IterationCount: keyRounds, HMACHash: crypto.SHA256},
	})
	if err != nil {
		return nil, fmt.Errorf("encrypt private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der}), nil
}

// encodePublicKey writes a key as SubjectPublicKeyInfo PEM.
func encodePublicKey(pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// samePublicKey reports whether two keys are equal; keys of unknown kinds never are.
func samePublicKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
