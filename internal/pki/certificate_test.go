package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keylime/internal/recorded"
	"keylime/tpm"
)

var testNow = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// maker is a TPM maker: it issues certificates as the tests want them.
type maker struct {
	t    testing.TB
	cert *x509.Certificate
	key  crypto.Signer
}

// certificate asks for one; zero fields are filled in for an intermediate CA that is in order.
type certificate struct {
	subject string
	edit    func(*x509.Certificate)
	key     crypto.Signer
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newMaker(t testing.TB, name string, edit func(*x509.Certificate)) *maker {
	t.Helper()
	m := &maker{t: t, key: ecKey(t)}
	m.cert = &x509.Certificate{Subject: pkix.Name{Organization: []string{"TPM maker"}, CommonName: name}}
	return m.issue(certificate{name, edit, m.key})
}

// issue makes a CA certificate, self-signed when it carries the maker's own key.
func (m *maker) issue(c certificate) *maker {
	m.t.Helper()
	if c.key == nil {
		c.key = ecKey(m.t)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{Organization: []string{"TPM maker"}, CommonName: c.subject},
		NotBefore: testNow.AddDate(-1, 0, 0), NotAfter: testNow.AddDate(1, 0, 0),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if c.edit != nil {
		c.edit(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, m.cert, c.key.Public(), m.key)
	if err != nil {
		m.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		m.t.Fatal(err)
	}
	return &maker{m.t, cert, c.key}
}

// ekProfile makes a certificate one for an endorsement key, as the TCG EK Credential Profile has it.
func ekProfile(t testing.TB, c *x509.Certificate) {
	t.Helper()
	c.IsCA, c.KeyUsage = false, x509.KeyUsageKeyEncipherment
	c.Subject = pkix.Name{} // its names are in the critical subject alternative name
	c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}}
	names, err := asn1.Marshal(pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 1}, Value: "id:00001014"}}}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	san, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: names}})
	if err != nil {
		t.Fatal(err)
	}
	c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: san})
}

// ek issues an endorsement key certificate.
func (m *maker) ek(edit func(*x509.Certificate)) *maker {
	return m.issue(certificate{"", func(c *x509.Certificate) {
		ekProfile(m.t, c)
		if edit != nil {
			edit(c)
		}
	}, nil})
}

func (m *maker) tolerant() *Certificate {
	m.t.Helper()
	c, err := ParseCertificateTolerant(m.cert.Raw)
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

// resign makes a certificate of a changed TBSCertificate, signed by the maker.
func (m *maker) resign(tbs []byte) []byte {
	m.t.Helper()
	digest := sha256.Sum256(tbs)
	signature, err := m.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		m.t.Fatal(err)
	}
	der, err := asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}}, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
	if err != nil {
		m.t.Fatal(err)
	}
	return der
}

// malformed are variants of a good certificate that a strict parser refuses and that TPMs or their makers have
// produced, or might: each says the same and carries a good signature.
func malformed(m *maker) map[string][]byte {
	leaf := m.ek(nil).cert
	good := leaf.Raw
	replaced := func(old, new string) []byte {
		tbs := bytes.Replace(bytes.Clone(leaf.RawTBSCertificate), []byte(old), []byte(new), 1)
		tbs[3] += byte(len(new) - len(old)) // TBSCertificate is long enough for a length of two octets, short enough to keep it
		return m.resign(tbs)
	}
	longForm := append([]byte{0x30, 0x83, 0}, good[2:]...) // 0x30 0x82 LL LL as 0x30 0x83 00 LL LL
	indefinite := append(append([]byte{0x30, 0x80}, good[4:]...), 0, 0)
	return map[string][]byte{
		"zeros after the end":      append(bytes.Clone(good), make([]byte, 40)...),
		"ones after the end":       append(bytes.Clone(good), bytes.Repeat([]byte{0xff}, 40)...),
		"length in too many bytes": append(longForm[:3:3], good[2:]...),
		"indefinite length":        indefinite,
		"padded serial number":     replaced("\x02\x01\x07", "\x02\x03\x00\x00\x07"),
		"negative serial number":   replaced("\x02\x01\x07", "\x02\x01\x87"),
		"true that is not 0xff":    replaced("\x01\x01\xff", "\x01\x01\x01"),
	}
}

// NT-1A: certificates that are not strict DER are read, said to be so, verified over their own bytes, and kept as they came.
func TestMalformedCertificates(t *testing.T) {
	t.Parallel()
	m := newMaker(t, "Root", nil)
	s := storeOf(t, m)
	for name, der := range malformed(m) {
		if _, err := x509.ParseCertificate(der); err == nil {
			t.Errorf("%s: the strict parser takes it, so that this shows nothing", name)
		}
		c, err := ParseCertificateTolerant(der)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c.Malformed == nil || !bytes.HasPrefix(der, c.Raw) {
			t.Errorf("%s: malformed %v, bytes kept %v", name, c.Malformed, bytes.HasPrefix(der, c.Raw))
		}
		path, err := s.VerifyEK(c, nil, testNow, DefaultRules())
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if len(path.Notes) != 1 || !strings.Contains(path.Notes[0], "not strict DER") {
			t.Errorf("%s: notes %q", name, path.Notes)
		}
	}
	good, err := ParseCertificateTolerant(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.cert.Raw}))
	if err != nil || good.Malformed != nil || !bytes.Equal(good.Raw, m.cert.Raw) {
		t.Errorf("good certificate: %v", err)
	}
}

func TestParseCertificateRefuses(t *testing.T) {
	t.Parallel()
	m := newMaker(t, "Root", nil)
	good := m.cert.Raw
	for name, b := range map[string][]byte{
		"nothing":           nil,
		"one byte":          {0x30},
		"text":              []byte("not a certificate"),
		"truncated":         good[:len(good)-1],
		"other data behind": append(bytes.Clone(good), 1),
		"huge length":       {0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0},
		"length of lengths": append([]byte{0x30, 0xff}, make([]byte, 200)...),
		"endless nesting":   bytes.Repeat([]byte{0x30, 0x80}, 30_000),
		"too large":         make([]byte, maxCertificate+1),
		"bad PEM body":      []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
	} {
		if _, err := ParseCertificateTolerant(b); err == nil {
			t.Errorf("%s: read", name)
		}
	}
}

func TestParseAgreesWithStrictParser(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(recorded.Dir(t), "certs/vendor-store/*.pem"))
	if err != nil || len(files) != 51 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, name := range files {
		want := readCert(t, name)
		got, err := ParseCertificateTolerant(readFile(t, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		compareWithStrict(t, got, want)
	}
}

// compareWithStrict compares what two parsers made of the same bytes.
func compareWithStrict(t *testing.T, got *Certificate, want *x509.Certificate) {
	t.Helper()
	if !bytes.Equal(got.Raw, want.Raw) || !bytes.Equal(got.tbs, want.RawTBSCertificate) || !bytes.Equal(got.signature, want.Signature) ||
		!got.NotBefore.Equal(want.NotBefore) || !got.NotAfter.Equal(want.NotAfter) || got.isCA != want.IsCA ||
		got.certSign != (want.KeyUsage&x509.KeyUsageCertSign != 0) || got.hasKeyUsage != (want.KeyUsage != 0) ||
		len(got.usages) != len(want.ExtKeyUsage)+len(want.UnknownExtKeyUsage) {
		t.Errorf("%s: got %+v", want.Subject, got)
	}
	if want.PublicKey != nil && !samePublicKey(got.PublicKey, want.PublicKey) {
		t.Errorf("%s: another public key", want.Subject)
	}
	if limit := want.MaxPathLen; want.IsCA && got.maxPathLen != limit && !(limit == 0 && !want.MaxPathLenZero) {
		t.Errorf("%s: path length %d, want %d", want.Subject, got.maxPathLen, limit)
	}
}

// Roots verify themselves, those with several attributes in one relative name among them.
func TestVendorRootsVerifyThemselves(t *testing.T) {
	t.Parallel()
	s, warnings, err := LoadStore(filepath.Join(recorded.Dir(t), "certs/vendor-store"))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	if s.Len() != 45 {
		t.Errorf("%d different certificates, want 45", s.Len())
	}
	var roots []string
	for _, same := range s.bySubject {
		for _, c := range same {
			if c.Subject.matches(c.Issuer) {
				roots = append(roots, c.Subject.String())
				if !c.selfSigned() {
					t.Errorf("%s does not verify itself", c.Subject)
				}
			}
		}
	}
	if len(roots) != 11 {
		t.Errorf("%d roots: %q", len(roots), roots)
	}
}

// NT-18: the certificate must be for the TPM's own key.
func TestPublicKeyMatches(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(recorded.Dir(t), "wire")
	read := func(run string) (*Certificate, *tpm.Public) {
		cert, err := ParseCertificateTolerant(readFile(t, filepath.Join(dir, run, "state/ekcert.pem")))
		if err != nil {
			t.Fatal(err)
		}
		pub, err := tpm.ParsePublic(readFile(t, filepath.Join(dir, run, "state/ek.tpm2b_public")))
		if err != nil {
			t.Fatal(err)
		}
		return cert, pub
	}
	cert, pub := read("pull")
	if err := PublicKeyMatches(cert, pub); err != nil {
		t.Error(err)
	}
	_, other := read("cert")
	if PublicKeyMatches(cert, other) == nil {
		t.Error("another TPM's key passes")
	}
	exponent := *cert
	exponent.PublicKey = &rsa.PublicKey{N: cert.PublicKey.(*rsa.PublicKey).N, E: 3}
	if PublicKeyMatches(&exponent, pub) == nil {
		t.Error("the same modulus with another exponent passes")
	}
	unknown := *cert
	unknown.PublicKey = nil
	if PublicKeyMatches(&unknown, pub) == nil {
		t.Error("a key of unknown kind passes")
	}
}

func TestRSAKeysForOAEP(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	// rsaEncryption is 1.2.840.113549.1.1.1, id-RSAES-OAEP ends in 7.
	oaep := bytes.Replace(spki, []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"), []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07"), 1)
	e, _, err := readElement(oaep)
	if err != nil {
		t.Fatal(err)
	}
	got, err := parsePublicKey(e)
	if err != nil || !samePublicKey(got, &key.PublicKey) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestNamesMatch(t *testing.T) {
	t.Parallel()
	name := func(sets ...[]pkix.AttributeTypeAndValue) Name {
		var seq pkix.RDNSequence
		for _, s := range sets {
			seq = append(seq, s)
		}
		der, err := asn1.Marshal(seq)
		if err != nil {
			t.Fatal(err)
		}
		e, _, err := readElement(der)
		if err != nil {
			t.Fatal(err)
		}
		n, err := parseName(e)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	cn := func(v any) pkix.AttributeTypeAndValue {
		return pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: v}
	}
	o := pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 10}, Value: "Org"}
	one := func(a ...pkix.AttributeTypeAndValue) []pkix.AttributeTypeAndValue { return a }
	bmp := asn1.RawValue{Tag: tagBMPString, Bytes: []byte("\x00R\x00o\x00o\x00t")}
	base := name(one(cn("Root")), one(o))
	for what, tc := range map[string]struct {
		other Name
		want  bool
	}{
		"the same":           {name(one(cn("Root")), one(o)), true},
		"another encoding":   {name(one(cn(asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte("Root")})), one(o)), true},
		"two-byte letters":   {name(one(cn(bmp)), one(o)), true},
		"case and blanks":    {name(one(cn(" rOOt ")), one(o)), true},
		"other value":        {name(one(cn("Root2")), one(o)), false},
		"other order":        {name(one(o), one(cn("Root"))), false},
		"in one set":         {name(one(cn("Root"), o)), false},
		"one attribute less": {name(one(cn("Root"))), false},
		"attribute in text":  {name(one(cn("Root,O=Org"))), false},
	} {
		if base.matches(tc.other) != tc.want {
			t.Errorf("%s: %q matches %q: %v", what, base, tc.other, !tc.want)
		}
	}
	if !name(one(cn("Root"), o)).matches(name(one(o, cn("Root")))) {
		t.Error("the order within a set counts")
	}
	if (Name{}).matches(Name{}) {
		t.Error("an empty name matches")
	}
}

func FuzzParseCertificate(f *testing.F) {
	m := newMaker(f, "Root", nil)
	f.Add(m.cert.Raw)
	f.Add(m.ek(nil).cert.Raw)
	for _, der := range malformed(m) {
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := ParseCertificates(b)
		if err != nil {
			return
		}
		for _, c := range all {
			_ = c.selfSigned()
			again, err := ParseCertificateTolerant(c.Raw)
			if err != nil || !bytes.Equal(again.Raw, c.Raw) || again.Subject != c.Subject {
				t.Fatalf("read again: %v", err)
			}
			if c.Malformed != nil {
				continue
			}
			// Where the strict parser agrees to read, it must read the same.
			strict, err := x509.ParseCertificate(c.Raw)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(c.tbs, strict.RawTBSCertificate) || c.isCA != strict.IsCA || !c.NotAfter.Equal(strict.NotAfter) {
				t.Fatalf("strict parser reads %+v", strict)
			}
		}
	})
}
