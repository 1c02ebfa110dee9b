package config

import (
	"errors"
	"regexp"
	"slices"
	"time"
)

// Verifier configures the verifier. Paths are absolute once loaded.
type Verifier struct {
	KeylimeDir string // working directory
	Store      string // bbolt file

	UUID            string // identity of this verifier; partitions agents in a shared store
	IP              string
	Port            int
	EnableAgentMTLS bool
	TLS             TLS

	// How agents are polled.
	QuoteInterval       time.Duration // 0 = continuously
	RequestTimeout      time.Duration
	RetryInterval       time.Duration
	ExponentialBackoff  bool
	MaxRetries          int
	MaxRounds           int  // rounds in flight at once
	AllowLoopbackAgents bool // agents may be contacted on loopback addresses

	MaxUploadSize        int // bytes
	ShutdownDrainTimeout time.Duration

	// How failures are rated.
	SeverityLabels     []string // ascending
	SeverityPolicy     []SeverityRule
	IgnoreToMToUErrors bool
	// What measurement lists and runtime policies may hold beyond upstream's.
	ExtendedIMATemplates bool
	EnableDMPolicy       bool

	RequirePolicySignatures bool   // runtime policies must be signed
	TrustedPolicyKeysDir    string // public keys that may sign them; "" = any that came with a policy

	MeasuredBootEngine   string // accept-all, reject-all, example or example-relaxed
	MeasuredBootEvaluate string // once or always

	Revocations Revocations
	Evidence    Evidence
	Push        Push
}

// Revocations says who is told when an agent fails.
type Revocations struct {
	Enabled    []string // subset of agent, webhook, zeromq
	ZMQIP      string
	ZMQPort    int
	WebhookURL string
}

// SeverityRule gives events whose whole id matches EventID, a regular expression, a severity label. First match wins.
type SeverityRule struct {
	EventID       string
	SeverityLabel string
}

func (v *Verifier) options() []option {
	return concat([]option{
		{"version", ignored("2.6"), "schema version of the file; informational"},
		{"uuid", text(&v.UUID, "default"), "identity of this verifier; an agent belongs to the verifier of that name"},
		{"ip", address(&v.IP, "127.0.0.1"), "address or host name to listen on"},
		{"port", integer(&v.Port, 8881, 0, 65535), "port of the HTTPS listener"},
		{"registrar_ip", ignored("127.0.0.1"), "read by nothing"},
		{"registrar_port", ignored("8891"), "read by nothing"},
		{"store", text(&v.Store, "verifier.db"), "database file; a relative path is under KEYLIME_DIR"},
		{"enable_agent_mtls", boolean(&v.EnableAgentMTLS, true), "contact agents over mutual TLS"},
	}, v.TLS.dirOption("generate"), v.TLS.serverOptions(), v.TLS.clientOptions(), v.Push.options(), []option{
		{"quote_interval", seconds(&v.QuoteInterval, 2*time.Second), "pause between two attestations of one agent, in seconds; 0 = none"},
		{"request_timeout", seconds(&v.RequestTimeout, 60*time.Second), "limit for one request to an agent or webhook, in seconds"},
		{"retry_interval", seconds(&v.RetryInterval, 2*time.Second), "first (or, without back-off, every) delay before an unreachable agent is asked again, in seconds"},
		{"exponential_backoff", boolean(&v.ExponentialBackoff, true), "delays grow as retry_interval to the power of the attempt"},
		{"max_retries", integer(&v.MaxRetries, 5, 0, 1000), "attempts before an unreachable agent fails"},
		{"max_rounds_in_flight", integer(&v.MaxRounds, 512, 1, 1_000_000), "attestations under way at once"},
		{"allow_loopback_agents", boolean(&v.AllowLoopbackAgents, true), "agents may have loopback addresses, as on a single machine; link-local, multicast and unspecified addresses and the verifier's own port are refused always"},
		{"max_upload_size", integer(&v.MaxUploadSize, 100<<20, 1, 1<<31-1), "largest request body, in bytes"},
		{"shutdown_drain_timeout", seconds(&v.ShutdownDrainTimeout, 10*time.Second), "time for work under way to finish when stopping, in seconds"},
		{"severity_labels", list(&v.SeverityLabels, "info", "notice", "warning", "error", "critical", "alert", "emergency"), "severity labels, least severe first"},
		{"severity_policy", severityRules(&v.SeverityPolicy, SeverityRule{".*", "emergency"}), "severity by event id; the first rule whose expression matches the whole id wins, and no match is the most severe"},
		{"ignore_tomtou_errors", boolean(&v.IgnoreToMToUErrors, true), "accept IMA violations (a file changed while it was measured); false fails the agent for one"},
		{"require_allow_list_signatures", boolean(&v.RequirePolicySignatures, false), "refuse runtime policies without a good signature"},
		{"trusted_policy_keys_dir", text(&v.TrustedPolicyKeysDir, ""), "directory with the public keys (*.pub, *.pem) that runtime policies may be signed with; a relative path is under KEYLIME_DIR; empty = any key that a policy brought along"},
		{"extended_ima_templates", boolean(&v.ExtendedIMATemplates, false), "accept the IMA templates ima-ngv2, ima-sigv2, ima-modsig, evm-sig and formats that begin with d-ng|n-ng; false fails an agent that has such entries"},
		{"measured_boot_policy_name", oneOf(&v.MeasuredBootEngine, "accept-all", bootEngines...), "what judges the boots of agents that have a measured-boot policy: accept-all asks that the event log explains the quote, example and example-relaxed compare with the policy as a reference state; see docs/measured-boot.md"},
		{"measured_boot_evaluate", oneOf(&v.MeasuredBootEvaluate, "once", "once", "always"), "once judges a boot when the TPM was reset, or event log, PCRs or policy changed since the last good attestation; always judges it in each"},
		{"enable_dm_policy", boolean(&v.EnableDMPolicy, false), "accept runtime policies with ima.dm_policy, which appraise device-mapper measurements; false refuses them"},
		{"revocations.enabled_revocation_notifications", list(&v.Revocations.Enabled, "agent"), "who is told of a failed agent: agent, webhook, zeromq"},
		{"revocations.zmq_ip", address(&v.Revocations.ZMQIP, "127.0.0.1"), "address that the ZeroMQ publisher listens on"},
		{"revocations.zmq_port", integer(&v.Revocations.ZMQPort, 8992, 0, 65535), "port that the ZeroMQ publisher listens on"},
		{"revocations.webhook_url", webURL(&v.Revocations.WebhookURL), "where revocation messages are POSTed; empty = nowhere"},
	}, v.Evidence.options(), v.laterOptions())
}

// laterOptions are those that this release knows but does not implement.
func (v *Verifier) laterOptions() []option {
	return concat([]option{
		{"authorization_provider", unsupported("simple"), "only simple: an administrator is whoever has a client certificate of trusted_client_ca"},
		{"num_workers", ignored("0"), "read by nothing"},
		{"max_workers", ignored("16"), "worker processes; this verifier is one process, see max_rounds_in_flight"},
		{"measured_boot_imports", unsupported("[]"), "Python modules with policy engines"},
	}, databaseOptions(), archiveOptions(""))
}

// bootEngines are the measured-boot policy engines.
var bootEngines = []string{"accept-all", "reject-all", "example", "example-relaxed"}

// notifiers are the channels of enabled_revocation_notifications.
var notifiers = []string{"agent", "webhook", "zeromq"}

func (v *Verifier) finish(dir string) (warnings []string, errs []error) {
	v.KeylimeDir = dir
	v.Store = under(dir, v.Store)
	if v.TrustedPolicyKeysDir != "" {
		v.TrustedPolicyKeysDir = under(dir, v.TrustedPolicyKeysDir)
	}
	warnings, errs = v.TLS.finish(dir, "cv_ca", true)
	if v.UUID == "" {
		errs = append(errs, optionError("uuid", "must not be empty"))
	}
	errs = append(errs, subset("revocations.enabled_revocation_notifications", v.Revocations.Enabled, notifiers))
	return warnings, append(slices.Concat(errs, v.Evidence.finish(dir), v.Push.finish()), v.checkSeverities())
}

func (v *Verifier) checkSeverities() error {
	if len(v.SeverityLabels) == 0 {
		return optionError("severity_labels", "must name at least one label")
	}
	var errs []error
	for _, rule := range v.SeverityPolicy {
		if _, err := regexp.Compile(rule.EventID); err != nil {
			errs = append(errs, optionError("severity_policy", "event_id %q: %w", rule.EventID, err))
		}
		errs = append(errs, subset("severity_policy", []string{rule.SeverityLabel}, v.SeverityLabels))
	}
	return errors.Join(errs...)
}
