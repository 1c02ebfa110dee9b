package tpm_test

import (
	"bytes"
	"crypto/rand"
	"testing"

	"keylime/internal/fleet"
	"keylime/tpm"
)

func TestClaimsAreThoseOfTheQuote(t *testing.T) {
	t.Parallel()
	soft, err := fleet.NewSoftTPM(rand.Reader, "ecc256")
	if err != nil {
		t.Fatal(err)
	}
	if err := soft.Extend(7, map[tpm.Hash][]byte{tpm.SHA256: make([]byte, 32)}); err != nil {
		t.Fatal(err)
	}
	mask := tpm.MaskOf(0, 7)
	q, err := soft.Quote([]byte("nonce"), mask, tpm.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	c, err := tpm.ReadClaims(q)
	if err != nil {
		t.Fatal(err)
	}
	if c.Bank != tpm.SHA256 || string(c.Nonce) != "nonce" || len(c.PCRs) != 2 || c.Clock != soft.Clock() ||
		!bytes.Equal(c.PCRs[7], soft.PCR(tpm.SHA256, 7)) || !bytes.Equal(c.PCRs[0], make([]byte, 32)) {
		t.Errorf("got %+v", c)
	}

	// Anyone may have signed it, but the values must be those that were signed.
	forged := q
	forged.Signature = nil
	if _, err := tpm.ReadClaims(forged); err != nil {
		t.Errorf("without signature: %v", err)
	}
	forged.PCRBlob = bytes.Clone(q.PCRBlob)
	at := bytes.Index(forged.PCRBlob, soft.PCR(tpm.SHA256, 7))
	forged.PCRBlob[at] ^= 1
	if c, err := tpm.ReadClaims(forged); err == nil {
		t.Errorf("with another value: %+v", c)
	}
	if c, err := tpm.ReadClaims(tpm.Quote{PCRBlob: q.PCRBlob}); err == nil {
		t.Errorf("without attestation: %+v", c)
	}
}

func TestReadValuesAndSelection(t *testing.T) {
	t.Parallel()
	soft, err := fleet.NewSoftTPM(rand.Reader, "ecc256")
	if err != nil {
		t.Fatal(err)
	}
	q, err := soft.Quote([]byte("nonce"), tpm.MaskOf(0, 17), tpm.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	bank, pcrs, err := tpm.ReadValues(q.PCRBlob)
	if err != nil || bank != tpm.SHA256 || len(pcrs) != 2 || !bytes.Equal(pcrs[0], make([]byte, 32)) || !bytes.Equal(pcrs[17], bytes.Repeat([]byte{0xff}, 32)) {
		t.Errorf("read %v %x, %v", bank, pcrs, err)
	}
	mask, clock, err := tpm.ReadSelection(q.Attest)
	if err != nil || mask != tpm.MaskOf(0, 17) || clock != soft.Clock() {
		t.Errorf("read %v %v, %v", mask, clock, err)
	}
	if _, _, err := tpm.ReadValues(q.PCRBlob[1:]); err == nil {
		t.Error("half a blob is read")
	}
	if _, _, err := tpm.ReadSelection(q.PCRBlob); err == nil {
		t.Error("a blob is read as a quote")
	}
}
