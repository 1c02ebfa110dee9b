package evidence

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"keylime/internal/attest"
	"keylime/internal/policy"
	"keylime/internal/snp"
)

// Appraiser appraises requests. Its fields are set once; it is safe for concurrent use when what they hold is.
type Appraiser struct {
	// Policies beyond those of a request, as a verifier has them for its agents.
	BootEngine        string
	Extensions        []policy.Extension
	Labels            *policy.Labels
	ExtendedTemplates bool
	IgnoreToMToU      bool
	// Signed decides whether a runtime policy may be used, given the key that came with it, base64 of PEM or "". Nil: a key
	// that came must have signed the policy, and without one any policy may be used.
	Signed func(ctx context.Context, d policy.Document, key string) error
	// Chains are whose processors are trusted, and VCEKs finds certificates that a request does not bring along; nil: none.
	Chains []snp.Chain
	VCEKs  VCEKs
}

// VCEKs finds the certificate of a processor's key for a report of that product. It need not be a good one.
type VCEKs interface {
	Find(ctx context.Context, r snp.Report, c snp.Chain, now time.Time) (*x509.Certificate, error)
}

// Result is what an appraisal came to.
type Result struct {
	Kind     string
	Valid    bool
	Claims   json.RawMessage // an object; empty unless Valid
	Failures []Failure       // none if Valid
	// Incomplete: the request lacks something, and nothing was appraised.
	Incomplete bool
	Basis      Basis
}

// Failure is why evidence is not good.
type Failure struct {
	Type    string          `json:"type"` // Keylime's event id
	Context json.RawMessage `json:"context"`
}

// Basis is what evidence was judged by, for those who rely on the verdict.
type Basis struct {
	// Nonce is that of the evidence: a TPM's as it is, a guest's in base64url.
	Nonce string
	// Of a TPM's evidence: the digests of the policies that judged (hex SHA-256 of their texts), "" for none, and the Name
	// of the key that has to have signed (TCG part 1, "Names").
	TPMPolicy, RuntimePolicy, BootPolicy string
	AKName                               []byte
	// SNP is what a report says that was verified.
	SNP *snp.Claims
}

// Appraise judges a request. The error is a *RequestError for one that cannot be judged, such as one with a policy that is
// none, or what Signed and VCEKs return when they cannot decide.
func (a *Appraiser) Appraise(ctx context.Context, req Request, now time.Time) (Result, error) {
	r := Result{Kind: req.Kind, Claims: json.RawMessage("{}"), Failures: []Failure{}}
	var err error
	switch req.Kind {
	case KindTPM:
		err = a.tpm(ctx, &r, req, now)
	case KindTEE:
		err = a.tee(ctx, &r, req.TEE, now)
	default:
		err = refuse("invalid evidence type")
	}
	if err != nil {
		return Result{}, err
	}
	r.Valid = len(r.Failures) == 0
	return r, nil
}

// Events of appraisals that attest knows nothing of.
const (
	eventMissingParam  = "default.missing_param"
	eventMissingPolicy = "default.missing_policy"
	eventBadQuote      = "qoute_validation.invalid_quote"
	eventBadBootPolicy = "pcr_validation.invalid_mb_policy"

	eventTEEMissing     = "tee_attestation.missing_param"
	eventTEEUnknown     = "tee_attestation.invalid.tee"
	eventTEEInput       = "tee_attestation.invalid_input"
	eventTEEVCEK        = "tee_attestation.vcek_fetch"
	eventTEECertificate = "tee_attestation.invalid_certificate"
	eventTEEKey         = "tee_attestation.invalid_public_key"
	eventTEESignature   = "tee_attestation.invalid_signature"
	eventTEEFreshness   = "tee_attestation.freshness_hash_failed"
)

// fail records an event with a message.
func (r *Result) fail(event, format string, args ...any) {
	context, err := json.Marshal(map[string]string{"message": fmt.Sprintf(format, args...)})
	if err != nil {
		panic("evidence: a text cannot be encoded: " + err.Error())
	}
	r.Failures = append(r.Failures, Failure{event, context})
}

// lacks records the first of some texts that is missing: name and text in turns.
func (r *Result) lacks(event string, pairs ...string) bool {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			r.fail(event, `missing parameter "%s"`, pairs[i])
			r.Incomplete = true
			return true
		}
	}
	return false
}

func (r *Result) addAll(failures []attest.Failure) {
	for _, f := range failures {
		r.Failures = append(r.Failures, Failure{f.EventID, json.RawMessage(f.Context)})
	}
}

// decode reads base64 as strictly as the rest: no line breaks, no bits left over.
func decode(encoding *base64.Encoding, name, s string) ([]byte, error) {
	b, err := encoding.Strict().DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b, nil
}
