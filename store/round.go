package store

import (
	"time"

	"keylime/internal/attest"
)

// Lease is the right to run one round of an agent.
type Lease struct {
	Agent   Agent
	Owner   string
	Epoch   uint64 // fences Commit: no two leases share one
	Expires time.Time
}

// Round is what one leased round leaves behind.
type Round struct {
	Status  AgentStatus
	State   attest.State
	Next    time.Time // zero = no further round
	Events  []Event   // outbox rows, written in the same transaction; ID and AgentID are set by the store
	Durable bool      // must be durable on return (always so when Events is not empty or Operational changed)

	// Of an agent that calls in:
	Attestation *Attestation // replaces the agent's latest, whose index it has; ErrConflict when that is another. AgentID is set by the store
	Retention   Retention    // of the agent's history, applied when Attestation is set
	Session     time.Time    // the agent's session, if it has one, lasts until then at least
}

// Event is one delivery of a revocation message through one channel.
type Event struct {
	ID       uint64 // grows in the order of commits
	AgentID  string // whose failure it reports
	Channel  string // "webhook", "agent", "zeromq", "push"
	Target   string // agent channel: the id of the agent to tell; else ""
	Message  []byte // exact body to send
	Created  time.Time
	Due      time.Time // zero = at once
	Attempts int
	Lease    time.Time // claimed until; set by ClaimEvents
}
