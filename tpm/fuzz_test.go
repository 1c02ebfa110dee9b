package tpm_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"keylime/internal/fleet"
	"keylime/tpm"
)

// Each target holds a round trip: what a parser accepts is, byte for byte, what an encoder makes of the result.
// For the TPM's own structures that encoder is go-tpm's.

// seeds are the parts of genuine quotes.
func seeds(f *testing.F, add func(attester, tpm.Quote)) {
	for _, m := range []fleet.Model{{Alg: "rsa2048"}, {Alg: "rsa2048", Sign: "rsapss"}, {Alg: "ecc256"}, {Alg: "ecc521", Hash: tpm.SHA384}} {
		a := newAttester(f, m)
		add(a, a.quote(f, tpm.MaskOf(0, 10, 16), tpm.SHA256))
	}
}

func FuzzParsePublic(f *testing.F) {
	seeds(f, func(a attester, _ tpm.Quote) {
		f.Add(a.AKPublic())
		f.Add(a.EKPublic())
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := tpm.ParsePublic(b)
		if err != nil {
			return
		}
		if !bytes.Equal(p.Bytes(), b) {
			t.Fatal("Bytes differ from the input")
		}
		if p.SignAlg() == "ecschnorr" || bytes.HasPrefix(b[2:], []byte{0, 0x23}) && p.SignAlg() != "ecdsa" && p.SignAlg() != "null" {
			return // go-tpm has no structure for it
		}
		area, err := tpm2.Unmarshal[tpm2.TPMTPublic](b[2:])
		if err != nil {
			t.Fatalf("go-tpm refuses it: %v", err)
		}
		if got := tpm2.Marshal(tpm2.New2B(*area)); !bytes.Equal(got, b) {
			t.Fatalf("go-tpm writes %x", got)
		}
		name, err := tpm2.ObjectName(area)
		if err != nil || !bytes.Equal(name.Buffer, p.Name()) {
			t.Fatalf("name %x, go-tpm has %x, %v", p.Name(), name, err)
		}
		_, _, _ = p.EncAlg(), p.CheckAK(), p.CheckEK()
	})
}

func FuzzAttest(f *testing.F) {
	seeds(f, func(a attester, q tpm.Quote) {
		f.Add(q.Attest)
		certify, _, err := a.Certify(nonce, a.ak)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(certify)
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		quoted, certified := tpm.IsQuoted(b), tpm.IsCertified(b)
		if quoted && certified {
			t.Fatal("two types at once")
		}
		if !quoted && !certified {
			return
		}
		attest, err := tpm2.Unmarshal[tpm2.TPMSAttest](b)
		if err != nil {
			t.Fatalf("go-tpm refuses it: %v", err)
		}
		if got := tpm2.Marshal(attest); !bytes.Equal(got, b) {
			t.Fatalf("go-tpm writes %x", got)
		}
	})
}

func FuzzSignature(f *testing.F) {
	seeds(f, func(_ attester, q tpm.Quote) { f.Add(q.Signature) })
	f.Fuzz(func(t *testing.T, b []byte) {
		if !tpm.IsSignature(b) {
			return
		}
		sig, err := tpm2.Unmarshal[tpm2.TPMTSignature](b)
		if err != nil {
			t.Fatalf("go-tpm refuses it: %v", err)
		}
		if got := tpm2.Marshal(sig); !bytes.Equal(got, b) {
			t.Fatalf("go-tpm writes %x", got)
		}
	})
}

func FuzzPCRBlob(f *testing.F) {
	seeds(f, func(_ attester, q tpm.Quote) { f.Add(q.PCRBlob) })
	f.Add(tpm.MarshalPCRBlob(tpm.SHA512, 0xFFFFFF, values(tpm.SHA512, 24)))
	f.Fuzz(func(t *testing.T, b []byte) {
		bank, mask, values, err := tpm.ParseBlob(b)
		if err == nil && !bytes.Equal(tpm.MarshalPCRBlob(bank, mask, values), b) {
			t.Fatal("does not survive a round trip")
		}
	})
}

func FuzzParseQuote(f *testing.F) {
	seeds(f, func(_ attester, q tpm.Quote) { f.Add(q.String()) })
	f.Add("rAQ==:Ag==:Aw==")
	f.Fuzz(func(t *testing.T, s string) {
		if q, err := tpm.ParseQuote(s); err == nil && q.String() != s {
			t.Fatalf("%q came back as %q", s, q)
		}
	})
}

func FuzzParseCredential(f *testing.F) {
	seeds(f, func(a attester, _ tpm.Quote) {
		blob, err := tpm.MakeCredential(rand.Reader, mustParse(f, a.EKPublic()), a.ak.Name(), nonce)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(blob)
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		idObject, encSecret, err := tpm.ParseCredential(b)
		if err != nil {
			return
		}
		got := binary.BigEndian.AppendUint64(nil, 0xBADCC0DE00000001)
		for _, part := range [][]byte{idObject, encSecret} {
			got = append(binary.BigEndian.AppendUint16(got, uint16(len(part))), part...)
		}
		if !bytes.Equal(got, b) {
			t.Fatal("does not survive a round trip")
		}
	})
}

// NT-21: no input but the quote itself verifies.
func FuzzVerifyQuote(f *testing.F) {
	a := newAttester(f, fleet.Model{Alg: "rsa2048"})
	mask := tpm.MaskOf(10, 16)
	want := tpm.Expected{Nonce: nonce, Mask: mask, Hash: tpm.SHA256}
	q := a.quote(f, mask, tpm.SHA256)
	f.Add(q.Attest, q.Signature, q.PCRBlob)
	f.Fuzz(func(t *testing.T, attest, sig, blob []byte) {
		forged := tpm.Quote{Attest: attest, Signature: sig, PCRBlob: blob}
		_, err := tpm.VerifyQuote(a.ak, forged, want)
		same := bytes.Equal(attest, q.Attest) && bytes.Equal(sig, q.Signature) && bytes.Equal(blob, q.PCRBlob)
		if same != (err == nil) {
			t.Fatalf("verified: %v, the quote itself: %v", err, same)
		}
	})
}
