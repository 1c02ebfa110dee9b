package verifier

import (
	"testing"
	"time"

	"keylime/internal/attest"
	"keylime/internal/policy"
	"keylime/store"
)

var testPacing = pacing{quoteInterval: 2 * time.Second, retryInterval: 3 * time.Second, exponential: true, maxRetries: 2}

// was is an agent's status before a step.
type was struct {
	state    store.OperationalState
	retries  int
	provideV bool
	passed   int // good rounds so far
	rank     int // severity so far, -1 = none
}

func (w was) status() store.AgentStatus {
	return store.AgentStatus{
		Operational: w.state, Retries: w.retries, ProvideV: w.provideV,
		AttestationCount: w.passed, SeverityRank: w.rank,
	}
}

func verdict(failures ...attest.Failure) result {
	return result{outcome: quoteBad, verdict: attest.Verdict{Failures: failures}}
}

// TestTransitions is the state machine: a row says what an agent was and what its step came to, and what it is then.
func TestTransitions(t *testing.T) {
	t.Parallel()
	labels := policy.DefaultLabels()
	top := attest.Failure{EventID: "ima.pcr_mismatch", Severity: policy.Severity{Label: "emergency", Rank: 6, Highest: true}, Recoverable: true, Context: `{"message":"m"}`}
	low := attest.Failure{EventID: "ima.low", Severity: policy.Severity{Label: "warning", Rank: 2}, Recoverable: true, Context: `{}`}
	hopeless := attest.Failure{EventID: "qoute_validation.no_pubkey", Severity: policy.Severity{Label: "warning", Rank: 2}, Context: `{}`}
	const (
		hasV = true
		noV  = false
		wait = 2 * time.Second
	)
	for _, c := range []struct {
		name string
		was  was
		hasV bool
		r    result

		state    store.OperationalState
		retries  int
		provideV bool
		delay    time.Duration
		stop     bool
		event    string // reported now
		message  string
	}{
		{name: "first good quote, V to deliver", was: was{state: store.StateStart, provideV: true, rank: -1}, hasV: hasV, r: result{outcome: quoteGood},
			state: store.StateProvideV, provideV: true},
		{name: "first good quote, no V", was: was{state: store.StateStart, provideV: true, rank: -1}, hasV: noV, r: result{outcome: quoteGood},
			state: store.StateGetQuote, delay: wait},
		{name: "V delivered", was: was{state: store.StateProvideV, provideV: true, rank: -1}, hasV: hasV, r: result{outcome: vDelivered},
			state: store.StateGetQuote, delay: wait},
		{name: "good quote", was: was{state: store.StateGetQuote, rank: -1}, hasV: hasV, r: result{outcome: quoteGood},
			state: store.StateGetQuote, delay: wait},
		{name: "good quote after retries", was: was{state: store.StateGetQuoteRetry, retries: 2, rank: -1}, hasV: hasV, r: result{outcome: quoteGood},
			state: store.StateGetQuote, delay: wait},
		{name: "good quote after a failure that was not final", was: was{state: store.StateInvalidQuote, rank: 2}, hasV: noV, r: result{outcome: quoteGood},
			state: store.StateGetQuote, delay: wait},
		{name: "transport key changed", was: was{state: store.StateGetQuote, provideV: true, rank: -1}, hasV: hasV, r: result{outcome: quoteGood},
			state: store.StateProvideV, provideV: true},
		{name: "the core wants another quote", was: was{state: store.StateGetQuote, rank: -1}, hasV: hasV, r: result{outcome: quoteAgain},
			state: store.StateGetQuote},

		{name: "failure of the highest severity", was: was{state: store.StateGetQuote, passed: 3, rank: -1}, r: verdict(low, top),
			state: store.StateInvalidQuote, stop: true, event: "ima.pcr_mismatch", message: "revocation"},
		{name: "irrecoverable failure", was: was{state: store.StateGetQuote, rank: -1}, r: verdict(hopeless),
			state: store.StateInvalidQuote, stop: true, event: "qoute_validation.no_pubkey", message: "revocation"},
		{name: "final failure after reactivation is reported again", was: was{state: store.StateStart, rank: 6}, r: verdict(top),
			state: store.StateInvalidQuote, stop: true, event: "ima.pcr_mismatch", message: "revocation"},
		{name: "lower failure goes on being polled", was: was{state: store.StateGetQuote, rank: -1}, r: verdict(low),
			state: store.StateInvalidQuote, delay: wait, event: "ima.low", message: "revocation"},
		{name: "same lower failure again is silent", was: was{state: store.StateInvalidQuote, rank: 2}, r: verdict(low),
			state: store.StateInvalidQuote, delay: wait},
		{name: "even lower failure is silent", was: was{state: store.StateGetQuote, rank: 4}, r: verdict(low),
			state: store.StateInvalidQuote, delay: wait},

		{name: "first silence", was: was{state: store.StateGetQuote, rank: -1}, r: result{outcome: unreachable},
			state: store.StateGetQuoteRetry, retries: 1, delay: 3 * time.Second},
		{name: "second silence", was: was{state: store.StateGetQuoteRetry, retries: 1, rank: -1}, r: result{outcome: unreachable},
			state: store.StateGetQuoteRetry, retries: 2, delay: 9 * time.Second},
		{name: "silence too often, never attested", was: was{state: store.StateGetQuoteRetry, retries: 2, rank: -1}, r: result{outcome: unreachable},
			state: store.StateFailed, retries: 2, stop: true, event: "internal.verifier.not_reachable"},
		{name: "silence too often, attested before", was: was{state: store.StateGetQuoteRetry, retries: 2, passed: 1, rank: -1}, r: result{outcome: unreachable},
			state: store.StateFailed, retries: 2, stop: true, event: "internal.verifier.not_reachable", message: "comm_error"},
		{name: "silence at V", was: was{state: store.StateProvideV, provideV: true, rank: -1}, hasV: hasV, r: result{outcome: unreachable},
			state: store.StateProvideVRetry, retries: 1, provideV: true, delay: 3 * time.Second},
		{name: "silence at V too often", was: was{state: store.StateProvideVRetry, retries: 2, provideV: true, rank: -1}, hasV: hasV, r: result{outcome: unreachable},
			state: store.StateFailed, retries: 2, provideV: true, stop: true, event: "internal.verifier.not_reachable_v", message: "comm_error"},
		{name: "silence after a failure that was not final", was: was{state: store.StateInvalidQuote, rank: 2}, r: result{outcome: unreachable},
			state: store.StateGetQuoteRetry, retries: 1, delay: 3 * time.Second},
		{name: "other API version", was: was{state: store.StateGetQuote, rank: -1}, r: result{outcome: versionChanged},
			state: store.StateGetQuoteRetry, retries: 1},
		{name: "other API version for V", was: was{state: store.StateProvideV, provideV: true, rank: -1}, hasV: hasV, r: result{outcome: versionChanged},
			state: store.StateProvideVRetry, retries: 1, provideV: true},
		{name: "other API version again and again", was: was{state: store.StateGetQuoteRetry, retries: 2, rank: -1}, r: result{outcome: versionChanged},
			state: store.StateFailed, retries: 2, stop: true, event: "internal.verifier.not_reachable"},

		{name: "no common API version", was: was{state: store.StateGetQuote, passed: 1, rank: -1}, r: result{outcome: versionRefused},
			state: store.StateFailed, stop: true, event: "internal.verifier.version_not_supported"},
		{name: "refused", was: was{state: store.StateGetQuote, passed: 1, rank: -1}, r: result{outcome: refused},
			state: store.StateFailed, stop: true, event: "internal.verifier.no_quote"},
		{name: "V refused", was: was{state: store.StateProvideVRetry, retries: 1, provideV: true, rank: -1}, hasV: hasV, r: result{outcome: refused},
			state: store.StateFailed, retries: 1, provideV: true, stop: true, event: "internal.verifier.no_v"},
		{name: "malformed answer", was: was{state: store.StateGetQuote, passed: 1, rank: -1}, r: result{outcome: malformed},
			state: store.StateFailed, stop: true, event: "internal.verifier.exception"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := transition(c.was.status(), c.hasV, c.r, testPacing, labels)
			if n.status.Operational != c.state || n.status.Retries != c.retries || n.status.ProvideV != c.provideV {
				t.Errorf("state %d, retries %d, provideV %v; want %d, %d, %v",
					n.status.Operational, n.status.Retries, n.status.ProvideV, c.state, c.retries, c.provideV)
			}
			if n.stop != c.stop || !n.stop && n.delay != c.delay {
				t.Errorf("stop %v, delay %v; want %v, %v", n.stop, n.delay, c.stop, c.delay)
			}
			event := ""
			if n.failure != nil {
				event = n.failure.EventID
				if n.status.LastEventID != event || n.status.LastFailure != n.failure.Context {
					t.Errorf("status says %s %s, reported is %+v", n.status.LastEventID, n.status.LastFailure, *n.failure)
				}
				if n.status.SeverityRank < c.was.rank || n.status.SeverityRank < n.failure.Severity.Rank {
					t.Errorf("severity fell to %d", n.status.SeverityRank)
				}
			}
			if event != c.event || n.message != c.message {
				t.Errorf("event %q, message %q; want %q, %q", event, n.message, c.event, c.message)
			}
			if !n.stop && !n.status.Operational.Polled() && n.status.Operational != store.StateInvalidQuote {
				t.Errorf("polled in state %d", n.status.Operational)
			}
		})
	}
}

func TestRetryDelay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		p    pacing
		n    int
		want time.Duration
	}{
		{pacing{retryInterval: 2 * time.Second, exponential: true}, 1, 2 * time.Second},
		{pacing{retryInterval: 2 * time.Second, exponential: true}, 5, 32 * time.Second},
		{pacing{retryInterval: 2 * time.Second, exponential: true}, 1000, maxRetryDelay},
		{pacing{retryInterval: 1500 * time.Millisecond, exponential: true}, 2, 2250 * time.Millisecond},
		{pacing{retryInterval: time.Second, exponential: true}, 3, time.Second},
		{pacing{retryInterval: 500 * time.Millisecond, exponential: true}, 3, 500 * time.Millisecond},
		{pacing{retryInterval: 7 * time.Second}, 3, 7 * time.Second},
	} {
		if got := c.p.retryDelay(c.n); got != c.want {
			t.Errorf("retry_interval %v, exponential %v, attempt %d: %v, want %v", c.p.retryInterval, c.p.exponential, c.n, got, c.want)
		}
	}
}

// An event of the verifier's own must have the highest severity and a context that is JSON whatever the text.
func TestOwnEventsAreOfTheHighestSeverity(t *testing.T) {
	t.Parallel()
	f := event(eventNoQuote, "it said \"no\"\x1b[0m", policy.DefaultLabels())
	if !f.Severity.Highest || f.Recoverable {
		t.Errorf("%+v", f)
	}
	if want := `{"message":"it said \"no\"\u001b[0m"}`; f.Context != want {
		t.Errorf("context %s, want %s", f.Context, want)
	}
}
