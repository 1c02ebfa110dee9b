package api

import (
	"encoding/json"
	"time"
)

// The wire of the push model: API 3.0, JSON:API 1.1 bodies. Server and agent share these types.

// PushVersion is the version of the API that agents attest by when they call in.
const PushVersion = "3.0"

// JSONAPIType is the media type that attestations are sent with.
const JSONAPIType = "application/vnd.api+json"

// JSONAPIVersion is the version of JSON:API that our documents are written in.
const JSONAPIVersion = "1.1"

// Resource types.
const (
	TypeAttestation = "attestation"
	TypeSession     = "session"
	TypePayload     = "payload"

	TypeAgent        = "agent"
	TypeIMAPolicy    = "ima_policy"
	TypeUEFIRefstate = "uefi_refstate"
)

// Document is a body with one resource.
type Document[A any] struct {
	Data    Resource[A] `json:"data"`
	Meta    *Meta       `json:"meta,omitempty"`
	Links   *Links      `json:"links,omitempty"`
	JSONAPI *JSONAPI    `json:"jsonapi,omitempty"`
}

// List is a body with any number of resources.
type List[A any] struct {
	Data    []Resource[A] `json:"data"`
	Links   *Links        `json:"links,omitempty"`
	JSONAPI *JSONAPI      `json:"jsonapi,omitempty"`
}

// RootDocument is GET /v3.0/.
type RootDocument struct {
	Meta    RootMeta `json:"meta"`
	Links   *Links   `json:"links,omitempty"`
	JSONAPI *JSONAPI `json:"jsonapi,omitempty"`
}

// RootMeta says which version of the API answers.
type RootMeta struct {
	Version string `json:"version"`
}

// Resource is one thing with its attributes. Attestations have no id.
type Resource[A any] struct {
	Type       string `json:"type"`
	ID         string `json:"id,omitempty"`
	Attributes A      `json:"attributes"`
	Links      *Links `json:"links,omitempty"`
}

// Links are those of a body or of a resource.
type Links struct {
	Self string `json:"self"`
	Next string `json:"next,omitempty"` // of a list: the page after this
}

// JSONAPI names the version of the format.
type JSONAPI struct {
	Version string `json:"version"`
}

// Meta is what an answer to evidence says beside it. All but the first is for agents that asked for it with
// AttestationRequest.Extensions.
type Meta struct {
	SecondsToNext *uint64        `json:"seconds_to_next_attestation,omitempty"`
	PayloadRev    uint64         `json:"payload_revision,omitempty"` // a payload may be fetched; changes when another is left
	Notices       []NoticeOnWire `json:"revocation_notices,omitempty"`
}

// NoticeOnWire is a revocation message with its number. The agent acknowledges the highest that it has taken.
type NoticeOnWire struct {
	ID      uint64          `json:"id"`
	Message json.RawMessage `json:"notification"` // a Notification
}

// ErrorDocument is a body that says no.
type ErrorDocument struct {
	Errors  []ErrorItem `json:"errors"`
	Links   *Links      `json:"links,omitempty"`
	JSONAPI *JSONAPI    `json:"jsonapi,omitempty"`
}

// ErrorItem is one reason. Those of attestations have a Code, those of sessions and of authentication a Title.
type ErrorItem struct {
	Status string       `json:"status"` // HTTP status in digits
	Code   string       `json:"code,omitempty"`
	Title  string       `json:"title,omitempty"`
	Detail string       `json:"detail"`
	Source *ErrorSource `json:"source,omitempty"`
}

// ErrorSource points to the part of the request that is wrong.
type ErrorSource struct {
	Pointer string `json:"pointer"`
}

// AgentAttributes are those of an agent in API 3.0. A PATCH changes the last one alone.
type AgentAttributes struct {
	VerifierAgent
	AcceptAttestations bool `json:"accept_attestations"` // false: stopped, or failed for good
}

// PolicyName is a named policy without its text, in API 3.0.
type PolicyName struct {
	Name string `json:"name"`
}

// Sessions: POST /v3.0/sessions, then PATCH /v3.0/sessions/{id}.

// The one way to prove who one is: a TPM2_Certify of the AK by itself.
const (
	AuthenticationClass = "pop"
	AuthenticationType  = "tpm_pop"
)

// SessionRequest asks for a session (POST).
type SessionRequest struct {
	AgentID   string           `json:"agent_id"`
	Supported []Authentication `json:"authentication_supported"`
}

// SessionOffer is the answer: the challenge to prove it by.
type SessionOffer struct {
	AgentID   string           `json:"agent_id"`
	Requested []Authentication `json:"authentication_requested"`
	Created   string           `json:"created_at"`
	Expires   string           `json:"challenges_expire_at"`
}

// SessionProof answers the challenge (PATCH).
type SessionProof struct {
	AgentID  string           `json:"agent_id"`
	Provided []Authentication `json:"authentication_provided"`
}

// SessionResult is what came of the proof. Whether it was good is in Evaluation ("pass", "fail"), not in the status.
type SessionResult struct {
	AgentID        string           `json:"agent_id"`
	Evaluation     string           `json:"evaluation"`
	Token          string           `json:"token,omitempty"`
	Authentication []Authentication `json:"authentication"`
	Created        string           `json:"created_at"`
	Expires        string           `json:"challenges_expire_at"`
	Received       string           `json:"response_received_at"`
	TokenExpires   string           `json:"token_expires_at,omitempty"`
}

// Authentication is one way of authentication, as far as the exchange has come.
type Authentication struct {
	Class  string                 `json:"authentication_class"`
	Type   string                 `json:"authentication_type"`
	Chosen *AuthenticationChoice  `json:"chosen_parameters,omitempty"`
	Data   *AuthenticationMessage `json:"data,omitempty"`
}

// AuthenticationChoice is the challenge: base64 of 16 random bytes.
type AuthenticationChoice struct {
	Challenge string `json:"challenge"`
}

// AuthenticationMessage is base64 of TPMS_ATTEST and TPMT_SIGNATURE.
type AuthenticationMessage struct {
	Message   string `json:"message"`
	Signature string `json:"signature"`
}

// Attestations: POST /v3.0/agents/{id}/attestations, then PATCH to its Location.

// Classes and types of evidence.
const (
	ClassCertification = "certification"
	ClassLog           = "log"
	EvidenceQuote      = "tpm_quote"
	EvidenceBootLog    = "uefi_log"
	EvidenceIMA        = "ima_log"
	FormatBootLog      = "application/octet-stream"
	FormatIMA          = "text/plain"
)

// Extensions of this implementation that an agent may ask for; a verifier that does not know them ignores them.
const (
	ExtensionPayload = "payload"     // Meta.PayloadRev, GET /v3.0/agents/{id}/payload
	ExtensionNotices = "revocations" // Meta.Notices
)

// AttestationRequest opens an attestation: what evidence the agent can give.
type AttestationRequest struct {
	Supported []EvidenceItem `json:"evidence_supported"`
	System    SystemInfo     `json:"system_info"`

	Extensions []string `json:"extensions,omitempty"`
	NoticeSeen uint64   `json:"revocation_notice_seen,omitempty"` // highest NoticeOnWire.ID taken
}

// SystemInfo is what else an agent says about itself.
type SystemInfo struct {
	BootTime string `json:"boot_time"` // RFC 3339; the same in every attestation of one boot
}

// EvidenceItem is one piece of evidence, in all its stages.
type EvidenceItem struct {
	Class        string          `json:"evidence_class"`
	Type         string          `json:"evidence_type"`
	Capabilities json.RawMessage `json:"capabilities,omitempty"`
	Chosen       json.RawMessage `json:"chosen_parameters,omitempty"`
	Data         json.RawMessage `json:"data,omitempty"`
}

// QuoteCapabilities are those of a TPM.
type QuoteCapabilities struct {
	ComponentVersion string             `json:"component_version"` // "2.0"
	EvidenceVersion  *string            `json:"evidence_version"`
	SignatureSchemes []string           `json:"signature_schemes"`
	HashAlgorithms   []string           `json:"hash_algorithms"`
	Subjects         map[string][]int   `json:"available_subjects"` // bank → PCRs
	Keys             []CertificationKey `json:"certification_keys"`
}

// CertificationKey is an attestation key.
type CertificationKey struct {
	Class            string   `json:"key_class"`     // "asymmetric"
	Algorithm        string   `json:"key_algorithm"` // "rsa", "ecc"
	Size             int      `json:"key_size"`      // bits
	ServerIdentifier string   `json:"server_identifier"`
	LocalIdentifier  string   `json:"local_identifier"` // hex of the key's Name
	Schemes          []string `json:"allowable_signature_schemes,omitempty"`
	Hashes           []string `json:"allowable_hash_algorithms,omitempty"`
	Public           string   `json:"public"` // base64 of TPMT_PUBLIC
}

// LogCapabilities are those of a log.
type LogCapabilities struct {
	EvidenceVersion string   `json:"evidence_version,omitempty"`
	EntryCount      *uint64  `json:"entry_count,omitempty"`
	Partial         bool     `json:"supports_partial_access"`
	Appendable      bool     `json:"appendable"`
	Formats         []string `json:"formats"`
}

// QuoteParameters are what a quote has to be.
type QuoteParameters struct {
	Challenge string            `json:"challenge"` // base64 of 16 bytes, the quote's qualifying data
	Scheme    string            `json:"signature_scheme"`
	Hash      string            `json:"hash_algorithm"`
	Subjects  map[string][]int  `json:"selected_subjects"` // bank → PCRs; null = this bank is not wanted
	Key       *CertificationKey `json:"certification_key,omitempty"`
}

// LogParameters are which part of a log is wanted.
type LogParameters struct {
	Offset *uint64 `json:"starting_offset,omitempty"`
	Count  *uint64 `json:"entry_count,omitempty"` // most entries; nil = all
	Format string  `json:"format"`
}

// QuoteData is a quote.
type QuoteData struct {
	Subjects  string     `json:"subject_data"` // base64 of the PCR blob
	Message   string     `json:"message"`      // base64 of TPMS_ATTEST
	Signature string     `json:"signature"`    // base64 of TPMT_SIGNATURE
	Meta      *QuoteMeta `json:"meta,omitempty"`
}

// QuoteMeta is what the verifier read in a quote.
type QuoteMeta struct {
	PCRs  map[string]map[string]string `json:"pcrs"` // bank → PCR → hex with 0x
	Clock QuoteClock                   `json:"clock_info"`
}

// QuoteClock is the TPM's clock.
type QuoteClock struct {
	Clock    uint64 `json:"clock"` // milliseconds
	Resets   uint32 `json:"reset_count"`
	Restarts uint32 `json:"restart_count"`
	Safe     int    `json:"safe"`
}

// LogData is a log: IMA's lines as text, the boot log in base64.
type LogData struct {
	EntryCount *uint64 `json:"entry_count,omitempty"`
	Entries    *string `json:"entries"`
}

// AttestationEvidence delivers the evidence, in the order in which it was asked for.
type AttestationEvidence struct {
	Collected []EvidenceItem `json:"evidence_collected"`
}

// Attestation is an attestation as the verifier shows it: with EvidenceRequested in the answer to its request, with
// Evidence from then on.
type Attestation struct {
	Stage             string         `json:"stage"`
	Evaluation        string         `json:"evaluation,omitempty"` // for administrators only
	EvidenceRequested []EvidenceItem `json:"evidence_requested,omitzero"`
	Evidence          []EvidenceItem `json:"evidence,omitzero"`
	System            SystemInfo     `json:"system_info"`
	Received          string         `json:"capabilities_received_at"`
	Expires           string         `json:"challenges_expire_at,omitempty"`
	EvidenceReceived  string         `json:"evidence_received_at,omitempty"`

	// For administrators, beyond the wire:
	FailureReason string          `json:"failure_reason,omitempty"`
	EventID       string          `json:"event_id,omitempty"`
	EventContext  json.RawMessage `json:"event_context,omitempty"`
	Completed     string          `json:"verification_completed_at,omitempty"`
}

// Payload is what a tenant leaves for an agent that calls in, and what the agent fetches after it has passed.
type Payload struct {
	SealedU string `json:"sealed_key"`          // base64: half U of the key, as TPM2_MakeCredential made it for the agent's EK and AK
	Tag     string `json:"auth_tag"`            // hex HMAC-SHA384 of the agent's id under the key U xor V
	Data    string `json:"payload"`             // base64: as in the pull model
	V       string `json:"key_share,omitempty"` // base64: half V; in what the agent fetches only
}

// pushTime is how times are written in the push model.
const pushTime = "2006-01-02T15:04:05.000000-07:00"

// PushTime writes a time as attestations and sessions have it; "" for the zero time.
func PushTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(pushTime)
}
