package pki

import (
	"crypto/rand"
	"crypto/rsa"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSigningKeyIsMadeOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "new", "key.pem")
	first, err := EnsureSigningKey(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	again, err := EnsureSigningKey(path)
	if err != nil || !again.Equal(first) {
		t.Errorf("another key the second time, %v", err)
	}
}

func TestSigningKeysThatAreNone(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaText, err := EncodePrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	locked, err := EncodePrivateKey(ecKey(t), "secret")
	if err != nil {
		t.Fatal(err)
	}
	for content, want := range map[string]string{"": "no private key", string(rsaText): "want an EC key", string(locked): "no password"} {
		path := filepath.Join(t.TempDir(), "key.pem")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := EnsureSigningKey(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
		if kept, err := os.ReadFile(path); err != nil || string(kept) != content {
			t.Error("the file was changed")
		}
	}
}
