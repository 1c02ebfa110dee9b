package ima

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"testing"
	"time"
)

func TestClassifyKey(t *testing.T) {
	t.Parallel()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ed, edPrivate, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certificate := func(public, private any) []byte {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1<<32, 0)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	info := func(public any) []byte {
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	private, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	ecCert := certificate(&ec.PublicKey, ec)
	for _, c := range []struct {
		name   string
		buffer []byte
		want   KeyKind
	}{
		{"EC certificate", ecCert, UsableKey},
		{"RSA certificate", certificate(&rsaKey.PublicKey, rsaKey), UsableKey},
		{"Ed25519 certificate", certificate(ed, edPrivate), UnsupportedKey},
		{"EC public key", info(&ec.PublicKey), UsableKey},
		{"RSA public key", info(&rsaKey.PublicKey), UsableKey},
		{"PKCS#1 public key", x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey), UsableKey},
		{"Ed25519 public key", info(ed), UnsupportedKey},
		{"private key", private, NotKey},
		{"certificate and more", append(bytes.Clone(ecCert), 0), NotKey},
		{"truncated certificate", ecCert[:len(ecCert)-1], NotKey},
		{"critical data", []byte("selinux=1;enforcing=1"), NotKey},
		{"nothing", nil, NotKey},
		{"empty sequence", []byte{0x30, 0}, NotKey},
	} {
		if got := ClassifyKey(c.buffer); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestClassifyKeyOfGenuineLines(t *testing.T) {
	t.Parallel()
	keys := 0
	for _, line := range genuine(t) {
		var p Parser
		e, err := p.Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		isRing := len(e.Name) > 0 && e.Name[0] == '.'
		if got := ClassifyKey(e.Buffer); (got == UsableKey) != isRing {
			t.Errorf("%s: %v", e.Name, got)
		}
		if isRing {
			keys++
		}
	}
	if keys == 0 {
		t.Error("no key among the lines")
	}
}

func TestCheckSignature(t *testing.T) {
	t.Parallel()
	header := []byte{3, 2, 4, 0xf3, 0x45, 0x2d, 0x23, 0, 2}
	for _, c := range []struct {
		b  []byte
		ok bool
	}{
		{append(bytes.Clone(header), 1, 2), true},
		{append(bytes.Clone(header), 1), false},
		{append(bytes.Clone(header), 1, 2, 3), false},
		{header[:8], false},
		{nil, false},
	} {
		if err := CheckSignature(c.b); (err == nil) != c.ok {
			t.Errorf("%x: %v", c.b, err)
		}
	}
}

// FuzzClassifyKey: no buffer panics.
func FuzzClassifyKey(f *testing.F) {
	for _, line := range genuine(f) {
		var p Parser
		if e, err := p.Parse(line); err == nil {
			f.Add(e.Buffer)
		}
	}
	f.Fuzz(func(t *testing.T, buffer []byte) {
		ClassifyKey(buffer)
		_ = CheckSignature(buffer)
	})
}
