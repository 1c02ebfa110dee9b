package agent

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Verdict is what a verifier says of this machine after an attestation.
type Verdict struct {
	AgentID  string `json:"agent_id"`
	Verifier string `json:"verifier"`
	Status   string `json:"attestation_status"` // PASS, FAIL, PENDING, TIMEOUT
	EventID  string `json:"last_event_id,omitempty"`
}

// Pass reports whether the machine passed.
func (v Verdict) Pass() bool { return v.Status == "PASS" }

// String is the verdict in a line.
func (v Verdict) String() string {
	text := fmt.Sprintf("%s: agent %s at %s", v.Status, v.AgentID, v.Verifier)
	if v.EventID != "" && !v.Pass() {
		text += ", " + v.EventID
	}
	return text
}

// Why a single attestation came to no verdict.
var (
	ErrNotEnrolled = errNotEnrolled
	ErrUnreachable = errors.New("no verifier can be reached")
)

// verdictPoll is how often a verdict is asked for that is not there yet.
const verdictPoll = 500 * time.Millisecond

// once attests once and waits for the verdict. Trouble that may pass is tried again until ctx ends.
func (c *caller) once(ctx context.Context) (Verdict, error) {
	for {
		before := c.now().Truncate(time.Second)
		wait, err := c.attest(ctx)
		if err == nil {
			return c.verdict(ctx, before)
		}
		if errors.Is(err, errNotEnrolled) || errors.Is(err, errProof) || errors.Is(err, errEvidence) {
			return Verdict{}, err
		}
		lost := unanswered(err)
		wait = c.after(err)
		c.log.Warn().Err(err).Dur("wait_ms", wait).Msg("attestation was not delivered and is tried again")
		select {
		case <-ctx.Done():
			if lost {
				err = fmt.Errorf("%w: %w", ErrUnreachable, err)
			}
			return Verdict{}, err
		case <-time.After(wait):
		}
	}
}

// verdict asks for the agent's own status until it tells of evidence that came after before: a verifier may judge after
// it has acknowledged.
func (c *caller) verdict(ctx context.Context, before time.Time) (Verdict, error) {
	for {
		a, err := c.session.client.Status(ctx, c.session.token, c.agentID)
		if err != nil {
			return Verdict{}, fmt.Errorf("ask for the verdict: %w", err)
		}
		if a.LastReceivedQuote >= before.Unix() && a.AttestationStatus != "PENDING" {
			v := Verdict{AgentID: c.agentID, Verifier: c.verifier().Base(), Status: a.AttestationStatus}
			if a.LastEventID != nil {
				v.EventID = *a.LastEventID
			}
			return v, nil
		}
		select {
		case <-ctx.Done():
			return Verdict{}, fmt.Errorf("ask for the verdict: %w", context.Cause(ctx))
		case <-time.After(verdictPoll):
		}
	}
}
