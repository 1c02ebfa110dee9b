package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha1" // linked for old vendors' certificates
	_ "crypto/sha256"
	_ "crypto/sha512"
	"errors"
	"fmt"
	"math"
)

// signatureAlgorithm says how a certificate is signed.
type signatureAlgorithm struct {
	oid  string
	hash crypto.Hash // 0 = an algorithm that is not known here
	kind signatureKind
}

type signatureKind int

const (
	pkcs1 signatureKind = iota
	pss
	ecdsaSignature
)

// signatureAlgorithms by object identifier (RFC 8017, RFC 5758). MD5 and older are missing on purpose.
var signatureAlgorithms = map[string]signatureAlgorithm{
	"1.2.840.113549.1.1.5":  {hash: crypto.SHA1, kind: pkcs1},
	"1.2.840.113549.1.1.11": {hash: crypto.SHA256, kind: pkcs1},
	"1.2.840.113549.1.1.12": {hash: crypto.SHA384, kind: pkcs1},
	"1.2.840.113549.1.1.13": {hash: crypto.SHA512, kind: pkcs1},
	"1.2.840.10045.4.1":     {hash: crypto.SHA1, kind: ecdsaSignature},
	"1.2.840.10045.4.3.2":   {hash: crypto.SHA256, kind: ecdsaSignature},
	"1.2.840.10045.4.3.3":   {hash: crypto.SHA384, kind: ecdsaSignature},
	"1.2.840.10045.4.3.4":   {hash: crypto.SHA512, kind: ecdsaSignature},
}

const oidPSS = "1.2.840.113549.1.1.10"

// pssHashes are the hashes that PSS parameters may name.
var pssHashes = map[string]crypto.Hash{
	"1.3.14.3.2.26":          crypto.SHA1,
	"2.16.840.1.101.3.4.2.1": crypto.SHA256,
	"2.16.840.1.101.3.4.2.2": crypto.SHA384,
	"2.16.840.1.101.3.4.2.3": crypto.SHA512,
}

func parseSignatureAlgorithm(e element) (signatureAlgorithm, error) {
	r := ber{rest: e.content}
	oid, err := r.expect(tagOID, "signature algorithm").oid()
	if err = errors.Join(r.err, err); err != nil {
		return signatureAlgorithm{}, err
	}
	if oid == oidPSS {
		return parsePSS(r.rest)
	}
	a := signatureAlgorithms[oid]
	a.oid = oid
	return a, nil
}

// parsePSS reads the hash of RSASSA-PSS-params (RFC 4055); SHA-1 is the default. The mask hash must be the same one,
// which verification shows.
func parsePSS(params []byte) (signatureAlgorithm, error) {
	a := signatureAlgorithm{oid: oidPSS, hash: crypto.SHA1, kind: pss}
	if len(params) == 0 {
		return a, nil
	}
	outer := ber{rest: params}
	fields := ber{rest: outer.expect(tagSequence, "PSS parameters").content}
	tagged, ok := fields.optional(0xa0)
	if !ok {
		return a, errors.Join(outer.err, fields.err)
	}
	wrapped := ber{rest: tagged.content}
	algorithm := ber{rest: wrapped.expect(tagSequence, "PSS hash").content}
	oid, err := algorithm.expect(tagOID, "PSS hash").oid()
	a.hash = pssHashes[oid]
	return a, errors.Join(outer.err, fields.err, wrapped.err, algorithm.err, err)
}

// verify checks a signature over message.
func (a signatureAlgorithm) verify(key crypto.PublicKey, message, signature []byte) error {
	if a.hash == 0 {
		return fmt.Errorf("signature algorithm %s is not accepted", a.oid)
	}
	h := a.hash.New()
	h.Write(message)
	digest := h.Sum(nil)
	switch key := key.(type) {
	case *rsa.PublicKey:
		switch a.kind {
		case pkcs1:
			return rsa.VerifyPKCS1v15(key, a.hash, digest, signature)
		case pss:
			return rsa.VerifyPSS(key, a.hash, digest, signature, nil)
		}
	case *ecdsa.PublicKey:
		if a.kind == ecdsaSignature && ecdsa.VerifyASN1(key, digest, signature) {
			return nil
		}
	}
	return errors.New("signature does not verify")
}

// curves by object identifier (RFC 5480).
var curves = map[string]elliptic.Curve{
	"1.2.840.10045.3.1.7": elliptic.P256(),
	"1.3.132.0.34":        elliptic.P384(),
	"1.3.132.0.35":        elliptic.P521(),
}

const (
	oidRSA  = "1.2.840.113549.1.1.1"
	oidOAEP = "1.2.840.113549.1.1.7" // EK certificates state that the key is for decryption
	oidEC   = "1.2.840.10045.2.1"
)

// maxRSABits bounds the work that a hostile certificate can ask for.
const maxRSABits = 8192

// parsePublicKey reads a SubjectPublicKeyInfo. A kind of key that is not known gives nil.
func parsePublicKey(e element) (crypto.PublicKey, error) {
	r := ber{rest: e.content}
	algorithm := ber{rest: r.expect(tagSequence, "algorithm").content}
	oid, err := algorithm.expect(tagOID, "algorithm").oid()
	if err = errors.Join(r.err, algorithm.err, err); err != nil {
		return nil, err
	}
	bits, err := r.expect(tagBitString, "key").bits()
	if err = errors.Join(r.err, err); err != nil {
		return nil, err
	}
	switch oid {
	case oidRSA, oidOAEP:
		return parseRSA(bits)
	case oidEC:
		curve, err := algorithm.expect(tagOID, "curve").oid()
		if err != nil || curves[curve] == nil {
			return nil, nil
		}
		key, err := ecdsa.ParseUncompressedPublicKey(curves[curve], bits)
		if err != nil {
			return nil, err
		}
		return key, nil
	}
	return nil, nil
}

func parseRSA(b []byte) (crypto.PublicKey, error) {
	r := ber{rest: b}
	fields := ber{rest: r.expect(tagSequence, "RSA key").content}
	n := fields.expect(tagInteger, "modulus").unsigned()
	e := fields.expect(tagInteger, "exponent").unsigned()
	if err := errors.Join(r.err, fields.err); err != nil {
		return nil, err
	}
	if n.BitLen() < 1024 || n.BitLen() > maxRSABits || !e.IsInt64() || e.Int64() < 3 || e.Int64() > math.MaxInt32 {
		return nil, fmt.Errorf("RSA key of %d bits is out of bounds", n.BitLen())
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}
