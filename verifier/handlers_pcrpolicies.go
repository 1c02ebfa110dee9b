package verifier

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"keylime/internal/api"
	"keylime/internal/policy"
	"keylime/store"
)

// Named PCR policies are an extension of this implementation: the tpm_policy of many agents in one place, where it can
// be changed. Their routes answer as those of measured-boot policies do.

// pcrUpload is the PCR policy that an upload holds, checked.
func pcrUpload(name string, body []byte) (store.Policy, error) {
	if err := checkPolicyName(name); err != nil {
		return store.Policy{}, exception(err)
	}
	var up api.PCRPolicyUpload
	if err := parseUpload(body, &up); err != nil {
		return store.Policy{}, err
	}
	if up.TPMPolicy == nil {
		return store.Policy{}, exception(missingKey("tpm_policy"))
	}
	if _, err := policy.ParsePCR(*up.TPMPolicy); err != nil {
		return store.Policy{}, policyError(err)
	}
	return newPolicy(store.PCRPolicy, name, []byte(*up.TPMPolicy)), nil
}

func (v *Verifier) pcrPolicy(ctx context.Context, name string) (api.PCRPolicyRecord, error) {
	p, err := v.store.Policy(ctx, store.PCRPolicy, name)
	if err != nil {
		return api.PCRPolicyRecord{}, noPolicy(err, "PCR policy %s not found", name)
	}
	return api.PCRPolicyRecord{Name: p.Name, TPMPolicy: string(p.Text)}, nil
}

func (v *Verifier) pcrPolicies(ctx context.Context) (api.PCRPolicyNames, error) {
	names, err := v.store.PolicyNames(ctx, store.PCRPolicy)
	return api.PCRPolicyNames{Names: nonNil(names)}, err
}

func (v *Verifier) addPCRPolicy(ctx context.Context, name string, body []byte) error {
	p, err := pcrUpload(name, body)
	if err != nil {
		return err
	}
	return v.addPolicy(ctx, p, "PCR policy with name %s already exists")
}

// updatePCRPolicy replaces a policy. Each agent that names it is judged by the new text from its next round on.
func (v *Verifier) updatePCRPolicy(ctx context.Context, name string, body []byte) error {
	p, err := pcrUpload(name, body)
	if err != nil {
		return err
	}
	return v.updatePolicy(ctx, p, http.StatusConflict, "PCR policy with name %s does not already exist")
}

func (v *Verifier) deletePCRPolicy(ctx context.Context, name string) error {
	return v.deletePolicy(ctx, store.PCRPolicy, name, "PCR policy %s not found", "tpm_policy")
}

// pcrPolicyFor is the named PCR policy of an enrolment, "" when it names none. Digests come from one place: beside a
// named policy, the agent's own tpm_policy may only ask for more PCRs.
func (v *Verifier) pcrPolicyFor(ctx context.Context, req api.EnrolRequest) (string, error) {
	name := text(req.TPMPolicyName, "")
	if name == "" {
		return "", nil
	}
	if err := checkPolicyName(name); err != nil {
		return "", exception(err)
	}
	own, err := policy.ParsePCR(text(req.TPMPolicy, ""))
	if err != nil {
		return "", exception(err)
	}
	if own.Constrained() != 0 {
		return "", exception(errors.New("tpm_policy has digests although tpm_policy_name names a policy; leave them out, only its mask is added"))
	}
	if _, err := v.store.PolicyHead(ctx, store.PCRPolicy, name); err != nil {
		return "", noPolicy(err, "Could not find PCR policy with name %s!", name)
	}
	return name, nil
}

// pcr returns what PCRs of an agent must be: the named policy, with what the enrolment asks for beside it, or else the
// enrolment's own.
func (c *policies) pcr(ctx context.Context, spec store.AgentSpec) (*policy.PCR, error) {
	own, err := policy.ParsePCR(spec.TPMPolicy)
	if err != nil {
		return nil, fmt.Errorf("enrolled tpm_policy: %w", err)
	}
	if spec.PCRPolicy == "" {
		return own, nil
	}
	p, err := c.store.Policy(ctx, store.PCRPolicy, spec.PCRPolicy)
	if err != nil {
		return nil, fmt.Errorf("PCR policy %s: %w", spec.PCRPolicy, err)
	}
	named, err := policy.ParsePCR(string(p.Text))
	if err != nil {
		return nil, fmt.Errorf("PCR policy %s: %w", spec.PCRPolicy, err)
	}
	return named.Asking(own.Mask()), nil
}
