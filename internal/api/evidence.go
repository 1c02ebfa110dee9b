package api

import "encoding/json"

// EvidenceResult is the verdict on evidence that was handed to verify/evidence.
type EvidenceResult struct {
	Valid    bool              `json:"valid"`
	Claims   json.RawMessage   `json:"claims"` // an object; empty unless Valid
	Failures []EvidenceFailure `json:"failures"`
}

// EvidenceFailure is a reason against evidence.
type EvidenceFailure struct {
	Type    string          `json:"type"` // event id
	Context json.RawMessage `json:"context"`
}

// IdentityResult is whether a quote handed to verify/identity is by an agent's key. Valid is a number on the wire.
type IdentityResult struct {
	Valid  int    `json:"valid"`
	Reason string `json:"reason,omitempty"` // contexts of failures, with "; " between them
}

// IdentityVerdict is the same in API 3.0.
type IdentityVerdict struct {
	Valid    bool              `json:"valid"`
	Failures []EvidenceFailure `json:"failures"`
}
