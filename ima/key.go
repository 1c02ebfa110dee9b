package ima

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	tag "golang.org/x/crypto/cryptobyte/asn1"
)

// Key is a public key that file signatures are verified with. It is immutable.
type Key struct {
	id          uint32
	spki        []byte            // DER SubjectPublicKeyInfo
	fingerprint [sha256.Size]byte // of spki
	algorithm   publicKey
}

func newKey(id uint32, spki []byte, algorithm publicKey) *Key {
	return &Key{id, spki, sha256.Sum256(spki), algorithm}
}

// ID is the key's id (version 2), by which signatures name it: the last four bytes of the Subject Key Identifier of its
// certificate, or, without one, of the SHA-1 of the PKCS#1 key or of the uncompressed point.
func (k *Key) ID() uint32 { return k.id }

// SPKI is the key as a SubjectPublicKeyInfo in DER. It must not be modified.
func (k *Key) SPKI() []byte { return k.spki }

// Equal reports whether both are the same key under the same id.
func (k *Key) Equal(other *Key) bool { return k.id == other.id && k.fingerprint == other.fingerprint }

// WithID is the key under another id; 0 leaves it as it is.
func (k *Key) WithID(id uint32) *Key {
	if id == 0 {
		return k
	}
	other := *k
	other.id = id
	return &other
}

// KeyKind says whether a measured buffer is a public key.
type KeyKind int

const (
	NotKey         KeyKind = iota // critical data
	UsableKey                     // RSA or elliptic curve
	UnsupportedKey                // of another algorithm
)

var (
	errNotKey = errors.New("neither a certificate nor a key, in DER or PEM")

	// The key algorithms of RFC 3279.
	oidRSA = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidEC  = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidSKI = asn1.ObjectIdentifier{2, 5, 29, 14}
)

// ClassifyKey looks at a buffer of an ima-buf entry. When a key enters a keyring the kernel measures what it was loaded
// from: an X.509 certificate, a SubjectPublicKeyInfo or a PKCS#1 public key, in DER. Only the outer structure is looked
// at, for vendors' certificates are not always proper DER inside. A key that is UsableKey may still be one that ParseKey
// refuses, of an unknown curve for instance.
func ClassifyKey(buffer []byte) KeyKind {
	f, ok := readForm(buffer)
	switch {
	case !ok:
		return NotKey
	case f.pkcs1 || f.oid.Equal(oidRSA) || f.oid.Equal(oidEC):
		return UsableKey
	}
	return UnsupportedKey
}

// ParseKey reads a key from a buffer or a file: a certificate, a public key or an unencrypted private key, in DER or
// PEM. Of a certificate only the key and the Subject Key Identifier are read; nothing in it is verified, for what makes
// the key trusted is that a policy names it.
func ParseKey(text []byte) (*Key, error) {
	key, err := parseDERKey(text)
	if !errors.Is(err, errNotKey) {
		return key, err
	}
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, err
		}
		if key, inner := parseDERKey(block.Bytes); inner == nil || !errors.Is(inner, errNotKey) {
			return key, inner
		}
		// Not a key: such as the parameters that stand before an EC key.
	}
}

func parseDERKey(der []byte) (*Key, error) {
	f, ok := readForm(der)
	switch {
	case !ok:
		return parsePrivate(der)
	case f.pkcs1:
		return newRSAKey(der)
	}
	key, err := f.publicKey()
	if err != nil {
		return nil, err
	}
	if n := len(f.subjectKeyID); n >= 4 {
		key = key.WithID(binary.BigEndian.Uint32(f.subjectKeyID[n-4:]))
	}
	return key, nil
}

// keyForm is the outer structure of a public key.
type keyForm struct {
	pkcs1        bool // an RSAPublicKey, the other fields are empty
	oid          asn1.ObjectIdentifier
	parameters   cryptobyte.String // of the algorithm
	bits         []byte            // the key itself
	subjectKeyID []byte            // of the certificate
}

func readForm(buffer []byte) (f keyForm, ok bool) {
	in := cryptobyte.String(buffer)
	var outer cryptobyte.String
	if !in.ReadASN1(&outer, tag.SEQUENCE) || !in.Empty() {
		return f, false
	}
	if isPKCS1(outer) {
		return keyForm{pkcs1: true}, true
	}
	if info, extensions, ok := certifiedKey(outer); ok {
		f, ok := readInfo(info)
		f.subjectKeyID = subjectKeyID(extensions)
		return f, ok
	}
	return readInfo(outer)
}

// isPKCS1 reports whether the content is that of an RSAPublicKey: two integers.
func isPKCS1(content cryptobyte.String) bool {
	integers := 0
	for content.SkipASN1(tag.INTEGER) {
		integers++
	}
	return integers == 2 && content.Empty()
}

// certifiedKey returns the content of the SubjectPublicKeyInfo of a certificate with the given content (RFC 5280, 4.1),
// and what follows it there.
func certifiedKey(content cryptobyte.String) (info, after cryptobyte.String, ok bool) {
	var tbs cryptobyte.String
	version := tag.Tag(0).ContextSpecific().Constructed()
	ok = content.ReadASN1(&tbs, tag.SEQUENCE) && content.SkipASN1(tag.SEQUENCE) && content.SkipASN1(tag.BIT_STRING) &&
		content.Empty() &&
		tbs.SkipOptionalASN1(version) &&
		tbs.SkipASN1(tag.INTEGER) && // serial number
		tbs.SkipASN1(tag.SEQUENCE) && // signature algorithm
		tbs.SkipASN1(tag.SEQUENCE) && // issuer
		tbs.SkipASN1(tag.SEQUENCE) && // validity
		tbs.SkipASN1(tag.SEQUENCE) && // subject
		tbs.ReadASN1(&info, tag.SEQUENCE)
	return info, tbs, ok
}

// subjectKeyID finds the Subject Key Identifier behind the key in a certificate; nil when there is none.
func subjectKeyID(after cryptobyte.String) []byte {
	var wrapped, extensions cryptobyte.String
	unique := func(n uint8) tag.Tag { return tag.Tag(n).ContextSpecific() }
	if !after.SkipOptionalASN1(unique(1)) || !after.SkipOptionalASN1(unique(2)) ||
		!after.ReadASN1(&wrapped, tag.Tag(3).ContextSpecific().Constructed()) || !wrapped.ReadASN1(&extensions, tag.SEQUENCE) {
		return nil
	}
	for !extensions.Empty() {
		var extension, value, id cryptobyte.String
		var oid asn1.ObjectIdentifier
		if !extensions.ReadASN1(&extension, tag.SEQUENCE) || !extension.ReadASN1ObjectIdentifier(&oid) ||
			!extension.SkipOptionalASN1(tag.BOOLEAN) || !extension.ReadASN1(&value, tag.OCTET_STRING) {
			return nil
		}
		if oid.Equal(oidSKI) && value.ReadASN1(&id, tag.OCTET_STRING) {
			return id
		}
	}
	return nil
}

// readInfo reads a SubjectPublicKeyInfo with the given content.
func readInfo(info cryptobyte.String) (f keyForm, ok bool) {
	var algorithm, bits cryptobyte.String
	if !info.ReadASN1(&algorithm, tag.SEQUENCE) || !info.ReadASN1(&bits, tag.BIT_STRING) || !info.Empty() ||
		!algorithm.ReadASN1ObjectIdentifier(&f.oid) || len(bits) == 0 || bits[0] != 0 {
		return f, false
	}
	f.parameters, f.bits = algorithm, bits[1:]
	return f, true
}

func (f keyForm) publicKey() (*Key, error) {
	switch {
	case f.oid.Equal(oidRSA):
		return newRSAKey(f.bits)
	case f.oid.Equal(oidEC):
		var curve asn1.ObjectIdentifier
		if !f.parameters.ReadASN1ObjectIdentifier(&curve) {
			return nil, errors.New("the key's curve is not a named one")
		}
		return newECKey(curve, f.bits)
	}
	return nil, fmt.Errorf("a key of algorithm %v; file signatures have RSA or elliptic curve keys", f.oid)
}

// parsePrivate reads the public part of a private key: PKCS#1 (RFC 8017), SEC 1 (RFC 5915) or PKCS#8 (RFC 5208).
func parsePrivate(der []byte) (*Key, error) {
	in := cryptobyte.String(der)
	var outer, algorithm, inner cryptobyte.String
	var version int
	var oid, curve asn1.ObjectIdentifier
	if !in.ReadASN1(&outer, tag.SEQUENCE) || !in.Empty() || !outer.ReadASN1Integer(&version) {
		return nil, errNotKey
	}
	switch {
	case outer.PeekASN1Tag(tag.INTEGER):
		return rsaFromPrivate(der)
	case outer.PeekASN1Tag(tag.OCTET_STRING):
		return ecFromPrivate(outer, nil)
	case !outer.ReadASN1(&algorithm, tag.SEQUENCE) || !algorithm.ReadASN1ObjectIdentifier(&oid) ||
		!outer.ReadASN1(&inner, tag.OCTET_STRING):
		return nil, errNotKey
	case oid.Equal(oidRSA):
		return rsaFromPrivate(inner)
	case oid.Equal(oidEC) && algorithm.ReadASN1ObjectIdentifier(&curve):
		var content cryptobyte.String
		if !inner.ReadASN1(&content, tag.SEQUENCE) || !content.ReadASN1Integer(&version) {
			return nil, errNotKey
		}
		return ecFromPrivate(content, curve)
	}
	return nil, fmt.Errorf("a private key of algorithm %v; file signatures have RSA or elliptic curve keys", oid)
}

// shortID is the id of a key that no certificate names otherwise.
func shortID(material []byte) uint32 {
	sum := sha1.Sum(material)
	return binary.BigEndian.Uint32(sum[len(sum)-4:])
}
