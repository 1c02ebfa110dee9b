package device_test

import (
	"bytes"
	"maps"
	"testing"

	"keylime/tpm"
)

// What an agent that calls in needs of its TPM: a proof that it holds the AK, and quotes of just what is asked for.
func TestPossessionIsProvenByEachKindOfAK(t *testing.T) {
	t.Parallel()
	server := newTPM(t)
	nonce := []byte("0123456789abcdef")
	for _, c := range []struct {
		alg, sign string
		hash      tpm.Hash
	}{{"rsa2048", "rsassa", tpm.SHA256}, {"ecc256", "ecdsa", tpm.SHA256}, {"ecc384", "ecdsa", tpm.SHA384}} {
		t.Run(c.alg, func(t *testing.T) {
			dev := open(t, server)
			checkNothingLoaded(t, dev)
			ek, err := dev.CreateEK(t.Context(), ekOptions)
			if err != nil {
				t.Fatal(err)
			}
			blob, err := dev.CreateAK(t.Context(), ek, c.hash, c.sign, c.alg)
			if err != nil {
				t.Fatal(err)
			}
			ak, err := dev.LoadAK(t.Context(), ek, blob)
			if err != nil {
				t.Fatal(err)
			}
			attest, signature, err := dev.CertifySelf(t.Context(), ak, nonce)
			if err != nil {
				t.Fatal(err)
			}
			if err := tpm.VerifyPossession(ak.Public, attest, signature, nonce); err != nil {
				t.Error(err)
			}
			if err := tpm.VerifyPossession(ak.Public, attest, signature, []byte("another")); err == nil {
				t.Error("the proof answers another challenge, too")
			}
			if _, _, err := dev.CertifySelf(t.Context(), ak, nil); err == nil {
				t.Error("an empty challenge was answered")
			}
		})
	}
}

func TestBanksAreThoseOfTheTPM(t *testing.T) {
	t.Parallel()
	banks, err := open(t, newTPM(t)).Banks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[tpm.Hash]tpm.Mask{tpm.SHA1: 0xFFFFFF, tpm.SHA256: 0xFFFFFF, tpm.SHA384: 0xFFFFFF}
	if !maps.Equal(banks, want) {
		t.Errorf("banks %v, want the three that the TPM was made with", banks)
	}
}

func TestQuoteWithoutDataLeavesPCR16Alone(t *testing.T) {
	t.Parallel()
	dev := open(t, newTPM(t))
	if err := dev.ExtendPCR(t.Context(), tpm.PCRData, map[tpm.Hash][]byte{tpm.SHA256: dataDigest[:]}); err != nil {
		t.Fatal(err)
	}
	before, err := dev.ReadPCR(t.Context(), tpm.SHA256, tpm.PCRData)
	if err != nil {
		t.Fatal(err)
	}
	ek, err := dev.CreateEK(t.Context(), ekOptions)
	if err != nil {
		t.Fatal(err)
	}
	blob, err := dev.CreateAK(t.Context(), ek, tpm.SHA256, "ecdsa", "ecc256")
	if err != nil {
		t.Fatal(err)
	}
	ak, err := dev.LoadAK(t.Context(), ek, blob)
	if err != nil {
		t.Fatal(err)
	}
	q, err := dev.Quote(t.Context(), ak, []byte("0123456789abcdef"), tpm.MaskOf(0, 10), tpm.SHA256, nil)
	if err != nil {
		t.Fatal(err)
	}
	mask, _, err := tpm.ReadSelection(q.Attest)
	if err != nil || mask != tpm.MaskOf(0, 10) {
		t.Errorf("quoted %v, %v; want what was asked for", mask, err)
	}
	after, err := dev.ReadPCR(t.Context(), tpm.SHA256, tpm.PCRData)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("PCR 16 was %x and is %x, %v", before, after, err)
	}
}
