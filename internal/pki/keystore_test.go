package pki

import (
	"bytes"
	"errors"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
)

func TestKeystoreRoundTrip(t *testing.T) {
	t.Parallel()
	ks := &keystore{CAKey: []byte("pem"), LastSerial: big.NewInt(7), Revoked: []string{"3"}, leafKeys: map[string][]byte{"client": []byte("key")}}
	sealed, err := ks.seal("pw")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"as written":                    sealed,
		"over the rest of a longer one": append(slices.Clone(sealed), "bHZlZA==\n  QUJD\nsalt: other\n"...),
	} {
		got, err := openKeystore(text, "pw")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(got.CAKey, ks.CAKey) || got.LastSerial.Cmp(ks.LastSerial) != 0 || !slices.Equal(got.Revoked, ks.Revoked) ||
			!maps.EqualFunc(got.leafKeys, ks.leafKeys, bytes.Equal) || got.salt != ks.salt {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	if _, err := openKeystore(sealed, "wrong"); !errors.Is(err, errKeystorePassword) {
		t.Errorf("wrong password: %v", err)
	}
	if !strings.HasPrefix(string(sealed), "priv: !!binary ") || !strings.Contains(string(sealed), "\nsalt: ") {
		t.Errorf("keystore begins %.30q", sealed)
	}
	if bytes.Contains(sealed, []byte("pem")) {
		t.Error("keystore shows its content")
	}
}

func FuzzOpenKeystore(f *testing.F) {
	sealed, err := (&keystore{CAKey: []byte("pem"), LastSerial: big.NewInt(7)}).seal("pw")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add([]byte("salt: a\npriv: !!binary |\n  QUJD\n"))
	f.Add([]byte("salt: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if ks, err := openKeystore(b, "pw"); err == nil && (len(ks.CAKey) == 0 || ks.LastSerial == nil) {
			t.Error("opened without a CA key or serial")
		}
	})
}
