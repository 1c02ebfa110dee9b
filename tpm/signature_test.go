package tpm_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"testing"

	"keylime/internal/fleet"
	"keylime/tpm"
)

// tpmtECDSA writes a TPMT_SIGNATURE of ECDSA with SHA-256.
func tpmtECDSA(r, s []byte) []byte {
	b := []byte{0x00, 0x18, 0x00, 0x0B}
	for _, n := range [][]byte{r, s} {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(n))), n...)
	}
	return b
}

// NT-29: forms of an ECDSA signature.
func TestECDSASignatureForms(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		alg   string
		curve elliptic.Curve
	}{{"ecc256", elliptic.P256()}, {"ecc521", elliptic.P521()}} {
		t.Run(c.alg, func(t *testing.T) {
			t.Parallel()
			a := newAttester(t, fleet.Model{Alg: c.alg})
			mask := tpm.MaskOf(16)
			want := tpm.Expected{Nonce: nonce, Mask: mask, Hash: tpm.SHA256}
			width := (c.curve.Params().BitSize + 7) / 8
			q := a.quote(t, mask, tpm.SHA256)
			for q.Signature[6] != 0 { // until r has a leading zero byte
				sig, err := a.SignAttest(q.Attest)
				if err != nil {
					t.Fatal(err)
				}
				q.Signature = sig
			}
			r, s := q.Signature[6:6+width], q.Signature[8+width:]
			n := c.curve.Params().N
			plusN := func(v []byte) []byte { return new(big.Int).Add(new(big.Int).SetBytes(v), n).Bytes() }
			der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)})
			if err != nil {
				t.Fatal(err)
			}
			zeros := make([]byte, width)
			for _, f := range []struct {
				name string
				sig  []byte
				ok   bool
			}{
				{"full width", tpmtECDSA(r, s), true},
				{"leading zero left out", tpmtECDSA(bytes.TrimLeft(r, "\x00"), s), true},
				{"padded beyond the field", tpmtECDSA(append([]byte{0}, r...), s), false},
				{"r = 0", tpmtECDSA(zeros, s), false},
				{"s = 0", tpmtECDSA(r, zeros), false},
				{"r empty", tpmtECDSA(nil, s), false},
				{"both empty", tpmtECDSA(nil, nil), false},
				{"r = n", tpmtECDSA(n.Bytes(), s), false},
				{"s = n", tpmtECDSA(r, n.Bytes()), false},
				{"r + n", tpmtECDSA(plusN(r), s), false},
				{"s + n", tpmtECDSA(r, plusN(s)), false},
				{"swapped", tpmtECDSA(s, r), false},
				{"DER", der, false},
				{"DER in r", tpmtECDSA(der, nil), false},
				{"trailing byte", append(tpmtECDSA(r, s), 0), false},
				{"no s", tpmtECDSA(r, s)[:6+width], false},
				{"other scheme's number", append([]byte{0, 0x1C}, tpmtECDSA(r, s)[2:]...), false},
				{"RSASSA", append([]byte{0, 0x14, 0, 0x0B, 0, byte(width)}, r...), false},
			} {
				forged := q
				forged.Signature = f.sig
				if _, err := tpm.VerifyQuote(a.ak, forged, want); (err == nil) != f.ok {
					t.Errorf("%s: %v, want accepted = %v", f.name, err, f.ok)
				}
			}
		})
	}
}

// NT-29: forms of an RSA signature.
func TestRSASignatureForms(t *testing.T) {
	t.Parallel()
	a := newAttester(t, fleet.Model{Alg: "rsa2048", Sign: "rsassa"})
	pss := newAttester(t, fleet.Model{Alg: "rsa2048", Sign: "rsapss"})
	mask := tpm.MaskOf(16)
	want := tpm.Expected{Nonce: nonce, Mask: mask, Hash: tpm.SHA256}
	q := a.quote(t, mask, tpm.SHA256)
	key := a.ak.Key().(*rsa.PublicKey)
	raw := q.Signature[6:]
	tpmt := func(scheme, hash uint16, sig []byte) []byte {
		b := binary.BigEndian.AppendUint16(nil, scheme)
		b = binary.BigEndian.AppendUint16(b, hash)
		return append(binary.BigEndian.AppendUint16(b, uint16(len(sig))), sig...)
	}
	plusN := new(big.Int).Add(new(big.Int).SetBytes(raw), key.N).Bytes()
	for _, f := range []struct {
		name string
		sig  []byte
		ok   bool
	}{
		{"as the TPM writes it", tpmt(0x0014, 0x000B, raw), true},
		{"calls itself RSAPSS", tpmt(0x0016, 0x000B, raw), false},
		{"calls itself SHA-384", tpmt(0x0014, 0x000C, raw), false},
		{"plus the modulus", tpmt(0x0014, 0x000B, plusN), false},
		{"zero", tpmt(0x0014, 0x000B, make([]byte, 256)), false},
		{"one", tpmt(0x0014, 0x000B, append(make([]byte, 255), 1)), false},
		{"padded", tpmt(0x0014, 0x000B, append([]byte{0}, raw...)), false},
		{"cut", tpmt(0x0014, 0x000B, raw[:255]), false},
		{"empty", tpmt(0x0014, 0x000B, nil), false},
		{"longer than any key", tpmt(0x0014, 0x000B, make([]byte, 513)), false},
		{"null scheme", []byte{0x00, 0x10}, false},
	} {
		forged := q
		forged.Signature = f.sig
		if _, err := tpm.VerifyQuote(a.ak, forged, want); (err == nil) != f.ok {
			t.Errorf("%s: %v, want accepted = %v", f.name, err, f.ok)
		}
	}
	// An RSAPSS key's quote is not accepted for an RSASSA key and the other way round.
	if _, err := tpm.VerifyQuote(a.ak, pss.quote(t, mask, tpm.SHA256), want); err == nil {
		t.Error("RSAPSS signature accepted for an RSASSA key")
	}
}

// A TPM's RSAPSS salt is as long as the digest or as the key allows, by its version.
func TestRSAPSSSaltLengths(t *testing.T) {
	t.Parallel()
	const keyBytes, hashBytes = 256, 32
	for name, salt := range map[string]int{"digest": hashBytes, "largest": keyBytes - hashBytes - 2} {
		a := newAttester(t, fleet.Model{Alg: "rsa2048", Sign: "rsapss", Salt: salt})
		mask := tpm.MaskOf(16)
		if _, err := tpm.VerifyQuote(a.ak, a.quote(t, mask, tpm.SHA256), tpm.Expected{Nonce: nonce, Mask: mask, Hash: tpm.SHA256}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A signature whose padding is not PKCS #1's, made with the private key.
func TestRSASSAPaddingIsChecked(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	a := newAttester(t, fleet.Model{Alg: "rsa2048"})
	area := bytes.Clone(a.AKPublic())
	copy(area[len(area)-256:], key.N.Bytes())
	ak := mustParse(t, area)
	mask := tpm.MaskOf(16)
	q := a.quote(t, mask, tpm.SHA256)
	// 00 01 00 … garbage in place of ff … 00 and DigestInfo, ending in the right digest.
	h := tpm.SHA256.Crypto().New()
	h.Write(q.Attest)
	block := make([]byte, 256)
	block[1] = 1
	copy(block[256-32:], h.Sum(nil))
	sig := new(big.Int).Exp(new(big.Int).SetBytes(block), key.D, key.N).FillBytes(make([]byte, 256))
	copy(q.Signature[6:], sig)
	if _, err := tpm.VerifyQuote(ak, q, tpm.Expected{Nonce: nonce, Mask: mask, Hash: tpm.SHA256}); err == nil {
		t.Error("accepted")
	}
}
