package repo

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

func entity(t testing.TB, config *packet.Config) *openpgp.Entity {
	t.Helper()
	e, err := openpgp.NewEntity("archive", "", "archive@example.org", config)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func publicKeys(t testing.TB, armored bool, entities ...*openpgp.Entity) []byte {
	t.Helper()
	var b bytes.Buffer
	w := io.WriteCloser(nopCloser{&b})
	if armored {
		var err error
		if w, err = armor.Encode(&b, openpgp.PublicKeyType, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range entities {
		if err := e.Serialize(w); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func keyring(t testing.TB, entities ...*openpgp.Entity) *Keyring {
	t.Helper()
	k, err := ParseKeyring(publicKeys(t, true, entities...))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestDetachedSignatures(t *testing.T) {
	t.Parallel()
	ours, others := entity(t, nil), entity(t, nil)
	content := []byte("<repomd/>")
	var binary, armored, foreign, both, old bytes.Buffer
	for w, sign := range map[*bytes.Buffer]func(io.Writer) error{
		&binary:  func(w io.Writer) error { return openpgp.DetachSign(w, ours, bytes.NewReader(content), nil) },
		&armored: func(w io.Writer) error { return openpgp.ArmoredDetachSign(w, ours, bytes.NewReader(content), nil) },
		&foreign: func(w io.Writer) error { return openpgp.DetachSign(w, others, bytes.NewReader(content), nil) },
	} {
		if err := sign(w); err != nil {
			t.Fatal(err)
		}
	}
	both.Write(foreign.Bytes())
	both.Write(binary.Bytes())
	past := &packet.Config{Time: func() time.Time { return time.Now().Add(-48 * time.Hour) }, KeyLifetimeSecs: 3600}
	expired := entity(t, past)
	if err := openpgp.DetachSign(&old, expired, bytes.NewReader(content), past); err != nil {
		t.Fatal(err)
	}
	k := keyring(t, ours, expired)
	binaryKeys, err := ParseKeyring(publicKeys(t, false, ours))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what    string
		keys    *Keyring
		content string
		sig     []byte
		good    bool
	}{
		{"binary", k, "<repomd/>", binary.Bytes(), true},
		{"armored", k, "<repomd/>", armored.Bytes(), true},
		{"binary keyring", binaryKeys, "<repomd/>", armored.Bytes(), true},
		{"ours after another's", k, "<repomd/>", both.Bytes(), true},
		{"another's", k, "<repomd/>", foreign.Bytes(), false},
		{"of an expired key", k, "<repomd/>", old.Bytes(), false},
		{"of other content", k, "<repomd />", armored.Bytes(), false},
		{"empty", k, "<repomd/>", nil, false},
		{"garbage", k, "<repomd/>", []byte("garbage"), false},
		{"cut", k, "<repomd/>", binary.Bytes()[:40], false},
	} {
		if err := c.keys.VerifyDetached([]byte(c.content), c.sig); (err == nil) != c.good {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

func TestClearsignedMessages(t *testing.T) {
	t.Parallel()
	ours, others := entity(t, nil), entity(t, nil)
	var b bytes.Buffer
	w, err := clearsign.EncodeMulti(&b, []*packet.PrivateKey{others.PrivateKey, ours.PrivateKey}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "Suite: stable\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	message := b.String()
	k := keyring(t, ours)
	text, err := k.VerifyClearsigned([]byte("Suite: before\n\n" + message + "\nSuite: after\n"))
	if string(text) != "Suite: stable\n" && string(text) != "Suite: stable" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	for what, bad := range map[string]string{
		"changed": strings.Replace(message, "stable", "evil", 1), "no message": "Suite: stable\n", "empty": "",
	} {
		if text, err := k.VerifyClearsigned([]byte(bad)); err == nil {
			t.Errorf("%s: accepted %q", what, text)
		}
	}
	if _, err := keyring(t, entity(t, nil)).VerifyClearsigned([]byte(message)); err == nil {
		t.Error("accepted with a key that signed nothing")
	}
}

// TestECDSASignatures: the form that upstream's tool knows besides OpenPGP.
func TestECDSASignatures(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ParseKeyring(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("content"))
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	if err := k.VerifyDetached([]byte("content"), sig); err != nil {
		t.Error(err)
	}
	if err := k.VerifyDetached([]byte("Content"), sig); err == nil {
		t.Error("other content was accepted")
	}
}

func TestKeyringsHoldKeys(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "garbage", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"} {
		if _, err := ParseKeyring([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// TestSignaturesOfGnuPG: what signs repositories in practice.
func TestSignaturesOfGnuPG(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("gpg"); err != nil {
		if os.Getenv("KEYLIME_REQUIRE_TOOLS") != "" {
			t.Fatal("gpg is not installed, and KEYLIME_REQUIRE_TOOLS is set")
		}
		t.Skip("gpg is not installed; scripts/setup.sh tools installs it")
	}
	home, err := os.MkdirTemp("", "gpg") // its socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	gpg := func(args ...string) []byte {
		t.Helper()
		cmd := exec.Command("gpg", append([]string{"--homedir", home, "--batch", "--quiet", "--no-autostart", "--passphrase", ""}, args...)...)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("gpg %s: %v\n%s", strings.Join(args, " "), err, errs.Bytes())
		}
		return out
	}
	agent := exec.Command("gpg-agent", "--homedir", home, "--daemon", "--quiet", "sleep", "60")
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.Process.Kill(); agent.Wait() })
	for i := 0; ; i++ {
		if _, err := os.Stat(filepath.Join(home, "S.gpg-agent")); err == nil {
			break
		}
		if i == 100 {
			t.Fatal("gpg-agent does not start")
		}
		time.Sleep(20 * time.Millisecond)
	}
	gpg("--quick-gen-key", "Archive <a@example.org>", "rsa2048", "sign", "never")
	file := filepath.Join(home, "Release")
	if err := os.WriteFile(file, []byte("Suite: stable  \n- dashed\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := ParseKeyring(gpg("--armor", "--export"))
	if err != nil {
		t.Fatal(err)
	}
	if err := k.VerifyDetached([]byte("Suite: stable  \n- dashed\n"), gpg("--armor", "--detach-sign", "-o", "-", file)); err != nil {
		t.Error(err)
	}
	text, err := k.VerifyClearsigned(gpg("--clearsign", "-o", "-", file))
	if err != nil || !strings.HasPrefix(string(text), "Suite: stable") || !strings.Contains(string(text), "\n- dashed") {
		t.Errorf("%q, %v", text, err)
	}
}

func FuzzVerify(f *testing.F) {
	e := entity(f, nil)
	k := keyring(f, e)
	var sig, message bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&sig, e, strings.NewReader("content"), nil); err != nil {
		f.Fatal(err)
	}
	w, err := clearsign.Encode(&message, e.PrivateKey, nil)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := io.WriteString(w, "content"); err != nil {
		f.Fatal(err)
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(sig.Bytes())
	f.Add(message.Bytes())
	f.Add(publicKeys(f, false, e))
	f.Fuzz(func(t *testing.T, data []byte) {
		if k.VerifyDetached([]byte("Content"), data) == nil {
			t.Error("content that nobody signed was accepted")
		}
		if text, err := k.VerifyClearsigned(data); err == nil && strings.TrimSpace(string(text)) != "content" {
			t.Errorf("accepted %q", text)
		}
		_, _ = ParseKeyring(data)
	})
}
