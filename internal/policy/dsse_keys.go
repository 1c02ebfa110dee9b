package policy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"time"
)

// PublicKey verifies signatures of policies. The zero value verifies none.
type PublicKey struct {
	key *ecdsa.PublicKey
	pem string
	id  string
}

// ParsePublicKey reads one PEM block "PUBLIC KEY" with an EC key; RSA keys, certificates and private keys are refused.
// The error never repeats the text.
func ParsePublicKey(text []byte) (PublicKey, error) {
	block, rest := pem.Decode(text)
	switch {
	case block == nil:
		return PublicKey{}, errors.New("not PEM; want a public key that begins with -----BEGIN PUBLIC KEY-----")
	case block.Type == "CERTIFICATE":
		return PublicKey{}, errors.New("a certificate; take the key out of it with `openssl x509 -pubkey -noout`")
	case block.Type != "PUBLIC KEY":
		return PublicKey{}, fmt.Errorf("a PEM block of type %q; want PUBLIC KEY", clipText(block.Type))
	case strings.TrimSpace(string(rest)) != "":
		return PublicKey{}, errors.New("more than one PEM block; want one public key")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key: %w", err)
	}
	return NewPublicKey(parsed)
}

// ParseUploadedKey reads a key as requests carry it: base64 of its PEM.
func ParseUploadedKey(encoded string) (PublicKey, error) {
	text, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return PublicKey{}, err
	}
	return ParsePublicKey(text)
}

// NewPublicKey wraps an EC key of one of the NIST curves.
func NewPublicKey(key crypto.PublicKey) (PublicKey, error) {
	ec, ok := key.(*ecdsa.PublicKey)
	if !ok {
		return PublicKey{}, fmt.Errorf("a key of type %T; policies are signed with EC keys", key)
	}
	der, err := x509.MarshalPKIXPublicKey(ec)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	sum := sha256.Sum256(text)
	return PublicKey{ec, string(text), hex.EncodeToString(sum[:])}, nil
}

// ID names the key as signatures do: the hex SHA-256 of PEM's result.
func (k PublicKey) ID() string { return k.id }

// PEM is the key in the one form that ID is made from, with a line feed at the end.
func (k PublicKey) PEM() string { return k.pem }

func (k PublicKey) verifies(digest, sig []byte) bool {
	return k.key != nil && ecdsa.VerifyASN1(k.key, digest, sig)
}

// signedBy reports whether the key made one of the signatures.
func (e *Envelope) signedBy(k PublicKey, digest []byte) bool {
	for _, s := range e.Signatures {
		if k.verifies(digest, s.Sig) {
			return true
		}
	}
	return false
}

// Verify holds the envelope to being signed: it carries a policy, and each of its signatures was made by one of the
// keys. A signature that none of them made is refused even beside a good one: nobody here can vouch for it. It returns
// the keys that signed.
func (e *Envelope) Verify(keys ...PublicKey) ([]PublicKey, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	digest := sha256.Sum256(e.signedBytes())
	for i, s := range e.Signatures {
		if !anyVerifies(keys, digest[:], s.Sig) {
			return nil, fmt.Errorf("DSSE envelope: signature %d, of key %q, is not by any of the %d keys known here", i+1, clipText(s.KeyID), len(keys))
		}
	}
	var signers []PublicKey
	for _, k := range keys {
		if e.signedBy(k, digest[:]) {
			signers = append(signers, k)
		}
	}
	return signers, nil
}

// VerifyNamed is for envelopes that need not be signed: each signature that says it is by one of the keys must be by that
// key; others are left out of account. It returns the keys that signed.
func (e *Envelope) VerifyNamed(keys ...PublicKey) ([]PublicKey, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	digest := sha256.Sum256(e.signedBytes())
	var signers []PublicKey
	for i, s := range e.Signatures {
		id := s.signer()
		for _, k := range keys {
			if k.id != id {
				continue
			}
			if !k.verifies(digest[:], s.Sig) {
				return nil, fmt.Errorf("DSSE envelope: signature %d is not by the key that it names, %s", i+1, id)
			}
			signers = append(signers, k)
		}
	}
	return signers, nil
}

func anyVerifies(keys []PublicKey, digest, sig []byte) bool {
	for _, k := range keys {
		if k.verifies(digest, sig) {
			return true
		}
	}
	return false
}

// Named returns those of the keys that the envelope's signatures say they are by.
func (e *Envelope) Named(keys ...PublicKey) []PublicKey {
	named := map[string]bool{}
	for _, s := range e.Signatures {
		named[s.signer()] = true
	}
	var list []PublicKey
	for _, k := range keys {
		if named[k.id] {
			list = append(list, k)
		}
	}
	return list
}

// signer is the ID of the key that the signature says it is by, also when it names a certificate.
func (s Signature) signer() string {
	text, err := base64.StdEncoding.DecodeString(s.KeyID)
	if err != nil {
		return s.KeyID
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return s.KeyID
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return s.KeyID
	}
	k, err := NewPublicKey(cert.PublicKey)
	if err != nil {
		return s.KeyID
	}
	return k.id
}

// Sign makes the envelope of a policy, signed with an EC key. The signature names the key with its ID; use
// SignWithCertificate for one that carries a certificate.
func Sign(policy []byte, key crypto.Signer, rand io.Reader) (*Envelope, error) {
	public, err := NewPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("sign policy: %w", err)
	}
	return sign(policy, key, public.ID(), rand)
}

// SignWithCertificate makes the envelope of a policy, signed with an EC key, whose signature names the key by a new
// self-signed certificate; the certificate is returned as PEM. It is valid from a day before now for 31 days and, as
// all certificates in envelopes, trusted by nobody: verifiers have the key.
func SignWithCertificate(policy []byte, key crypto.Signer, rand io.Reader, now time.Time) (*Envelope, []byte, error) {
	if _, err := NewPublicKey(key.Public()); err != nil {
		return nil, nil, fmt.Errorf("sign policy: %w", err)
	}
	serial := make([]byte, 16)
	if _, err := io.ReadFull(rand, serial); err != nil {
		return nil, nil, fmt.Errorf("sign policy: serial number: %w", err)
	}
	serial[0] = serial[0]&0x7f | 0x40 // positive, and of full length
	name := pkix.Name{CommonName: certificateName}
	cert := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: name, Issuer: name, DNSNames: []string{certificateName},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(30 * 24 * time.Hour),
		BasicConstraintsValid: true, SignatureAlgorithm: x509.ECDSAWithSHA256,
	}
	der, err := x509.CreateCertificate(rand, cert, cert, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign policy: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	e, err := sign(policy, key, base64.StdEncoding.EncodeToString(text), rand)
	return e, text, err
}

// certificateName is what Keylime's tools call the holder of such a certificate.
const certificateName = "dsse_lib"

func sign(policy []byte, key crypto.Signer, keyID string, rand io.Reader) (*Envelope, error) {
	e := &Envelope{PayloadType: PayloadType, Payload: policy}
	digest := sha256.Sum256(e.signedBytes())
	sig, err := key.Sign(rand, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign policy: %w", err)
	}
	e.Signatures = []Signature{{keyID, sig}}
	return e, nil
}

// ParseSigningKey reads an EC private key, PEM of SEC 1 or PKCS #8, without a password. The error never repeats the
// text.
func ParseSigningKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, rest := pem.Decode(text)
	if block != nil && block.Type == "EC PARAMETERS" { // as `openssl ecparam -genkey` puts them first
		block, _ = pem.Decode(rest)
	}
	if block == nil {
		return nil, errors.New("signing key: not PEM")
	}
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err := x509.ParseECPrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("signing key: %w", err)
		}
		return key, nil
	case "PRIVATE KEY":
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("signing key: %w", err)
		}
		if ec, ok := key.(*ecdsa.PrivateKey); ok {
			return ec, nil
		}
	}
	return nil, fmt.Errorf("signing key: a PEM block of type %q; policies are signed with unencrypted EC private keys", clipText(block.Type))
}
