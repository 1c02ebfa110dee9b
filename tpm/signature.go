package tpm

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
)

var errBadSignature = errors.New("signature does not verify")

// signature is a TPMT_SIGNATURE.
type signature struct {
	scheme algorithm
	hash   Hash
	rsa    []byte // RSASSA, RSAPSS
	r, s   []byte // ECDSA; big-endian, at most as wide as the field
}

func parseSignature(b []byte) (signature, error) {
	rd := &reader{rest: b}
	s := signature{scheme: algorithm(rd.u16("signature scheme"))}
	switch s.scheme {
	case algRSASSA, algRSAPSS:
		s.hash = readHash(rd, "signature hash")
		s.rsa = rd.sized(maxRSA, "signature")
	case algECDSA:
		s.hash = readHash(rd, "signature hash")
		s.r = rd.sized(maxField, "signature r")
		s.s = rd.sized(maxField, "signature s")
	default:
		rd.fail("signature scheme %v, want rsassa, rsapss or ecdsa", s.scheme)
	}
	if err := rd.close(); err != nil {
		return signature{}, fmt.Errorf("parse TPMT_SIGNATURE: %w", err)
	}
	return s, nil
}

// verify checks the signature over message. The scheme and its hash must be the key's own: a restricted key
// signs with no other.
func (s signature) verify(key *Public, message []byte) error {
	if s.scheme != key.scheme || s.hash != key.schemeHash {
		return fmt.Errorf("signature is %v with %v, the key signs %v with %v", s.scheme, s.hash, key.scheme, key.schemeHash)
	}
	h := s.hash.Crypto().New()
	h.Write(message)
	digest := h.Sum(make([]byte, 0, maxDigest))
	switch k := key.key.(type) {
	case *rsa.PublicKey:
		return s.verifyRSA(k, digest)
	case *ecdsa.PublicKey:
		return s.verifyECDSA(k, digest)
	}
	panic("tpm: Public without a key")
}

func (s signature) verifyRSA(key *rsa.PublicKey, digest []byte) error {
	var err error
	switch s.scheme {
	case algRSASSA:
		err = rsa.VerifyPKCS1v15(key, s.hash.Crypto(), digest, s.rsa)
	case algRSAPSS:
		// Part 1, annex B.7: the salt is as long as the digest or as the key allows, by the TPM's
		// version. Its length is read from the encoded message; any is as good as another.
		err = rsa.VerifyPSS(key, s.hash.Crypto(), digest, s.rsa, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto})
	default:
		err = errBadSignature
	}
	if err != nil {
		return errBadSignature
	}
	return nil
}

func (s signature) verifyECDSA(key *ecdsa.PublicKey, digest []byte) error {
	width := (key.Curve.Params().BitSize + 7) / 8
	if s.scheme != algECDSA || len(s.r) > width || len(s.s) > width {
		return errBadSignature
	}
	// Verify refuses r and s outside 1..n-1.
	if !ecdsa.Verify(key, digest, new(big.Int).SetBytes(s.r), new(big.Int).SetBytes(s.s)) {
		return errBadSignature
	}
	return nil
}
