package config

import "time"

// Push configures how a verifier treats agents that call in.
type Push struct {
	Mode string // pull, push or both: what enrolments may ask for

	ChallengeLifetime time.Duration // of an attestation's challenge
	NonceLifetime     time.Duration // of a session's challenge
	SessionLifetime   time.Duration
	ExtendSession     bool // a good attestation extends the session
	AutoRecover       bool // a good attestation ends a failure

	SessionsPerAddress Rate
	SessionsPerAgent   Rate
	HistoryCount       int           // attestations kept of each agent
	HistoryAge         time.Duration // of the oldest one kept
}

// Rate is a number of events in a window of time.
type Rate struct {
	Count  int
	Window time.Duration
}

func (p *Push) options() []option {
	return []option{
		{"mode", oneOf(&p.Mode, "both", "pull", "push", "both"), "how agents of this verifier may be attested: pull, it asks them; push, they call in; both, as each was added"},
		{"challenge_lifetime", seconds(&p.ChallengeLifetime, 30*time.Minute), "push: time to answer an attestation's challenge, in seconds"},
		{"verification_timeout", ignored("0"), "push: read by nothing, for evidence is judged before it is acknowledged"},
		{"nonce_lifetime", seconds(&p.NonceLifetime, time.Minute), "push: time to answer a session's challenge, in seconds"},
		{"session_lifetime", seconds(&p.SessionLifetime, 3*time.Minute), "push: life of a session, in seconds"},
		{"extend_token_on_attestation", boolean(&p.ExtendSession, true), "push: a good attestation extends the session"},
		{"auto_recover_attestation_failures", boolean(&p.AutoRecover, false), "push: a good attestation ends a failure; false leaves that to an operator (reactivate)"},
		{"session_create_rate_limit_per_ip", integer(&p.SessionsPerAddress.Count, 50, 1, 1_000_000), "push: sessions that one address may ask for in a window"},
		{"session_create_rate_limit_window_ip", seconds(&p.SessionsPerAddress.Window, time.Minute), "push: that window, in seconds"},
		{"session_create_rate_limit_per_agent", integer(&p.SessionsPerAgent.Count, 15, 1, 1_000_000), "push: sessions that may be asked for in the name of one agent in a window"},
		{"session_create_rate_limit_window_agent", seconds(&p.SessionsPerAgent.Window, time.Minute), "push: that window, in seconds"},
		{"attestation_history", integer(&p.HistoryCount, 50, 1, 1_000_000), "push: most attestations kept of each agent: failures, and the first and the last good one in a row"},
		{"attestation_history_age", seconds(&p.HistoryAge, 30*24*time.Hour), "push: how long they are kept, in seconds; the latest one always is"},
	}
}

func (p *Push) finish() []error {
	var errs []error
	for _, o := range []struct {
		name  string
		value time.Duration
	}{
		{"challenge_lifetime", p.ChallengeLifetime},
		{"nonce_lifetime", p.NonceLifetime},
		{"session_lifetime", p.SessionLifetime},
		{"session_create_rate_limit_window_ip", p.SessionsPerAddress.Window},
		{"session_create_rate_limit_window_agent", p.SessionsPerAgent.Window},
		{"attestation_history_age", p.HistoryAge},
	} {
		if o.value <= 0 {
			errs = append(errs, optionError(o.name, "must be more than 0"))
		}
	}
	return errs
}
