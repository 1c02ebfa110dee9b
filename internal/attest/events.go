package attest

import (
	"bytes"
	"encoding/json"

	"keylime/internal/policy"
)

// Event ids are Keylime's, on the wire and in operators' severity policies. "qoute" is how Keylime spells it.
const (
	EventInvalidData       = "qoute_validation.invalid_data" // the answer cannot be read as evidence
	EventNoPubKey          = "qoute_validation.no_pubkey"
	EventInvalidHashAlg    = "qoute_validation.invalid_hash_alg"
	EventInvalidEncAlg     = "qoute_validation.invalid_enc_alg"
	EventInvalidSignAlg    = "qoute_validation.invalid_sign_alg"
	EventInvalidIMAEntryNb = "qoute_validation.invalid_ima_entry_nb"
	EventQuoteValidation   = "qoute_validation.quote_validation"

	EventInvalidPCR  = "pcr_validation.invalid_pcr_" // and the PCR's number
	EventMissingPCR  = "pcr_validation.missing_pcr_"
	EventUnusedPCR   = "pcr_validation.unused_pcr_"
	EventMissingPCRs = "pcr_validation.missing_pcrs"

	EventIMAEntry         = "ima.parser.entry"
	EventIMAPCR           = "ima.validation.ima_pcr"
	EventIMAToMToU        = "ima.validation.tomtou"
	EventIMAHash          = "ima.validation.ima_hash"
	EventIMANotListed     = "ima.validation.ima-ng.not_in_allowlist"
	EventIMAWrongHash     = "ima.validation.ima-ng.runtime_policy_hash"
	EventIMASignature     = "ima.validator.ima-sig.invalid_signature"
	EventIMAInvalidKey    = "ima.invalid_key"
	EventIMAPCRMismatch   = "ima.pcr_mismatch"
	EventIMAQuoteProgress = "ima.quote_progress"
)

// MaxFailures is the number of failures that one verdict lists. Later ones are counted, and listed only when their
// severity exceeds all before, so that Verdict.Worst is right.
const MaxFailures = 100

// NewFailure makes one failure. Context is marshalled as JSON and should be an object; a string s becomes
// {"message": s}.
func NewFailure(labels *policy.Labels, eventID string, recoverable bool, context any) Failure {
	if s, ok := context.(string); ok {
		context = message{s}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // paths stay readable
	if err := e.Encode(context); err != nil {
		panic("attest: context of " + eventID + " cannot be encoded: " + err.Error())
	}
	return Failure{
		EventID:     eventID,
		Severity:    labels.For(eventID, recoverable),
		Recoverable: recoverable,
		Context:     string(bytes.TrimSuffix(b.Bytes(), []byte("\n"))),
	}
}

// Refuse is the outcome of a round whose answer cannot be turned into Evidence: one irrecoverable failure.
func Refuse(labels *policy.Labels, s State, eventID string, context any) Outcome {
	return Outcome{
		Verdict: Verdict{Failures: []Failure{NewFailure(labels, eventID, false, context)}},
		State:   s.restarted(),
		Stats:   Stats{Failures: 1},
	}
}
