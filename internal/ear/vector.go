package ear

import (
	"strings"

	"keylime/internal/evidence"
)

// Status is a tier of trustworthiness (draft-ietf-rats-ar4si, 2.3.2).
type Status string

// The tiers, from the best to the worst. None is said when nothing was found out.
const (
	Affirming       Status = "affirming"
	None            Status = "none"
	Warning         Status = "warning"
	Contraindicated Status = "contraindicated"
)

// claim is a value of a trustworthiness claim (draft-ietf-rats-ar4si, 2.3.4). Zero, no claim, is left out.
type claim int8

const (
	approved        claim = 2  // configuration, files: as the policy has them; hardware: genuine; memory: encrypted
	approvedBoot    claim = 3  // executables: those of the boot
	contraindicated claim = 96 // what the policy refuses
	cryptoFailed    claim = 99 // the evidence is not what it claims to be: nothing of it counts
)

func (c claim) status() Status {
	switch {
	case c >= 2 && c < 32:
		return Affirming
	case c >= 32 && c < 96:
		return Warning
	case c >= 96:
		return Contraindicated
	}
	return None
}

// Vector is the trustworthiness vector. Instance identity is not claimed: who asks for an appraisal vouches for the key.
type Vector struct {
	Configuration claim `json:"configuration,omitempty"`  // tpm_policy; of a guest, that it may be debugged
	Executables   claim `json:"executables,omitempty"`    // measured boot, and what ran since then
	FileSystem    claim `json:"file-system,omitempty"`    // runtime policy
	Hardware      claim `json:"hardware,omitempty"`       // a processor of the trusted maker's
	RuntimeOpaque claim `json:"runtime-opaque,omitempty"` // memory that the host cannot read
}

func vectorOf(r evidence.Result) (v Vector) {
	if r.Kind == evidence.KindTEE {
		return teeVector(r)
	}
	b := r.Basis
	claims := []struct {
		judged bool
		events string // how those begin that say no
		into   *claim
		good   claim
	}{
		{b.TPMPolicy != "", "pcr_validation.", &v.Configuration, approved},
		{b.RuntimePolicy != "", "ima.", &v.FileSystem, approved},
		{b.BootPolicy != "", "measured_boot.", &v.Executables, approvedBoot},
	}
	for _, c := range claims {
		if c.judged {
			*c.into = c.good
		}
	}
	for _, f := range r.Failures {
		known := false
		for _, c := range claims {
			if strings.HasPrefix(f.Type, c.events) {
				*c.into, known = contraindicated, true
			}
		}
		if !known {
			return Vector{Configuration: cryptoFailed, Executables: cryptoFailed, FileSystem: cryptoFailed}
		}
	}
	if v.Executables == approvedBoot && v.FileSystem == approved {
		v.Executables = approved // during the boot and after it
	}
	return v
}

// teeVector says nothing of what runs in the guest: its measurement is a claim that nobody here compares.
func teeVector(r evidence.Result) Vector {
	switch {
	case !r.Valid:
		return Vector{Hardware: cryptoFailed, RuntimeOpaque: cryptoFailed}
	case r.Basis.SNP != nil && r.Basis.SNP.PolicyDebug: // the host may read the guest's memory
		return Vector{Configuration: contraindicated, Hardware: approved, RuntimeOpaque: contraindicated}
	}
	return Vector{Hardware: approved, RuntimeOpaque: approved}
}

// status is that of the worst claim, which is the greatest. Evidence that is not good affirms nothing.
func (v Vector) status(valid bool) Status {
	if !valid {
		return Contraindicated
	}
	return max(v.Configuration, v.Executables, v.FileSystem, v.Hardware, v.RuntimeOpaque).status()
}
