package tpm_test

import (
	"encoding/binary"
	"testing"

	"keylime/internal/fleet"
	"keylime/tpm"
)

// NT-84: only the AK's own certification of itself, over this nonce, proves who holds it.
func TestVerifyPossession(t *testing.T) {
	t.Parallel()
	nonce := []byte("0123456789abcdef")
	for _, model := range []fleet.Model{{}, {Alg: "ecc256"}, {Alg: "ecc384", Hash: tpm.SHA384}, {Sign: "rsapss"}} {
		own, other := newAttester(t, model), newAttester(t, model)
		proof := func(by attester, qualifying []byte, key *tpm.Public, change func([]byte) []byte) (attest, sig []byte) {
			t.Helper()
			attest, _, err := by.Certify(qualifying, key)
			if err != nil {
				t.Fatal(err)
			}
			attest = change(attest)
			if sig, err = by.SignAttest(attest); err != nil {
				t.Fatal(err)
			}
			return attest, sig
		}
		same := func(b []byte) []byte { return b }
		for _, c := range []struct {
			name       string
			by         attester
			qualifying []byte
			key        *tpm.Public
			change     func([]byte) []byte
			ok         bool
		}{
			{"proof", own, nonce, own.ak, same, true},
			{"other nonce", own, []byte("0123456789abcdeF"), own.ak, same, false},
			{"empty nonce", own, nil, own.ak, same, false},
			{"nonce and more", own, append(nonce[:len(nonce):len(nonce)], 0), own.ak, same, false},
			{"other signer", other, nonce, own.ak, same, false},
			{"other object", own, nonce, other.ak, same, false},
			{"quote", own, nonce, own.ak, func(b []byte) []byte { binary.BigEndian.PutUint16(b[4:], 0x8018); return b }, false},
			{"magic 0", own, nonce, own.ak, func(b []byte) []byte { clear(b[:4]); return b }, false},
			{"trailing byte", own, nonce, own.ak, func(b []byte) []byte { return append(b, 0) }, false},
		} {
			attest, sig := proof(c.by, c.qualifying, c.key, c.change)
			if err := tpm.VerifyPossession(own.ak, attest, sig, nonce); (err == nil) != c.ok {
				t.Errorf("%+v, %s: %v, want accepted = %v", model, c.name, err, c.ok)
			}
		}
		attest, sig := proof(own, nonce, own.ak, same)
		if err := tpm.VerifyPossession(own.ak, attest, sig, nil); err == nil {
			t.Error("no nonce wanted: accepted")
		}
		attest[len(attest)/2] ^= 1
		if err := tpm.VerifyPossession(own.ak, attest, sig, nonce); err == nil {
			t.Error("bit flipped: accepted")
		}
	}
}
