package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"keylime/tpm"
)

// Certificate is an X.509 certificate as the check of endorsement keys sees it. It may be one that strict DER parsers
// refuse. It is immutable.
type Certificate struct {
	// Raw is the certificate byte for byte, without what followed it.
	Raw []byte
	// Malformed says why a strict parser refuses the input; nil when it does not.
	Malformed error

	Subject, Issuer     Name
	NotBefore, NotAfter time.Time
	// PublicKey is *rsa.PublicKey or *ecdsa.PublicKey, nil for other kinds.
	PublicKey crypto.PublicKey

	tbs       []byte // what the signature is over
	algorithm signatureAlgorithm
	signature []byte
	extensions
}

// maxCertificate bounds one certificate; TPMs keep them in NV indices of at most a few kilobytes.
const maxCertificate = 64 << 10

// ParseCertificateTolerant reads a certificate, the first one of a PEM text, or DER with deviations that occur in TPM
// certificates: BER, and padding after the end. What it says is extracted from the original bytes, and those are what
// signatures are checked over.
func ParseCertificateTolerant(pemOrDER []byte) (*Certificate, error) {
	all, err := ParseCertificates(pemOrDER)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// ParseCertificates is ParseCertificateTolerant for every certificate of a PEM text; there is at least one.
func ParseCertificates(pemOrDER []byte) ([]*Certificate, error) {
	var all []*Certificate
	for block, rest := pem.Decode(pemOrDER); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" && block.Type != "X509 CERTIFICATE" {
			continue
		}
		c, err := parseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(all)+1, err)
		}
		all = append(all, c)
	}
	if len(all) > 0 {
		return all, nil
	}
	c, err := parseCertificate(pemOrDER)
	if err != nil {
		return nil, err
	}
	return []*Certificate{c}, nil
}

func parseCertificate(b []byte) (*Certificate, error) {
	if len(b) > maxCertificate {
		return nil, fmt.Errorf("certificate is larger than %d bytes", maxCertificate)
	}
	b = bytes.Clone(b)
	c := &Certificate{}
	if _, err := x509.ParseCertificate(b); err != nil {
		c.Malformed = err
	}
	outer := ber{rest: b}
	whole := outer.expect(tagSequence, "certificate")
	if outer.err != nil {
		return nil, outer.err
	}
	if len(bytes.Trim(outer.rest, "\x00\xff")) > 0 { // the rest of an NV index is zeros or ones
		return nil, errors.New("certificate is followed by other data")
	}
	c.Raw = whole.raw
	parts := ber{rest: whole.content}
	tbs := parts.expect(tagSequence, "certificate content")
	algorithm := parts.expect(tagSequence, "signature algorithm")
	signature := parts.expect(tagBitString, "signature")
	if parts.err != nil {
		return nil, parts.err
	}
	c.tbs = tbs.raw
	var err error
	if c.algorithm, err = parseSignatureAlgorithm(algorithm); err != nil {
		return nil, err
	}
	if c.signature, err = signature.bits(); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	if err := c.parseContent(tbs.content, algorithm); err != nil {
		return nil, err
	}
	return c, nil
}

// parseContent reads a TBSCertificate (RFC 5280 section 4.1).
func (c *Certificate) parseContent(content []byte, outer element) error {
	r := ber{rest: content}
	r.optional(0xa0) // version
	r.expect(tagInteger, "serial number")
	if inner := r.expect(tagSequence, "signature algorithm"); r.err == nil && !bytes.Equal(inner.raw, outer.raw) {
		return errors.New("two different signature algorithms are stated")
	}
	issuer := r.expect(tagSequence, "issuer")
	validity := r.expect(tagSequence, "validity")
	subject := r.expect(tagSequence, "subject")
	key := r.expect(tagSequence, "public key")
	if r.err != nil {
		return r.err
	}
	var err error
	if c.Issuer, err = parseName(issuer); err != nil {
		return fmt.Errorf("issuer: %w", err)
	}
	if c.Subject, err = parseName(subject); err != nil {
		return fmt.Errorf("subject: %w", err)
	}
	if c.NotBefore, c.NotAfter, err = parseValidity(validity); err != nil {
		return fmt.Errorf("validity: %w", err)
	}
	if c.PublicKey, err = parsePublicKey(key); err != nil {
		return fmt.Errorf("public key: %w", err)
	}
	c.maxPathLen = -1
	for r.more() {
		if e := r.next(); r.err == nil && e.tag == 0xa3 {
			if err := c.extensions.parse(e.content); err != nil {
				return fmt.Errorf("extensions: %w", err)
			}
		}
	}
	return r.err
}

func parseValidity(e element) (from, to time.Time, err error) {
	r := ber{rest: e.content}
	a, b := r.next(), r.next()
	if r.err != nil {
		return from, to, r.err
	}
	if from, err = a.time(); err != nil {
		return from, to, err
	}
	to, err = b.time()
	return from, to, err
}

// checkSignature reports whether issuer's key signed c.
func (c *Certificate) checkSignature(issuer *Certificate) error {
	return c.algorithm.verify(issuer.PublicKey, c.tbs, c.signature)
}

// selfSigned reports whether c is its own issuer.
func (c *Certificate) selfSigned() bool {
	return c.Subject.matches(c.Issuer) && c.checkSignature(c) == nil
}

// PublicKeyMatches says whether a certificate is for a TPM's key: RSA modulus and exponent, or curve and point, are
// the same. What kind of key the public area describes is for the caller to check too.
func PublicKeyMatches(cert *Certificate, pub *tpm.Public) error {
	if cert.PublicKey == nil {
		return errors.New("the certificate is for a kind of key that is not known here")
	}
	if !samePublicKey(cert.PublicKey, pub.Key()) {
		return errors.New("the certificate is for another key than the TPM's")
	}
	return nil
}

// extensions are those that the check of a path heeds.
type extensions struct {
	isCA            bool
	maxPathLen      int // -1 = not limited
	hasKeyUsage     bool
	certSign        bool
	usages          []string // extended key usages; nil = not limited
	unknownCritical []string
}

const (
	oidKeyUsage         = "2.5.29.15"
	oidBasicConstraints = "2.5.29.19"
	oidExtendedKeyUsage = "2.5.29.37"
	oidAnyUsage         = "2.5.29.37.0"
	oidEKUsage          = "2.23.133.8.1" // tcg-kp-EKCertificate
)

// understood are further extensions that may be critical. They say nothing that the check of an EK certificate needs:
// names of the TPM and its maker, key identifiers, policies, places of revocation lists.
var understood = []string{
	"2.5.29.9",  // subject directory attributes: TPM specification and security assertions
	"2.5.29.14", // subject key identifier
	"2.5.29.17", // subject alternative name: manufacturer, model, version of the TPM as a directory name
	"2.5.29.18", // issuer alternative name
	"2.5.29.31", // CRL distribution points
	"2.5.29.32", // certificate policies
	"2.5.29.35", // authority key identifier
	"1.3.6.1.5.5.7.1.1",
}

func (x *extensions) parse(wrapped []byte) error {
	r := ber{rest: wrapped}
	list := ber{rest: r.expect(tagSequence, "list").content}
	if r.err != nil {
		return r.err
	}
	for list.more() {
		e := ber{rest: list.expect(tagSequence, "extension").content}
		id, err := e.expect(tagOID, "identifier").oid()
		critical := false
		if b, ok := e.optional(tagBoolean); ok { // any non-zero octet is true in BER
			critical = len(b.content) > 0 && b.content[0] != 0
		}
		value := e.expect(tagOctetString, "value")
		if err = errors.Join(list.err, e.err, err); err != nil {
			return err
		}
		if err := x.set(id, critical, value.content); err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
	}
	return list.err
}

func (x *extensions) set(id string, critical bool, value []byte) error {
	r := ber{rest: value}
	switch id {
	case oidBasicConstraints:
		c := ber{rest: r.expect(tagSequence, "basic constraints").content}
		if b, ok := c.optional(tagBoolean); ok {
			x.isCA = len(b.content) > 0 && b.content[0] != 0
		}
		if n, ok := c.optional(tagInteger); ok {
			limit := n.unsigned()
			x.maxPathLen = 0
			if limit.IsInt64() && limit.Int64() < 100 {
				x.maxPathLen = int(limit.Int64())
			}
		}
		return errors.Join(r.err, c.err)
	case oidKeyUsage:
		bits, err := r.expect(tagBitString, "key usage").bits()
		x.hasKeyUsage = true
		x.certSign = len(bits) > 0 && bits[0]&0x04 != 0 // bit 5, counted from the left
		return errors.Join(r.err, err)
	case oidExtendedKeyUsage:
		list := ber{rest: r.expect(tagSequence, "extended key usage").content}
		for list.more() {
			usage, err := list.expect(tagOID, "usage").oid()
			if err != nil {
				return errors.Join(list.err, err)
			}
			x.usages = append(x.usages, usage)
		}
		return errors.Join(r.err, list.err)
	}
	if critical && !slices.Contains(understood, id) {
		x.unknownCritical = append(x.unknownCritical, id)
	}
	return nil
}

// allows reports whether extended key usages, where there are any, include one.
func (x *extensions) allows(usage string) bool {
	return len(x.usages) == 0 || slices.Contains(x.usages, usage) || slices.Contains(x.usages, oidAnyUsage)
}
