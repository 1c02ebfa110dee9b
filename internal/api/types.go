package api

import (
	"encoding/json"
	"time"
)

// Envelope is the shape of every JSON answer of API 2.x. Agents of upstream answer results null to a POST.
type Envelope struct {
	Code    int             `json:"code"`
	Status  string          `json:"status"`
	Results json.RawMessage `json:"results"`
}

// RegisterRequest is POST /v2.x/agents/:id to the registrar. A nil pointer is a key that was not sent; "" and
// null mean that the part does not exist.
type RegisterRequest struct {
	AgentID    *string         `json:"agent_id,omitempty"` // only in the form without an id in the path
	EKTPM      *string         `json:"ek_tpm,omitempty"`   // base64 TPM2B_PUBLIC, as are the other *_tpm
	EKCert     *string         `json:"ekcert,omitempty"`   // PEM (leaf first) or base64 DER
	AIKTPM     *string         `json:"aik_tpm,omitempty"`
	IAKTPM     *string         `json:"iak_tpm,omitempty"`
	IAKAttest  *string         `json:"iak_attest,omitempty"` // base64 TPMS_ATTEST
	IAKSign    *string         `json:"iak_sign,omitempty"`   // base64 TPMT_SIGNATURE
	IAKCert    *string         `json:"iak_cert"`             // base64 DER; null when there is none, as agents send it
	IDevIDTPM  *string         `json:"idevid_tpm,omitempty"`
	IDevIDCert *string         `json:"idevid_cert"` // the same
	IP         *string         `json:"ip,omitempty"`
	Port       json.RawMessage `json:"port,omitempty"` // number or numeric string
	MTLSCert   *string         `json:"mtls_cert,omitempty"`
}

// RegistrationState is an agent in a registrar's list, in API 3.0.
type RegistrationState struct {
	Active bool `json:"active"` // its TPM proved that it has the keys
}

// RegisterResults carries the credential blob, base64 of tpm2-tools' file format.
type RegisterResults struct {
	Blob string `json:"blob"`
}

// ActivateRequest is PUT /v2.x/agents/:id (or …/activate) to the registrar.
type ActivateRequest struct {
	AuthTag string `json:"auth_tag"` // hex HMAC-SHA384
}

// RegistrarAgent is GET /v2.x/agents/:id at the registrar.
type RegistrarAgent struct {
	AgentID  string  `json:"agent_id"`
	EKTPM    string  `json:"ek_tpm"`
	EKCert   *string `json:"ekcert"` // base64 DER or null
	AIKTPM   string  `json:"aik_tpm"`
	IP       *string `json:"ip"`
	Port     *int    `json:"port"`
	MTLSCert *string `json:"mtls_cert"` // PEM, "disabled" or null
	RegCount int     `json:"regcount"`
	// EKChain is ours: the certificates that the agent sent after its EK certificate, base64 DER.
	EKChain []string `json:"ekcert_chain,omitempty"`
	// ProviderKeys is only in records of virtual TPMs of older releases.
	ProviderKeys json.RawMessage `json:"provider_keys,omitempty"`
}

// RegistrarAgents is GET /v2.x/agents at the registrar.
type RegistrarAgents struct {
	UUIDs []string `json:"uuids"`
}

// Version is GET /version at registrar and verifier.
type Version struct {
	Current   string   `json:"current_version"`
	Supported []string `json:"supported_versions"`
}

// AgentVersion is GET /version at an agent. Old agents send no list.
type AgentVersion struct {
	Supported string   `json:"supported_version"`
	List      []string `json:"supported_versions,omitempty"`
}

// AgentInfo is GET /v2.x/agent/info (from 2.2).
type AgentInfo struct {
	AgentUUID string `json:"agent_uuid"`
	HashAlg   string `json:"tpm_hash_alg"`
	EncAlg    string `json:"tpm_enc_alg"`
	SignAlg   string `json:"tpm_sign_alg"`
	AKHandle  uint32 `json:"ak_handle"`
}

// AgentPubKey is GET /v2.x/keys/pubkey.
type AgentPubKey struct {
	PubKey string `json:"pubkey"`
}

// UKey is POST /v2.x/keys/ukey.
type UKey struct {
	EncryptedKey string  `json:"encrypted_key"` // base64 RSA-OAEP of U
	AuthTag      string  `json:"auth_tag"`      // hex HMAC-SHA384(K, agent id)
	Payload      *string `json:"payload,omitempty"`
}

// VKey is POST /v2.x/keys/vkey.
type VKey struct {
	EncryptedKey string `json:"encrypted_key"`
}

// KeyVerify is GET /v2.x/keys/verify.
type KeyVerify struct {
	HMAC string `json:"hmac"`
}

// QuoteResults is GET /v2.x/quotes/identity and /quotes/integrity. Absent parts are omitted, not null.
type QuoteResults struct {
	Quote    string  `json:"quote"`
	HashAlg  string  `json:"hash_alg"`
	EncAlg   string  `json:"enc_alg"`
	SignAlg  string  `json:"sign_alg"`
	PubKey   *string `json:"pubkey,omitempty"`
	IMA      *string `json:"ima_measurement_list,omitempty"`
	IMAEntry *uint64 `json:"ima_measurement_list_entry,omitempty"`
	BootLog  *string `json:"mb_measurement_list,omitempty"` // base64
	BootTime *int64  `json:"boottime,omitempty"`
}

// Notification is POST /v2.x/notifications/revocation and the webhook's body.
type Notification struct {
	Msg       string `json:"msg"`       // JSON text of Revocation; the signature covers exactly these bytes
	Signature string `json:"signature"` // base64 RSA-PSS, or ""
}

// Revocation is what Notification.Msg decodes to; keys in this order.
type Revocation struct {
	Type      string  `json:"type"` // "revocation" or "comm_error"
	IP        *string `json:"ip"`   // nil, and Port: the agent calls in
	AgentID   string  `json:"agent_id"`
	Port      *int    `json:"port"`
	TPMPolicy string  `json:"tpm_policy"`
	Metadata  string  `json:"meta_data"`
	EventTime string  `json:"event_time"` // C asctime, local time
	EventID   string  `json:"event_id,omitempty"`
	Severity  string  `json:"severity_label,omitempty"`
	Context   string  `json:"context,omitempty"`
	// The rest is ours, for receivers that refuse replays: they drop a message whose EventUUID they have seen, whose
	// Expires (Unix seconds) has passed, or whose Audience is not the verifier that they belong to.
	EventUUID string `json:"event_uuid,omitempty"`
	Expires   int64  `json:"expires,omitempty"`
	Audience  string `json:"audience,omitempty"` // "agents of verifier <id>"
}

// EnrolRequest is POST /v2.x/agents/:id to the verifier. Pointers tell null and absent from "".
type EnrolRequest struct {
	V                  *string         `json:"v"` // base64 of 32 bytes
	AgentIP            *string         `json:"cloudagent_ip"`
	AgentPort          json.RawMessage `json:"cloudagent_port"` // number or numeric string
	VerifierIP         *string         `json:"verifier_ip"`
	VerifierPort       json.RawMessage `json:"verifier_port"`
	TPMPolicy          *string         `json:"tpm_policy"`
	RuntimePolicy      *string         `json:"runtime_policy"` // base64
	RuntimePolicyName  *string         `json:"runtime_policy_name"`
	RuntimePolicyKey   *string         `json:"runtime_policy_key"`        // base64 PEM
	TPMPolicyName      *string         `json:"tpm_policy_name,omitempty"` // ours: a named PCR policy
	MBPolicy           *string         `json:"mb_policy"`
	MBPolicyName       *string         `json:"mb_policy_name"`
	IMAVerificationKey *string         `json:"ima_sign_verification_keys"`
	Metadata           *string         `json:"metadata"`
	RevocationKey      *string         `json:"revocation_key"`
	AcceptHash         []string        `json:"accept_tpm_hash_algs"`
	AcceptEnc          []string        `json:"accept_tpm_encryption_algs"`
	AcceptSign         []string        `json:"accept_tpm_signing_algs"`
	AKTPM              *string         `json:"ak_tpm"`
	MTLSCert           *string         `json:"mtls_cert"`
	SupportedVersion   *string         `json:"supported_version"`
	// AttestationMode is ours: ModePull or ModePush; without it, the verifier infers who is to start.
	AttestationMode *string `json:"attestation_mode,omitempty"`
}

// Who starts an attestation: the verifier asks the agent, or the agent calls in.
const (
	ModePull = "pull"
	ModePush = "push"
)

// VerifierAgent is GET /v2.x/agents/:id at the verifier.
type VerifierAgent struct {
	OperationalState    int      `json:"operational_state"`
	V                   *string  `json:"v"`
	IP                  *string  `json:"ip"` // nil, and Port: the agent calls in
	Port                *int     `json:"port"`
	TPMPolicy           string   `json:"tpm_policy"`
	Metadata            string   `json:"meta_data"`
	HasMBRefstate       int      `json:"has_mb_refstate"`
	HasRuntimePolicy    int      `json:"has_runtime_policy"`
	AcceptHash          []string `json:"accept_tpm_hash_algs"`
	AcceptEnc           []string `json:"accept_tpm_encryption_algs"`
	AcceptSign          []string `json:"accept_tpm_signing_algs"`
	HashAlg             string   `json:"hash_alg"`
	EncAlg              string   `json:"enc_alg"`
	SignAlg             string   `json:"sign_alg"`
	VerifierID          string   `json:"verifier_id"`
	VerifierIP          string   `json:"verifier_ip"`
	VerifierPort        int      `json:"verifier_port"`
	SeverityLevel       *int     `json:"severity_level"`
	LastEventID         *string  `json:"last_event_id"`
	AttestationCount    int      `json:"attestation_count"`
	LastReceivedQuote   int64    `json:"last_received_quote"`
	LastSuccess         int64    `json:"last_successful_attestation"`
	AttestationStatus   string   `json:"attestation_status"`
	AttestationPeriod   string   `json:"attestation_period"`
	MaxAttestationDelay string   `json:"maximum_attestation_interval"`
	// LastEventContext is ours: the context of the last event, so that the tenant can say which file failed.
	LastEventContext json.RawMessage `json:"last_event_context,omitempty"`
	// RuntimePolicyName and RuntimePolicyDigest are ours: which policy, in which version, judged the last round.
	RuntimePolicyName   string `json:"runtime_policy_name,omitempty"`
	RuntimePolicyDigest string `json:"runtime_policy_digest,omitempty"`
	// TPMPolicyName and TPMPolicyDigest are ours too: the same of a named PCR policy.
	TPMPolicyName   string `json:"tpm_policy_name,omitempty"`
	TPMPolicyDigest string `json:"tpm_policy_digest,omitempty"`
	// RuntimePolicyWindow is ours: set while the runtime policy is replaced in stages.
	RuntimePolicyWindow *PolicyWindow `json:"runtime_policy_window,omitempty"`
	// Appraises is ours: what evidence is judged by beside the quote itself, of "tpm_policy" and "runtime_policy". An
	// empty list means that the agent proves its identity and nothing else; nil, that the verifier does not say.
	Appraises []string `json:"appraises,omitzero"`
	// AttestationMode is ours: ModePull or ModePush; "" = the verifier does not say.
	AttestationMode string `json:"attestation_mode,omitempty"`
}

// VerifierAgents is GET /v2.x/agents at the verifier: an array of one-element arrays.
type VerifierAgents struct {
	UUIDs [][]string `json:"uuids"`
}

// RuntimePolicyUpload is POST and PUT /v2.x/allowlists/:name.
type RuntimePolicyUpload struct {
	RuntimePolicy    *string `json:"runtime_policy"`               // base64
	RuntimePolicyKey *string `json:"runtime_policy_key,omitempty"` // base64 PEM
	TPMPolicy        *string `json:"tpm_policy,omitempty"`         // accepted and kept for nothing, as upstream
}

// RuntimePolicyRecord is GET /v2.x/allowlists/:name; the text is raw here.
type RuntimePolicyRecord struct {
	Name          string  `json:"name"`
	TmpPolicy     *string `json:"tmp_policy"` // always null; the name is a wire fact
	RuntimePolicy string  `json:"runtime_policy"`
	// Window is ours: set while the text that this one replaces still counts.
	Window *PolicyWindow `json:"window,omitempty"`
}

// PolicyWindow is the time in which a runtime policy is replaced in stages.
type PolicyWindow struct {
	Until          time.Time `json:"until"` // from then on, only the new text counts
	PreviousDigest string    `json:"previous_digest"`
}

// RuntimePolicyCheck is POST /v2.x/allowlists/:name/check, an extension. The answer is one AgentCheck a line.
type RuntimePolicyCheck struct {
	ProposedPolicy   *string `json:"proposed_policy"`              // base64
	RuntimePolicyKey *string `json:"runtime_policy_key,omitempty"` // base64 PEM
}

// The verdicts of an AgentCheck.
const (
	CheckPass        = "pass"
	CheckFail        = "fail"
	CheckUnreachable = "unreachable" // nothing is known: there was no evidence to judge
)

// AgentCheck says how an agent would fare by a proposed policy.
type AgentCheck struct {
	Agent    string         `json:"agent"`
	Status   string         `json:"attestation_status"` // as it is attested now
	Verdict  string         `json:"verdict"`
	Detail   string         `json:"detail,omitempty"` // why there was no evidence
	Entries  int            `json:"entries"`          // of the measurement list, judged
	Total    int            `json:"failure_count"`
	Failures []CheckFailure `json:"failures"` // the first of them
}

// CheckFailure is one failure of an AgentCheck.
type CheckFailure struct {
	EventID  string          `json:"event_id"`
	Severity string          `json:"severity"`
	Context  json.RawMessage `json:"context"`
}

// RuntimePolicyStage is PUT /v2.x/allowlists/:name/stage, an extension. Its policy has a name of its own, so that a peer
// that takes the path for that of an update finds none.
type RuntimePolicyStage struct {
	ProposedPolicy   *string `json:"proposed_policy"`              // base64
	RuntimePolicyKey *string `json:"runtime_policy_key,omitempty"` // base64 PEM
	Seconds          int64   `json:"seconds"`                      // for which the present text counts as well
}

// RuntimePolicyNames is GET /v2.x/allowlists; the key has a space.
type RuntimePolicyNames struct {
	Names []string `json:"runtimepolicy names"`
}

// MBPolicyUpload is POST and PUT /v2.x/mbpolicies/:name.
type MBPolicyUpload struct {
	MBPolicy *string `json:"mb_policy"`
}

// MBPolicyRecord is GET /v2.x/mbpolicies/:name.
type MBPolicyRecord struct {
	Name     string  `json:"name"`
	MBPolicy *string `json:"mb_policy"`
}

// MBPolicyNames is GET /v2.x/mbpolicies.
type MBPolicyNames struct {
	Names []string `json:"mbpolicy names"`
}

// PCRPolicyUpload is POST and PUT /v2.x/pcrpolicies/:name, an extension of this implementation.
type PCRPolicyUpload struct {
	TPMPolicy *string `json:"tpm_policy"`
}

// PCRPolicyRecord is GET /v2.x/pcrpolicies/:name.
type PCRPolicyRecord struct {
	Name      string `json:"name"`
	TPMPolicy string `json:"tpm_policy"`
}

// PCRPolicyNames is GET /v2.x/pcrpolicies.
type PCRPolicyNames struct {
	Names []string `json:"pcrpolicy names"`
}
