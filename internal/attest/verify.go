package attest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"keylime/internal/policy"
	"keylime/tpm"
)

// Verify appraises one round. In order, each step only on what the step before has authenticated:
//
//  1. the algorithms that the evidence names are accepted, and are those of the AK;
//  2. the quote is signed by the AK, is of type quote, carries the nonce, selects exactly the PCRs asked for in the bank
//     of its hash, and the PCR values are those of its digest (tpm.VerifyQuote);
//  3. the TPM's clock moved on since the last round;
//  4. PCR 16 binds the transport key;
//  5. PCRs have the values of the tpm_policy;
//  6. the measurement list replays to PCR 10, and proves all entries that were shown before;
//  7. each of its entries is what the runtime policy allows;
//  8. the event log replays to the PCRs of measured boot, and says what the measured-boot policy accepts. This is done
//     whenever the TPM was reset, or the log, the policy or those PCRs changed since the last good round.
//
// The first three end the round when they fail; of the others all failures are reported.
//
// Anything that an attester can cause is a verdict. An error means that the caller broke a rule of Input: it is a
// bug, and says nothing about the attester. Arguments are not modified, nor kept by the outcome.
func Verify(in Input) (Outcome, error) {
	if err := in.check(); err != nil {
		return Outcome{}, fmt.Errorf("attest: %w", err)
	}
	r := round{Input: in, next: in.State}
	r.run()
	return r.outcome(), nil
}

// check holds the caller to the rules of Input.
func (in *Input) check() error {
	p := in.Policy
	switch {
	case in.Identity.AK == nil:
		return errors.New("no AK")
	case p == nil || p.PCR == nil || p.Labels == nil:
		return errors.New("policy is incomplete")
	case len(in.Challenge.Nonce) == 0:
		return errors.New("no nonce")
	case p.Mask()&^in.Challenge.Mask != 0:
		return fmt.Errorf("challenge asks for PCRs %v, the policy needs %v", in.Challenge.Mask.PCRs(), p.Mask().PCRs())
	case in.Challenge.OneShot:
		return in.checkOneShot()
	case in.Challenge.Mask.Has(tpm.PCRIma) && p.Runtime == nil:
		return errors.New("PCR 10 was asked for, but there is no runtime policy to judge what it covers")
	case in.Challenge.Entry != 0 && in.Challenge.Entry != in.State.NextEntry:
		return fmt.Errorf("challenge asks for IMA entry %d, which is neither 0 nor the next, %d", in.Challenge.Entry, in.State.NextEntry)
	}
	return nil
}

func (in *Input) checkOneShot() error {
	if in.Challenge.BindData || in.Challenge.Entry != 0 || in.State.Attested || in.State.NextEntry != 0 {
		return errors.New("evidence that stands alone has neither a transport key nor a state")
	}
	return nil
}

// round is the appraisal of one Input.
type round struct {
	Input
	next  State // becomes the outcome's when all passes
	keys  learnedKeys
	again bool
	// devices are those of the device mapper, as the list has them.
	devices deviceTrack
	// aggregates are what boot_aggregate may be besides the policy's: those that the event log explains.
	aggregates [][]byte
	failures   []Failure
	worst      policy.Severity // of failures
	stats      Stats
	listAll    bool // failures without a limit
}

func (r *round) run() {
	pcrs, ok := r.checkQuote()
	if !ok || !r.checkClock(pcrs.Clock()) {
		return
	}
	boot := r.readBootLog(pcrs)
	if r.Challenge.BindData {
		r.checkDataPCR(pcrs)
	}
	r.checkPCRPolicy(pcrs.PCR)
	if pcrs.Mask().Has(tpm.PCRIma) && r.Policy.Runtime != nil {
		r.checkMeasurements(pcrs)
	}
	r.checkBoot(boot, pcrs)
}

func (r *round) outcome() Outcome {
	o := Outcome{Verdict: Verdict{Failures: r.failures}, Stats: r.stats}
	switch {
	case len(r.failures) > 0:
		o.State = r.State.restarted()
	case r.again:
		o.Verdict.Again = true
		o.State = r.next.restarted()
	default:
		o.State = r.next
	}
	return o
}

// checkQuote is the first two steps.
func (r *round) checkQuote() (pcrs tpm.VerifiedPCRs, ok bool) {
	hash, ok := r.checkAlgorithms()
	if !ok {
		return pcrs, false
	}
	want := tpm.Expected{Nonce: r.Challenge.Nonce, Mask: r.Challenge.Mask, Hash: hash}
	if r.Challenge.BindData {
		want.Mask = want.Mask.With(tpm.PCRData)
	}
	pcrs, err := tpm.VerifyQuote(r.Identity.AK, r.Evidence.Quote, want)
	var missing *tpm.MissingPCRsError
	switch {
	case errors.As(err, &missing):
		r.failMissing(missing.PCRs)
	case err != nil:
		r.fail(EventQuoteValidation, false, quoteContext{Message: "Quote data validation", Error: err.Error()})
	}
	return pcrs, err == nil
}

// checkAlgorithms compares the names in the evidence with those accepted, and with the key's.
func (r *round) checkAlgorithms() (hash tpm.Hash, ok bool) {
	id, ev := r.Identity, r.Evidence
	hash, err := tpm.ParseHash(ev.HashAlg)
	switch {
	case err != nil || !slices.Contains(id.AcceptHash, ev.HashAlg):
		r.fail(EventInvalidHashAlg, false, algorithmContext("hash", ev.HashAlg, "not accepted for this agent"))
	case !tpm.AcceptsKeyType(id.AcceptEnc, ev.EncAlg):
		r.fail(EventInvalidEncAlg, false, algorithmContext("encryption", ev.EncAlg, "not accepted for this agent"))
	case tpm.KeyType(ev.EncAlg) != id.AK.EncAlg():
		r.fail(EventInvalidEncAlg, false, algorithmContext("encryption", ev.EncAlg, "not that of the AK, "+id.AK.EncAlg()))
	case !slices.Contains(id.AcceptSign, ev.SignAlg):
		r.fail(EventInvalidSignAlg, false, algorithmContext("signing", ev.SignAlg, "not accepted for this agent"))
	case ev.SignAlg != id.AK.SignAlg():
		r.fail(EventInvalidSignAlg, false, algorithmContext("signing", ev.SignAlg, "not that of the AK, "+id.AK.SignAlg()))
	default:
		return hash, true
	}
	return 0, false
}

// failMissing reports PCRs that were asked for and are not in a genuine quote.
func (r *round) failMissing(pcrs []int) {
	others := slices.DeleteFunc(slices.Clone(pcrs), func(pcr int) bool { return pcr == tpm.PCRData })
	if len(others) < len(pcrs) {
		r.fail(EventMissingPCR+strconv.Itoa(tpm.PCRData), true, "Data PCR 16 is missing in quote, but is required")
	}
	if len(others) > 0 {
		r.fail(EventMissingPCRs, true, missingContext{Context: "PCRs are missing in quote", Data: others})
	}
}

// checkClock is the third step. A clock that the TPM does not vouch for yet is no forgery: the failure is recoverable.
func (r *round) checkClock(now tpm.Clock) bool {
	r.next.Attested, r.next.Clock = true, now
	if r.Challenge.OneShot {
		return true
	}
	if err := r.State.Clock.Check(now); err != nil {
		unsafe := errors.Is(err, tpm.ErrClockUnsafe)
		r.fail(EventQuoteValidation, unsafe, quoteContext{Message: "Validation of clockinfo from quote", Data: err.Error()})
		return false
	}
	return true
}

// rebooted reports whether the TPM was reset since the last round, so that its PCRs started anew.
func (r *round) rebooted() bool {
	return r.State.Attested && r.State.Clock.ResetCount != r.next.Clock.ResetCount
}

// checkDataPCR is the fourth step: whoever holds the transport key speaks for this TPM.
func (r *round) checkDataPCR(pcrs tpm.VerifiedPCRs) {
	if r.Evidence.PubKey == "" {
		r.fail(EventNoPubKey, false, "the agent sent no transport key, and none is known for it")
		return
	}
	want := tpm.DataPCR(pcrs.Bank(), r.Evidence.PubKey)
	if got, _ := pcrs.PCR(tpm.PCRData); string(got) != string(want) {
		r.fail(EventInvalidPCR+strconv.Itoa(tpm.PCRData), true, valueContext{Got: got, Expected: want})
	}
}

// checkPCRPolicy is the fifth step. The values are there: the quote has the challenge's PCRs, and these the policy's.
func (r *round) checkPCRPolicy(value func(pcr int) ([]byte, bool)) {
	for _, pcr := range r.Policy.PCR.Constrained().PCRs() {
		got, _ := value(pcr)
		if !r.Policy.PCR.Allows(pcr, got) {
			r.fail(EventInvalidPCR+strconv.Itoa(pcr), true, pcrContext{
				Context:  "PCR value is not in allowlist",
				Got:      got,
				Expected: r.Policy.PCR.Digests(pcr),
			})
		}
	}
}

// fail records a failure. Beyond MaxFailures it is only counted, unless it is worse than all before.
func (r *round) fail(eventID string, recoverable bool, context any) {
	r.stats.Failures++
	full := len(r.failures) >= MaxFailures && !r.listAll
	if full && r.worst.Highest {
		return
	}
	severity := r.Policy.Labels.For(eventID, recoverable)
	if full && severity.Rank <= r.worst.Rank {
		return
	}
	if severity.Rank >= r.worst.Rank {
		r.worst = severity
	}
	r.failures = append(r.failures, Failure{eventID, severity, recoverable, encodeContext(context)})
}
