package store

import (
	"context"
	"time"
)

// Registrar is the directory of agents. An id has at most one active registration (proven by credential
// activation) and at most one pending one; the two are kept apart, so that an unproven request changes nothing
// that others rely on.
type Registrar interface {
	// Stage replaces the id's pending registration, and returns the revision to activate it with. ErrIdentity when
	// the id's active registration, or a pending one younger than pendingTTL, belongs to another TPM identity
	// (Identity.Conflicts). Concurrent first registrations of different TPMs: exactly one wins. The staged RegCount
	// is the active one's plus one. ErrInvalid, ErrTooLarge; ErrDamaged when the active registration cannot be read.
	Stage(ctx context.Context, r Registration, now time.Time, pendingTTL time.Duration) (rev uint64, err error)
	// Pending returns the id's pending registration. ErrNotFound, ErrDamaged.
	Pending(ctx context.Context, id string) (Registration, error)
	// Activate makes the pending registration of that revision the active one. ErrNotFound, ErrConflict, ErrDamaged.
	Activate(ctx context.Context, id string, rev uint64, now time.Time) error
	// DropPending removes the pending registration of that revision; the active one stays. ErrNotFound, ErrConflict,
	// ErrDamaged.
	DropPending(ctx context.Context, id string, rev uint64) error
	// Registered returns the active registration. ErrNotFound; ErrInactive when only a pending one exists; ErrDamaged.
	Registered(ctx context.Context, id string) (Registration, error)
	// RegisteredIDs lists the ids after the given one, active and pending alike, at most max.
	RegisteredIDs(ctx context.Context, after string, max int) ([]string, error)
	// SameEK lists the other ids, active or pending, that carry the same EK public area, at most MaxSameEK.
	SameEK(ctx context.Context, id string, ekTPM []byte) ([]string, error)
	// Deregister removes the id, active and pending, damaged or not. ErrNotFound.
	Deregister(ctx context.Context, id string) error
	// ExpirePending removes up to max pending registrations staged before the time, oldest first, and returns how many.
	ExpirePending(ctx context.Context, before time.Time, max int) (int, error)
	// CountPending is the number of pending registrations. It costs the same however many there are.
	CountPending(ctx context.Context) (int, error)
}

// MaxSameEK bounds the answer of SameEK: one other id is an alarm already.
const MaxSameEK = 100
