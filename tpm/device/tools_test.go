package device_test

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"keylime/tpm"
)

// tpm2-tools share the TPM with an open device and accept its quotes.
func TestTPM2ToolsCheckOurQuotes(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("tpm2_checkquote"); err != nil {
		if os.Getenv("KEYLIME_REQUIRE_TOOLS") != "" {
			t.Fatal("tpm2-tools are not installed, and KEYLIME_REQUIRE_TOOLS is set")
		}
		t.Skip("tpm2-tools are not installed (scripts/setup.sh installs them)")
	}
	server := newTPM(t)
	dev := open(t, server)
	ek, err := dev.CreateEK(t.Context(), ekOptions)
	if err != nil {
		t.Fatal(err)
	}
	blob, err := dev.CreateAK(t.Context(), ek, tpm.SHA256, "rsassa", "rsa2048")
	if err != nil {
		t.Fatal(err)
	}
	ak, err := dev.LoadAK(t.Context(), ek, blob)
	if err != nil {
		t.Fatal(err)
	}
	q, err := dev.Quote(t.Context(), ak, []byte{0xAB, 0xCD}, tpm.MaskOf(0, 1, 2, 3, 4, 5, 6, 7, 10), tpm.SHA256, dataDigest[:])
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(ak.Public.Key())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string][]byte{
		"ak.pem":  pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}),
		"message": q.Attest, "signature": q.Signature, "pcrs": q.PCRBlob,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		nonce string
		ok    bool
	}{{"abcd", true}, {"abce", false}} {
		check := exec.Command("tpm2_checkquote", "-u", "ak.pem", "-m", "message", "-s", "signature", "-f", "pcrs", "-g", "sha256", "-q", c.nonce)
		check.Dir = dir
		if out, err := check.CombinedOutput(); (err == nil) != c.ok {
			t.Errorf("tpm2_checkquote with nonce %s: %v: %s", c.nonce, err, out)
		}
	}
	read := exec.Command("tpm2_pcrread", "-T", server.TCTI(), "sha256:10")
	if out, err := read.CombinedOutput(); err != nil {
		t.Errorf("tpm2_pcrread beside an open device: %v: %s", err, out)
	}
}
