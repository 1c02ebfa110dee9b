package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
)

// VerifierClient speaks to a verifier.
type VerifierClient struct{ caller }

// NewVerifier returns a client of the verifier at base. Safe for concurrent use, as hc is.
func NewVerifier(base string, hc *http.Client) *VerifierClient {
	return &VerifierClient{newCaller(base, hc)}
}

// Version is what the verifier serves.
func (c *VerifierClient) Version(ctx context.Context) (v Version, err error) {
	return v, c.get(ctx, "/version", &v)
}

// AddAgent enrols an agent.
func (c *VerifierClient) AddAgent(ctx context.Context, version, id string, r EnrolRequest) error {
	_, err := c.call(ctx, request{method: http.MethodPost, path: path("v"+version, "agents", id), body: r}, nil)
	return err
}

// Agent is the status of one agent; an *Error with status 404 when there is none.
func (c *VerifierClient) Agent(ctx context.Context, version, id string) (a VerifierAgent, err error) {
	return a, c.get(ctx, path("v"+version, "agents", id), &a)
}

// Agents lists the ids of a verifier; "" = of every verifier on the same store.
func (c *VerifierClient) Agents(ctx context.Context, version, verifierID string) (a VerifierAgents, err error) {
	_, err = c.call(ctx, request{
		method: http.MethodGet, path: path("v"+version, "agents") + "/",
		query: "verifier=" + url.QueryEscape(verifierID), limit: largeAnswer,
	}, &a)
	return a, err
}

// BulkAgents is the status of every agent of a verifier, by id. The statuses are raw so that a caller can show what
// the server sent.
func (c *VerifierClient) BulkAgents(ctx context.Context, version, verifierID string) (a map[string]json.RawMessage, err error) {
	_, err = c.call(ctx, request{
		method: http.MethodGet, path: path("v"+version, "agents") + "/",
		query: "bulk=True&verifier=" + url.QueryEscape(verifierID), limit: largeAnswer,
	}, &a)
	return a, err
}

// DeleteAgent removes an agent and returns the HTTP status: 200 = gone, 202 = going, ask until it is 404.
func (c *VerifierClient) DeleteAgent(ctx context.Context, version, id string) (int, error) {
	return c.call(ctx, request{method: http.MethodDelete, path: path("v"+version, "agents", id)}, nil)
}

// Stop ends the attestation of an agent until it is reactivated.
func (c *VerifierClient) Stop(ctx context.Context, version, id string) error {
	_, err := c.call(ctx, request{method: http.MethodPut, path: path("v"+version, "agents", id, "stop")}, nil)
	return err
}

// Reactivate starts the attestation of an agent again.
func (c *VerifierClient) Reactivate(ctx context.Context, version, id string) error {
	_, err := c.call(ctx, request{method: http.MethodPut, path: path("v"+version, "agents", id, "reactivate")}, nil)
	return err
}

// AddRuntimePolicy stores a new named runtime policy.
func (c *VerifierClient) AddRuntimePolicy(ctx context.Context, version, name string, p RuntimePolicyUpload) error {
	return c.policy(ctx, http.MethodPost, version, "allowlists", name, p)
}

// UpdateRuntimePolicy replaces a named runtime policy.
func (c *VerifierClient) UpdateRuntimePolicy(ctx context.Context, version, name string, p RuntimePolicyUpload) error {
	return c.policy(ctx, http.MethodPut, version, "allowlists", name, p)
}

// StageRuntimePolicy replaces a named runtime policy in stages.
func (c *VerifierClient) StageRuntimePolicy(ctx context.Context, version, name string, p RuntimePolicyStage) (w PolicyWindow, err error) {
	_, err = c.call(ctx, request{method: http.MethodPut, path: path("v"+version, "allowlists", name, "stage"), body: p}, &w)
	return w, err
}

// CheckRuntimePolicy calls each with how every agent that uses the named policy would fare by a proposed text.
func (c *VerifierClient) CheckRuntimePolicy(ctx context.Context, version, name string, p RuntimePolicyCheck, each func(AgentCheck) error) error {
	r := request{method: http.MethodPost, path: path("v"+version, "allowlists", name, "check"), body: p}
	return c.lines(ctx, r, func(line []byte) error {
		var a AgentCheck
		if err := json.Unmarshal(line, &a); err != nil {
			return fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		return each(a)
	})
}

// RuntimePolicy returns a named runtime policy.
func (c *VerifierClient) RuntimePolicy(ctx context.Context, version, name string) (p RuntimePolicyRecord, err error) {
	return p, c.large(ctx, path("v"+version, "allowlists", name), &p)
}

// RuntimePolicies lists the names of runtime policies.
func (c *VerifierClient) RuntimePolicies(ctx context.Context, version string) (n RuntimePolicyNames, err error) {
	return n, c.large(ctx, path("v"+version, "allowlists"), &n)
}

// DeleteRuntimePolicy removes a named runtime policy that no agent uses.
func (c *VerifierClient) DeleteRuntimePolicy(ctx context.Context, version, name string) error {
	return c.policy(ctx, http.MethodDelete, version, "allowlists", name, nil)
}

// AddMBPolicy stores a new named measured-boot policy.
func (c *VerifierClient) AddMBPolicy(ctx context.Context, version, name string, p MBPolicyUpload) error {
	return c.policy(ctx, http.MethodPost, version, "mbpolicies", name, p)
}

// UpdateMBPolicy replaces a named measured-boot policy.
func (c *VerifierClient) UpdateMBPolicy(ctx context.Context, version, name string, p MBPolicyUpload) error {
	return c.policy(ctx, http.MethodPut, version, "mbpolicies", name, p)
}

// MBPolicy returns a named measured-boot policy.
func (c *VerifierClient) MBPolicy(ctx context.Context, version, name string) (p MBPolicyRecord, err error) {
	return p, c.large(ctx, path("v"+version, "mbpolicies", name), &p)
}

// MBPolicies lists the names of measured-boot policies.
func (c *VerifierClient) MBPolicies(ctx context.Context, version string) (n MBPolicyNames, err error) {
	return n, c.large(ctx, path("v"+version, "mbpolicies"), &n)
}

// DeleteMBPolicy removes a named measured-boot policy that no agent uses.
func (c *VerifierClient) DeleteMBPolicy(ctx context.Context, version, name string) error {
	return c.policy(ctx, http.MethodDelete, version, "mbpolicies", name, nil)
}

// AddPCRPolicy stores a new named PCR policy.
func (c *VerifierClient) AddPCRPolicy(ctx context.Context, version, name string, p PCRPolicyUpload) error {
	return c.policy(ctx, http.MethodPost, version, "pcrpolicies", name, p)
}

// UpdatePCRPolicy replaces a named PCR policy.
func (c *VerifierClient) UpdatePCRPolicy(ctx context.Context, version, name string, p PCRPolicyUpload) error {
	return c.policy(ctx, http.MethodPut, version, "pcrpolicies", name, p)
}

// PCRPolicy returns a named PCR policy.
func (c *VerifierClient) PCRPolicy(ctx context.Context, version, name string) (p PCRPolicyRecord, err error) {
	return p, c.large(ctx, path("v"+version, "pcrpolicies", name), &p)
}

// PCRPolicies lists the names of PCR policies.
func (c *VerifierClient) PCRPolicies(ctx context.Context, version string) (n PCRPolicyNames, err error) {
	return n, c.large(ctx, path("v"+version, "pcrpolicies"), &n)
}

// DeletePCRPolicy removes a named PCR policy that no agent uses.
func (c *VerifierClient) DeletePCRPolicy(ctx context.Context, version, name string) error {
	return c.policy(ctx, http.MethodDelete, version, "pcrpolicies", name, nil)
}

func (c *VerifierClient) policy(ctx context.Context, method, version, collection, name string, body any) error {
	_, err := c.call(ctx, request{method: method, path: path("v"+version, collection, name), body: body}, nil)
	return err
}

func (c *VerifierClient) large(ctx context.Context, path string, results any) error {
	_, err := c.call(ctx, request{method: http.MethodGet, path: path, limit: largeAnswer}, results)
	return err
}
