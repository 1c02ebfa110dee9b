package attest_test

import (
	"crypto/rand"
	"fmt"

	"keylime/internal/attest"
	"keylime/internal/fleet"
	"keylime/internal/policy"
	"keylime/tpm"
)

// One round of an agent that ran a file which its runtime policy does not know.
func ExampleVerify() {
	machine, err := fleet.NewSoftTPM(rand.Reader, "ecc256") // stands for a real TPM
	if err != nil {
		fmt.Println(err)
		return
	}
	list, err := fleet.NewMeasured(machine)
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := list.Add("/usr/bin/evil", make([]byte, 32)); err != nil {
		fmt.Println(err)
		return
	}
	runtime, err := policy.CompileRuntime([]byte(`{
		"meta": {"version": 1, "generator": 2}, "release": 0, "digests": {}, "excludes": ["boot_aggregate"], "keyrings": {},
		"ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": null}, "ima-buf": {}, "verification-keys": ""}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	pcr, err := policy.ParsePCR(`{"mask": "0x400"}`)
	if err != nil {
		fmt.Println(err)
		return
	}
	set := &policy.Set{Runtime: runtime, PCR: pcr, Labels: policy.DefaultLabels()}
	ak, err := tpm.ParsePublic(machine.AKPublic())
	if err != nil {
		fmt.Println(err)
		return
	}

	challenge := attest.Challenge{Nonce: []byte("a fresh nonce"), Mask: set.Mask()}
	quote, err := machine.Quote(challenge.Nonce, challenge.Mask, tpm.SHA256)
	if err != nil {
		fmt.Println(err)
		return
	}
	ima, entry := list.From(challenge.Entry)
	out, err := attest.Verify(attest.Input{
		Identity:  attest.Identity{AK: ak, AcceptHash: []string{"sha256"}, AcceptEnc: []string{"ecc"}, AcceptSign: []string{"ecdsa"}},
		Challenge: challenge,
		Evidence: attest.Evidence{
			Quote: quote, HashAlg: "sha256", EncAlg: "ecc256", SignAlg: "ecdsa", IMA: ima, HasIMA: true, IMAEntry: entry,
		},
		Policy: set,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	failure, _ := out.Verdict.Worst()
	fmt.Println(out.Verdict.Pass(), failure.EventID, failure.Severity.Label)
	fmt.Println(failure.Context)
	// Output:
	// false ima.validation.ima-ng.not_in_allowlist emergency
	// {"message":"File not found in allowlist: /usr/bin/evil","got":"0000000000000000000000000000000000000000000000000000000000000000","line":2}
}
