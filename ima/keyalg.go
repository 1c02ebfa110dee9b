package ima

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	k1 "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"golang.org/x/crypto/cryptobyte"
	tag "golang.org/x/crypto/cryptobyte/asn1"
)

// publicKey is a key of one algorithm.
type publicKey interface {
	// verify checks a signature over a digest, which has the length of h.
	verify(h crypto.Hash, digest, signature []byte) bool
}

// maxRSABits is twice what the kernel verifies with (crypto/rsa.c); the time of a verification grows with its square.
const maxRSABits = 8192

type rsaKey struct{ *rsa.PublicKey }

func (k rsaKey) verify(h crypto.Hash, digest, signature []byte) bool {
	return rsa.VerifyPKCS1v15(k.PublicKey, h, digest, signature) == nil
}

func newRSAKey(pkcs1 []byte) (*Key, error) {
	k, err := x509.ParsePKCS1PublicKey(pkcs1)
	if err != nil {
		return nil, fmt.Errorf("RSA key: %w", err)
	}
	if n := k.N.BitLen(); n > maxRSABits {
		return nil, fmt.Errorf("RSA key of %d bits, at most %d are accepted", n, maxRSABits)
	}
	spki, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return nil, fmt.Errorf("RSA key: %w", err)
	}
	return newKey(shortID(x509.MarshalPKCS1PublicKey(k)), spki, rsaKey{k}), nil
}

func rsaFromPrivate(der []byte) (*Key, error) {
	k, err := x509.ParsePKCS1PrivateKey(der)
	if err != nil {
		return nil, errNotKey // the parser's error could quote the key
	}
	return newRSAKey(x509.MarshalPKCS1PublicKey(&k.PublicKey))
}

type ecKey struct{ *ecdsa.PublicKey }

func (k ecKey) verify(_ crypto.Hash, digest, signature []byte) bool {
	return ecdsa.VerifyASN1(k.PublicKey, digest, signature)
}

// k1Key is a key on secp256k1, which package elliptic does not have.
type k1Key struct{ *secp256k1.PublicKey }

func (k k1Key) verify(_ crypto.Hash, digest, signature []byte) bool {
	s, err := k1.ParseDERSignature(signature)
	return err == nil && s.Verify(digest, k.PublicKey)
}

// Curves by their names in RFC 5480 and SEC 2.
var (
	oidSecp256k1 = asn1.ObjectIdentifier{1, 3, 132, 0, 10}
	curves       = []struct {
		oid   asn1.ObjectIdentifier
		curve elliptic.Curve
	}{
		{asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}, elliptic.P256()},
		{asn1.ObjectIdentifier{1, 3, 132, 0, 34}, elliptic.P384()},
		{asn1.ObjectIdentifier{1, 3, 132, 0, 35}, elliptic.P521()},
		{asn1.ObjectIdentifier{1, 3, 132, 0, 33}, elliptic.P224()},
	}
)

var errPoint = errors.New("the key is not a point of its curve")

func curveOf(oid asn1.ObjectIdentifier) (elliptic.Curve, bool) {
	for _, c := range curves {
		if c.oid.Equal(oid) {
			return c.curve, true
		}
	}
	return nil, false
}

// newECKey makes a key of a point in the encoding of SEC 1, compressed or not.
func newECKey(oid asn1.ObjectIdentifier, point []byte) (*Key, error) {
	if oid.Equal(oidSecp256k1) {
		k, err := secp256k1.ParsePubKey(point)
		if err != nil {
			return nil, errPoint
		}
		return newPointKey(oid, k.SerializeUncompressed(), k1Key{k}), nil
	}
	curve, ok := curveOf(oid)
	if !ok {
		return nil, fmt.Errorf("a key on curve %v; P-224, P-256, P-384, P-521 and secp256k1 are supported", oid)
	}
	if x, y := elliptic.UnmarshalCompressed(curve, point); x != nil {
		size := (curve.Params().BitSize + 7) / 8
		point = append([]byte{4}, make([]byte, 2*size)...)
		x.FillBytes(point[1 : 1+size])
		y.FillBytes(point[1+size:])
	}
	k, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, errPoint
	}
	return newPointKey(oid, point, ecKey{k}), nil
}

func newPointKey(curve asn1.ObjectIdentifier, uncompressed []byte, k publicKey) *Key {
	var b cryptobyte.Builder
	b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidEC)
			b.AddASN1ObjectIdentifier(curve)
		})
		b.AddASN1BitString(uncompressed)
	})
	return newKey(shortID(uncompressed), b.BytesOrPanic(), k)
}

// ecFromPrivate reads the content of an ECPrivateKey behind its version. Its curve may be named inside or outside.
func ecFromPrivate(content cryptobyte.String, curve asn1.ObjectIdentifier) (*Key, error) {
	var scalar, named cryptobyte.String
	var present bool
	if !content.ReadASN1(&scalar, tag.OCTET_STRING) ||
		!content.ReadOptionalASN1(&named, &present, tag.Tag(0).ContextSpecific().Constructed()) ||
		present && !named.ReadASN1ObjectIdentifier(&curve) {
		return nil, errNotKey
	}
	if curve.Equal(oidSecp256k1) {
		return newECKey(curve, secp256k1.PrivKeyFromBytes(scalar).PubKey().SerializeUncompressed())
	}
	c, ok := curveOf(curve)
	if !ok {
		return nil, fmt.Errorf("a private key on curve %v; P-224, P-256, P-384, P-521 and secp256k1 are supported", curve)
	}
	k, err := ecdsa.ParseRawPrivateKey(c, scalar)
	if err != nil {
		return nil, errNotKey // the parser's error could quote the key
	}
	point, err := k.PublicKey.Bytes()
	if err != nil {
		return nil, errPoint
	}
	return newECKey(curve, point)
}
