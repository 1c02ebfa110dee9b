package policy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"keylime/internal/recorded"
)

func newSigner(t testing.TB, curve elliptic.Curve) (*ecdsa.PrivateKey, PublicKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key, public
}

func signed(t testing.TB, text string, key *ecdsa.PrivateKey) *Envelope {
	t.Helper()
	e, err := Sign([]byte(text), key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestSignedPolicyIsThePolicy(t *testing.T) {
	t.Parallel()
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, public := newSigner(t, curve)
		text := signed(t, policyText, key).Encode()
		d, err := OpenDocument(text)
		if err != nil {
			t.Fatal(err)
		}
		if string(d.Policy) != policyText || d.Envelope == nil {
			t.Fatalf("opened as %q", d.Policy)
		}
		signers, err := d.Envelope.Verify(public)
		if err != nil || len(signers) != 1 || signers[0].ID() != public.ID() {
			t.Errorf("%s: %v, by %v", curve.Params().Name, err, signers)
		}
		// HARDEN 10: whoever compiles gets what the envelope holds; the digest names what was uploaded.
		got, plain := mustCompile(t, string(text)), mustCompile(t, policyText)
		if got.Digest() != d.Digest() || got.Digest() == plain.Digest() || got.Generator() != plain.Generator() {
			t.Errorf("digest %s, generator %d", got.Digest(), got.Generator())
		}
		if f := got.File([]byte("/a"), bytes.Repeat([]byte{0xaa}, 20)); f.Reason != Accepted {
			t.Errorf("%+v", f)
		}
	}
}

func TestPlainPolicyIsNoEnvelope(t *testing.T) {
	t.Parallel()
	for _, falsy := range []string{`""`, "null", "false", "0", "[]", "{}"} {
		d, err := OpenDocument([]byte(with(`"release":0`, `"release":0,"payload":`+falsy)))
		if err != nil || d.Envelope != nil || !bytes.Equal(d.Policy, d.Text) {
			t.Errorf("payload %s: %v, %+v", falsy, err, d.Envelope)
		}
	}
}

// DSSE's own example of the bytes that are signed.
func TestPreAuthenticationEncoding(t *testing.T) {
	t.Parallel()
	e := Envelope{PayloadType: "http://example.com/HelloWorld", Payload: []byte("hello world")}
	if got := string(e.signedBytes()); got != "DSSEv1 29 http://example.com/HelloWorld 11 hello world" {
		t.Errorf("%q", got)
	}
}

// NT-91, HARDEN 16: what does not verify.
func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	key, public := newSigner(t, elliptic.P256())
	other, otherPublic := newSigner(t, elliptic.P256())
	good := signed(t, policyText, key)
	both := *good
	both.Signatures = append(both.Signatures[:1:1], signed(t, policyText, other).Signatures...)
	for _, c := range []struct {
		name  string
		make  func(e *Envelope)
		keys  []PublicKey
		cause string
	}{
		{"payload swapped", func(e *Envelope) { e.Payload = []byte(EmptyRuntime) }, nil, "signature 1"},
		{"payload cut", func(e *Envelope) { e.Payload = e.Payload[:len(e.Payload)-1] }, nil, "signature 1"},
		{"another type", func(e *Envelope) { e.PayloadType = "text/plain" }, nil, "payloadType"},
		{"another type, honestly signed", func(e *Envelope) {
			e.PayloadType = "text/plain"
			e.Signatures = resign(t, e, key)
		}, nil, "payloadType"},
		{"no type", func(e *Envelope) { e.PayloadType = "" }, nil, "payloadType"},
		{"one good signature, one flipped", func(e *Envelope) {
			bad := Signature{e.Signatures[0].KeyID, bytes.Clone(e.Signatures[0].Sig)}
			bad.Sig[len(bad.Sig)-1] ^= 1
			e.Signatures = append(e.Signatures[:1:1], bad)
		}, nil, "signature 2"},
		{"one good signature, one of a stranger", func(e *Envelope) { *e = both }, nil, "signature 2"},
		{"another's key under the trusted one's name", func(e *Envelope) {
			*e = *signed(t, policyText, other)
			e.Signatures[0].KeyID = public.ID()
		}, nil, "signature 1"},
		{"one good signature, one empty", func(e *Envelope) { e.Signatures = append(e.Signatures[:1:1], Signature{}) }, nil, "signatures[1].sig"},
		{"no signature", func(e *Envelope) { e.Signatures = nil }, nil, "no signature"},
		{"no key", func(*Envelope) {}, []PublicKey{}, "signature 1"},
		{"a zero key", func(*Envelope) {}, []PublicKey{{}}, "signature 1"},
		{"another key", func(*Envelope) {}, []PublicKey{otherPublic}, "signature 1"},
	} {
		e := *good
		c.make(&e)
		keys := c.keys
		if keys == nil {
			keys = []PublicKey{public}
		}
		if signers, err := e.Verify(keys...); err == nil || !strings.Contains(err.Error(), c.cause) {
			t.Errorf("%s: %v, by %v; want an error about %q", c.name, err, signers, c.cause)
		}
	}
	if signers, err := both.Verify(public, otherPublic); err != nil || len(signers) != 2 {
		t.Errorf("two signers, both known: %v, by %v", err, signers)
	}
}

func resign(t *testing.T, e *Envelope, key *ecdsa.PrivateKey) []Signature {
	t.Helper()
	sum := sha256.Sum256(e.signedBytes())
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return []Signature{{"", sig}}
}

// A certificate in a signature names the key; it makes nobody trust it.
func TestCertificatesNameTheKey(t *testing.T) {
	t.Parallel()
	key, public := newSigner(t, elliptic.P521())
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	e, text, err := SignWithCertificate([]byte(policyText), key, rand.Reader, now)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if cert.Subject.CommonName != "dsse_lib" || cert.Issuer.CommonName != "dsse_lib" || cert.IsCA || !cert.BasicConstraintsValid ||
		cert.SignatureAlgorithm != x509.ECDSAWithSHA256 || fmt.Sprint(cert.DNSNames) != "[dsse_lib]" ||
		!cert.NotBefore.Equal(now.Add(-24*time.Hour)) || !cert.NotAfter.Equal(now.Add(720*time.Hour)) {
		t.Errorf("certificate: %+v", cert)
	}
	if e.Signatures[0].KeyID != base64.StdEncoding.EncodeToString(text) {
		t.Error("the signature does not name the certificate")
	}
	if named := e.Named(public); len(named) != 1 {
		t.Error("the certificate's key is not recognised")
	}
	_, stranger := newSigner(t, elliptic.P256())
	if _, err := e.Verify(stranger); err == nil {
		t.Error("a certificate in the envelope was trusted")
	}
	if _, err := e.Verify(public); err != nil {
		t.Error(err)
	}
}

// HARDEN 16 and the form of envelopes.
func TestParseEnvelopeRefuses(t *testing.T) {
	t.Parallel()
	const sigs = `"signatures":[{"keyid":"k","sig":"AAAA"}]`
	const typ = `"payloadType":"application/vnd.keylime+json"`
	for _, c := range []struct{ text, cause string }{
		{`{"payload":"e30=",` + typ + `}`, "'signatures' is a required property"},
		{`{"payload":"e30=",` + sigs + `}`, "'payloadType' is a required property"},
		{`{"payload":"e30=",` + typ + `,"signatures":[]}`, "no signature"},
		{`{"payload":"e30=",` + typ + `,"signatures":{}}`, "byte "},
		{`{"payload":"e30=",` + typ + `,"signatures":[` + strings.Repeat(`{"sig":"AAAA"},`, 16) + `{"sig":"AAAA"}]}`, "signatures[16]"},
		{`{"payload":"e30=",` + typ + `,"signatures":[{"keyid":"` + strings.Repeat("k", 20000) + `","sig":"AAAA"}]}`, "signatures[0].keyid has 20000 bytes"},
		{`{"payload":"e30=","payload":"e30=",` + typ + `,` + sigs + `}`, "twice"},
		{`{"payload":"e30",` + typ + `,` + sigs + `}`, "payload: illegal base64"},
		{`{"payload":"e31=",` + typ + `,` + sigs + `}`, "payload: illegal base64"}, // bits beyond the last byte
		{`{"payload":"e3\n0=",` + typ + `,` + sigs + `}`, "line break"},
		{`{"payload":"7b7d7",` + typ + `,` + sigs + `}`, "payload: illegal base64"},
		{`{"payload":7,` + typ + `,` + sigs + `}`, "byte "},
	} {
		_, err := ParseEnvelope([]byte(c.text))
		var e *Error
		if !errors.As(err, &e) || !strings.HasPrefix(e.Text, malformed) || !strings.Contains(e.Text, c.cause) {
			t.Errorf("%.80s: %v, want %q", c.text, err, c.cause)
		}
	}
}

// A text of hexadecimal digits is base64 all the same: nobody can choose between two meanings.
func TestBase64IsNeverHexadecimal(t *testing.T) {
	t.Parallel()
	e, err := ParseEnvelope([]byte(`{"payload":"abcd","payloadType":"t","signatures":[{"sig":"_-__"}]}`))
	if err != nil || !bytes.Equal(e.Payload, []byte{0x69, 0xb7, 0x1d}) || !bytes.Equal(e.Signatures[0].Sig, []byte{0xff, 0xef, 0xff}) {
		t.Errorf("%v: %+v", err, e)
	}
}

// Nobody verifies the signature, and yet it must be one.
func TestSignaturesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	key, _ := newSigner(t, elliptic.P256())
	good := signed(t, policyText, key)
	sig := base64.StdEncoding.EncodeToString(good.Signatures[0].Sig)
	for _, other := range []string{"", "!", sig + "=", strings.Repeat("AAAA", 100), sig[:40] + `\n` + sig[40:]} {
		text := strings.Replace(string(good.Encode()), sig, other, 1)
		d, err := OpenDocument([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", other, err)
			continue
		}
		if _, err := d.Compile(); err == nil || !strings.Contains(err.Error(), malformed+"DSSE envelope: signatures[0].sig") {
			t.Errorf("%s: %v", other, err)
		}
	}
}

func TestUnsignedPayloadIsHeldToItsType(t *testing.T) {
	t.Parallel()
	key, _ := newSigner(t, elliptic.P256())
	e := signed(t, policyText, key)
	e.PayloadType = "application/vnd.in-toto+json"
	if _, err := CompileRuntime(e.Encode()); err == nil || !strings.Contains(err.Error(), "payloadType") {
		t.Errorf("%v", err)
	}
	inner := signed(t, string(signed(t, policyText, key).Encode()), key)
	if _, err := CompileRuntime(inner.Encode()); err == nil || !strings.Contains(err.Error(), "'meta' is a required property") {
		t.Errorf("an envelope in an envelope: %v", err)
	}
}

// NT-91: key confusion.
func TestParsePublicKeyRefuses(t *testing.T) {
	t.Parallel()
	key, public := newSigner(t, elliptic.P256())
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaDER, _ := x509.MarshalPKIXPublicKey(rsaKey.Public())
	private, _ := x509.MarshalECPrivateKey(key)
	_, cert, err := SignWithCertificate([]byte("{}"), key, rand.Reader, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	for _, c := range []struct{ name, text, cause string }{
		{"nothing", "", "not PEM"},
		{"an RSA key", encode("PUBLIC KEY", rsaDER), "*rsa.PublicKey"},
		{"a private key", encode("EC PRIVATE KEY", private), `type "EC PRIVATE KEY"`},
		{"a certificate", string(cert), "a certificate"},
		{"two keys", public.PEM() + public.PEM(), "more than one"},
		{"no key", encode("PUBLIC KEY", []byte{1}), "public key: "},
	} {
		_, err := ParsePublicKey([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.cause) {
			t.Errorf("%s: %v, want %q", c.name, err, c.cause)
		}
	}
	back, err := ParsePublicKey([]byte(public.PEM() + "\n"))
	if err != nil || back.ID() != public.ID() {
		t.Errorf("%v: %s", err, back.ID())
	}
	if _, err := Sign([]byte("{}"), rsaKey, rand.Reader); err == nil {
		t.Error("signed with an RSA key")
	}
}

func TestRecordedSignedPolicy(t *testing.T) {
	t.Parallel()
	key, err := ParsePublicKey(recorded.File(t, "policy/signed/runtime-policy-pubkey.pub"))
	if err != nil {
		t.Fatal(err)
	}
	text := recorded.File(t, "policy/signed/runtime-policy-test-signed.json")
	d, err := OpenDocument(text)
	if err != nil {
		t.Fatal(err)
	}
	if id := d.Envelope.Signatures[0].KeyID; id != key.ID() || len(d.Envelope.Named(key)) != 1 {
		t.Errorf("key id %s, want %s", key.ID(), id)
	}
	if _, err := d.Envelope.Verify(key); err != nil {
		t.Error(err)
	}
	if got := d.Envelope.Encode(); !bytes.Equal(got, bytes.TrimSpace(text)) {
		t.Errorf("encoded again as %.80s…", got)
	}
	bad, err := OpenDocument(recorded.File(t, "policy/signed/runtime-policy-test-signed-bad.json"))
	if err == nil {
		_, err = bad.Envelope.Verify(key)
	}
	if err == nil {
		t.Error("the bad one verifies")
	}
}

func TestRecordedSigningKeys(t *testing.T) {
	t.Parallel()
	key, err := ParseSigningKey(recorded.File(t, "policy/sign/ec-p521-private.pem"))
	if err != nil {
		t.Fatal(err)
	}
	public, err := ParsePublicKey(recorded.File(t, "policy/sign/ec-p521-public.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(public.ID(), "ef283e2cf75457fb") {
		t.Errorf("key id %s", public.ID())
	}
	if _, err := signed(t, string(recorded.File(t, "policy/sign/runtime-policy.json")), key).Verify(public); err != nil {
		t.Error(err)
	}
	for name, cause := range map[string]string{
		"policy/sign/rsa-4096-private.pem": "EC private key",
		"policy/keys/rsa2048.pem":          "EC private key",
		"policy/keys/rsa2048pub.pem":       "EC private key",
		"policy/keys/secp256k1.pem":        "curve",
	} {
		text := recorded.File(t, name)
		_, err := ParseSigningKey(text)
		if err == nil || !strings.Contains(err.Error(), cause) {
			t.Errorf("%s: %v, want %q", name, err, cause)
		}
		if _, err := ParsePublicKey(text); err == nil {
			t.Errorf("%s is taken for a key that verifies policies", name)
		}
	}
}

// FuzzOpenDocument: no text panics; what is taken for an envelope is JSON and survives being written and read again.
func FuzzOpenDocument(f *testing.F) {
	key, _ := newSigner(f, elliptic.P256())
	e := signed(f, policyText, key)
	f.Add(e.Encode())
	e.Signatures = append(e.Signatures, Signature{"k", []byte{1}})
	f.Add(e.Encode())
	f.Add([]byte(policyText))
	f.Add([]byte(`{"payload":"abcd","payloadType":"\u00e9","signatures":[{"sig":"_-__","x":[]}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := OpenDocument(text)
		var fault *Error
		if err != nil {
			if !errors.As(err, &fault) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		if !json.Valid(text) {
			t.Fatalf("%q was accepted", text)
		}
		if d.Envelope == nil {
			return
		}
		again, err := ParseEnvelope(d.Envelope.Encode())
		if err != nil || fmt.Sprint(*again) != fmt.Sprint(*d.Envelope) {
			t.Fatalf("%v: %+v became %+v", err, *d.Envelope, again)
		}
	})
}

func ExampleSign() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	envelope, err := Sign([]byte(EmptyRuntime), key, rand.Reader)
	if err != nil {
		panic(err)
	}
	d, err := OpenDocument(envelope.Encode()) // what a verifier gets
	if err != nil {
		panic(err)
	}
	trusted, err := NewPublicKey(key.Public())
	if err != nil {
		panic(err)
	}
	signers, err := d.Envelope.Verify(trusted)
	fmt.Println(len(signers), err)
	// Output: 1 <nil>
}
