package attest

import "keylime/internal/policy"

// Verdict says whether the evidence passed, and if not, what failed.
type Verdict struct {
	Failures []Failure
	Again    bool // nothing decided: ask again at once (see Outcome)
}

// Failure is one event in Keylime's terms.
type Failure struct {
	EventID     string          // e.g. "ima.validation.ima-ng.not_in_allowlist"
	Severity    policy.Severity // label and rank, from the severity policy
	Recoverable bool            // false: the agent is not polled again until an operator acts
	Context     string          // JSON object text; {"message": …} for plain text
}

// Pass reports whether the evidence is good: something was decided, and nothing failed.
func (v Verdict) Pass() bool { return !v.Again && len(v.Failures) == 0 }

// Worst is the first failure of the highest severity, the one that Keylime reports; false when none failed.
func (v Verdict) Worst() (Failure, bool) {
	var worst Failure
	found := false
	for _, f := range v.Failures {
		if !found || f.Severity.Rank > worst.Severity.Rank {
			worst, found = f, true
		}
	}
	return worst, found
}

// Final reports whether polling must stop: an irrecoverable failure, or one of the highest severity.
func (v Verdict) Final() bool {
	for _, f := range v.Failures {
		if !f.Recoverable || f.Severity.Highest {
			return true
		}
	}
	return false
}
