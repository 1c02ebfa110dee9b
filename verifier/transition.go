package verifier

import (
	"encoding/json"
	"math"
	"time"

	"keylime/internal/attest"
	"keylime/internal/notify"
	"keylime/internal/policy"
	"keylime/store"
)

// outcome is what one step of an agent came to.
type outcome int

const (
	quoteGood      outcome = iota // the evidence passed its appraisal
	quoteBad                      // it did not
	quoteAgain                    // no decision; the core wants another quote at once
	vDelivered                    // the agent took V
	unreachable                   // no answer, or one that means "try again"
	versionChanged                // the agent speaks another API version now; ask again in it
	versionRefused                // there is no API version that may be spoken with the agent
	refused                       // the agent answered with any other error
	malformed                     // the answer is not one that an agent gives, or processing it went wrong
)

// result is an outcome with what belongs to it.
type result struct {
	outcome outcome
	verdict attest.Verdict // quoteBad
	detail  string         // plain text for the event of the other failures
}

// pacing are the options that decide when the next step is.
type pacing struct {
	quoteInterval time.Duration
	retryInterval time.Duration
	exponential   bool
	maxRetries    int
}

// next is what a result makes of an agent.
type next struct {
	status store.AgentStatus
	stop   bool          // no further round until an operator acts
	delay  time.Duration // until the next round, unless stop
	// failure is the event to report, and message the type of notification to send about it; "" = none.
	failure *attest.Failure
	message string
}

// The events of steps that end before there is anything to appraise.
const (
	eventNotReachable  = "internal.verifier.not_reachable"
	eventNotReachableV = "internal.verifier.not_reachable_v"
	eventNoQuote       = "internal.verifier.no_quote"
	eventNoV           = "internal.verifier.no_v"
	eventException     = "internal.verifier.exception"
	eventVersion       = "internal.verifier.version_not_supported"
)

// deliversV reports whether the step of an agent in this state is to post V rather than to ask for a quote.
func deliversV(s store.OperationalState) bool {
	return s == store.StateProvideV || s == store.StateProvideVRetry
}

// transition is the verifier's state machine for one agent: what it was, and what a step came to, give what it
// is and when it is looked at again. hasV says whether there is a V to deliver.
func transition(st store.AgentStatus, hasV bool, r result, p pacing, labels *policy.Labels) next {
	switch r.outcome {
	case quoteGood:
		return afterGoodQuote(st, hasV, p)
	case vDelivered:
		st.Operational, st.ProvideV, st.Retries = store.StateGetQuote, false, 0
		return next{status: st, delay: p.quoteInterval}
	case quoteAgain:
		return next{status: st}
	case quoteBad:
		return afterBadQuote(st, r.verdict, p)
	case unreachable, versionChanged:
		return afterSilence(st, r, p, labels)
	}
	return fail(st, event(failureID(st, r.outcome), r.detail, labels))
}

// afterGoodQuote returns to polling, by way of the delivery of V when that is due.
func afterGoodQuote(st store.AgentStatus, hasV bool, p pacing) next {
	st.Retries = 0
	if st.ProvideV && hasV {
		st.Operational = store.StateProvideV
		return next{status: st}
	}
	st.Operational, st.ProvideV = store.StateGetQuote, false
	return next{status: st, delay: p.quoteInterval}
}

// afterBadQuote fails the agent. A verdict that is not final leaves it polled at the usual interval, so that it can
// recover, and is reported only when it is worse than what was reported before.
func afterBadQuote(st store.AgentStatus, v attest.Verdict, p pacing) next {
	st.Operational, st.Retries = store.StateInvalidQuote, 0
	worst, _ := v.Worst()
	n := next{status: st, stop: v.Final(), delay: p.quoteInterval}
	if n.stop || worst.Severity.Rank > st.SeverityRank {
		n.report(worst)
		n.message = notify.TypeRevocation
	}
	return n
}

// afterSilence tries again with growing delay, and fails the agent when it was tried often enough.
func afterSilence(st store.AgentStatus, r result, p pacing, labels *policy.Labels) next {
	if st.Retries < p.maxRetries {
		st.Retries++
		delivering := deliversV(st.Operational)
		st.Operational = store.StateGetQuoteRetry
		if delivering {
			st.Operational = store.StateProvideVRetry
		}
		if r.outcome == versionChanged {
			return next{status: st} // there is somebody to talk to: no need to wait
		}
		return next{status: st, delay: p.retryDelay(st.Retries)}
	}
	n := fail(st, event(failureID(st, unreachable), r.detail, labels))
	if st.AttestationCount > 0 || deliversV(st.Operational) {
		n.message = notify.TypeCommError
	}
	return n
}

// retryDelay is the pause before the n-th attempt after the first: interval^n, or the interval when it does not
// grow.
func (p pacing) retryDelay(n int) time.Duration {
	base := p.retryInterval.Seconds()
	if !p.exponential || base <= 1 {
		return p.retryInterval.Abs()
	}
	delay := math.Pow(base, float64(n)) * float64(time.Second)
	return time.Duration(min(delay, float64(maxRetryDelay)))
}

// fail ends polling because the agent could not be asked, which says nothing about what it would have answered.
func fail(st store.AgentStatus, f attest.Failure) next {
	st.Operational = store.StateFailed
	n := next{status: st, stop: true}
	n.report(f)
	return n
}

// report makes f the agent's last event.
func (n *next) report(f attest.Failure) {
	f.Context = boundedContext(f.Context)
	n.failure = &f
	n.status.SeverityRank = max(n.status.SeverityRank, f.Severity.Rank)
	n.status.LastEventID, n.status.LastFailure = f.EventID, f.Context
}

// boundedContext is the context of an event as far as it can be kept.
func boundedContext(context string) string {
	if len(context) > maxContext {
		return `{"message":"the context of this event is too long to keep"}`
	}
	return context
}

// failureID names the event of an outcome that is not an appraisal.
func failureID(st store.AgentStatus, o outcome) string {
	delivering := deliversV(st.Operational)
	switch {
	case o == versionRefused:
		return eventVersion
	case o == malformed:
		return eventException
	case o == refused && delivering:
		return eventNoV
	case o == refused:
		return eventNoQuote
	case delivering:
		return eventNotReachableV
	}
	return eventNotReachable
}

// event is a failure of the verifier's own: always irrecoverable, so always of the highest severity.
func event(id, detail string, labels *policy.Labels) attest.Failure {
	context, _ := json.Marshal(map[string]string{"message": detail})
	return attest.Failure{EventID: id, Severity: labels.For(id, false), Context: string(context)}
}
