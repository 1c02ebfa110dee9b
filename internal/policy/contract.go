// Package policy compiles Keylime's policies into immutable values that any number of rounds share.
package policy

import "keylime/tpm"

// Set is everything that one agent's rounds are appraised against. It is immutable.
type Set struct {
	Runtime *Runtime // nil: no runtime policy; PCR 10 is not asked for
	PCR     *PCR     // from tpm_policy; never nil
	Labels  *Labels  // severity labels and rules; never nil
	// IgnoreToMToU: measurement violations are accepted (true) or fail with ima.validation.tomtou (false).
	IgnoreToMToU bool
}

// Severity is one label of the configured order.
type Severity struct {
	Label   string
	Rank    int  // 0 is the lowest
	Highest bool // the last label of the order
}

// SeverityRule maps event ids (a regular expression that must match the whole id) to a label.
type SeverityRule struct {
	EventID string
	Label   string
}

// Labels assigns severities to event ids.
type Labels struct{}

// NewLabels compiles a severity order (low to high) and its rules; the first rule that matches wins, none means
// the highest label.
func NewLabels(order []string, rules []SeverityRule) (*Labels, error) { panic("unimplemented") }

// DefaultLabels is upstream's order, info to emergency, with every event at the highest.
func DefaultLabels() *Labels { panic("unimplemented") }

// For returns the severity of an event.
func (l *Labels) For(eventID string, recoverable bool) Severity { panic("unimplemented") }

// PCR is a compiled tpm_policy.
type PCR struct{}

// ParsePCR reads a tpm_policy: a JSON object of PCR number to one hex digest or a list of them, and "mask".
func ParsePCR(text string) (*PCR, error) { panic("unimplemented") }

// Mask is the PCR selection that the policy's text asks for.
func (p *PCR) Mask() tpm.Mask { panic("unimplemented") }

// Runtime is a compiled runtime policy.
type Runtime struct{}

// CompileRuntime validates and compiles a runtime policy's text. Errors are *Error, fit to show to the uploader.
func CompileRuntime(text []byte) (*Runtime, error) { panic("unimplemented") }

// Generator is meta.generator (spec/policies §2.1).
func (r *Runtime) Generator() int { panic("unimplemented") }

// Digest is the hex SHA-256 of the text.
func (r *Runtime) Digest() string { panic("unimplemented") }

// EmptyRuntime is the text stored for an agent that is added without a runtime policy.
const EmptyRuntime = `{"meta":{"version":1,"generator":1},"release":0,"digests":{},"excludes":[],"keyrings":{},"ima":{"ignored_keyrings":[],"log_hash_alg":"sha1","dm_policy":null},"ima-buf":{},"verification-keys":""}`
