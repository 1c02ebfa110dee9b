package ima

import (
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	tag "golang.org/x/crypto/cryptobyte/asn1"
)

// KeyKind says whether a measured buffer is a public key.
type KeyKind int

const (
	NotKey         KeyKind = iota // critical data
	UsableKey                     // RSA or elliptic curve
	UnsupportedKey                // of another algorithm
)

// The key algorithms of RFC 3279.
var (
	oidRSA = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidEC  = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
)

// ClassifyKey looks at a buffer of an ima-buf entry. When a key enters a keyring the kernel measures what it was loaded
// from: an X.509 certificate, a SubjectPublicKeyInfo or a PKCS#1 public key, in DER. Only the outer structure is looked
// at, for vendors' certificates are not always proper DER inside.
func ClassifyKey(buffer []byte) KeyKind {
	in := cryptobyte.String(buffer)
	var outer cryptobyte.String
	if !in.ReadASN1(&outer, tag.SEQUENCE) || !in.Empty() {
		return NotKey
	}
	if isPKCS1(outer) {
		return UsableKey
	}
	if info, ok := certifiedKey(outer); ok {
		return kindOf(info)
	}
	return kindOf(outer)
}

// isPKCS1 reports whether the content is that of an RSAPublicKey: two integers.
func isPKCS1(content cryptobyte.String) bool {
	integers := 0
	for content.SkipASN1(tag.INTEGER) {
		integers++
	}
	return integers == 2 && content.Empty()
}

// certifiedKey returns the content of the SubjectPublicKeyInfo of a certificate with the given content (RFC 5280, 4.1).
func certifiedKey(content cryptobyte.String) (info cryptobyte.String, ok bool) {
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
	return info, ok
}

// kindOf reads the algorithm of a SubjectPublicKeyInfo with the given content.
func kindOf(info cryptobyte.String) KeyKind {
	var algorithm cryptobyte.String
	var oid asn1.ObjectIdentifier
	if !info.ReadASN1(&algorithm, tag.SEQUENCE) || !info.SkipASN1(tag.BIT_STRING) || !info.Empty() ||
		!algorithm.ReadASN1ObjectIdentifier(&oid) {
		return NotKey
	}
	if oid.Equal(oidRSA) || oid.Equal(oidEC) {
		return UsableKey
	}
	return UnsupportedKey
}
