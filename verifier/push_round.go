package verifier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/jsonapi"
	"keylime/internal/web"
	"keylime/store"
	"keylime/tpm"
)

// deliver answers PATCH …/attestations/:index: the evidence is read, judged, and what came of it is on record before the
// agent is answered, which is not told. What cannot be read is refused and changes nothing.
func (c *calls) deliver(ctx context.Context, r *web.Request) (any, error) {
	id, index := r.Param("id"), indexOf(r)
	if !jsonapi.Declared(r) {
		return nil, &web.Error{Code: http.StatusUnsupportedMediaType}
	}
	if _, err := c.agent(ctx, id); err != nil {
		return nil, err
	}
	if _, err := c.awaited(ctx, id, index, time.Now().UTC()); err != nil {
		return nil, err
	}
	leave, err := c.enter(id, r.Length())
	if err != nil {
		return nil, err
	}
	defer leave()
	sent, err := jsonapi.Read(r)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	at, err := c.awaited(ctx, id, index, now)
	if err != nil {
		return nil, err
	}
	if sent.Type != api.TypeAttestation {
		return nil, jsonapi.Deny(http.StatusBadRequest, "invalid_request", "Request body must include attestation evidence data.")
	}
	items, err := readAsked(at.Items)
	if err != nil {
		return nil, err
	}
	evidence, problems := parseEvidence(sent.Attributes, items)
	if len(problems) > 0 {
		return nil, jsonapi.Unprocessable(problems)
	}
	at.Evidence = now
	st, err := c.judge(ctx, &at, items, evidence)
	if err != nil {
		return nil, err
	}
	c.openings.Refill(id)
	meta, err := c.meta(ctx, at, st)
	if err != nil {
		return nil, err
	}
	self := attestationPath(r, at.Index)
	return web.Document{
		Code: http.StatusAccepted, Type: api.JSONAPIType,
		Body: document(acknowledged(at, evidence.data), self, self, meta),
	}, nil
}

// enter takes the slots that a request with evidence needs, before its body is read.
func (c *calls) enter(id string, length int64) (leave func(), err error) {
	end, ok := c.begin(id)
	if !ok {
		return nil, jsonapi.DenyFor(http.StatusServiceUnavailable, 1, "verification_in_progress",
			fmt.Sprintf("Evidence of agent '%s' is being verified already.", id))
	}
	taken := []chan struct{}{}
	leave = func() {
		for _, slots := range taken {
			<-slots
		}
		end()
	}
	wanted := []chan struct{}{c.slots}
	if length < 0 || length > largeAnswer {
		wanted = append(wanted, c.large)
	}
	for _, slots := range wanted {
		select {
		case slots <- struct{}{}:
			taken = append(taken, slots)
		default:
			leave()
			return nil, jsonapi.DenyFor(http.StatusServiceUnavailable, busySeconds, "verification_in_progress",
				"The verifier is busy with the evidence of other agents. Send it again later.")
		}
	}
	return leave, nil
}

// judge runs the round: lease, appraisal, commit. It completes the attestation and returns the agent's status after it.
func (c *calls) judge(ctx context.Context, at *store.Attestation, items []asked, evidence collected) (store.AgentStatus, error) {
	l, err := c.store.Lease(ctx, at.AgentID, c.cycle.run, time.Now().UTC(), c.cycle.timeout+commitTimeout+leaseMargin)
	switch {
	case errors.Is(err, store.ErrConflict):
		return store.AgentStatus{}, jsonapi.DenyFor(http.StatusServiceUnavailable, 1, "verification_in_progress",
			fmt.Sprintf("Agent '%s' is being looked at. Send the evidence again.", at.AgentID))
	case errors.Is(err, store.ErrNotFound):
		return store.AgentStatus{}, noAgent(at.AgentID)
	case err != nil:
		return store.AgentStatus{}, err
	}
	c.cycle.heard.note(at.AgentID, time.Now())
	log := c.log.With().Str("agent", at.AgentID).Uint64("attestation", at.Index).Logger()
	if err := c.stillAwaited(ctx, l, at); err != nil {
		return l.Agent.Status, c.release(ctx, l, err, log)
	}
	a := l.Agent
	a.Status.Run = c.cycle.run
	s, err := c.cycle.guarded(ctx, a, log, func(ctx context.Context, a store.Agent) (step, error) {
		return c.appraise(ctx, a, items, evidence)
	})
	if err != nil {
		return l.Agent.Status, c.release(ctx, l, err, log)
	}
	n := afterCall(s.status, s.result, c.cycle.pacing, c.pacing.mends, c.cycle.labels)
	n.status.Notice = max(n.status.Notice, at.NoticeSeen)
	c.cycle.report(log, a.ID, s, n)
	return n.status, c.conclude(ctx, l, at, s, n, evidence, log)
}

// stillAwaited makes sure, now that nobody else may change it, that the attestation is the one that was read.
func (c *calls) stillAwaited(ctx context.Context, l store.Lease, at *store.Attestation) error {
	if err := mayAttest(l.Agent); err != nil {
		return err
	}
	_, err := c.awaited(ctx, at.AgentID, fmt.Sprint(at.Index), at.Evidence)
	return err
}

// release ends a lease without having learnt anything, and returns why.
func (c *calls) release(ctx context.Context, l store.Lease, cause error, log zerolog.Logger) error {
	round := store.Round{Status: l.Agent.Status, State: l.Agent.State, Next: l.Agent.Due}
	if err := c.cycle.persist(ctx, l, round, log); err != nil && !errors.Is(err, store.ErrLeaseLost) {
		log.Error().Err(err).Msg("Lease not given back; it ends by itself")
	}
	return cause
}

// appraise has the evidence judged by what the agent's policies are now. When they need more than was asked for, or the
// measurement list was to go on from where it no longer ends, nothing is decided.
func (c *calls) appraise(ctx context.Context, a store.Agent, items []asked, evidence collected) (step, error) {
	s := step{status: a.Status, state: a.State}
	set, err := c.cycle.policySet(ctx, a.Spec)
	if errors.Is(err, errBootPolicy) {
		s.result = failed(c.cycle.labels, "pcr_validation.invalid_mb_policy", err.Error())
		return s, nil
	}
	if err != nil {
		return s, err
	}
	ak, err := tpm.ParsePublic(a.Spec.AKTPM)
	if err != nil {
		return s, fmt.Errorf("enrolled attestation key: %w", err)
	}
	challenge, err := evidence.challengeFor(items)
	if err != nil {
		return s, err
	}
	if set.Mask()&^challenge.Mask != 0 || challenge.Entry != 0 && challenge.Entry != a.State.NextEntry {
		s.result = result{outcome: quoteAgain, detail: "policy or state changed after the challenge"}
		return s, nil
	}
	s.status = judgedBy(s.status, a.Spec, set)
	e, problem := evidence.evidenceFor(items, ak)
	if problem != nil {
		return c.cycle.unfit(s, problem), nil
	}
	return c.cycle.appraise(s, a, set, ak, challenge, e), nil
}

// conclude commits a round with its attestation. Evidence that is too large to keep is left out of the record.
func (c *calls) conclude(ctx context.Context, l store.Lease, at *store.Attestation, s step, n next, evidence collected, log zerolog.Logger) error {
	now := time.Now().UTC()
	c.complete(at, s.result, evidence.data, now)
	round := store.Round{
		Status: n.status, State: s.state, Next: now.Add(n.delay), Attestation: at, Retention: c.retention(now),
		Durable: n.failure != nil || n.status.Failures != l.Agent.Status.Failures || n.status.TimedOut != l.Agent.Status.TimedOut,
	}
	switch s.result.outcome {
	case quoteAgain:
		round.Next = l.Agent.Due // it has proven nothing yet
	case quoteGood:
		if c.pacing.session > 0 {
			round.Session = now.Add(c.pacing.session)
		}
	}
	if n.message != "" {
		round.Events = c.cycle.outbox.events(l.Agent, n, now, log)
	}
	err := c.cycle.persist(ctx, l, round, log)
	switch {
	case err == nil && len(round.Events) > 0:
		c.cycle.outbox.wake()
	case errors.Is(err, store.ErrLeaseLost): // it was deleted, stopped or reactivated meanwhile, and that counts
		return c.superseded(ctx, at)
	case errors.Is(err, store.ErrConflict):
		return c.release(ctx, l, jsonapi.Deny(http.StatusForbidden, "old_attestation", fmt.Sprintf(
			"Attestation %d is not the latest for agent '%s'. Only evidence for the most recent attestation may be updated.", at.Index, at.AgentID)), log)
	case errors.Is(err, store.ErrTooLarge):
		return c.oversized(ctx, l, at, log)
	}
	return err
}

// superseded says what became of an agent whose round was overtaken.
func (c *calls) superseded(ctx context.Context, at *store.Attestation) error {
	if _, err := c.agent(ctx, at.AgentID); err != nil {
		return err
	}
	return jsonapi.DenyFor(http.StatusServiceUnavailable, 1, "verification_in_progress", fmt.Sprintf(
		"Agent '%s' was changed by an operator meanwhile. Send the evidence again.", at.AgentID))
}

// oversized fails an agent whose round cannot be kept: it must not escape its failure by sending more than can be.
func (c *calls) oversized(ctx context.Context, l store.Lease, at *store.Attestation, log zerolog.Logger) error {
	log.Error().Msg("Round is too large to keep")
	now := time.Now().UTC()
	bad := result{outcome: malformed, detail: "the round is too large to keep"}
	n := afterCall(l.Agent.Status, bad, c.cycle.pacing, c.pacing.mends, c.cycle.labels)
	c.complete(at, bad, nil, now)
	for i := range at.Items {
		at.Items[i].Data = nil
	}
	return c.cycle.persist(ctx, l, store.Round{
		Status: n.status, Next: now.Add(n.delay), Attestation: at, Retention: c.retention(now), Durable: true,
	}, log)
}

// complete puts the verdict into the attestation.
func (c *calls) complete(at *store.Attestation, r result, data []json.RawMessage, now time.Time) {
	at.Stage, at.Completed = store.VerificationComplete, now
	switch r.outcome {
	case quoteGood:
		at.Evaluation = store.EvaluationPass
	case quoteAgain:
		at.Evaluation = store.EvaluationPending
	default:
		at.Evaluation, at.FailureReason = store.EvaluationFail, failureReason(r.verdict.Failures)
		worst := worstOf(r, c.cycle.labels)
		at.EventID, at.Context = worst.EventID, boundedContext(worst.Context)
	}
	for i := range data {
		at.Items[i].Data = data[i]
	}
	for i := range at.Items { // the largest is the last: the measurement list
		if at.Check() == nil {
			return
		}
		at.Items[len(at.Items)-1-i].Data = nil
	}
}

// retention is how much of an agent's history is kept.
func (c *calls) retention(now time.Time) store.Retention {
	r := store.Retention{Count: c.pacing.history}
	if c.pacing.historyAge > 0 {
		r.Since = now.Add(-c.pacing.historyAge)
	}
	return r
}
