package tpm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"math/big"
	"testing"
	"time"

	"keylime/internal/fleet"
	"keylime/tpm"
)

// BenchmarkVerifyQuote verifies a quote of PCRs 10 and 16 from its wire text. The ratio is to one bare signature
// verification with the same key.
func BenchmarkVerifyQuote(b *testing.B) {
	for _, alg := range []string{"rsa2048", "ecc256"} {
		b.Run(alg, func(b *testing.B) {
			a := newAttester(b, fleet.Model{Alg: alg})
			mask := tpm.MaskOf(tpm.PCRIma, tpm.PCRData)
			want := tpm.Expected{Nonce: nonce, Mask: mask, Hash: tpm.SHA256}
			quote := a.quote(b, mask, tpm.SHA256)
			wire := quote.String()
			verify := func() bool {
				q, err := tpm.ParseQuote(wire)
				if err != nil {
					return false
				}
				_, err = tpm.VerifyQuote(a.ak, q, want)
				return err == nil
			}
			compare(b, verify, bareVerification(b, a.ak, quote), "x-bare-verify")
		})
	}
}

// bareVerification is the library's verification of the quote's signature, with all there is to parse parsed.
func bareVerification(b *testing.B, ak *tpm.Public, q tpm.Quote) func() bool {
	b.Helper()
	digest := sha256.Sum256(q.Attest)
	switch key := ak.Key().(type) {
	case *rsa.PublicKey:
		sig := q.Signature[6:]
		return func() bool { return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], sig) == nil }
	case *ecdsa.PublicKey:
		r, s := new(big.Int).SetBytes(q.Signature[6:38]), new(big.Int).SetBytes(q.Signature[40:])
		return func() bool { return ecdsa.Verify(key, digest[:], r, s) }
	}
	b.Fatal("no key")
	return nil
}

// compare times an operation and its reference in turn, so that a busy machine slows both down alike, and reports
// the operation's time and its ratio to the reference's.
func compare(b *testing.B, operation, reference func() bool, unit string) {
	b.Helper()
	var took, bare time.Duration
	for b.Loop() {
		start := time.Now()
		ok := operation()
		middle := time.Now()
		ok = reference() && ok
		took, bare = took+middle.Sub(start), bare+time.Since(middle)
		if !ok {
			b.Fatal("operation or reference fails")
		}
	}
	b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "ns/op")
	b.ReportMetric(float64(took)/float64(bare), unit)
}

// BenchmarkMakeCredential makes a registrar's challenge. The ratio is to the asymmetric operation alone.
func BenchmarkMakeCredential(b *testing.B) {
	a := newAttester(b, fleet.Model{Alg: "rsa2048"})
	ek, secret := mustParse(b, a.EKPublic()), make([]byte, 32)
	operation := func() bool {
		_, err := tpm.MakeCredential(rand.Reader, ek, a.ak.Name(), secret)
		return err == nil
	}
	reference := func() bool {
		_, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, ek.Key().(*rsa.PublicKey), secret, []byte("IDENTITY\x00"))
		return err == nil
	}
	compare(b, operation, reference, "x-bare-encryption")
}
