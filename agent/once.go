package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"keylime/internal/api"
)

// Outcome is what came of attesting once.
type Outcome string

// The outcomes. All but the first two say that there is no verdict.
const (
	OutcomePass        Outcome = "pass"
	OutcomeFail        Outcome = "fail"         // this time, or before and nobody has cleared it
	OutcomeNotEnrolled Outcome = "not_enrolled" // no verifier knows this agent by this attestation key
	OutcomeRefused     Outcome = "refused"      // the verifier knows it and does not let it attest
	OutcomeUnreachable Outcome = "unreachable"  // nobody answered in time
)

// Verdict is what a verifier says of this machine after an attestation.
type Verdict struct {
	Outcome  Outcome `json:"verdict"`
	AgentID  string  `json:"agent_id"`
	Verifier string  `json:"verifier"`
	Status   string  `json:"attestation_status,omitempty"` // PASS or FAIL
	EventID  string  `json:"last_event_id,omitempty"`      // of a failure
	Detail   string  `json:"detail,omitempty"`             // why there is no verdict
}

// String is the verdict in a line.
func (v Verdict) String() string {
	text := fmt.Sprintf("%s: agent %s at %s", v.Outcome, v.AgentID, v.Verifier)
	for _, more := range []string{v.EventID, v.Detail} {
		if more != "" {
			text += ": " + more
		}
	}
	return text
}

// hasty is the pace of an agent that somebody waits for.
var hasty = backoff{first: time.Second, longest: 10 * time.Second}

const hastyInterval = 5 * time.Second

// once attests once and waits for the verdict. Trouble that may pass is tried again until ctx ends. An error says that
// this machine could not give evidence.
func (c *caller) once(ctx context.Context) (Verdict, error) {
	strangers := 0 // verifiers in a row that do not know the agent
	for {
		verdict, err := c.attestForVerdict(ctx)
		switch {
		case err == nil && verdict.Outcome != "":
			return verdict, nil
		case err == nil:
			continue // the verifier came to no decision and wants evidence from the start
		case errors.Is(err, errEvidence) && ctx.Err() == nil:
			return Verdict{}, err
		case errors.Is(err, errNotEnrolled), errors.Is(err, errProof):
			if strangers++; strangers == len(c.verifiers) {
				return c.without(OutcomeNotEnrolled, err), nil
			}
		case isFinal(err):
			return c.without(OutcomeRefused, err), nil
		default:
			strangers = 0
		}
		was := c.without(OutcomeUnreachable, err)
		wait := c.after(err)
		c.log.Warn().Err(err).Dur("wait_ms", wait).Msg("attestation was not delivered and is tried again")
		select {
		case <-ctx.Done():
			return was, nil
		case <-time.After(wait):
		}
	}
}

// without is the outcome without a verdict, and why.
func (c *caller) without(o Outcome, err error) Verdict {
	return Verdict{Outcome: o, AgentID: c.agentID, Verifier: c.verifier().Base(), Detail: err.Error()}
}

// isFinal reports whether a refusal will be the same the next time.
func isFinal(err error) bool {
	var answer *api.Error
	if !errors.As(err, &answer) || answer.RetryAfter != "" {
		return false
	}
	switch answer.Status {
	case http.StatusUnauthorized, http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests:
		return false
	}
	return answer.Status >= 400 && answer.Status < 500
}

// attestForVerdict attests and waits for the verdict. It has no outcome when the verifier came to no decision.
func (c *caller) attestForVerdict(ctx context.Context) (Verdict, error) {
	c.session.client = c.verifier()
	if err := c.session.logIn(ctx, c.agentID, c.witness); err != nil {
		return Verdict{}, err
	}
	before, err := c.session.client.Status(ctx, c.session.token, c.agentID)
	if err != nil {
		return Verdict{}, fmt.Errorf("ask for the status: %w", err)
	}
	if _, err := c.attest(ctx); err != nil {
		return Verdict{}, err
	}
	// A verifier may judge after it has acknowledged: its status is asked for until it has changed.
	var now api.VerifierAgent
	for patience := time.Duration(0); patience < verdictPatience; patience += verdictPoll {
		if now, err = c.session.client.Status(ctx, c.session.token, c.agentID); err != nil {
			return Verdict{}, fmt.Errorf("ask for the verdict: %w", err)
		}
		if v := c.judged(before, now); v.Outcome != "" {
			return v, nil
		}
		select {
		case <-ctx.Done():
			return Verdict{}, fmt.Errorf("ask for the verdict: %w", context.Cause(ctx))
		case <-time.After(verdictPoll):
		}
	}
	if now.AttestationStatus == statusFail { // as before: a failure stays until it is cleared
		return c.verdict(OutcomeFail, now), nil
	}
	return Verdict{}, nil
}

const (
	verdictPoll     = 250 * time.Millisecond
	verdictPatience = 5 * time.Second

	statusPass, statusFail = "PASS", "FAIL"
)

// judged tells from the status before and after an attestation what came of it. The verifier's clock may be another than
// this machine's, so that only its own times are compared.
func (c *caller) judged(before, now api.VerifierAgent) Verdict {
	counted := now.AttestationCount > before.AttestationCount
	switch {
	case now.AttestationStatus == statusPass && counted:
		return c.verdict(OutcomePass, now)
	case now.AttestationStatus == statusFail &&
		(counted || before.AttestationStatus != statusFail || now.LastReceivedQuote != before.LastReceivedQuote):
		return c.verdict(OutcomeFail, now)
	}
	return Verdict{}
}

func (c *caller) verdict(o Outcome, a api.VerifierAgent) Verdict {
	v := Verdict{Outcome: o, AgentID: c.agentID, Verifier: c.verifier().Base(), Status: a.AttestationStatus}
	if a.LastEventID != nil && o == OutcomeFail {
		v.EventID = *a.LastEventID
	}
	return v
}
