package config

import (
	"encoding/hex"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Agent configures the agent. Paths are absolute once loaded.
type Agent struct {
	KeylimeDir  string
	APIVersions string // default, latest, or a list
	UUID        string // an id in its normal form, or generate, hash_ek, hostname, dmidecode

	IP            string
	Port          int
	ContactIP     string // advertised to the registrar
	ContactPort   int
	RegistrarIP   string
	RegistrarPort int

	EnableAgentMTLS    bool
	ServerKey          string
	ServerKeyPassword  Secret
	ServerCert         string
	PayloadKey         string
	PayloadKeyPassword Secret
	TrustedClientCA    []string

	// Payload.
	EncKeyname            string // file name of the derived key, in the secure directory
	DecPayloadFile        string // file name of the decrypted payload, there too
	SecureSize            string // size option of tmpfs
	ExtractPayloadZip     bool
	PayloadScript         string // "" = none
	EnableInsecurePayload bool

	// Revocations.
	EnableRevocationNotifications bool // listen to the verifier's ZeroMQ publisher too
	RevocationNotificationIP      string
	RevocationNotificationPort    int
	RevocationCert                string
	RevocationActions             []string
	RevocationActionsDir          string
	AllowPayloadRevocationActions bool

	// TPM.
	TPMHashAlg       string // sha1, sha256, sha384, sha512
	TPMEncryptionAlg string // rsa2048, ecc256, ecc384
	TPMSigningAlg    string // rsassa, rsapss, ecdsa
	EKHandle         string // "" = create the EK
	TPMOwnerPassword Secret // authorises the endorsement hierarchy

	RunAs              string // user:group, "" = stay
	AgentDataPath      string
	IMAMLPath          string
	MeasuredBootMLPath string

	KeyFilePermissions string // warn or refuse

	Calling Calling

	BackoffInitialDelay time.Duration
	BackoffMaxRetries   int
	BackoffMaxDelay     time.Duration
}

func (a *Agent) options() []option {
	return concat([]option{
		{"version", ignored("2.4"), "schema version of the file; informational"},
		{"api_versions", text(&a.APIVersions, "default"), "API versions served: default (all of them), latest, or a list"},
		{"uuid", text(&a.UUID, "d432fbb3-d2f1-4a97-9ef7-75bd81c00000"), "this agent's id, or how to find it: generate (once, then kept), hash_ek, hostname, dmidecode"},
		{"ip", address(&a.IP, "127.0.0.1"), "address or host name to listen on"},
		{"port", integer(&a.Port, 9002, 0, 65535), "port to listen on"},
		{"contact_ip", address(&a.ContactIP, "127.0.0.1"), "address or host name that the registrar is told"},
		{"contact_port", integer(&a.ContactPort, 9002, 0, 65535), "port that the registrar is told"},
		{"registrar_ip", address(&a.RegistrarIP, "127.0.0.1"), "address or host name of the registrar"},
		{"registrar_port", integer(&a.RegistrarPort, 8890, 1, 65535), "its plain HTTP port"},
		{"keylime_dir", text(&a.KeylimeDir, DefaultDir), "working directory, must exist; KEYLIME_DIR beats it from everywhere"},
		{"enable_agent_mtls", boolean(&a.EnableAgentMTLS, true), "serve mutual TLS; false serves plain HTTP and takes no payload"},
		{"server_key", text(&a.ServerKey, "default"), "private key of the TLS server; made when absent; `default` is server-private.pem"},
		{"server_key_password", secret(&a.ServerKeyPassword, ""), "password of that key"},
		{"server_cert", text(&a.ServerCert, "default"), "certificate of the TLS server; made when absent; `default` is server-cert.crt"},
		{"payload_key", text(&a.PayloadKey, "default"), "RSA-2048 key that payload keys are encrypted to; made when absent; `default` is payload-private.pem"},
		{"payload_key_password", secret(&a.PayloadKeyPassword, ""), "password of that key"},
		{"trusted_client_ca", words(&a.TrustedClientCA, "default"), "CA certificates of those who may talk to this agent; `default` is cv_ca/cacert.crt"},
		{"enc_keyname", text(&a.EncKeyname, "derived_tci_key"), "name of the file with the payload key, in the secure directory"},
		{"dec_payload_file", text(&a.DecPayloadFile, "decrypted_payload"), "name of the file with the decrypted payload, in the secure directory"},
		{"secure_size", text(&a.SecureSize, "1m"), "size of the secure directory's tmpfs"},
		{"extract_payload_zip", boolean(&a.ExtractPayloadZip, true), "unpack a payload that is a zip archive"},
		{"payload_script", text(&a.PayloadScript, "autorun.sh"), "script of the payload to run; empty = none"},
		{"enable_insecure_payload", boolean(&a.EnableInsecurePayload, false), "take payloads without mutual TLS"},
		{"enable_revocation_notifications", boolean(&a.EnableRevocationNotifications, false), "listen to the verifier's ZeroMQ publisher too"},
		{"revocation_notification_ip", address(&a.RevocationNotificationIP, "127.0.0.1"), "address of that publisher"},
		{"revocation_notification_port", integer(&a.RevocationNotificationPort, 8992, 1, 65535), "its port"},
		{"revocation_cert", text(&a.RevocationCert, "default"), "certificate that signs revocation messages; `default` is secure/unzipped/RevocationNotifier-cert.crt"},
		{"revocation_actions", words(&a.RevocationActions), "programs to run on a revocation"},
		{"revocation_actions_dir", text(&a.RevocationActionsDir, "/usr/libexec/keylime"), "directory of those programs"},
		{"allow_payload_revocation_actions", boolean(&a.AllowPayloadRevocationActions, true), "run revocation actions that came with the payload too"},
		{"tpm_hash_alg", oneOf(&a.TPMHashAlg, "sha256", "sha1", "sha256", "sha384", "sha512"), "PCR bank and hash of quotes"},
		{"tpm_encryption_alg", oneOf(&a.TPMEncryptionAlg, "rsa", "rsa", "rsa2048", "ecc", "ecc256", "ecc384", "ecc_nist_p256", "ecc_nist_p384"), "kind of endorsement key; rsa is rsa2048, ecc is ecc256"},
		{"tpm_signing_alg", oneOf(&a.TPMSigningAlg, "rsassa", "rsassa", "rsapss", "ecdsa"), "signature scheme of quotes"},
		{"ek_handle", text(&a.EKHandle, "generate"), "persistent handle of the endorsement key, or generate to create it from its template"},
		{"tpm_ownerpassword", secret(&a.TPMOwnerPassword, ""), "password of the endorsement hierarchy; hex: before it for bytes"},
		{"run_as", text(&a.RunAs, "keylime:tss"), "user:group to run as when started by root; empty = stay"},
		{"agent_data_path", text(&a.AgentDataPath, "default"), "file that keeps the attestation key; `default` is agent_data.json"},
		{"ima_ml_path", text(&a.IMAMLPath, "default"), "IMA measurement list; `default` is /sys/kernel/security/ima/ascii_runtime_measurements"},
		{"measuredboot_ml_path", text(&a.MeasuredBootMLPath, "default"), "event log of the firmware; `default` is /sys/kernel/security/tpm0/binary_bios_measurements"},
		{"key_file_permissions", oneOf(&a.KeyFilePermissions, "warn", "warn", "refuse"), "what to do about a private key, or a configuration file with a password, that others can read"},
		{"exponential_backoff_initial_delay", millis(&a.BackoffInitialDelay, 10*time.Second), "first delay before registration is tried again, in milliseconds"},
		{"exponential_backoff_max_retries", integer(&a.BackoffMaxRetries, 5, 0, 1_000_000), "registration attempts after the first"},
		{"exponential_backoff_max_delay", millis(&a.BackoffMaxDelay, 300*time.Second), "longest such delay, in milliseconds"},
	}, a.Calling.options(), a.laterOptions())
}

// laterOptions are those that this release knows but does not implement.
func (a *Agent) laterOptions() []option {
	return []option{
		{"enable_iak_idevid", unsupported("false"), "register with the device's identity keys"},
		{"iak_idevid_template", later("detect"), "key template of those keys"},
		{"iak_idevid_asymmetric_alg", later("rsa"), "their algorithm"},
		{"iak_idevid_name_alg", later("sha256"), "their name algorithm"},
		{"idevid_handle", later(""), "persistent handle of the IDevID"},
		{"idevid_password", later(""), "its password"},
		{"iak_handle", later(""), "persistent handle of the IAK"},
		{"iak_password", later(""), "its password"},
		{"iak_cert", later("default"), "certificate of the IAK"},
		{"idevid_cert", later("default"), "certificate of the IDevID"},
		{"tls_dir", ignored("default"), "read by nothing"},
		{"measure_payload_pcr", ignored(""), "retired"},
		{"exponential_backoff", ignored(""), "retired"},
		{"retry_interval", ignored(""), "retired"},
		{"max_retries", ignored(""), "retired"},
	}
}

// agentFiles are the names that default stands for.
func (a *Agent) agentFiles() map[*string]string {
	return map[*string]string{
		&a.ServerKey:          "server-private.pem",
		&a.ServerCert:         "server-cert.crt",
		&a.PayloadKey:         "payload-private.pem",
		&a.RevocationCert:     "secure/unzipped/RevocationNotifier-cert.crt",
		&a.AgentDataPath:      "agent_data.json",
		&a.IMAMLPath:          "/sys/kernel/security/ima/ascii_runtime_measurements",
		&a.MeasuredBootMLPath: "/sys/kernel/security/tpm0/binary_bios_measurements",
	}
}

// finish resolves paths and keywords. dir is KEYLIME_DIR, which beats keylime_dir when it is not empty. An empty path
// asks for the default, as files that upgrade tools emptied have it.
func (a *Agent) finish(dir string) (warnings []string, errs []error) {
	if dir != "" {
		a.KeylimeDir = dir
	}
	abs, err := absoluteDir("keylime_dir", a.KeylimeDir)
	if err != nil {
		return nil, []error{err}
	}
	a.KeylimeDir = abs
	for p, name := range a.agentFiles() {
		switch {
		case *p == "" || *p == "default":
			*p = under(abs, name)
		case p == &a.IMAMLPath || p == &a.MeasuredBootMLPath:
			*p = under("/", *p)
		default:
			*p = under(abs, *p)
		}
	}
	for i, f := range a.TrustedClientCA {
		if f == "default" {
			f = "cv_ca/cacert.crt"
		}
		a.TrustedClientCA[i] = under(abs, f)
	}
	a.TPMEncryptionAlg = normalEncryption(a.TPMEncryptionAlg)
	warnings, errs = checkFiles(a.KeyFilePermissions, a.ServerKey, a.PayloadKey)
	moreWarnings, moreErrs := a.Calling.finish(abs)
	return append(warnings, moreWarnings...), slices.Concat(errs, moreErrs, a.validate())
}

// normalEncryption gives each kind of endorsement key one name.
func normalEncryption(alg string) string {
	switch alg {
	case "rsa":
		return "rsa2048"
	case "ecc":
		return "ecc256"
	}
	return strings.Replace(alg, "ecc_nist_p", "ecc", 1)
}

var (
	secureSize = regexp.MustCompile(`^[1-9][0-9]*[kKmMgG%]?$`)
	userGroup  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*:[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
)

func (a *Agent) validate() []error {
	var errs []error
	if err := a.normaliseUUID(); err != nil {
		errs = append(errs, err)
	}
	if a.EKHandle == "generate" {
		a.EKHandle = ""
	}
	if a.EKHandle != "" {
		if _, err := strconv.ParseUint(strings.TrimPrefix(strings.ToLower(a.EKHandle), "0x"), 16, 32); err != nil {
			errs = append(errs, optionError("ek_handle", "%q is neither generate nor a handle such as 0x81010001", a.EKHandle))
		}
	}
	if _, err := a.EndorsementAuth(); err != nil {
		errs = append(errs, err)
	}
	if !secureSize.MatchString(a.SecureSize) {
		errs = append(errs, optionError("secure_size", "%q is not a size such as 1m", a.SecureSize))
	}
	if a.RunAs != "" && !userGroup.MatchString(a.RunAs) {
		errs = append(errs, optionError("run_as", "%q is not user:group", a.RunAs))
	}
	if a.EnableAgentMTLS && len(a.TrustedClientCA) == 0 {
		errs = append(errs, optionError("trusted_client_ca", "names no CA certificate, so that nobody could contact this agent"))
	}
	for name, file := range map[string]string{"enc_keyname": a.EncKeyname, "dec_payload_file": a.DecPayloadFile} {
		if file == "" || file != filepath.Base(file) || file == "." || file == ".." {
			errs = append(errs, optionError(name, "%q is not a plain file name", file))
		}
	}
	return errs
}

// EndorsementAuth is the endorsement hierarchy's authorisation that tpm_ownerpassword spells.
func (a Agent) EndorsementAuth() ([]byte, error) {
	if digits, ok := strings.CutPrefix(string(a.TPMOwnerPassword), "hex:"); ok {
		auth, err := hex.DecodeString(digits)
		if err != nil {
			return nil, optionError("tpm_ownerpassword", "what follows hex: is not hexadecimal")
		}
		return auth, nil
	}
	return []byte(a.TPMOwnerPassword), nil
}

// UUID keywords: ways to find an id. environment is one too, but its variable, KEYLIME_AGENT_UUID, is an override anyway.
var uuidKeywords = []string{"generate", "hash_ek", "hostname", "dmidecode"}

var (
	agentID  = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,80}$`)
	looseHex = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// normaliseUUID checks the id; a UUID in any of its spellings becomes the lower-case one with hyphens.
func (a *Agent) normaliseUUID() error {
	id := strings.TrimSpace(a.UUID)
	if lower := strings.ToLower(id); lower == "hash_ek" {
		id = lower
	}
	hexOnly := strings.ReplaceAll(strings.Trim(strings.TrimPrefix(strings.ToLower(id), "urn:uuid:"), "{}"), "-", "")
	switch {
	case looseHex.MatchString(hexOnly):
		id = hexOnly[:8] + "-" + hexOnly[8:12] + "-" + hexOnly[12:16] + "-" + hexOnly[16:20] + "-" + hexOnly[20:]
	case id == "openstack" || id == "environment":
		return optionError("uuid", "%s is no source of an id here; use %s, or set KEYLIME_AGENT_UUID", id, strings.Join(uuidKeywords, ", "))
	case !agentID.MatchString(id) || id == "." || id == "..":
		return optionError("uuid", "%q is no id: up to 80 letters, digits, dots, hyphens and underscores", id)
	}
	a.UUID = id
	return nil
}
