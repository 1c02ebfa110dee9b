package tenant

import (
	"context"
	"encoding/json"
	"fmt"

	"keylime/internal/pki"
)

// checkEK decides whether the agent's TPM is one: the EK certificate must come from a maker in the certificate store
// and be of the registered EK, and the site's own script must agree.
func (t *tenant) checkEK(ctx context.Context, r *registration) error {
	if !t.cfg.RequireEKCert && t.cfg.EKCheckScript == "" {
		t.warn("require_ek_cert is false and there is no ek_check_script: nothing shows that agent %s has a genuine TPM", r.agent)
		return nil
	}
	if t.cfg.RequireEKCert {
		if err := t.checkEKCertificates(r); err != nil {
			return err
		}
	}
	if t.cfg.EKCheckScript != "" {
		return t.runEKScript(ctx, r)
	}
	return nil
}

// checkEKCertificates checks the EK certificate, and that of a virtual TPM's host, against the store.
func (t *tenant) checkEKCertificates(r *registration) error {
	if r.ekCert == nil {
		return failure(exitUntrusted, "if its TPM has none, set require_ek_cert = false in [tenant] and name an ek_check_script that knows the machine", "agent %s registered without an EK certificate", r.agent)
	}
	leaf, err := pki.ParseCertificateTolerant(r.ekCert)
	if err == nil {
		err = pki.PublicKeyMatches(leaf, r.ek)
	}
	if err != nil {
		return failure(exitUntrusted, "the machine, or who speaks for it, cannot be trusted; find out which", "EK certificate of agent %s: %w", r.agent, err)
	}
	var chain []*pki.Certificate
	for _, der := range r.ekChain {
		if c, err := pki.ParseCertificateTolerant(der); err == nil { // what cannot be read vouches for nothing
			chain = append(chain, c)
		}
	}
	store, err := t.ekStore()
	if err != nil {
		return err
	}
	if err := t.checkPath(store, r, "EK certificate", leaf, chain); err != nil {
		return err
	}
	host, err := providerCertificate(r.record.ProviderKeys)
	if err != nil || host == nil {
		return err
	}
	return t.checkPath(store, r, "EK certificate of the host", host, chain)
}

// ekStore reads the certificate store.
func (t *tenant) ekStore() (*pki.Store, error) {
	store, warnings, err := pki.LoadStore(t.cfg.TPMCertStore)
	for _, w := range warnings {
		t.warn("certificate store: %v", w)
	}
	if err == nil && store.Len() == 0 {
		err = fmt.Errorf("%s has no certificates", t.cfg.TPMCertStore)
	}
	if err != nil {
		return nil, failure(exitFailed, "put the CA certificates of your TPMs' makers there, or name their directory in tpm_cert_store of [tenant]", "certificate store: %w", err)
	}
	return store, nil
}

// checkPath wants a path from a certificate to one of the store, under the configured rules.
func (t *tenant) checkPath(store *pki.Store, r *registration, what string, leaf *pki.Certificate, chain []*pki.Certificate) error {
	rules, err := pki.ParseRules(t.cfg.EKRules)
	if err != nil {
		return failure(exitUsage, "correct ek_rules of [tenant]", "ek_rules: %w", err)
	}
	path, err := store.VerifyEK(leaf, chain, t.now(), rules)
	if err != nil {
		return failure(exitUntrusted, "if it is genuine: add its maker's CA certificates to "+t.cfg.TPMCertStore+", or relax ek_rules of [tenant] by the rule named", "%s of agent %s: %w", what, r.agent, err)
	}
	for _, note := range path.Notes {
		t.warn("%s of agent %s: %s", what, r.agent, clean(note))
	}
	return nil
}

// providerCertificate is the EK certificate of the host of a virtual TPM, in records of older releases; nil without one.
func providerCertificate(keys json.RawMessage) (*pki.Certificate, error) {
	if len(keys) == 0 || string(keys) == "null" {
		return nil, nil
	}
	var p struct {
		EKCert []byte `json:"ekcert"`
	}
	err := json.Unmarshal(keys, &p)
	var cert *pki.Certificate
	if err == nil {
		cert, err = pki.ParseCertificateTolerant(p.EKCert)
	}
	if err != nil {
		return nil, failure(exitUntrusted, "remove the registration with `keylime tenant regdelete` and register the agent anew", "provider_keys: ekcert: %w", err)
	}
	return cert, nil
}
