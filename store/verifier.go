package store

import (
	"context"
	"time"
)

// Verifier keeps agents, their rounds, policies and undelivered revocation events.
type Verifier interface {
	Enrolment
	Schedule
	Policies
	Outbox
	Calls
	Notices
}

// Enrolment is the tenant's side of an agent.
type Enrolment interface {
	// AddAgent enrols an agent, creating the policies given with it in the same transaction. ErrExists when the
	// agent or one of those policies exists (the error names which), ErrNotFound when it names a policy that does
	// not; ErrInvalid, ErrTooLarge.
	AddAgent(ctx context.Context, a Agent, create ...Policy) error
	// Agent returns one agent as last committed. ErrNotFound, ErrDamaged.
	Agent(ctx context.Context, id string) (Agent, error)
	// Agents lists agents after the given id, at most max; damaged ones are left out.
	Agents(ctx context.Context, f Filter, after string, max int) ([]Agent, error)
	// DeleteAgent removes the agent, damaged or not, with the undelivered events that report on it or are addressed to
	// it, its session, attestations and payload, and the policies that bear its id as name unless another agent uses them. A round in flight loses its lease:
	// its Commit fails, and nothing of it is kept, events included. ErrNotFound.
	DeleteAgent(ctx context.Context, id string) error
	// StopAgent puts the agent into StateTenantFailed, without a next round; a round in flight loses its lease.
	// ErrNotFound, ErrDamaged.
	StopAgent(ctx context.Context, id string) error
	// ReactivateAgent puts the agent into StateStart, due now, with a zero attest.State, no retries, and V to be
	// delivered again if it has one; the rest of its status stays. An agent that calls in comes into StateGetQuote
	// instead, not due, with a zero attest.State, and neither retries, failures, nor a V to be delivered: it has not
	// timed out any more. A round in flight loses its lease. ErrNotFound, ErrDamaged.
	ReactivateAgent(ctx context.Context, id string, now time.Time) error
}

// Schedule hands out rounds, each to one holder at a time.
type Schedule interface {
	// Claim leases up to max agents of the verifier that are due, earliest first, until now+ttl. A lease is held once;
	// it ends with Commit, at its expiry, or when the agent is deleted, stopped or reactivated. Calls.Lease gives leases
	// of the same kind.
	Claim(ctx context.Context, verifierID, owner string, now time.Time, max int, ttl time.Duration) ([]Lease, error)
	// Commit ends a leased round. ErrLeaseLost when the lease has ended. A round that changes nothing but counters,
	// state and schedule (Round.Durable false) is visible at once and durable a second later at most; any other, also
	// one with an attestation or a session, is durable, with its events, when Commit returns, and visible then.
	// ErrInvalid, ErrTooLarge, ErrConflict (see Round.Attestation). After any other
	// error than ErrLeaseLost the lease still holds, unless the round did happen.
	Commit(ctx context.Context, l Lease, r Round, now time.Time) error
	// NextDue is when Claim may next have something for the verifier: the earliest due time, or the expiry of a lease
	// when that comes first; false when there is neither. Every verb that changes an agent may change it, and counts
	// when it has returned.
	NextDue(ctx context.Context, verifierID string) (time.Time, bool, error)
}

// Policies keeps named policies. They are large and change seldom.
type Policies interface {
	// Policy returns a named policy. ErrNotFound, ErrDamaged.
	Policy(ctx context.Context, kind PolicyKind, name string) (Policy, error)
	// PolicyHead returns a named policy without its texts, which are nil: cheap enough for every round. ErrNotFound,
	// ErrDamaged.
	PolicyHead(ctx context.Context, kind PolicyKind, name string) (Policy, error)
	// PolicyKeys lists the different values of Keys of one kind's policies, without "".
	PolicyKeys(ctx context.Context, kind PolicyKind) ([]string, error)
	// PolicyNames lists the names of one kind.
	PolicyNames(ctx context.Context, kind PolicyKind) ([]string, error)
	// AddPolicy stores a new policy. ErrExists, ErrInvalid, ErrTooLarge.
	AddPolicy(ctx context.Context, p Policy) error
	// UpdatePolicy replaces a policy, all of it. Unless p.Rev is 0, only when it still has that revision: ErrConflict.
	// ErrNotFound, ErrInvalid, ErrTooLarge.
	UpdatePolicy(ctx context.Context, p Policy) error
	// DeletePolicy removes a policy. ErrNotFound; ErrInUse, as an InUse.
	DeletePolicy(ctx context.Context, kind PolicyKind, name string) error
}

// Outbox keeps revocation events until they are delivered, at least once each.
type Outbox interface {
	// ClaimEvents leases up to max due deliveries until now+ttl, earliest due first, then in order of their ids.
	ClaimEvents(ctx context.Context, owner string, now time.Time, max int, ttl time.Duration) ([]Event, error)
	// FinishEvent removes a delivery, done or given up. ErrNotFound.
	FinishEvent(ctx context.Context, id uint64) error
	// RetryEvent ends the lease of a delivery and sets when it is due again. ErrNotFound.
	RetryEvent(ctx context.Context, id uint64, attempts int, next time.Time) error
}

// Notices reads a channel of the outbox as a notice board: its events stay until they are due.
type Notices interface {
	// Notices lists the events of a channel with ids above after, in the order of their ids, at most max; leased or not,
	// and without their leases. Damaged ones are left out.
	Notices(ctx context.Context, channel string, after uint64, max int) ([]Event, error)
}

// Filter selects agents; zero fields select all.
type Filter struct {
	VerifierID string
}
