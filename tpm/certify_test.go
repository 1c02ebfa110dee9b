package tpm_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"

	"keylime/internal/fleet"
	"keylime/tpm"
)

// NT-04: the IAK certifies this AK for this agent, and nothing else will do.
func TestVerifyCertify(t *testing.T) {
	t.Parallel()
	const id = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000"
	iak := newAttester(t, fleet.Model{Alg: "ecc256"})
	ak, other := newAttester(t, fleet.Model{Alg: "ecc384", Hash: tpm.SHA384}), newAttester(t, fleet.Model{Alg: "ecc256"})
	hashed := sha256.Sum256([]byte(id))
	certify := func(qualifying []byte, key *tpm.Public, change func([]byte)) (attest, sig []byte) {
		t.Helper()
		attest, _, err := iak.Certify(qualifying, key)
		if err != nil {
			t.Fatal(err)
		}
		change(attest)
		sig, err = iak.SignAttest(attest)
		if err != nil {
			t.Fatal(err)
		}
		return attest, sig
	}
	same := func([]byte) {}
	for _, c := range []struct {
		name       string
		qualifying []byte
		key        *tpm.Public
		change     func([]byte)
		ok         bool
	}{
		{"hash of the id, SHA-384 name", hashed[:], ak.ak, same, true},
		{"the id itself", []byte(id), ak.ak, same, true},
		{"another AK", hashed[:], other.ak, same, false},
		{"another id", []byte(id[1:]), ak.ak, same, false},
		{"no qualifying data", nil, ak.ak, same, false},
		{"type quote", hashed[:], ak.ak, func(b []byte) { binary.BigEndian.PutUint16(b[4:], 0x8018) }, false},
		{"magic 0", hashed[:], ak.ak, func(b []byte) { clear(b[:4]) }, false},
		{"name's algorithm changed", hashed[:], ak.ak, func(b []byte) {
			at := bytes.Index(b, ak.ak.Name())
			b[at+1] = 0x0B
		}, false},
	} {
		attest, sig := certify(c.qualifying, c.key, c.change)
		if err := tpm.VerifyCertify(iak.ak, attest, sig, id, ak.ak); (err == nil) != c.ok {
			t.Errorf("%s: %v, want accepted = %v", c.name, err, c.ok)
		}
	}

	attest, sig := certify(hashed[:], ak.ak, same)
	if err := tpm.VerifyCertify(other.ak, attest, sig, id, ak.ak); err == nil {
		t.Error("another IAK: accepted")
	}
	if err := tpm.VerifyCertify(iak.ak, attest, sig, "", ak.ak); err == nil {
		t.Error("no id: accepted")
	}
	if err := tpm.VerifyCertify(iak.ak, append(attest, 0), sig, id, ak.ak); err == nil {
		t.Error("trailing byte: accepted")
	}
	unrestricted := newAttester(t, fleet.Model{Alg: "ecc256", Attributes: fleet.AKAttributes &^ (1 << 16)})
	attest, sig, err := unrestricted.Certify(hashed[:], ak.ak)
	if err != nil {
		t.Fatal(err)
	}
	if err := tpm.VerifyCertify(unrestricted.ak, attest, sig, id, ak.ak); !errors.Is(err, tpm.ErrKeyUnfit) {
		t.Errorf("unrestricted IAK: %v, want ErrKeyUnfit", err)
	}
}
