package tenant

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
)

// checkEK decides whether the agent's TPM is one: the EK certificate must come from a maker in the certificate store
// and be of the registered EK, and the site's own script must agree.
func (t *Tenant) checkEK(ctx context.Context, r *registration) error {
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

// checkEKCertificates refuses: the check against the store is still to come.
func (t *Tenant) checkEKCertificates(r *registration) error {
	return failure(exitFailed, "set require_ek_cert = false in [tenant] and name an ek_check_script", "EK certificate of agent %s: it cannot be checked yet", r.agent)
}

// providerCertificate is the EK certificate of the machine under a virtual TPM of older releases; nil without one.
func providerCertificate(keys json.RawMessage) ([]byte, error) {
	if len(keys) == 0 || string(keys) == "null" {
		return nil, nil
	}
	var p struct {
		EKCert string `json:"ekcert"`
	}
	if err := json.Unmarshal(keys, &p); err != nil {
		return nil, fmt.Errorf("provider_keys: %w", err)
	}
	der, err := base64.StdEncoding.DecodeString(p.EKCert)
	if err != nil || len(der) == 0 {
		return nil, fmt.Errorf("provider_keys: ekcert is not base64")
	}
	return der, nil
}
