package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// writeConf writes the configuration files that both implementations read. They are upstream's files: that ours
// starts from them unchanged is part of what is tested.
func (w *world) writeConf(t *testing.T) {
	t.Helper()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(w.dir, "conf", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	verifier := fmt.Sprintf(verifierConf, w.port.verifier, w.port.registrarTLS, w.port.zmq, w.port.webhook)
	if w.model == push { // in which intervals are whole seconds
		verifier = strings.NewReplacer("mode = pull", "mode = push", "quote_interval = 0.5", "quote_interval = 1").Replace(verifier)
	}
	write("verifier.conf", verifier)
	write("registrar.conf", fmt.Sprintf(registrarConf, w.port.registrar, w.port.registrarTLS))
	write("tenant.conf", fmt.Sprintf(tenantConf, w.port.verifier, w.port.registrarTLS, w.tpm.CertStore()))
	write("ca.conf", caConf)
	write("logging.conf", loggingConf)
	write("agent.conf", strings.NewReplacer(
		"@UUID@", agentID,
		"@PORT@", fmt.Sprint(w.port.agent),
		"@REGISTRAR@", fmt.Sprint(w.port.registrar),
		"@DIR@", w.agentDir(),
		"@IMA@", w.imaLog,
		"@VERIFIER@", fmt.Sprint(w.port.verifier),
	).Replace(agentConf))
}

const verifierConf = `[verifier]
version = 2.6
uuid = default
ip = "127.0.0.1"
port = %d
registrar_ip = 127.0.0.1
registrar_port = %d
enable_agent_mtls = True
tls_dir = generate
server_key = default
server_key_password =
server_cert = default
cert_subject_alternative_names =
trusted_client_ca = default
client_key = default
client_key_password =
client_cert = default
trusted_server_ca = default
authorization_provider = simple
database_url = sqlite
database_pool_sz_ovfl = 5,10
auto_migrate_db = True
num_workers = 0
max_workers = 1
exponential_backoff = True
retry_interval = 1
max_retries = 5
quote_interval = 0.5
max_upload_size = 104857600
request_timeout = 60.0
measured_boot_policy_name = accept-all
measured_boot_imports = []
measured_boot_evaluate = once
severity_labels = ["info", "notice", "warning", "error", "critical", "alert", "emergency"]
severity_policy = [{"event_id": ".*", "severity_label" : "emergency"}]
ignore_tomtou_errors = False
durable_attestation_import =
persistent_store_url =
transparency_log_url =
time_stamp_authority_url =
time_stamp_authority_certs_path =
persistent_store_format = json
persistent_store_encoding =
transparency_log_sign_algo = sha256
signed_attributes =
require_allow_list_signatures = False
mode = pull
challenge_lifetime = 1800
verification_timeout = 0
session_create_rate_limit_per_ip = 50
session_create_rate_limit_window_ip = 60
session_create_rate_limit_per_agent = 15
session_create_rate_limit_window_agent = 60
session_lifetime = 180
extend_token_on_attestation = True
auto_recover_attestation_failures = False
shutdown_drain_timeout = 10

[revocations]
enabled_revocation_notifications = ['agent', 'webhook']
zmq_ip = 127.0.0.1
zmq_port = %d
webhook_url = https://127.0.0.1:%d/revoked
`

const registrarConf = `[registrar]
version = 2.6
ip = "127.0.0.1"
port = %d
tls_port = %d
tls_dir = default
server_key = default
server_key_password =
server_cert = default
cert_subject_alternative_names =
trusted_client_ca = default
authorization_provider = simple
database_url = sqlite
database_pool_sz_ovfl = 5,10
max_workers = 1
auto_migrate_db = True
durable_attestation_import =
persistent_store_url =
transparency_log_url =
time_stamp_authority_url =
time_stamp_authority_certs_path =
persistent_store_format = json
persistent_store_encoding =
transparency_log_sign_algo = sha256
signed_attributes = ek_tpm,aik_tpm,ekcert
tpm_identity = default
malformed_cert_action = warn
`

const tenantConf = `[tenant]
version = 2.6
verifier_ip = 127.0.0.1
verifier_port = %d
registrar_ip = 127.0.0.1
registrar_port = %d
tls_dir = default
enable_agent_mtls = True
client_key = default
client_key_password =
client_cert = default
trusted_server_ca = default
tpm_cert_store = %s
max_payload_size = 1048576
accept_tpm_hash_algs = ['sha512', 'sha384', 'sha256']
accept_tpm_encryption_algs = ['ecc', 'rsa']
accept_tpm_signing_algs = ['ecschnorr', 'rsassa']
exponential_backoff = True
retry_interval = 1
max_retries = 5
request_timeout = 60
require_ek_cert = True
ek_check_script =
mb_refstate =
`

const caConf = `[ca]
password = interop-ca-password
version = 2.6
cert_country = US
cert_ca_name = Keylime Certificate Authority
cert_state = MA
cert_locality = Lexington
cert_organization = Keylime
cert_org_unit = 53
cert_ca_lifetime = 3650
cert_lifetime = 365
cert_bits = 2048
cert_crl_dist = http://localhost:38080/crl
`

const loggingConf = `[logging]
version = 2.6

[loggers]
keys = root,keylime

[handlers]
keys = consoleHandler

[formatters]
keys = formatter

[formatter_formatter]
format = %(asctime)s.%(msecs)03d - %(name)s - %(levelname)s - %(message)s
datefmt = %Y-%m-%d %H:%M:%S

[logger_root]
level = INFO
handlers = consoleHandler

[handler_consoleHandler]
class = StreamHandler
level = INFO
formatter = formatter
args = (sys.stdout,)

[logger_keylime]
level = INFO
qualname = keylime
handlers =
`

const agentConf = `[agent]
version = "2.6"
uuid = "@UUID@"
ip = "127.0.0.1"
port = @PORT@
contact_ip = "127.0.0.1"
contact_port = @PORT@
registrar_ip = "127.0.0.1"
registrar_port = @REGISTRAR@
keylime_dir = "@DIR@"
trusted_client_ca = "default"
run_as = ""
ima_ml_path = "@IMA@"
measuredboot_ml_path = ""
exponential_backoff_initial_delay = 500
verifier_url = "https://127.0.0.1:@VERIFIER@"
attestation_interval_seconds = 2
revocation_actions_dir = "@DIR@/actions"
`
