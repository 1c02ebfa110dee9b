package config

import (
	"errors"
	"os"
	"time"

	"keylime/internal/pki"
)

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
		{"verifier_ip", address(&t.VerifierIP, "127.0.0.1"), "address or host name of the verifier"},
		{"verifier_port", integer(&t.VerifierPort, 8881, 1, 65535), "its port"},
		{"registrar_ip", address(&t.RegistrarIP, "127.0.0.1"), "address or host name of the registrar"},
		{"registrar_port", integer(&t.RegistrarPort, 8891, 1, 65535), "its HTTPS port"},
	}, t.TLS.dirOption("default"), t.TLS.clientOptions(), []option{
		{"enable_agent_mtls", boolean(&t.EnableAgentMTLS, true), "contact agents over mutual TLS"},
		{"tpm_cert_store", text(&t.TPMCertStore, "tpm_cert_store"), "directory with the certificates that vouch for endorsement keys; a relative path is under KEYLIME_DIR"},
		{"require_ek_cert", boolean(&t.RequireEKCert, true), "check the EK certificate against tpm_cert_store"},
		{"ek_rules", list(&t.EKRules, "validity", "ca", "key_usage", "eku", "critical"), "what the path of an EK certificate must satisfy besides its signatures"},
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

// Names of algorithms that lists may hold; a family name stands for all its sizes.
var (
	hashAlgs       = []string{"sha1", "sha256", "sha384", "sha512", "sm3_256"}
	encryptionAlgs = []string{"rsa", "rsa1024", "rsa2048", "rsa3072", "rsa4096", "ecc", "ecc192", "ecc224", "ecc256", "ecc384", "ecc521",
		"ecc_nist_p192", "ecc_nist_p224", "ecc_nist_p256", "ecc_nist_p384", "ecc_nist_p521", "ecc_sm2", "ecc_sm2_p256"}
	signingAlgs = []string{"rsassa", "rsapss", "ecdsa", "ecdaa", "ecschnorr", "sm2"}
)

func (t *Tenant) finish(dir string) (warnings []string, errs []error) {
	t.KeylimeDir = dir
	t.TPMCertStore = under(dir, t.TPMCertStore)
	for _, p := range []*string{&t.EKCheckScript, &t.MBRefState} {
		if *p != "" {
			*p = under(dir, *p)
		}
	}
	warnings, errs = t.TLS.finish(dir, "", false)
	errs = append(errs,
		subset("accept_tpm_hash_algs", t.AcceptTPMHashAlgs, hashAlgs),
		subset("accept_tpm_encryption_algs", t.AcceptTPMEncryptionAlgs, encryptionAlgs),
		subset("accept_tpm_signing_algs", t.AcceptTPMSigningAlgs, signingAlgs))
	if _, err := pki.ParseRules(t.EKRules); err != nil {
		errs = append(errs, optionError("ek_rules", "%w", err))
	}
	return warnings, errs
}

// CheckStore says whether tpm_cert_store is there. It is needed only where EK certificates are checked.
func (t Tenant) CheckStore() error {
	info, err := os.Stat(t.TPMCertStore)
	if err == nil && !info.IsDir() {
		err = errors.New(t.TPMCertStore + " is not a directory")
	}
	if err != nil {
		return optionError("tpm_cert_store", "%w; put the certificates of the TPM's vendor there", err)
	}
	return nil
}
