// Package policy compiles Keylime's policies into immutable values that any number of rounds share.
//
// What an uploader can get wrong is an *Error, whose text is fit to be shown to him.
package policy

import "keylime/tpm"

// Set is everything that one agent's rounds are appraised against. It is immutable and safe for concurrent use.
type Set struct {
	Runtime *Runtime // nil: no runtime policy; PCR 10 is not asked for
	PCR     *PCR     // from tpm_policy; never nil
	Labels  *Labels  // severity labels and rules; never nil
	// IgnoreToMToU: measurement violations are accepted (true) or fail with ima.validation.tomtou (false).
	IgnoreToMToU bool
}

// Mask is the PCR selection that a challenge must ask for, PCR 16 excepted: the tpm_policy's, and PCR 10 unless the
// runtime policy is empty, so that no mask can switch a runtime policy off.
func (s *Set) Mask() tpm.Mask {
	mask := s.PCR.Mask()
	if s.Runtime != nil && !s.Runtime.empty() {
		mask = mask.With(tpm.PCRIma)
	}
	return mask
}

// Error is a fault in a policy's text. Its text is what Keylime's REST API answers, with HTTP status 400.
type Error struct{ Text string }

func (e *Error) Error() string { return e.Text }
