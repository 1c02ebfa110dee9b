// Package ear makes attestation results that other systems can rely on: EAT Attestation Results (draft-ietf-rats-ear-04),
// which are Entity Attestation Tokens (RFC 9711), signed as JWT.
package ear

import (
	"encoding/hex"
	"encoding/json"
	"runtime/debug"
	"slices"
	"time"

	"keylime/internal/evidence"
)

// Profile says how the claims are to be read.
const Profile = "tag:ietf.org,2026:rats/ear#04"

// Claims are those of a token.
type Claims struct {
	Profile  string               `json:"eat_profile"`
	Issuer   string               `json:"iss"`
	IssuedAt int64                `json:"iat"`
	Expires  int64                `json:"exp"`
	Nonce    string               `json:"eat_nonce,omitempty"` // that of the evidence: a TPM's as it is, a guest's in base64url
	Verifier VerifierID           `json:"ear_verifier_id"`
	Status   Status               `json:"ear_status"` // the worst of Submods
	Submods  map[string]Appraisal `json:"submods"`    // one: by the kind of evidence
}

// VerifierID says which software decided.
type VerifierID struct {
	Developer string `json:"developer"`
	Build     string `json:"build"`
}

// Appraisal is what was found out about one attester.
type Appraisal struct {
	Status   Status         `json:"ear_status"`
	Vector   Vector         `json:"ear_trustworthiness_vector"`
	Policies []string       `json:"ear_appraisal_policy_ids,omitempty"` // as "runtime_policy:sha256:HEX"
	Attester map[string]any `json:"ear_attester_claims,omitempty"`      // from the evidence, verified
	Findings Findings       `json:"ear_verifier_claims"`
}

// Findings are ours.
type Findings struct {
	Failures []evidence.Failure `json:"keylime_failures"`
}

// maxFailures and maxContext bound a token: it is passed on in headers. What exceeds them is in the JSON answer.
const (
	maxFailures = 10
	maxContext  = 512
)

// Issuer is who decides, and for how long a token is good.
type Issuer struct {
	Name     string // of the verifier
	Lifetime time.Duration
}

// Of is the token's claims about an appraisal that was done now.
func (i Issuer) Of(r evidence.Result, now time.Time) Claims {
	a := Appraisal{Vector: vectorOf(r), Findings: Findings{Failures: brief(r.Failures)}}
	a.Status = a.Vector.status(r.Valid)
	name := r.Kind
	b := r.Basis
	for _, p := range []struct{ kind, digest string }{
		{"tpm_policy", b.TPMPolicy}, {"runtime_policy", b.RuntimePolicy}, {"mb_policy", b.BootPolicy},
	} {
		if p.digest != "" {
			a.Policies = append(a.Policies, p.kind+":sha256:"+p.digest)
		}
	}
	switch {
	case r.Kind == evidence.KindTPM && len(b.AKName) > 0:
		a.Attester = map[string]any{"keylime_tpm_ak_name": hex.EncodeToString(b.AKName)}
	case b.SNP != nil:
		name, a.Attester = "snp", map[string]any{"keylime_snp": b.SNP}
	}
	return Claims{
		Profile: Profile, Issuer: i.Name, IssuedAt: now.Unix(), Expires: now.Add(i.Lifetime).Unix(),
		Nonce:    nonceOf(b.Nonce),
		Verifier: VerifierID{"https://keylime.dev", build()},
		Status:   a.Status,
		Submods:  map[string]Appraisal{name: a},
	}
}

// nonceOf is a nonce as a claim, which has 8 to 88 characters (RFC 9711, 4.1). One that has not is left out: a token about
// evidence with such a nonce shows no freshness.
func nonceOf(nonce string) string {
	if len(nonce) < 8 || len(nonce) > 88 {
		return ""
	}
	return nonce
}

// brief shortens failures to what a token can carry.
func brief(all []evidence.Failure) []evidence.Failure {
	list := slices.Clone(all[:min(len(all), maxFailures)])
	for i, f := range list {
		if len(f.Context) > maxContext {
			list[i].Context = json.RawMessage(`{"message":"too long for a token"}`)
		}
	}
	if list == nil {
		list = []evidence.Failure{}
	}
	return list
}

// build names this executable.
func build() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return "keylime " + info.Main.Version
	}
	return "keylime"
}
