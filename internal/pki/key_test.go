package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadPrivateKeyForms(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	legacy := func(kind string, der []byte, password string) string {
		//lint:ignore SA1019 the form is only read by the product
		b, err := x509.EncryptPEMBlock(rand.Reader, kind, der, []byte(password), x509.PEMCipherAES256)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(b))
	}
	pkcs8 := func(key crypto.Signer, password string) string {
		text, err := EncodePrivateKey(key, password)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	pkcs1 := x509.MarshalPKCS1PrivateKey(rsaKey)
	for _, tc := range []struct {
		name, text, password string
		want                 crypto.Signer // nil = refused
	}{
		{"PKCS#8 RSA", pkcs8(rsaKey, ""), "", rsaKey},
		{"PKCS#8 EC", pkcs8(ec, ""), "", ec},
		{"PKCS#8, password of no use", pkcs8(ec, ""), "pw", ec},
		{"PBES2 RSA", pkcs8(rsaKey, "pw"), "pw", rsaKey},
		{"PBES2 EC", pkcs8(ec, "pw"), "pw", ec},
		{"PBES2, wrong password", pkcs8(ec, "pw"), "wrong", nil},
		{"PBES2, no password", pkcs8(ec, "pw"), "", nil},
		{"PKCS#1", block("RSA PRIVATE KEY", pkcs1), "", rsaKey},
		{"PKCS#1 encrypted", legacy("RSA PRIVATE KEY", pkcs1, "pw"), "pw", rsaKey},
		{"PKCS#1, wrong password", legacy("RSA PRIVATE KEY", pkcs1, "pw"), "wrong", nil},
		{"PKCS#1, no password", legacy("RSA PRIVATE KEY", pkcs1, "pw"), "", nil},
		{"SEC1", block("EC PRIVATE KEY", sec1), "", ec},
		{"SEC1 after its parameters", block("EC PARAMETERS", []byte{6, 0}) + block("EC PRIVATE KEY", sec1), "", ec},
		{"SEC1 encrypted", legacy("EC PRIVATE KEY", sec1, "pw"), "pw", ec},
		{"certificate alone", block("CERTIFICATE", []byte{1}), "", nil},
		{"garbage in the block", block("PRIVATE KEY", []byte{1}), "", nil},
		{"nothing", "", "", nil},
	} {
		got, err := ReadPrivateKey([]byte(tc.text), tc.password)
		if tc.want == nil {
			if err == nil {
				t.Errorf("%s: read", tc.name)
			}
			continue
		}
		if err != nil || !samePublicKey(got.Public(), tc.want.Public()) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// Keys as OpenSSL's tools write them, and ours as they read them.
func TestPrivateKeysAndOpenSSL(t *testing.T) {
	t.Parallel()
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl to exchange keys with")
	}
	run := func(stdin string, args ...string) string {
		t.Helper()
		cmd := exec.Command(openssl, args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("openssl %v: %v", args, err)
		}
		return string(out)
	}
	plain := run("", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
	want, err := ReadPrivateKey([]byte(plain), "")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"PBES2, AES-256":  run(plain, "pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout", "pass:pw"),
		"PBES2, AES-128":  run(plain, "pkcs8", "-topk8", "-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA1", "-passout", "pass:pw"),
		"scrypt":          run(plain, "pkcs8", "-topk8", "-scrypt", "-passout", "pass:pw"),
		"traditional":     run(plain, "rsa", "-traditional"),
		"traditional AES": run(plain, "rsa", "-traditional", "-aes256", "-passout", "pass:pw"),
	} {
		got, err := ReadPrivateKey([]byte(text), "pw")
		if err != nil || !samePublicKey(got.Public(), want.Public()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ours, err := EncodePrivateKey(want, "pw")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key.pem")
	writeTestFile(t, path, ours)
	if got := run("", "pkey", "-in", path, "-passin", "pass:pw"); got != plain {
		t.Error("openssl reads another key")
	}
}
