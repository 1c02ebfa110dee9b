package tenant

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"testing/iotest"
)

// counting is 00 01 02 … of n bytes.
func counting(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// Values that agents and tenants of other makers compute from the same inputs.
func TestKeyMaterialIsTheWires(t *testing.T) {
	t.Parallel()
	s := shares{k: counting(32)}
	if got, want := s.mac(defaultAgent), "74216909e21c5a1a5fb9e0ad23881f6f1693d01b5469c4d12dfe4ea151ab3334690966790c8e3b4a358b1be3ca443e2d"; got != want {
		t.Errorf("auth tag of the agent's id: got %s, want %s", got, want)
	}
	if got, want := s.mac("ABCDEFGHIJKLMNOPQRST"), "3d1d025eb6cfc5f8bb1493c80991f3f76944180d74292a7eb0af5581fb124d09c5b75f979c1b34f8e589462148b59932"; got != want {
		t.Errorf("answer to a challenge: got %s, want %s", got, want)
	}
	got, err := s.seal(bytes.NewReader(counting(16)), []byte("hello"))
	if want := "AAECAwQFBgcICQoLDA0ODw8JzBpWDITEMYNyl8CxnnflYIFi6g=="; err != nil || got != want {
		t.Errorf("sealed payload: got %s, %v, want %s", got, err, want)
	}
}

func TestSharesGiveTheKeyOnlyTogether(t *testing.T) {
	t.Parallel()
	s, err := newShares(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for i := range s.k {
		if s.u[i]^s.v[i] != s.k[i] {
			t.Fatalf("U XOR V differs from K at byte %d", i)
		}
	}
	if bytes.Equal(s.u, s.k) || bytes.Equal(s.v, s.k) {
		t.Error("a share is the key itself")
	}
	broken := errors.New("no randomness")
	if _, err := newShares(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("without randomness: got %v", err)
	}
}

func TestUIsForTheTransportKeyAlone(t *testing.T) {
	t.Parallel()
	key, _ := transportKey(t, 0)
	s, err := newShares(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := s.encryptU(rand.Reader, &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if len(text) != 344 {
		t.Errorf("encrypted U has %d characters, want 344", len(text))
	}
	ciphertext, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	// OAEP with SHA-1 for both hash and mask, as the agents decrypt.
	u, err := rsa.DecryptOAEP(sha1.New(), nil, key, ciphertext, nil)
	if err != nil || !bytes.Equal(u, s.u) {
		t.Errorf("decrypts to %x, %v, want U", u, err)
	}
}

func TestPayloadOpensWithTheKeyAlone(t *testing.T) {
	t.Parallel()
	s, err := newShares(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := s.seal(rand.Reader, []byte("the secret payload"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	open := func(key []byte) ([]byte, error) {
		block, err := aes.NewCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		gcm, err := cipher.NewGCMWithNonceSize(block, ivSize)
		if err != nil {
			t.Fatal(err)
		}
		return gcm.Open(nil, raw[:ivSize], raw[ivSize:], nil)
	}
	if plain, err := open(s.k); err != nil || string(plain) != "the secret payload" {
		t.Errorf("with K: %q, %v", plain, err)
	}
	if _, err := open(s.v); err == nil {
		t.Error("V alone opens the payload")
	}
}

func TestKeyFiles(t *testing.T) {
	t.Parallel()
	s, err := newShares(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	k, u, v := b64(s.k), b64(s.u), b64(s.v)
	other, _ := newShares(rand.Reader)
	for _, c := range []struct {
		name, text string
		wrong      string // part of the error; "" = accepted
	}{
		{"K, V, U as the generator writes", k + "\n" + v + "\n" + u + "\n", ""},
		{"K, U, V", k + "\n" + u + "\n" + v, ""},
		{"two lines", k + "\n" + u, "three lines"},
		{"four lines", strings.Join([]string{k, u, v, v}, "\n"), "three lines"},
		{"no base64", k + "\n" + u + "\n****", "line 3"},
		{"short key", b64(s.k[:16]) + "\n" + u + "\n" + v, "line 1"},
		{"shares of another key", b64(other.k) + "\n" + u + "\n" + v, "do not give the key"},
		{"empty", "", "three lines"},
	} {
		got, err := parseShares([]byte(c.text))
		switch {
		case c.wrong == "" && (err != nil || !bytes.Equal(got.k, s.k)):
			t.Errorf("%s: %v", c.name, err)
		case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("%s: got %v, want an error with %q", c.name, err, c.wrong)
		}
		if err != nil && (strings.Contains(err.Error(), u) || strings.Contains(err.Error(), k)) {
			t.Errorf("%s: the error tells the key: %v", c.name, err)
		}
	}
}

func TestNoncesAreFreshAndAlphanumeric(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	counts := map[rune]int{}
	const rounds = 2000
	for range rounds {
		n, err := randomText(rand.Reader, nonceLength)
		if err != nil {
			t.Fatal(err)
		}
		if len(n) != nonceLength || seen[n] {
			t.Fatalf("nonce %q has a wrong length or came before", n)
		}
		seen[n] = true
		for _, r := range n {
			counts[r]++
		}
	}
	if len(counts) != 62 {
		t.Errorf("nonces use %d characters, want 62", len(counts))
	}
	// 774 of each are expected, standard deviation 28: six of them on either side.
	for r, n := range counts {
		if n < 606 || n > 942 {
			t.Errorf("%q occurs %d times in %d characters", r, n, rounds*nonceLength)
		}
	}
	// A byte of 248 or more would favour the first eight characters; it is passed over.
	if n, err := randomText(bytes.NewReader([]byte{255, 248, 0, 61, 62, 9}), 3); err != nil || n != "A9A" {
		t.Errorf("got %q, %v, want A9A", n, err)
	}
}
