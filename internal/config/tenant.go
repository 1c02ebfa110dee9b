package config

import "time"

// Tenant configures the operator's commands. Paths are absolute once loaded.
type Tenant struct {
	KeylimeDir string

	VerifierIP    string
	VerifierPort  int
	RegistrarIP   string
	RegistrarPort int
	TLS           TLS // client half only

	EnableAgentMTLS bool
	TPMCertStore    string // directory
	RequireEKCert   bool
	EKCheckScript   string   // "" = none
	EKRules         []string // names of pki rules
	MBRefState      string   // file that the keyword default of --mb-policy names; "" = none

	MaxPayloadSize          int // bytes of the encrypted payload in base64
	AcceptTPMHashAlgs       []string
	AcceptTPMEncryptionAlgs []string
	AcceptTPMSigningAlgs    []string

	RequestTimeout     time.Duration
	RetryInterval      time.Duration
	ExponentialBackoff bool
	MaxRetries         int
}

func (t *Tenant) options() []option {
	return concat([]option{
		{"version", ignored("2.6"), "schema version of the file; informational"},
		{"verifier_ip", text(&t.VerifierIP, "127.0.0.1"), "address or host name of the verifier"},
		{"verifier_port", integer(&t.VerifierPort, 8881, 1, 65535), "its port"},
		{"registrar_ip", text(&t.RegistrarIP, "127.0.0.1"), "address or host name of the registrar"},
		{"registrar_port", integer(&t.RegistrarPort, 8891, 1, 65535), "its HTTPS port"},
	}, t.TLS.dirOption("default"), t.TLS.clientOptions(), []option{
		{"enable_agent_mtls", boolean(&t.EnableAgentMTLS, true), "contact agents over mutual TLS"},
		{"tpm_cert_store", text(&t.TPMCertStore, "tpm_cert_store"), "directory with the certificates that vouch for endorsement keys; a relative path is under KEYLIME_DIR"},
		{"require_ek_cert", boolean(&t.RequireEKCert, true), "check the EK certificate against tpm_cert_store"},
		{"ek_rules", list(&t.EKRules, "validity", "ca", "key_usage", "eku", "critical"), "what an EK certificate's path must satisfy besides signatures, see docs; further rules: anchor_validity, root, sha1"},
		{"ek_check_script", text(&t.EKCheckScript, ""), "program that must accept the endorsement key too; a relative path is under KEYLIME_DIR"},
		{"mb_refstate", text(&t.MBRefState, ""), "measured-boot policy that `--mb-policy default` stands for"},
		{"max_payload_size", integer(&t.MaxPayloadSize, 1<<20, 1, 1<<30), "largest payload, encrypted and in base64, in bytes"},
		{"accept_tpm_hash_algs", list(&t.AcceptTPMHashAlgs, "sha512", "sha384", "sha256"), "hash algorithms that an agent may quote with"},
		{"accept_tpm_encryption_algs", list(&t.AcceptTPMEncryptionAlgs, "ecc", "rsa"), "kinds of endorsement key accepted; a family name stands for its sizes"},
		{"accept_tpm_signing_algs", list(&t.AcceptTPMSigningAlgs, "ecschnorr", "rsassa"), "signature schemes that an agent may quote with"},
		{"request_timeout", seconds(&t.RequestTimeout, 60*time.Second), "limit for one request, in seconds"},
		{"retry_interval", seconds(&t.RetryInterval, 2*time.Second), "first (or, without back-off, every) delay before a request is repeated, in seconds"},
		{"exponential_backoff", boolean(&t.ExponentialBackoff, true), "delays grow as retry_interval to the power of the attempt"},
		{"max_retries", integer(&t.MaxRetries, 5, 0, 1000), "attempts at reaching an agent"},
	})
}
