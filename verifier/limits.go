package verifier

import "time"

// Numbers that protect the verifier, with their reasons.
const (
	// maxRetryDelay bounds interval^n: an agent that comes back is noticed within it.
	maxRetryDelay = 10 * time.Minute
)
