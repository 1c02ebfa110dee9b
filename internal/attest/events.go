package attest

// Event ids are Keylime's, on the wire and in operators' severity policies. "qoute" is how Keylime spells it.
const (
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
	EventDM               = "ima.validation.dm." // and what is wrong with a device
	EventIMAPCRMismatch   = "ima.pcr_mismatch"
	EventIMAQuoteProgress = "ima.quote_progress"

	EventBootBase64  = "measured_boot.parser.log.base64decode"
	EventBootLog     = "measured_boot.parser.tpm2_eventlog.error"
	EventBootPCRs    = "measured_boot.parser.invalid_pcrs"
	EventBootBank    = "measured_boot.parser.invalid_pcrs_hashes"
	EventBootPCR     = "measured_boot.invalid_pcr_" // and the PCR's number
	EventBootMissing = "measured_boot.missing_pcrs"
	EventBootPolicy  = "measured_boot.policy_" // and the engine's name
)

// MaxFailures is the number of failures that one verdict lists. Later ones are counted, and listed only when their
// severity exceeds all before, so that Verdict.Worst is right.
const MaxFailures = 100
