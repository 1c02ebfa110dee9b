package evidence

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"time"

	"keylime/internal/snp"
)

// tee appraises the report of a trusted execution environment.
func (a *Appraiser) tee(ctx context.Context, r *Result, in TEE, now time.Time) error {
	present := func(there bool) string {
		if there {
			return "there"
		}
		return ""
	}
	if r.lacks(eventTEEMissing, "tee-evidence", present(in.tee), "nonce", in.Nonce, "tee-pubkey-x-b64", in.X, "tee-pubkey-y-b64", in.Y,
		"tee", in.TEE, "evidence", present(in.evidence)) {
		return nil
	}
	if in.TEE != "snp" {
		r.fail(eventTEEUnknown, "invalid tee argument")
		return nil
	}
	if r.lacks(eventTEEMissing, "snp-report", in.Report) {
		return nil
	}
	return a.snp(ctx, r, in, now)
}

// snp appraises a report of AMD SEV-SNP.
func (a *Appraiser) snp(ctx context.Context, r *Result, in TEE, now time.Time) error {
	raw, err1 := decode(base64.StdEncoding, "snp-report", in.Report)
	nonce, err2 := decode(base64.StdEncoding, "nonce", in.Nonce)
	x, err3 := decode(base64.RawURLEncoding, "tee-pubkey-x-b64", in.X)
	y, err4 := decode(base64.RawURLEncoding, "tee-pubkey-y-b64", in.Y)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return refuse("%v", err)
	}
	r.Basis.Nonce = base64.RawURLEncoding.EncodeToString(nonce)
	report, err := snp.ParseReport(raw)
	if err != nil {
		r.fail(eventTEEInput, "%v", err)
		return nil
	}
	claims, ok := a.verify(ctx, r, report, in.VCEK, now)
	if !ok {
		return context.Cause(ctx)
	}
	if !report.Binds(x, y, nonce) {
		r.fail(eventTEEFreshness, "REPORT_DATA freshness hash incorrect")
		return nil
	}
	r.Basis.SNP = &claims
	text, err := json.Marshal(claims)
	r.Claims = text
	return err
}

// verify holds a report to the chain of its product. A report that does not say which it is from is held to each.
func (a *Appraiser) verify(ctx context.Context, r *Result, report snp.Report, given string, now time.Time) (snp.Claims, bool) {
	chains := a.Chains
	if product, ok := report.Product(); ok {
		chains = nil
		for _, c := range a.Chains {
			if c.Product() == product {
				chains = append(chains, c)
			}
		}
	}
	if len(chains) == 0 {
		r.fail(eventTEECertificate, "no ASK and ARK are trusted for the processor that made the report")
		return snp.Claims{}, false
	}
	var first func()
	for _, c := range chains {
		claims, event, err := a.verifyBy(ctx, c, report, given, now)
		if err == nil {
			return claims, true
		}
		if first == nil || event == eventTEESignature {
			first = func() { r.fail(event, "%v", err) }
		}
	}
	first()
	return snp.Claims{}, false
}

// verifyBy holds a report to one chain. An error comes with its event.
func (a *Appraiser) verifyBy(ctx context.Context, c snp.Chain, report snp.Report, given string, now time.Time) (snp.Claims, string, error) {
	vcek, err := a.vcek(ctx, c, report, given, now)
	if err != nil {
		return snp.Claims{}, eventTEEVCEK, err
	}
	claims, err := c.Verify(report, vcek, now)
	switch {
	case errors.Is(err, snp.ErrKey):
		return claims, eventTEEKey, err
	case errors.Is(err, snp.ErrSignature):
		return claims, eventTEESignature, err
	}
	return claims, eventTEECertificate, err
}

// vcek is the certificate that the request brings along, or the one that is found for the report.
func (a *Appraiser) vcek(ctx context.Context, c snp.Chain, report snp.Report, given string, now time.Time) (*x509.Certificate, error) {
	if given == "" {
		if a.VCEKs == nil {
			return nil, errors.New("the request brings no vcek along, and none can be looked up here")
		}
		return a.VCEKs.Find(ctx, report, c, now)
	}
	der, err := decode(base64.StdEncoding, "vcek", given)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
