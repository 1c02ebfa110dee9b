package store

import (
	"bytes"
	"slices"
	"time"

	"keylime/internal/attest"
)

// OperationalState is Keylime's numeric state of an agent, as the REST API shows it.
type OperationalState int

const (
	StateRegistered    OperationalState = 0
	StateStart         OperationalState = 1
	StateSaved         OperationalState = 2
	StateGetQuote      OperationalState = 3
	StateGetQuoteRetry OperationalState = 4
	StateProvideV      OperationalState = 5
	StateProvideVRetry OperationalState = 6
	StateFailed        OperationalState = 7
	StateTerminated    OperationalState = 8
	StateInvalidQuote  OperationalState = 9
	StateTenantFailed  OperationalState = 10
)

// Polled reports whether an agent in this state may have rounds. One with an invalid quote has them when its failure
// was not final.
func (s OperationalState) Polled() bool {
	return s != StateFailed && s != StateTerminated && s != StateTenantFailed
}

// Agent is one attested machine: what the tenant enrolled, and how it fares.
type Agent struct {
	ID     string
	Spec   AgentSpec
	Status AgentStatus
	State  attest.State
	Due    time.Time // next round, or when an agent that calls in is missed; zero = none, as always in a state that is not polled
	Rev    uint64    // set by the store; changes with each stop, reactivation and re-enrolment
}

// AgentSpec is the enrolment; it does not change while the agent exists.
type AgentSpec struct {
	VerifierID, VerifierIP string
	VerifierPort           int
	V                      []byte // key share to deliver; nil = none
	IP                     string
	Port                   int
	TPMPolicy              string // JSON text as supplied
	Metadata               string // JSON text, opaque
	RuntimePolicy          string // policy names; "" = none
	MeasuredBootPolicy     string
	PCRPolicy              string `json:",omitempty"` // holds beside TPMPolicy, which then only adds to the PCRs asked for
	IMAKeyring             string // ima_sign_verification_keys as supplied
	RevocationKey          string // PEM or ""
	AcceptHash             []string
	AcceptEnc              []string
	AcceptSign             []string
	AKTPM                  []byte // TPM2B_PUBLIC that the tenant checked
	MTLSCert               string // PEM pinned for connections, or "disabled" or ""
	Enrolled               time.Time
	Push                   bool `json:",omitempty"` // calls in instead of being asked; has no address
}

// PolicyName is the name of the agent's policy of that kind; "" when it has none.
func (s AgentSpec) PolicyName(kind PolicyKind) string {
	switch kind {
	case RuntimePolicy:
		return s.RuntimePolicy
	case MeasuredBootPolicy:
		return s.MeasuredBootPolicy
	case PCRPolicy:
		return s.PCRPolicy
	}
	return ""
}

// Clone returns a copy that shares no slice with s.
func (s AgentSpec) Clone() AgentSpec {
	s.V, s.AKTPM = bytes.Clone(s.V), bytes.Clone(s.AKTPM)
	s.AcceptHash, s.AcceptEnc, s.AcceptSign = slices.Clone(s.AcceptHash), slices.Clone(s.AcceptEnc), slices.Clone(s.AcceptSign)
	return s
}

// AgentStatus changes from round to round.
type AgentStatus struct {
	Operational              OperationalState
	APIVersion               string // spoken by the agent, e.g. "2.6"
	ProvideV                 bool   // V is to be delivered after the next good quote
	PubKey                   string // transport key PEM of the last good quote
	HashAlg, EncAlg, SignAlg string // of the last good quote
	Retries                  int    // failed attempts in a row at reaching the agent
	AttestationCount         int    // good rounds
	LastQuote, LastSuccess   time.Time
	SeverityRank             int // -1 = none yet
	LastEventID              string
	LastFailure              string // JSON context of that event
	RuntimePolicyDigest      string // which policy version judged the last round
	MeasuredBootPolicyDigest string
	PCRPolicyDigest          string `json:",omitempty"`
	Run                      string // names the run of a verifier that did the last round

	// Of an agent that calls in:
	Failures int    `json:",omitempty"` // attestations failed in a row; sticky unless failures may mend themselves
	TimedOut bool   `json:",omitempty"` // silent for longer than it may be
	Notice   uint64 `json:",omitempty"` // id of the last revocation notice that it has acknowledged
}
