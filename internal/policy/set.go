// Package policy compiles Keylime's policies into immutable values that any number of rounds share.
//
// What an uploader can get wrong is an *Error, whose text is fit to be shown to him.
package policy

import (
	"keylime/ima"
	"keylime/tpm"
)

// Set is everything that one agent's rounds are appraised against. It is immutable and safe for concurrent use.
type Set struct {
	Runtime *Runtime // nil: no runtime policy; PCR 10 is not asked for
	PCR     *PCR     // from tpm_policy; never nil
	Boot    *Boot    // nil: no measured-boot policy
	// BootAlways: the boot is judged in every round, not only when something changed that the judgement depends on.
	BootAlways bool
	Labels     *Labels // severity labels and rules; never nil
	// Keyring is the agent's own keys for file signatures; nil: it has none, and those of the runtime policy count.
	Keyring *ima.Keyring
	// Signatures remembers good file signatures across rounds and agents; nil: each is verified anew.
	Signatures *ima.SignatureCache
	// ExtendedTemplates: measurement lists may have the templates of newer kernels, see ima.Parser.
	ExtendedTemplates bool
	// IgnoreToMToU: measurement violations are accepted (true) or fail with ima.validation.tomtou (false).
	IgnoreToMToU bool
}

// SignatureKeys are the keys that vouch for signed files, before any are learned.
func (s *Set) SignatureKeys() *ima.Keyring {
	if s.Keyring == nil && s.Runtime != nil {
		return s.Runtime.keys
	}
	return s.Keyring
}

// Mask is the PCR selection that a challenge must ask for, PCR 16 excepted: the tpm_policy's, PCR 10 unless the
// runtime policy is empty and there are no keys for signatures, and those of the measured-boot policy, so that no mask
// can switch a policy off.
func (s *Set) Mask() tpm.Mask {
	mask := s.PCR.Mask()
	if s.Runtime != nil && (!s.Runtime.empty() || len(s.SignatureKeys().Keys()) > 0) {
		mask = mask.With(tpm.PCRIma)
	}
	if s.Boot != nil {
		mask |= s.Boot.Mask()
	}
	return mask
}

// Error is a fault in a policy's text. Its text is what Keylime's REST API answers, with HTTP status 400.
type Error struct{ Text string }

func (e *Error) Error() string { return e.Text }
