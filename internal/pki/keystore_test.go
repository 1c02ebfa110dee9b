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

func FuzzKeystoreContent(f *testing.F) {
	f.Add([]byte("ca: !!binary |\n  QUJD\nlastserial: 3\nrevoked_keys: ['2']\nclient: !!binary |\n  QUJD\n"))
	f.Add([]byte("ca: QUJD\nlastserial: 0x10\n"))
	f.Add([]byte("ca: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, plain []byte) {
		ks := &keystore{leafKeys: map[string][]byte{}}
		if ks.parse(plain) == nil && (len(ks.CAKey) == 0 || ks.LastSerial == nil) {
			t.Error("read without a CA key or serial")
		}
	})
}
