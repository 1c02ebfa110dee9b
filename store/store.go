// Package store says what Keylime keeps and the verbs it keeps it by.
//
// Each verb is one atomic, durable transaction unless its comment says otherwise. Engines (store/bolt,
// store/postgres) implement the verbs; store/storetest is the contract as a test suite.
//
// Errors are the sentinels of this package, wrapped; callers use errors.Is. Any other error means that the
// engine failed and nothing may be assumed about the write. Times are UTC with microsecond precision. Lists
// are in byte order of the identifier.
package store

import (
	"context"
	"errors"
	"time"

	"keylime/internal/attest"
)

var (
	ErrNotFound  = errors.New("not found")
	ErrExists    = errors.New("already exists")
	ErrConflict  = errors.New("changed since it was read")
	ErrLeaseLost = errors.New("lease lost")
	ErrInUse     = errors.New("in use")
	ErrIdentity  = errors.New("belongs to another TPM")
	ErrInactive  = errors.New("registered but not activated")
	ErrTooLarge  = errors.New("record too large")
	ErrClosed    = errors.New("store is closed")
)

// Registrar is the directory of agents. An id has at most one active registration (proven by credential
// activation) and at most one pending one; the two are kept apart, so that an unproven request changes nothing
// that others rely on.
type Registrar interface {
	// Stage replaces the id's pending registration, and returns the revision to activate it with. ErrIdentity when
	// the id's active registration, or a pending one younger than pendingTTL, belongs to another TPM identity
	// (Identity.Conflicts). Concurrent first registrations of different TPMs: exactly one wins. The staged RegCount
	// is the active one's plus one.
	Stage(ctx context.Context, r Registration, now time.Time, pendingTTL time.Duration) (rev uint64, err error)
	// Pending returns the id's pending registration. ErrNotFound.
	Pending(ctx context.Context, id string) (Registration, error)
	// Activate makes the pending registration of that revision the active one. ErrNotFound, ErrConflict.
	Activate(ctx context.Context, id string, rev uint64, now time.Time) error
	// DropPending removes the pending registration of that revision; the active one stays. ErrNotFound, ErrConflict.
	DropPending(ctx context.Context, id string, rev uint64) error
	// Registered returns the active registration. ErrNotFound; ErrInactive when only a pending one exists.
	Registered(ctx context.Context, id string) (Registration, error)
	// RegisteredIDs lists the ids after the given one, active and pending alike, at most max.
	RegisteredIDs(ctx context.Context, after string, max int) ([]string, error)
	// SameEK lists the other ids, active or pending, that carry the same EK public area.
	SameEK(ctx context.Context, id string, ekTPM []byte) ([]string, error)
	// Deregister removes the id, active and pending. ErrNotFound.
	Deregister(ctx context.Context, id string) error
	// ExpirePending removes up to max pending registrations staged before the time, and returns how many.
	ExpirePending(ctx context.Context, before time.Time, max int) (int, error)
	// CountPending is the number of pending registrations.
	CountPending(ctx context.Context) (int, error)
}

// Verifier keeps agents, policies and undelivered revocation events.
type Verifier interface {
	// AddAgent enrols an agent, creating the policies given with it in the same transaction. ErrExists when the
	// agent or one of those policies exists (the error names which), ErrNotFound when it names a policy that does not.
	AddAgent(ctx context.Context, a Agent, create ...Policy) error
	// Agent returns one agent as last committed, passing rounds of the last second perhaps excepted. ErrNotFound.
	Agent(ctx context.Context, id string) (Agent, error)
	// Agents lists agents after the given id, at most max.
	Agents(ctx context.Context, f Filter, after string, max int) ([]Agent, error)
	// DeleteAgent removes the agent and the policies that bear its id as name unless another agent uses them. A
	// round in flight loses its lease: its Commit fails, and nothing of it is kept, events included. ErrNotFound.
	DeleteAgent(ctx context.Context, id string) error
	// StopAgent puts the agent into StateTenantFailed; a round in flight loses its lease. ErrNotFound.
	StopAgent(ctx context.Context, id string) error
	// ReactivateAgent puts the agent into StateStart, due now, with a zero attest.State and V to be delivered
	// again; severity and last event stay. A round in flight loses its lease. ErrNotFound.
	ReactivateAgent(ctx context.Context, id string, now time.Time) error

	// Claim leases up to max agents of the verifier that are due, earliest first, until now+ttl. A lease is held once.
	Claim(ctx context.Context, verifierID, owner string, now time.Time, max int, ttl time.Duration) ([]Lease, error)
	// Commit ends a leased round. ErrLeaseLost when the agent was deleted, stopped, reactivated or claimed anew
	// since. A round that changes nothing but counters, state and schedule (Round.Durable false) may become durable
	// up to a second later; any other is durable, with its event, when Commit returns.
	Commit(ctx context.Context, l Lease, r Round, now time.Time) error
	// NextDue is when the next agent of the verifier is due, leased ones excepted; false when there is none.
	NextDue(ctx context.Context, verifierID string) (time.Time, bool, error)

	// Policy returns a named policy. ErrNotFound.
	Policy(ctx context.Context, kind PolicyKind, name string) (Policy, error)
	// PolicyDigest returns the digest of a named policy without reading its text. ErrNotFound.
	PolicyDigest(ctx context.Context, kind PolicyKind, name string) (string, error)
	// PolicyNames lists the names of one kind.
	PolicyNames(ctx context.Context, kind PolicyKind) ([]string, error)
	// AddPolicy: ErrExists. UpdatePolicy: ErrNotFound. DeletePolicy: ErrNotFound; ErrInUse, naming an agent.
	AddPolicy(ctx context.Context, p Policy) error
	UpdatePolicy(ctx context.Context, p Policy) error
	DeletePolicy(ctx context.Context, kind PolicyKind, name string) error

	// Events: the outbox. ClaimEvents leases due deliveries; FinishEvent removes one; RetryEvent sets its next time.
	// FinishEvent and RetryEvent: ErrNotFound.
	ClaimEvents(ctx context.Context, owner string, now time.Time, max int, ttl time.Duration) ([]Event, error)
	FinishEvent(ctx context.Context, id uint64) error
	RetryEvent(ctx context.Context, id uint64, attempts int, next time.Time) error
}

// Filter selects agents; zero fields select all.
type Filter struct {
	VerifierID string
}

// Registration is what an agent told the registrar about itself, byte for byte.
type Registration struct {
	ID       string
	Identity Identity
	IP       string // contact address as sent; "" when absent
	Port     int    // 0 when absent
	MTLSCert string // PEM, "disabled", or "" when absent
	// Challenge is the secret that the agent must recover to activate; only in pending registrations.
	Challenge string
	RegCount  int
	Rev       uint64    // set by Stage
	Staged    time.Time // set by Stage
	Activated time.Time // set by Activate
}

// Identity are the parts of a registration that name the TPM. Empty means not sent.
type Identity struct {
	EKTPM, AIKTPM       []byte // TPM2B_PUBLIC
	EKCert              []byte // DER as received
	EKChain             [][]byte
	IAKTPM, IDevIDTPM   []byte // TPM2B_PUBLIC
	IAKCert, IDevIDCert []byte // DER as received
}

// PolicyKind names a collection of policies.
type PolicyKind string

const (
	RuntimePolicy      PolicyKind = "runtime"
	MeasuredBootPolicy PolicyKind = "measured-boot"
)

// Policy is a named policy as uploaded. Text is the exact bytes; Digest is their hex SHA-256.
type Policy struct {
	Kind      PolicyKind
	Name      string
	Text      []byte
	Digest    string
	Generator int    // runtime policies: meta.generator
	Rev       uint64 // set by the store, grows with each update
}

// OperationalState is Keylime's numeric state (spec/wire-pull §6.1).
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

// Polled reports whether an agent in this state has rounds.
func (s OperationalState) Polled() bool {
	return s != StateFailed && s != StateTerminated && s != StateInvalidQuote && s != StateTenantFailed
}

// Agent is one attested machine: what the tenant enrolled, and how it fares.
type Agent struct {
	ID     string
	Spec   AgentSpec
	Status AgentStatus
	State  attest.State
	Due    time.Time // next round; zero = none
	Rev    uint64    // changes with each stop, reactivation and re-enrolment
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
	RuntimePolicy          string // policy names
	MeasuredBootPolicy     string
	IMAKeyring             string // ima_sign_verification_keys as supplied
	RevocationKey          string // PEM or ""
	AcceptHash             []string
	AcceptEnc              []string
	AcceptSign             []string
	AKTPM                  []byte // TPM2B_PUBLIC that the tenant checked
	MTLSCert               string // PEM pinned for connections, or "disabled" or ""
	Enrolled               time.Time
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
	Run                      string // names the run of a verifier that did the last round
}

// Lease is the right to run one round of an agent.
type Lease struct {
	Agent   Agent
	Owner   string
	Epoch   uint64 // fences Commit
	Expires time.Time
}

// Round is what one leased round leaves behind.
type Round struct {
	Status  AgentStatus
	State   attest.State
	Next    time.Time // zero = no further round
	Events  []Event   // outbox rows, written in the same transaction; ID is assigned by the store
	Durable bool      // must be durable on return (always so when Events is not empty or Operational changed)
}

// Event is one delivery of a revocation message through one channel.
type Event struct {
	ID       uint64
	AgentID  string // whose failure it reports
	Channel  string // "webhook", "agent", "zeromq"
	Target   string // agent channel: the id of the agent to tell; else ""
	Message  []byte // exact body to send
	Created  time.Time
	Due      time.Time
	Attempts int
	Lease    time.Time // claimed until
}

// Conflicts reports whether a registration with identity n may not take the place of one with identity i: a
// part that i has must be the same in n. A part that i lacks may be added.
func (i Identity) Conflicts(n Identity) bool {
	pairs := [][2][]byte{
		{i.EKTPM, n.EKTPM}, {i.AIKTPM, n.AIKTPM}, {i.EKCert, n.EKCert},
		{i.IAKTPM, n.IAKTPM}, {i.IDevIDTPM, n.IDevIDTPM}, {i.IAKCert, n.IAKCert}, {i.IDevIDCert, n.IDevIDCert},
	}
	for _, p := range pairs {
		if len(p[0]) > 0 && string(p[0]) != string(p[1]) {
			return true
		}
	}
	return false
}
