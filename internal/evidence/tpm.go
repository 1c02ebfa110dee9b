package evidence

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"keylime/internal/attest"
	"keylime/internal/policy"
	"keylime/tpm"
)

// tpm appraises a quote with what comes with it.
func (a *Appraiser) tpm(ctx context.Context, r *Result, req Request, now time.Time) error {
	in := req.TPM
	if r.lacks(eventMissingParam, "quote", in.Quote, "nonce", in.Nonce, "hash_alg", in.HashAlg, "tpm_ek", in.EK, "tpm_ak", in.AK) {
		return nil
	}
	r.Basis.Nonce = in.Nonce
	set, err := a.policies(ctx, r, in)
	if err != nil || len(r.Failures) > 0 {
		return err
	}
	if !asks(set) {
		r.fail(eventMissingPolicy, "at least one policy (tpm_policy, runtime_policy, or mb_policy) must be provided")
		r.Incomplete = true
		return nil
	}
	ak, evidence, err := in.decode()
	if err != nil {
		r.fail(eventBadQuote, "Quote validation failed: %v", err)
		return nil
	}
	r.Basis.AKName = ak.Name()
	out, err := attest.Verify(attest.Input{
		Identity:  identityOf(ak, in.HashAlg),
		Challenge: attest.Challenge{Nonce: []byte(in.Nonce), Mask: set.Mask() | covered(evidence.Quote), OneShot: true},
		Evidence:  evidence,
		Policy:    set,
		Now:       now,
	})
	if err != nil {
		return err
	}
	r.addAll(out.Verdict.Failures)
	if len(r.Failures) == 0 {
		r.Claims = json.RawMessage(req.Data)
	}
	return nil
}

// policies compiles what a request's evidence is judged by. An event log's policy that is none is a failure, as for agents
// whose policy does not compile any more; other faults are the sender's.
func (a *Appraiser) policies(ctx context.Context, r *Result, in TPM) (*policy.Set, error) {
	set := &policy.Set{Labels: a.Labels, ExtendedTemplates: a.ExtendedTemplates, IgnoreToMToU: a.IgnoreToMToU}
	var err error
	if set.PCR, err = policy.ParsePCR(orEmpty(in.TPMPolicy)); err != nil {
		return nil, policyError(err)
	}
	if in.TPMPolicy != "" {
		r.Basis.TPMPolicy = set.PCR.Digest()
	}
	if in.RuntimePolicy != "" {
		if set.Runtime, err = a.runtime(ctx, in); err != nil {
			return nil, err
		}
		r.Basis.RuntimePolicy = set.Runtime.Digest()
	}
	set.Boot, err = policy.CompileBoot(a.BootEngine, []byte(in.BootPolicy))
	var fault *policy.Error
	switch {
	case errors.As(err, &fault):
		r.fail(eventBadBootPolicy, "%v", err)
	case err != nil:
		return nil, err
	case set.Boot != nil:
		r.Basis.BootPolicy = set.Boot.Digest()
	}
	return set, nil
}

func orEmpty(document string) string {
	if document == "" {
		return "{}"
	}
	return document
}

// runtime compiles the runtime policy, once its signature has been looked at.
func (a *Appraiser) runtime(ctx context.Context, in TPM) (*policy.Runtime, error) {
	d, err := policy.OpenDocument([]byte(in.RuntimePolicy))
	if err != nil {
		return nil, policyError(err)
	}
	signed := a.Signed
	if signed == nil {
		signed = signedBySupplied
	}
	if err := signed(ctx, d, in.RuntimePolicyKey); err != nil {
		return nil, err
	}
	compiled, err := d.Compile(a.Extensions...)
	if err != nil {
		return nil, policyError(err)
	}
	return compiled, nil
}

// signedBySupplied holds a policy to the key that came with it, if there is one.
func signedBySupplied(_ context.Context, d policy.Document, key string) error {
	if key == "" {
		return nil
	}
	if d.Envelope == nil {
		return refuse("Runtime policy is not signed!")
	}
	k, err := policy.ParseUploadedKey(key)
	if err != nil {
		return refuse("runtime_policy_key: %v", err)
	}
	if _, err := d.Envelope.Verify(k); err != nil {
		return refuse("Runtime policy failed DSSE signature verification! %v", err)
	}
	return nil
}

// policyError tells a fault in a policy's text from one of ours.
func policyError(err error) error {
	var fault *policy.Error
	if errors.As(err, &fault) {
		return &RequestError{fault.Text}
	}
	return err
}

// asks reports whether anything would be judged. A mask alone names PCRs, and says nothing of them; neither does the policy
// of an agent without one.
func asks(set *policy.Set) bool {
	return set.PCR.Constrained() != 0 || set.Boot != nil || set.Runtime != nil && set.Mask().Has(tpm.PCRIma)
}

// decode reads the key and the evidence.
func (in TPM) decode() (*tpm.Public, attest.Evidence, error) {
	raw, err := decode(base64.StdEncoding, "tpm_ak", in.AK)
	if err != nil {
		return nil, attest.Evidence{}, err
	}
	ak, err := tpm.ParsePublic(raw)
	if err == nil {
		err = ak.CheckAK()
	}
	if err != nil {
		return nil, attest.Evidence{}, fmt.Errorf("tpm_ak: %w", err)
	}
	quote, err := tpm.ParseQuote(in.Quote)
	if err != nil {
		return nil, attest.Evidence{}, err
	}
	e := attest.Evidence{
		Quote:   quote,
		HashAlg: in.HashAlg, EncAlg: ak.EncAlg(), SignAlg: ak.SignAlg(),
		IMA: []byte(in.IMA), HasIMA: in.IMA != "",
	}
	e.BootLog, err = decode(base64.StdEncoding, "mb_log", in.BootLog)
	return ak, e, err
}

// identityOf accepts what whoever asks has chosen: a hash by its name, and the key by handing it in.
func identityOf(ak *tpm.Public, hash string) attest.Identity {
	id := attest.Identity{AK: ak, AcceptEnc: []string{ak.EncAlg()}, AcceptSign: []string{ak.SignAlg()}}
	if _, err := tpm.ParseHash(hash); err == nil {
		id.AcceptHash = []string{hash}
	}
	return id
}

// covered are the PCRs that a quote says it covers. Whether it does is for Verify to find out; of a quote that cannot be
// read it says why.
func covered(q tpm.Quote) (mask tpm.Mask) {
	claims, err := tpm.ReadClaims(q)
	if err != nil {
		return 0
	}
	for pcr := range claims.PCRs {
		mask = mask.With(pcr)
	}
	return mask
}

// Identity appraises an identity quote: that the key signed it over the nonce, and that its PCR values are those that were
// signed. Nothing is said of the values, of PCR 16 neither, nor of the TPM's clock: whoever asks made the nonce. accepted
// are names of hashes.
func Identity(ak *tpm.Public, accepted []string, quote, nonce, hash string, labels *policy.Labels, now time.Time) ([]Failure, error) {
	r := Result{}
	q, err := tpm.ParseQuote(quote)
	if err != nil {
		r.fail(eventBadQuote, "Quote validation failed: %v", err)
		return r.Failures, nil
	}
	mask := covered(q)
	if mask == 0 {
		r.fail(eventBadQuote, "Quote validation failed: it covers no PCR, or other values than it lists")
		return r.Failures, nil
	}
	none, err := policy.ParsePCR("{}")
	if err != nil {
		return nil, err
	}
	out, err := attest.Verify(attest.Input{
		Identity:  attest.Identity{AK: ak, AcceptHash: accepted, AcceptEnc: []string{ak.EncAlg()}, AcceptSign: []string{ak.SignAlg()}},
		Challenge: attest.Challenge{Nonce: []byte(nonce), Mask: mask, OneShot: true},
		Evidence:  attest.Evidence{Quote: q, HashAlg: hash, EncAlg: ak.EncAlg(), SignAlg: ak.SignAlg()},
		Policy:    &policy.Set{PCR: none, Labels: labels},
		Now:       now,
	})
	if err != nil {
		return nil, err
	}
	r.addAll(out.Verdict.Failures)
	return r.Failures, nil
}
