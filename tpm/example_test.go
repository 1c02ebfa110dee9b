package tpm_test

import (
	"crypto/rand"
	"fmt"

	"keylime/internal/fleet"
	"keylime/tpm"
)

// A registrar proves that an AK lives in the TPM of an EK: only that TPM can answer.
func ExampleMakeCredential() {
	attester, err := fleet.NewSoftTPM(rand.Reader, "ecc256")
	if err != nil {
		fmt.Println(err)
		return
	}
	ek, err := tpm.ParsePublic(attester.EKPublic())
	if err != nil {
		fmt.Println(err)
		return
	}
	ak, err := tpm.ParsePublic(attester.AKPublic())
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := ak.CheckAK(); err != nil {
		fmt.Println(err)
		return
	}
	blob, err := tpm.MakeCredential(rand.Reader, ek, ak.Name(), []byte("challenge"))
	if err != nil {
		fmt.Println(err)
		return
	}
	answer, err := attester.Activate(blob)
	fmt.Printf("%s %v\n", answer, err)
	// Output: challenge <nil>
}

// A verifier believes PCR values only as VerifyQuote returns them.
func ExampleVerifyQuote() {
	attester, err := fleet.NewSoftTPM(rand.Reader, "ecc256")
	if err != nil {
		fmt.Println(err)
		return
	}
	ak, err := tpm.ParsePublic(attester.AKPublic())
	if err != nil {
		fmt.Println(err)
		return
	}
	want := tpm.Expected{Nonce: []byte("fresh for each quote"), Mask: tpm.MaskOf(tpm.PCRIma), Hash: tpm.SHA256}
	quote, err := attester.Quote(want.Nonce, want.Mask, want.Hash)
	if err != nil {
		fmt.Println(err)
		return
	}
	pcrs, err := tpm.VerifyQuote(ak, quote, want)
	if err != nil {
		fmt.Println(err)
		return
	}
	value, covered := pcrs.PCR(tpm.PCRIma)
	fmt.Printf("PCR 10 is %x… %v\n", value[:4], covered)

	want.Nonce = []byte("of the next round")
	_, err = tpm.VerifyQuote(ak, quote, want)
	fmt.Println(err)
	// Output:
	// PCR 10 is 00000000… true
	// verify quote: nonce is not the one asked for
}
