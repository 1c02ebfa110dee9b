package verifier

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/attest"
	"keylime/internal/notify"
	"keylime/internal/policy"
	"keylime/store"
)

// An agent that calls in is due when it has been silent for too long. The due time is part of what its last attestation
// committed, so it survives the verifier; what the verifier was absent for does not count against the agent.

// silence is how long an agent may be silent: five intervals, as the wire tells tenants.
func (p pacing) silence() time.Duration {
	if p.quoteInterval <= 0 {
		return continuousSilence
	}
	return 5 * p.quoteInterval
}

// heard remembers when agents called, by a clock that nobody sets. It is safe for concurrent use; the zero value is ready.
type heard struct {
	mu   sync.Mutex
	last map[string]time.Time // with their monotonic readings
}

func (h *heard) note(id string, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last == nil || len(h.last) >= maxHeard { // forgetting costs no more than a late or early time-out when the clock jumps
		h.last = map[string]time.Time{}
	}
	h.last[id] = now
}

// left is how much of the time is left that an agent may be silent; 0 when that is not known.
func (h *heard) left(id string, may time.Duration) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	last, ok := h.last[id]
	if !ok {
		return 0
	}
	return max(0, may-time.Since(last))
}

// missed is the round of an agent that has not called. The first one in a run of the verifier only sets the time anew:
// nobody could call while there was no verifier.
func (c *cycle) missed(ctx context.Context, l store.Lease, log zerolog.Logger) (time.Time, bool) {
	now := time.Now().UTC()
	round := store.Round{Status: l.Agent.Status, State: l.Agent.State}
	if l.Agent.Status.Run != c.run {
		round.Status.Run, round.Next = c.run, now.Add(c.pacing.silence())
		return c.commit(ctx, l, round, log)
	}
	if left := c.heard.left(l.Agent.ID, c.pacing.silence()); left > deadlineSlack {
		round.Next = now.Add(left) // the clock was set forward
		return c.commit(ctx, l, round, log)
	}
	n := afterAbsence(l.Agent.Status, c.pacing, c.labels)
	round.Status, round.Durable = n.status, true
	if n.message != "" {
		log.Warn().Str("event_id", n.failure.EventID).Dur("ms", c.pacing.silence()).Msg("Agent has not called in within the time")
		round.Events = c.outbox.events(l.Agent, n, now, log)
	}
	return c.commit(ctx, l, round, log)
}

// clockJumped sets the deadlines anew of agents whose silence would go unnoticed, when the clock was set back.
func (v *Verifier) clockJumped(ctx context.Context, by time.Duration) {
	v.log.Warn().Dur("ms", by).Msg("Clock was set")
	if by > 0 || v.calls == nil {
		return
	}
	err := v.eachAgent(ctx, v.cfg.UUID, func(a store.Agent) error {
		now := time.Now().UTC()
		latest := now.Add(v.cycle.pacing.silence())
		if !a.Spec.Push || !a.Due.After(latest) {
			return nil
		}
		l, err := v.calls.store.Lease(ctx, a.ID, v.cycle.run, now, commitTimeout+leaseMargin)
		if err != nil {
			return nil // it calls, or was deleted, at this very moment
		}
		round := store.Round{Status: l.Agent.Status, State: l.Agent.State, Next: l.Agent.Due}
		if round.Next.After(latest) {
			round.Next = latest
		}
		v.cycle.commit(ctx, l, round, v.log.With().Str("agent", a.ID).Logger())
		return nil
	})
	if err != nil {
		v.log.Error().Err(err).Msg("Deadlines not set anew")
	}
}

// afterAbsence marks an agent that was silent for too long, until it attests again. A failure that is already known is
// worse, and stays what is shown.
func afterAbsence(st store.AgentStatus, p pacing, labels *policy.Labels) next {
	silent := st.TimedOut
	st.TimedOut = true
	n := next{status: st, stop: true}
	if silent || st.Failures > 0 {
		return n
	}
	n.report(event(eventNotReachable, fmt.Sprintf("the agent has not attested for %v", p.silence()), labels))
	n.message = notify.TypeCommError
	return n
}

// afterCall is the state machine of agents that call in: what an attestation came to gives the state after it. Failures
// count; unless they may mend themselves, they count until an operator reactivates the agent. A failure is reported when
// it is the first, or worse than what was reported before.
func afterCall(st store.AgentStatus, r result, p pacing, mends bool, labels *policy.Labels) next {
	st.Operational, st.Retries = store.StateGetQuote, 0
	n := next{status: st, delay: p.silence()}
	switch r.outcome {
	case quoteAgain:
		return n
	case quoteGood:
		n.status.TimedOut, n.status.ProvideV = false, false
		if mends {
			n.status.Failures = 0
		}
		return n
	}
	worst := worstOf(r, labels)
	n.status.TimedOut = false
	n.status.Failures++
	if st.Failures == 0 || worst.Severity.Rank > st.SeverityRank {
		n.report(worst)
		n.message = notify.TypeRevocation
	}
	return n
}

// worstOf is what is wrong with evidence that is not good.
func worstOf(r result, labels *policy.Labels) attest.Failure {
	if worst, ok := r.verdict.Worst(); ok {
		return worst
	}
	return event(eventException, r.detail, labels)
}

// calledStatus sums up how an agent fares that calls in.
func calledStatus(st store.AgentStatus) string {
	switch {
	case st.Failures > 0:
		return "FAIL"
	case st.TimedOut:
		return "TIMEOUT"
	case st.AttestationCount > 0:
		return "PASS"
	}
	return "PENDING"
}
