package verifier

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"keylime/internal/api"
	"keylime/internal/policy"
	"keylime/internal/web"
	"keylime/store"
)

// A new version of a runtime policy is rolled out in three steps, each of its own: it is checked against what the agents
// measured so far, it takes the place of the old one in stages, and after the window it stands alone. Nobody has to be
// there when the window ends: each round asks what counts at that moment.

// stageRuntimePolicy replaces a policy whose present text goes on to count for a while.
func (v *Verifier) stageRuntimePolicy(ctx context.Context, name string, body []byte) (any, error) {
	var up api.RuntimePolicyStage
	if err := parseUpload(body, &up); err != nil {
		return nil, err
	}
	duration := time.Duration(up.Seconds) * time.Second
	if up.Seconds < 1 || up.Seconds > int64(maxWindow/time.Second) {
		return nil, exception(fmt.Errorf("seconds is %d, want 1 to %d", up.Seconds, maxWindow/time.Second))
	}
	next, compiled, err := v.proposal(ctx, name, up.ProposedPolicy, up.RuntimePolicyKey)
	if err != nil {
		return nil, err
	}
	present, err := v.store.Policy(ctx, store.RuntimePolicy, name)
	if err != nil {
		return nil, noPolicy(err, "Runtime policy %s not found", name)
	}
	now := time.Now()
	if staged(present, now) {
		return nil, refuse(http.StatusConflict, "Runtime policy %s is being replaced already, until %s; wait, or update it without a window first",
			name, present.Previous.Until.Format(time.RFC3339))
	}
	old, err := policy.CompileRuntime(present.Text, v.policies.extensions...)
	if err != nil {
		return nil, fmt.Errorf("runtime policy %s: %w", name, err)
	}
	if _, err := compiled.Beside(old); err != nil {
		return nil, policyError(err)
	}
	next.Rev, next.Previous = present.Rev, &store.Previous{Text: present.Text, Digest: present.Digest, Until: store.Time(now.Add(duration))}
	switch err := v.store.UpdatePolicy(ctx, next); {
	case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrNotFound):
		return nil, refuse(http.StatusConflict, "Runtime policy %s was changed meanwhile; look again and retry", name)
	case err != nil:
		return nil, storable(err)
	}
	v.logPolicy(next, "Policy staged")
	return web.Answer{Code: http.StatusCreated, Results: window(next, now)}, nil
}

// proposal is the new version of a policy that a request holds, checked.
func (v *Verifier) proposal(ctx context.Context, name string, encoded, key *string) (store.Policy, *policy.Runtime, error) {
	if err := checkPolicyName(name); err != nil {
		return store.Policy{}, nil, exception(err)
	}
	if encoded == nil {
		return store.Policy{}, nil, exception(missingKey("proposed_policy"))
	}
	content, err := decodePolicy(*encoded)
	if err != nil {
		return store.Policy{}, nil, exception(fmt.Errorf("proposed_policy: %w", err))
	}
	return v.acceptRuntime(ctx, name, content, text(key, ""))
}

// window is what the API says of a policy that is being replaced; nil for others.
func window(p store.Policy, now time.Time) *api.PolicyWindow {
	if !staged(p, now) {
		return nil
	}
	return &api.PolicyWindow{Until: p.Previous.Until, PreviousDigest: p.Previous.Digest}
}
