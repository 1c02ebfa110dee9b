package verifier

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"keylime/internal/api"
	"keylime/internal/attest"
	"keylime/internal/policy"
	"keylime/internal/web"
	"keylime/store"
)

// checkRuntimePolicy judges every agent that uses a policy by a proposed text, before anyone is held to it. Each is asked
// for fresh evidence, its whole measurement list included; nothing is kept, and no agent's state changes. That nothing is
// remembered for it is deliberate: only what a machine can prove now says how it would fare.
func (v *Verifier) checkRuntimePolicy(ctx context.Context, name string, body []byte) (any, error) {
	var up api.RuntimePolicyCheck
	if err := parseUpload(body, &up); err != nil {
		return nil, err
	}
	_, proposed, err := v.proposal(ctx, name, up.ProposedPolicy, up.RuntimePolicyKey)
	if err != nil {
		return nil, err
	}
	if _, err := v.store.PolicyHead(ctx, store.RuntimePolicy, name); err != nil {
		return nil, noPolicy(err, "Runtime policy %s not found", name)
	}
	v.log.Info().Str("policy", name).Str("digest", proposed.Digest()).Msg("Proposed policy is checked against the agents that use it")
	return web.Lines(func(send func(any) error) error { return v.checkAgents(ctx, name, proposed, send) }), nil
}

// checkAgents checks the agents of a policy, some at a time, and sends each result as it comes.
func (v *Verifier) checkAgents(ctx context.Context, name string, proposed *policy.Runtime, send func(any) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan api.AgentCheck)
	listed := make(chan error, 1)
	go func() {
		var checks sync.WaitGroup
		err := v.eachAgent(ctx, v.cfg.UUID, func(a store.Agent) error {
			if a.Spec.RuntimePolicy != name {
				return nil
			}
			select {
			case v.checks <- struct{}{}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			checks.Go(func() {
				defer func() { <-v.checks }()
				select {
				case results <- v.cycle.check(ctx, a, proposed):
				case <-ctx.Done():
				}
			})
			return nil
		})
		checks.Wait()
		listed <- err
		close(results)
	}()
	var err error
	for r := range results {
		if err == nil {
			if err = send(r); err != nil {
				cancel()
			}
		}
	}
	return errors.Join(err, <-listed)
}

// check judges what an agent can prove now by a proposed policy, from the beginning of its measurement list.
func (c *cycle) check(ctx context.Context, a store.Agent, proposed *policy.Runtime) api.AgentCheck {
	out := api.AgentCheck{Agent: a.ID, Status: statusOf(a), Failures: []api.CheckFailure{}}
	if a.Spec.Push {
		out.Verdict, out.Detail = api.CheckUnreachable, "the agent calls in (push): it cannot be asked; stage the policy, and its next attestation is judged by it"
		return out
	}
	log := c.log.With().Str("agent", a.ID).Logger()
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	a.State, a.Status.PubKey = attest.State{}, "" // so that everything is asked for
	s, err := c.guarded(ctx, a, log, func(ctx context.Context, a store.Agent) (step, error) { return c.rehearse(ctx, a, proposed) })
	switch {
	case err != nil:
		out.Verdict, out.Detail = api.CheckUnreachable, err.Error()
	case s.result.outcome == quoteGood:
		out.Verdict, out.Entries = api.CheckPass, s.stats.Entries
	case s.result.outcome == quoteBad:
		out.Verdict, out.Entries = api.CheckFail, s.stats.Entries
		out.Total = max(s.stats.Failures, len(s.result.verdict.Failures))
		out.Failures = checkFailures(s.result.verdict.Failures)
	default:
		out.Verdict, out.Detail = api.CheckUnreachable, s.result.detail
	}
	return out
}

// rehearse is a round that leaves nothing behind. An agent that has changed its API version is asked again in the new.
func (c *cycle) rehearse(ctx context.Context, a store.Agent, proposed *policy.Runtime) (step, error) {
	set, err := c.policySetWith(ctx, a.Spec, proposed)
	if err != nil {
		return step{}, err
	}
	s, err := c.examine(ctx, step{status: a.Status}, a, set)
	if err == nil && s.result.outcome == versionChanged {
		a.Status = s.status
		s, err = c.examine(ctx, step{status: a.Status}, a, set)
	}
	return s, err
}

func checkFailures(all []attest.Failure) []api.CheckFailure {
	list := []api.CheckFailure{}
	for _, f := range all[:min(len(all), maxCheckFailures)] {
		shown := json.RawMessage(f.Context)
		if !json.Valid(shown) || len(shown) > maxCheckContext {
			shown = json.RawMessage(`{"message":"the context of this event is too long to show"}`)
		}
		list = append(list, api.CheckFailure{EventID: f.EventID, Severity: f.Severity.Label, Context: shown})
	}
	return list
}
