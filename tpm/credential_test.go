package tpm_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"testing"

	"keylime/internal/fleet"
	"keylime/tpm"
)

// zeros is a source of zero bytes, for a reproducible seed.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// The symmetric half of a credential for a known seed, name and secret, computed elsewhere.
func TestMakeCredentialVector(t *testing.T) {
	t.Parallel()
	a := newAttester(t, fleet.Model{Alg: "rsa2048"})
	name := append([]byte{0x00, 0x0B}, make([]byte, 32)...)
	blob, err := tpm.MakeCredential(zeros{}, mustParse(t, a.EKPublic()), name, bytes.Repeat([]byte{'A'}, 32))
	if err != nil {
		t.Fatal(err)
	}
	const want = "badcc0de00000001" +
		"00440020e9a6f190238aba00eba443d786b4903cb6cab027106e967b57a5578f5a92806f01e8e8f077e6248b7dc3e770ed0136af5ace1d74f33912b46b2b9fd4c84a94867f2b" +
		"0100"
	if got := hex.EncodeToString(blob[:len(want)/2]); got != want {
		t.Errorf("credential begins\n%s, want\n%s", got, want)
	}
}

func TestMakeCredentialSizes(t *testing.T) {
	t.Parallel()
	secret := make([]byte, 32)
	for alg, size := range map[string]int{"rsa2048": 336, "ecc256": 148} {
		a := newAttester(t, fleet.Model{Alg: alg})
		blob, err := tpm.MakeCredential(rand.Reader, mustParse(t, a.EKPublic()), a.ak.Name(), secret)
		if err != nil || len(blob) != size {
			t.Errorf("%s: %d bytes, %v, want %d", alg, len(blob), err, size)
		}
	}
}

func TestMakeCredentialRefuses(t *testing.T) {
	t.Parallel()
	a := newAttester(t, fleet.Model{Alg: "ecc256"})
	ek, name, secret := mustParse(t, a.EKPublic()), a.ak.Name(), make([]byte, 32)
	for _, c := range []struct {
		what         string
		ek           *tpm.Public
		name, secret []byte
	}{
		{"an AK in place of the EK", a.ak, name, secret},
		{"no name", ek, nil, secret},
		{"a handle for a name", ek, []byte{0x80, 0, 0, 1}, secret},
		{"a short name", ek, name[:33], secret},
		{"no secret", ek, name, nil},
		{"a secret longer than the EK's digest", ek, name, make([]byte, 33)},
	} {
		if _, err := tpm.MakeCredential(rand.Reader, c.ek, c.name, c.secret); err == nil {
			t.Errorf("%s: accepted", c.what)
		}
	}
	if _, err := tpm.MakeCredential(rand.Reader, a.ak, name, secret); !errors.Is(err, tpm.ErrKeyUnfit) {
		t.Errorf("an AK in place of the EK: %v, want ErrKeyUnfit", err)
	}
}

func TestParseCredentialIsStrict(t *testing.T) {
	t.Parallel()
	a := newAttester(t, fleet.Model{Alg: "ecc256"})
	blob, err := tpm.MakeCredential(rand.Reader, mustParse(t, a.EKPublic()), a.ak.Name(), make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	idObject, encSecret, err := tpm.ParseCredential(blob)
	if err != nil || len(idObject) != 0x44 || len(encSecret) != 68 {
		t.Fatalf("parts of %d and %d bytes, %v", len(idObject), len(encSecret), err)
	}
	for name, bad := range map[string][]byte{
		"wrong magic":         append([]byte{0xBA, 0xDC, 0xC0, 0xDF}, blob[4:]...),
		"version 2":           slices.Concat(blob[:4], []byte{0, 0, 0, 2}, blob[8:]),
		"trailing byte":       append(bytes.Clone(blob), 0),
		"no integrity":        slices.Concat(blob[:8], []byte{0, 4, 0, 0, 1, 2, 0, 1, 9}),
		"no content":          slices.Concat(blob[:8], []byte{0, 4, 0, 2, 1, 2, 0, 1, 9}),
		"empty credential":    slices.Concat(blob[:8], []byte{0, 0, 0, 1, 9}),
		"integrity too long":  slices.Concat(blob[:10], []byte{0, 0x43}, blob[12:]),
		"credential too long": slices.Concat(blob[:8], binary.BigEndian.AppendUint16(nil, 133), make([]byte, 200)),
	} {
		if _, _, err := tpm.ParseCredential(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for n := range blob {
		if _, _, err := tpm.ParseCredential(blob[:n]); err == nil {
			t.Errorf("cut to %d bytes: accepted", n)
		}
	}
}
