package store

import "errors"

var (
	ErrNotFound  = errors.New("not found")
	ErrExists    = errors.New("already exists")
	ErrConflict  = errors.New("changed since it was read")
	ErrLeaseLost = errors.New("lease lost")
	ErrInUse     = errors.New("in use")
	ErrIdentity  = errors.New("belongs to another TPM")
	ErrInactive  = errors.New("registered but not activated")
	ErrInvalid   = errors.New("invalid")
	ErrTooLarge  = errors.New("too large")
	// ErrDamaged: the record exists but cannot be read. It is left out of lists and has no rounds; others are served.
	// Deleting it and enrolling or registering anew mends it.
	ErrDamaged = errors.New("record damaged")
	ErrClosed  = errors.New("store is closed")
)

// InUse is the ErrInUse of a policy that cannot be deleted, with an agent that uses it.
type InUse struct{ AgentID string }

func (e InUse) Error() string { return ErrInUse.Error() + " by agent " + e.AgentID }

func (e InUse) Unwrap() error { return ErrInUse }
