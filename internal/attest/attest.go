// Package attest is the decision core: evidence and policies in, a verdict and the next state out.
//
// Verify is the one decision path of pull, push, one-shot and offline appraisal. It does no I/O, reads no
// clock and modifies none of its arguments.
package attest

import (
	"time"

	"keylime/internal/policy"
	"keylime/tpm"
)

// Identity is what the verifier knows of the attester before the round.
type Identity struct {
	AK *tpm.Public
	// Accepted algorithm names, as the tenant enrolled them. "rsa" stands for "rsa2048" and "ecc" for "ecc256".
	AcceptHash, AcceptEnc, AcceptSign []string
}

// Challenge is what the verifier asked for in this round.
type Challenge struct {
	Nonce    []byte   // fresh; the exact qualifying data that the quote must carry
	Mask     tpm.Mask // PCRs asked for, without PCR 16; must cover policy.Set.Mask
	BindData bool     // PCR 16 must hold the digest of Evidence.PubKey (pull); PCR 16 is then part of the selection
	Entry    uint64   // first IMA entry asked for: State.NextEntry, or 0 for the whole list; no other is valid
	// OneShot: somebody else asked for the evidence, which stands alone. Mask is then what the quote covers, PCR 16 perhaps
	// included; PCRs that no policy names are left out of account, PCR 10 too; and the TPM's clock is compared with nothing.
	// State must be zero, and the measurement list begins with its first entry.
	OneShot bool
}

// Evidence is what the attester answered, decoded but not believed.
type Evidence struct {
	Quote                    tpm.Quote
	HashAlg, EncAlg, SignAlg string
	PubKey                   string // the transport key's PEM text that PCR 16 binds; in pull the cached one when the answer lacks it
	IMA                      []byte // measurement list from IMAEntry on
	HasIMA                   bool   // the answer carried a list, perhaps an empty one
	IMAEntry                 uint64 // index of the list's first entry, as the attester claims
	BootLog                  []byte // binary UEFI event log; nil when absent
}

// Input is one round.
type Input struct {
	Identity  Identity
	Challenge Challenge
	Evidence  Evidence
	Policy    *policy.Set
	State     State     // of the last committed round; the zero value for an agent never attested
	Now       time.Time // UTC
}

// Outcome is what a round decided. There are three kinds, told apart by the verdict:
//
//   - Verdict.Pass(): the evidence is good. Commit State; the next challenge asks for entry State.NextEntry.
//   - Verdict.Again: nothing was proven and nothing failed; the part of the measurement list that was asked for
//     does not continue what was proven before, as after a reboot. Commit State and ask again at once, with a fresh
//     nonce. State.NextEntry is 0 then, and the answer to a challenge from entry 0 is judged for good: there are never
//     two such rounds in a row.
//   - otherwise: Verdict.Failures says why. State is where the next round, if there is one, starts from.
type Outcome struct {
	Verdict Verdict
	State   State
	Stats   Stats
}

// Stats are facts for logs and metrics.
type Stats struct {
	Entries  int // IMA entries appraised
	Proven   int // of these, covered by the quoted PCR 10
	Failures int // all failures; the verdict lists at most MaxFailures of one round
}
