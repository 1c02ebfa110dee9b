package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Calls keeps what belongs to agents that call in (the push model): their sessions, and the attestations that they
// negotiate.
type Calls interface {
	// Offer keeps a session's challenge until it is taken or has expired, in place of one with the same id. Nothing is
	// durable: a client whose offer is lost asks for another. The oldest give way when there are more than MaxOffers.
	// ErrInvalid, ErrTooLarge.
	Offer(ctx context.Context, o Offer) error
	// Offered returns an offer that has not been taken. It may have expired by now. ErrNotFound.
	Offered(ctx context.Context, id string) (Offer, error)
	// TakeOffer removes an offer; of those who take the same at once, one does. ErrNotFound.
	TakeOffer(ctx context.Context, id string) error

	// OpenSession makes s its agent's only session, durably. ErrNotFound when the agent is not enrolled, ErrExists when
	// another agent's session has that id; ErrInvalid, ErrTooLarge.
	OpenSession(ctx context.Context, s Session) error
	// Session returns a session by its id, expired or not. It ends with its agent. ErrNotFound, ErrDamaged.
	Session(ctx context.Context, id string) (Session, error)

	// Lease claims one agent for a round, due or not, until now+ttl. ErrConflict while somebody else holds it;
	// ErrNotFound, ErrDamaged. Any agent may be leased, whatever its state; the rules of Claim's leases hold.
	Lease(ctx context.Context, id, owner string, now time.Time, ttl time.Duration) (Lease, error)

	// BeginAttestation keeps a new attestation of an agent, durably, and returns its index: one more than the last ever
	// given to this enrolment, from 0. It replaces the agent's latest one when that still awaits its evidence.
	// ErrNotFound when the agent is not enrolled; ErrInvalid, ErrTooLarge.
	BeginAttestation(ctx context.Context, a Attestation) (index uint64, err error)
	// Attestation returns one attestation. ErrNotFound, ErrDamaged.
	Attestation(ctx context.Context, agentID string, index uint64) (Attestation, error)
	// LatestAttestation returns the one with the highest index. ErrNotFound, ErrDamaged.
	LatestAttestation(ctx context.Context, agentID string) (Attestation, error)
	// Attestations lists an agent's attestations with an index below before, the newest first, at most max; damaged ones
	// are left out. An agent without any, or not enrolled, has an empty list.
	Attestations(ctx context.Context, agentID string, before uint64, max int) ([]Attestation, error)

	// PutPayload keeps the payload that an agent may fetch, in place of the one before, and gives it a new revision.
	// ErrNotFound when the agent is not enrolled; ErrInvalid, ErrTooLarge.
	PutPayload(ctx context.Context, p Payload) (rev uint64, err error)
	// Payload returns an agent's payload. It goes with its agent. ErrNotFound, ErrDamaged.
	Payload(ctx context.Context, agentID string) (Payload, error)
	// PayloadRev is the revision of an agent's payload, 0 when it has none: cheap enough for every round. ErrDamaged.
	PayloadRev(ctx context.Context, agentID string) (uint64, error)
}

// MaxOffers bounds the offers of sessions that wait for their proof: some 30 MB, and half an hour's worth of 50 a second.
const MaxOffers = 100_000

// Offer is a challenge that whoever wants a session has to answer.
type Offer struct {
	ID      string // of the session to be
	AgentID string // who asks; may be anybody
	Nonce   []byte
	Created time.Time
	Expires time.Time
}

// Check returns ErrInvalid or ErrTooLarge, wrapped, when o cannot be kept.
func (o Offer) Check() error {
	n := tally{}
	n.data(o.Nonce)
	return first(checkSession(o.ID), checkID(o.AgentID), n.check(MaxSecret, "nonce for %q", o.AgentID))
}

// Session is the right of an agent to speak for itself, until it expires.
type Session struct {
	ID        string
	AgentID   string
	TokenHash []byte // SHA-256 of the bearer token, whose secret part has 256 random bits
	Expires   time.Time
}

// Check returns ErrInvalid or ErrTooLarge, wrapped, when s cannot be kept.
func (s Session) Check() error {
	n := tally{}
	n.data(s.TokenHash)
	return first(checkSession(s.ID), checkID(s.AgentID), n.check(MaxSecret, "token hash of %q", s.AgentID),
		checkTimes("session", s.AgentID, s.Expires))
}

func checkSession(id string) error {
	if id == "" {
		return fmt.Errorf("empty session id: %w", ErrInvalid)
	}
	return checkName("session id", id)
}

// Stage is how far an attestation has come, in the words of the wire.
type Stage string

const (
	AwaitingEvidence     Stage = "awaiting_evidence"
	EvaluatingEvidence   Stage = "evaluating_evidence" // shown to the agent; never kept: evidence is judged before it is answered
	VerificationComplete Stage = "verification_complete"
)

// Evaluation is what came of an attestation, in the words of the wire.
type Evaluation string

const (
	EvaluationPending Evaluation = "pending"
	EvaluationPass    Evaluation = "pass"
	EvaluationFail    Evaluation = "fail"
)

// Attestation is one exchange of the push model: what was negotiated, the evidence, and the verdict.
type Attestation struct {
	AgentID       string
	Index         uint64 // set by the store
	Stage         Stage
	Evaluation    Evaluation
	FailureReason string // "", or broken_evidence_chain, policy_violation
	EventID       string // of the worst failure; "" = none
	Context       string // JSON context of that event
	BootTime      time.Time
	Received      time.Time // the capabilities
	Expires       time.Time // the challenge; zero = there is none
	Evidence      time.Time // when the evidence came; zero = not yet
	Completed     time.Time // when it was judged; zero = not yet
	Items         []EvidenceItem

	// What the agent asked for beside: extensions of the wire, and the notices that it has taken.
	Extensions []string
	NoticeSeen uint64
}

// EvidenceItem is one piece of evidence that was asked for. The texts are JSON objects of the wire.
type EvidenceItem struct {
	Class, Type  string
	Capabilities json.RawMessage
	Chosen       json.RawMessage
	Data         json.RawMessage // nil = not delivered
}

// MaxAttestation is the size of one attestation, all fields together. Logs beyond it are judged, but not kept.
const MaxAttestation = 2 << 20

// Check returns ErrInvalid or ErrTooLarge, wrapped, when a cannot be kept.
func (a Attestation) Check() error {
	n := tally{}
	n.text(string(a.Stage), string(a.Evaluation), a.FailureReason, a.EventID, a.Context)
	n.text(a.Extensions...)
	for _, i := range a.Items {
		n.text(i.Class, i.Type)
		n.data(i.Capabilities, i.Chosen, i.Data)
	}
	return first(checkID(a.AgentID), n.check(MaxAttestation, "attestation of %q", a.AgentID),
		checkTimes("attestation", a.AgentID, a.BootTime, a.Received, a.Expires, a.Evidence, a.Completed))
}

// Payload is what a tenant left for an agent that calls in: the payload as the pull model encrypts it, and the half U of
// its key as only the agent's TPM can open it. The other half, V, is in the agent's spec.
type Payload struct {
	AgentID string
	Rev     uint64 // set by the store, grows with each PutPayload to an agent
	SealedU []byte // credential for the agent's AK, made for its EK (tpm.MakeCredential)
	Tag     string // hex HMAC-SHA384 of the agent's id under the key U xor V
	Data    []byte // encrypted
}

// MaxPayload is the size of one payload, all fields together.
const MaxPayload = 8 << 20

// Check returns ErrInvalid or ErrTooLarge, wrapped, when p cannot be kept.
func (p Payload) Check() error {
	n := tally{}
	n.text(p.Tag)
	n.data(p.SealedU, p.Data)
	return first(checkID(p.AgentID), n.check(MaxPayload, "payload of %q", p.AgentID))
}

// Retention says how much of an agent's history is kept. The zero value keeps everything.
type Retention struct {
	Count int       // most attestations of an agent; 0 = any number
	Since time.Time // older ones are dropped
}

// Kept is what Drop looks at in an attestation.
type Kept struct {
	Index      uint64
	Evaluation Evaluation
	BootTime   time.Time
	Received   time.Time
}

// Drop returns the indices of the attestations that need not be kept, of a history in the order of the indices. The
// latest one is always kept. Of a run of passes in one boot the first and the last are kept, and all that did not
// pass; then what is too old goes, and the oldest go when there are too many.
func (r Retention) Drop(history []Kept) []uint64 {
	var drop []uint64
	var kept []Kept
	for i, k := range history {
		inside := i > 0 && i+1 < len(history) && k.continues(history[i-1]) && history[i+1].continues(k)
		if old := k.Received.Before(r.Since) && i+1 < len(history); inside || old {
			drop = append(drop, k.Index)
			continue
		}
		kept = append(kept, k)
	}
	if r.Count > 0 {
		for _, k := range kept[:max(0, len(kept)-r.Count)] {
			drop = append(drop, k.Index)
		}
	}
	return drop
}

// continues reports whether k and the attestation before it are passes of one boot.
func (k Kept) continues(before Kept) bool {
	return k.Evaluation == EvaluationPass && before.Evaluation == EvaluationPass && k.BootTime.Equal(before.BootTime)
}

// String names an attestation in messages.
func (a Attestation) String() string {
	return fmt.Sprintf("attestation %d of agent %q", a.Index, a.AgentID)
}
