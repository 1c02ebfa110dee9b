package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// machine is a root directory with configuration files, by path, and the sources that read them.
func machine(t testing.TB, files map[string]string, environ ...string) Sources {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i, e := range environ {
		environ[i] = strings.ReplaceAll(e, "$ROOT", root)
	}
	return Sources{Root: root, Environ: environ}
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	const toml, conf = "etc/keylime/keylime.toml", "etc/keylime/verifier.conf"
	for _, tc := range []struct {
		name    string
		files   map[string]string
		environ []string
		file    string // of --config, under the root
		flags   map[string]string
		want    int // port
		source  string
	}{
		{name: "default", want: 8881, source: "default"},
		{name: "file over default", files: map[string]string{toml: "[verifier]\nport = 1\n"}, want: 1, source: "/etc/keylime/keylime.toml:2"},
		{name: "environment over file", files: map[string]string{toml: "[verifier]\nport = 1\n"}, environ: []string{"KEYLIME_VERIFIER_PORT=2"}, want: 2, source: "environment KEYLIME_VERIFIER_PORT"},
		{name: "flag over environment", environ: []string{"KEYLIME_VERIFIER_PORT=2"}, flags: map[string]string{"port": "3"}, want: 3, source: "flag"},
		{name: "last of a repeated variable", environ: []string{"KEYLIME_VERIFIER_PORT=2", "KEYLIME_VERIFIER_PORT=4"}, want: 4},

		{name: "keylime.toml over verifier.conf", files: map[string]string{toml: "[verifier]\nport = 1\n", conf: "[verifier]\nport = 5\n"}, want: 1},
		{name: "verifier.conf when keylime.toml lacks the table", files: map[string]string{toml: "[tenant]\n", conf: "[verifier]\nport = 5\n"}, want: 5, source: "/etc/keylime/verifier.conf:2"},
		{name: "KEYLIME_CONFIG alone", files: map[string]string{"x.toml": "[tenant]\n", conf: "[verifier]\nport = 5\n"}, environ: []string{"KEYLIME_CONFIG=$ROOT/x.toml"}, want: 8881},
		{name: "--config over KEYLIME_CONFIG", files: map[string]string{"x.toml": "[verifier]\nport=6\n", "y.toml": "[verifier]\nport=7\n"}, environ: []string{"KEYLIME_CONFIG=$ROOT/x.toml"}, file: "y.toml", want: 7},
		{name: "KEYLIME_CONFIG over KEYLIME_VERIFIER_CONFIG", files: map[string]string{"x.toml": "[verifier]\nport=6\n", "v.conf": "[verifier]\nport=7\n"}, environ: []string{"KEYLIME_CONFIG=$ROOT/x.toml", "KEYLIME_VERIFIER_CONFIG=$ROOT/v.conf"}, want: 6},
		{name: "KEYLIME_VERIFIER_CONFIG over keylime.toml", files: map[string]string{toml: "[verifier]\nport = 1\n", "v.conf": "[verifier]\nport=7\n"}, environ: []string{"KEYLIME_VERIFIER_CONFIG=$ROOT/v.conf"}, want: 7, source: "/v.conf:2"},

		{name: "KEYLIME_VERIFIER_CONFIG without snippets", files: map[string]string{"v.conf": "[verifier]\nport=7\n", conf + ".d/a": "[verifier]\nport=8\n"}, environ: []string{"KEYLIME_VERIFIER_CONFIG=$ROOT/v.conf"}, want: 7},
		{name: "missing KEYLIME_VERIFIER_CONFIG falls through", files: map[string]string{conf: "[verifier]\nport=5\n"}, environ: []string{"KEYLIME_VERIFIER_CONFIG=$ROOT/none"}, want: 5},
		{name: "/etc masks /usr/etc", files: map[string]string{conf: "[verifier]\nip = ::1\n", "usr/" + conf: "[verifier]\nport=5\n"}, want: 8881},
		{name: "/usr/etc alone", files: map[string]string{"usr/" + conf: "[verifier]\nport=5\n"}, want: 5},
		{name: "snippets in order", files: map[string]string{conf: "[verifier]\nport=5\n", conf + ".d/10-a": "[verifier]\nport=10\n", conf + ".d/20-b": "[verifier]\nport=20\n"}, want: 20},
		{name: "administrator's snippets last", files: map[string]string{conf: "[verifier]\nport=5\n", conf + ".d/10": "[verifier]\nport=10\n", "usr/" + conf + ".d/20": "[verifier]\nport=20\n"}, want: 10},
		{name: "snippets without a base file", files: map[string]string{conf + ".d/10": "[verifier]\nport=10\n"}, want: 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			src := machine(t, tc.files, slices.Clone(tc.environ)...)
			src.Flags = tc.flags
			if tc.file != "" {
				src.File = filepath.Join(src.Root, tc.file)
			}
			v, rep, err := LoadVerifier(src)
			if err != nil {
				t.Fatal(err)
			}
			if v.Port != tc.want {
				t.Errorf("port %d, want %d", v.Port, tc.want)
			}
			i := slices.IndexFunc(rep.Settings, func(s Setting) bool { return s.Name == "port" })
			if source := strings.TrimPrefix(rep.Settings[i].Source, src.Root); tc.source != "" && source != tc.source {
				t.Errorf("source %q, want %q", source, tc.source)
			}
		})
	}
}

func TestWorkingDirectory(t *testing.T) {
	t.Parallel()
	table := map[string]string{"etc/keylime/keylime.toml": "[server]\nkeylime_dir = \"/srv/a\"\n"}
	agent := map[string]string{"etc/keylime/agent.conf": "[agent]\nkeylime_dir = \"/srv/c\"\n"}
	dirs := func(src Sources) [2]string {
		v, _, err := LoadVerifier(src)
		if err != nil {
			t.Fatal(err)
		}
		a, _, err := LoadAgent(src)
		if err != nil {
			t.Fatal(err)
		}
		return [2]string{v.KeylimeDir, a.KeylimeDir}
	}
	for name, tc := range map[string]struct {
		src  Sources
		want [2]string
	}{
		"default":                          {machine(t, nil), [2]string{DefaultDir, DefaultDir}},
		"table":                            {machine(t, table), [2]string{"/srv/a", DefaultDir}},
		"KEYLIME_DIR over the table":       {machine(t, table, "KEYLIME_DIR=/srv/b"), [2]string{"/srv/b", "/srv/b"}},
		"agent's own option":               {machine(t, agent), [2]string{DefaultDir, "/srv/c"}},
		"KEYLIME_DIR over the agent's":     {machine(t, agent, "KEYLIME_DIR=/srv/b"), [2]string{"/srv/b", "/srv/b"}},
		"and over the agent's environment": {machine(t, agent, "KEYLIME_DIR=/srv/b", "KEYLIME_AGENT_KEYLIME_DIR=/srv/d"), [2]string{"/srv/b", "/srv/b"}},
		"empty KEYLIME_DIR is none":        {machine(t, agent, "KEYLIME_DIR="), [2]string{DefaultDir, "/srv/c"}},
	} {
		if got := dirs(tc.src); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestEveryRoleStartsWithoutConfiguration(t *testing.T) {
	t.Parallel()
	src := machine(t, nil, "KEYLIME_DIR=/srv/k")
	v, rv, err := LoadVerifier(src)
	if err != nil || len(rv.Warnings) > 0 {
		t.Fatal(err, rv.Warnings)
	}
	wantTLS := TLS{
		Dir: "/srv/k/cv_ca", Generate: true, ServerKey: "/srv/k/cv_ca/server-private.pem", ServerCert: "/srv/k/cv_ca/server-cert.crt",
		TrustedClientCA: []string{"/srv/k/cv_ca/cacert.crt"}, ClientKey: "/srv/k/cv_ca/client-private.pem", ClientCert: "/srv/k/cv_ca/client-cert.crt",
		TrustedServerCA: []string{"/srv/k/cv_ca/cacert.crt"}, VerifyHostname: "auto", KeyFilePermissions: "warn",
	}
	if d := cmp.Diff(wantTLS, v.TLS); d != "" || v.QuoteInterval != 2*time.Second || v.Store != "/srv/k/verifier.db" {
		t.Error(d, v.QuoteInterval, v.Store)
	}
	r, rr, err := LoadRegistrar(src)
	if err != nil || len(rr.Warnings) > 0 {
		t.Fatal(err, rr.Warnings)
	}
	wantTLS.ClientKey, wantTLS.ClientCert, wantTLS.TrustedServerCA, wantTLS.VerifyHostname = "", "", nil, ""
	if d := cmp.Diff(wantTLS, r.TLS); d != "" || r.TPMCertStore != "/srv/k/tpm_cert_store" {
		t.Error(d, r.TPMCertStore)
	}
	tn, rt, err := LoadTenant(src)
	if err != nil || len(rt.Warnings) > 0 || tn.TPMCertStore != "/srv/k/tpm_cert_store" || tn.TLS.Generate || tn.TLS.ClientCert != "/srv/k/cv_ca/client-cert.crt" {
		t.Error(err, rt.Warnings, tn)
	}
	a, ra, err := LoadAgent(src)
	if err != nil || len(ra.Warnings) > 0 || a.ServerKey != "/srv/k/server-private.pem" || a.IMAMLPath != "/sys/kernel/security/ima/ascii_runtime_measurements" ||
		a.TrustedClientCA[0] != "/srv/k/cv_ca/cacert.crt" || a.EKHandle != "" || a.TPMEncryptionAlg != "rsa2048" {
		t.Error(err, ra.Warnings, a)
	}
	if _, _, err := LoadCA(src); err != nil {
		t.Error(err)
	}
	if l, _, err := LoadLogging(src); err != nil || l.Level != "info" {
		t.Error(err, l)
	}
	if s, _, err := LoadServer(src); err != nil || s.Store != "/srv/k/keylime.db" {
		t.Error(err, s)
	}
}

func TestTOMLIsStrict(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ text, want string }{
		"misspelt option":      {"[verifier]\n\nquote_intervall = 2\n", ":3: verifier has no option quote_intervall, did you mean quote_interval?"},
		"misspelt sub-option":  {"[verifier]\n[verifier.revocations]\nwebhok_url = \"\"\n", ":3: verifier has no option revocations.webhok_url, did you mean revocations.webhook_url?"},
		"dotted key":           {"[verifier]\nrevocations.webhok_url = \"\"\n", ":2: verifier has no option"},
		"nothing like it":      {"[verifier]\nxyzzy = 2\n", ":2: verifier has no option xyzzy"},
		"misspelt table":       {"[verifyer]\n", "line 1: unknown table or option verifyer, did you mean verifier?"},
		"option without table": {"port = 1\n", "line 1: unknown table or option port"},
		"not TOML":             {"[verifier]\nport = \n", "line 2"},
		"twice":                {"[verifier]\nport = 1\nport = 2\n", "line 3"},
		"not a table":          {"verifier = 1\n", "verifier is not a table"},
		"not UTF-8":            {"[verifier]\nuuid = \"\xff\"\n", "is not UTF-8"},
	} {
		src := machine(t, map[string]string{"k.toml": tc.text})
		src.File = filepath.Join(src.Root, "k.toml")
		if _, _, err := LoadVerifier(src); err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), src.File) {
			t.Errorf("%s: error %v, want %q", name, err, tc.want)
		}
	}
	src := Sources{File: filepath.Join(t.TempDir(), "none.toml")}
	if _, _, err := LoadVerifier(src); err == nil || !strings.Contains(err.Error(), src.File) {
		t.Errorf("missing file: %v", err)
	}
}

func TestTOMLForms(t *testing.T) {
	t.Parallel()
	src := machine(t, map[string]string{"etc/keylime/keylime.toml": `
[verifier]
port = "1"
quote_interval = 0.5
retry_interval = "3"
exponential_backoff = "no"
severity_labels = ["low", "high"]
severity_policy = [{ event_id = "ima\\..*", severity_label = "high" }]
trusted_client_ca = ["/a.crt", "b.crt"]
uuid = "a \" b"

[verifier.revocations]
enabled_revocation_notifications = []
webhook_url = "https://hook.example/x"
`})
	v, _, err := LoadVerifier(src)
	if err != nil {
		t.Fatal(err)
	}
	if v.Port != 1 || v.QuoteInterval != 500*time.Millisecond || v.RetryInterval != 3*time.Second || v.ExponentialBackoff ||
		!slices.Equal(v.SeverityLabels, []string{"low", "high"}) || !slices.Equal(v.SeverityPolicy, []SeverityRule{{`ima\..*`, "high"}}) ||
		!slices.Equal(v.TLS.TrustedClientCA, []string{"/a.crt", DefaultDir + "/cv_ca/b.crt"}) || v.UUID != `a " b` ||
		len(v.Revocations.Enabled) != 0 || v.Revocations.WebhookURL != "https://hook.example/x" {
		t.Errorf("got %+v", v)
	}
}

func TestRoleFiles(t *testing.T) {
	t.Parallel()
	src := machine(t, map[string]string{"etc/keylime/verifier.conf": `
[verifier]
version = 2.6
ip = "::1"
Port = 99
quote_interval = 2.5
exponential_backoff = "True"
trusted_client_ca = ['a.crt', "/b.crt"]
severity_labels = ["info",
    "critical"]
severity_policy = [{"event_id": "a.*", "severity_label" : "critical"}]
measured_boot_imports = []
max_workers = 3
session_lifetime = 200
mode =
unheard_of = 1
[revocations]
enabled_revocation_notifications = [webhook]
webhook_url = https://hook.example/a:b
[tenant]
anything = here
`}, "KEYLIME_VERIFIER_REVOCATIONS_ZMQ_PORT=7", "KEYLIME_VERIFIER_SERVER_KEY_PASSWORD=", "KEYLIME_VERIFIER_QUOTE_INTERVALL=1")
	v, rep, err := LoadVerifier(src)
	if err != nil {
		t.Fatal(err)
	}
	if v.IP != "::1" || v.Port != 99 || v.QuoteInterval != 2500*time.Millisecond || !v.ExponentialBackoff ||
		!slices.Equal(v.TLS.TrustedClientCA, []string{DefaultDir + "/cv_ca/a.crt", "/b.crt"}) ||
		!slices.Equal(v.SeverityLabels, []string{"info", "critical"}) || !slices.Equal(v.SeverityPolicy, []SeverityRule{{"a.*", "critical"}}) ||
		!slices.Equal(v.Revocations.Enabled, []string{"webhook"}) || v.Revocations.WebhookURL != "https://hook.example/a:b" || v.Revocations.ZMQPort != 7 {
		t.Errorf("got %+v", v)
	}
	want := []string{
		src.Root + "/etc/keylime/verifier.conf: unknown options are ignored: unheard_of",
		"environment KEYLIME_VERIFIER_QUOTE_INTERVALL: verifier has no option quote_intervall, did you mean quote_interval?",
	}
	if v.Push.SessionLifetime != 200*time.Second || v.Push.Mode != "both" {
		t.Errorf("push: %+v", v.Push)
	}
	if d := cmp.Diff(want, rep.Warnings); d != "" {
		t.Error(d)
	}
}

// NT-97: a bad value stops the start, and the error names the option.
func TestBadValuesNameTheOption(t *testing.T) {
	t.Parallel()
	type loadFunc func(Sources) error
	verifier := func(s Sources) error { _, _, err := LoadVerifier(s); return err }
	registrar := func(s Sources) error { _, _, err := LoadRegistrar(s); return err }
	tenant := func(s Sources) error { _, _, err := LoadTenant(s); return err }
	agent := func(s Sources) error { _, _, err := LoadAgent(s); return err }
	ca := func(s Sources) error { _, _, err := LoadCA(s); return err }
	for _, tc := range []struct {
		load              loadFunc
		role, name, value string
		want              string
	}{
		{verifier, "verifier", "port", "x", `"x" is not a whole number; it takes a whole number from 0 to 65535`},
		{verifier, "verifier", "port", "65536", "out of range"},
		{verifier, "verifier", "port", "-1", "out of range"},
		{verifier, "verifier", "ip", "300.1.1.1", "an IP address or host name"},
		{verifier, "verifier", "ip", "", "an IP address or host name"},
		{verifier, "verifier", "quote_interval", "-1", "out of range"},
		{verifier, "verifier", "quote_interval", "NaN", "out of range"},
		{verifier, "verifier", "quote_interval", "1e300", "out of range"},
		{verifier, "verifier", "exponential_backoff", "maybe", "true or false"},
		{verifier, "verifier", "measured_boot_policy_name", "no-such", "one of accept-all, reject-all, example, example-relaxed"},
		{verifier, "verifier", "require_allow_list_signatures", "perhaps", "true or false"},
		{verifier, "verifier", "mode", "pushy", "pull, push, both"},
		{verifier, "verifier", "session_lifetime", "0", "more than 0"},
		{verifier, "verifier", "tls_dir", "", "must not be empty"},
		{verifier, "verifier", "server_cert", "mine.crt", "must be default where tls_dir generates"},
		{verifier, "verifier", "trusted_client_ca", "all", "would trust anybody"},
		{verifier, "verifier", "trusted_server_ca", "", "names no CA certificate"},
		{verifier, "verifier", "tls_verify_hostname", "maybe", "one of auto, on, off"},
		{verifier, "verifier", "severity_labels", "[]", "at least one label"},
		{verifier, "verifier", "severity_policy", `[{"event_id": "(", "severity_label": "info"}]`, "event_id"},
		{verifier, "verifier", "severity_policy", `[{"event_id": "a", "severity_label": "inf"}]`, "did you mean info?"},
		{verifier, "verifier", "severity_policy", `[{"event_id": "a"}]`, "exactly event_id and severity_label"},
		{verifier, "verifier", "revocations.enabled_revocation_notifications", "['agents']", "did you mean agent?"},
		{verifier, "verifier", "revocations.webhook_url", "hook.example", "an http or https URL"},
		{verifier, "verifier", "evidence.access", "agents", "one of public, admin, off"},
		{verifier, "verifier", "evidence.slots", "0", "out of range"},
		{verifier, "verifier", "evidence.snp_chains", "['milan.pem']", "want PRODUCT=FILE"},
		{verifier, "verifier", "evidence.token_lifetime", "0", "must be more than 0"},
		{registrar, "registrar", "tpm_identity", "none", "one of default"},
		{registrar, "registrar", "malformed_cert_action", "maybe", "one of warn, reject, ignore"},
		{tenant, "tenant", "tls_dir", "generate", "is for servers"},
		{tenant, "tenant", "accept_tpm_hash_algs", "['md5']", `"md5" is not one of`},
		{tenant, "tenant", "ek_rules", "['dates']", `"dates" is not one of`},
		{agent, "agent", "uuid", "a b", "is no id"},
		{agent, "agent", "uuid", "openstack", "is no source of an id"},
		{agent, "agent", "uuid", "..", "is no id"},
		{agent, "agent", "ek_handle", "banana", "neither generate nor a handle"},
		{agent, "agent", "tpm_ownerpassword", "hex:xy", "not hexadecimal"},
		{agent, "agent", "tpm_hash_alg", "md5", "one of sha1"},
		{agent, "agent", "secure_size", "1m,exec", "is not a size"},
		{agent, "agent", "run_as", "root", "is not user:group"},
		{agent, "agent", "enc_keyname", "../x", "plain file name"},
		{agent, "agent", "contact_ip", "a b", "an IP address or host name"},
		{agent, "agent", "enable_iak_idevid", "true", "not implemented in this release"},
		{ca, "ca", "password", "", "must not be empty"},
		{ca, "ca", "cert_bits", "1024", "out of range"},
	} {
		variable := "KEYLIME_" + strings.ToUpper(tc.role+"_"+strings.ReplaceAll(tc.name, ".", "_"))
		err := tc.load(machine(t, nil, variable+"="+tc.value))
		if err == nil || !strings.Contains(err.Error(), "option "+tc.name) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s = %q: error %v, want %q", tc.name, tc.value, err, tc.want)
		}
	}
	if _, _, err := LoadVerifier(Sources{Root: t.TempDir(), Flags: map[string]string{"prot": "1"}}); err == nil {
		t.Error("a flag for an option that is none passes")
	}
}

func TestRegistrarReadsTheTenantsStore(t *testing.T) {
	t.Parallel()
	r, _, err := LoadRegistrar(machine(t, map[string]string{"etc/keylime/tenant.conf": "[tenant]\ntpm_cert_store = /srv/store\n"}))
	if err != nil || r.TPMCertStore != "/srv/store" {
		t.Errorf("%q, %v", r.TPMCertStore, err)
	}
}

func TestLoggingConf(t *testing.T) {
	t.Parallel()
	l, rep, err := LoadLogging(machine(t, map[string]string{"etc/keylime/logging.conf": `
[logging]
version = 2.6
[loggers]
keys = root,keylime
[formatter_formatter]
format = %(asctime)s %(reqidf)s - %(message)s
datefmt = %H:%M:%S
[logger_root]
level = INFO
handlers = consoleHandler
[handler_consoleHandler]
class = StreamHandler
args = (sys.stderr,)
[logger_keylime]
level = WARNING
`}))
	want := Logging{Level: "warn", Output: "stderr", Format: "%(asctime)s %(reqidf)s - %(message)s", DateFormat: "%H:%M:%S"}
	if err != nil || l != want || len(rep.Warnings) > 0 {
		t.Errorf("%+v, %q, %v", l, rep.Warnings, err)
	}
}

func TestRustLog(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"debug": "debug", "keylime_agent=trace": "trace", "warn,keylime_agent=debug": "debug", "keylime_agent=debug,warn": "debug",
		"hyper=trace": "info", "off": "error", "": "info", "loud": "info", "INFO , hyper=warn": "info",
	} {
		if l, _, err := LoadLogging(machine(t, nil, "RUST_LOG="+value)); err != nil || l.Level != want {
			t.Errorf("RUST_LOG=%s: level %s, %v; want %s", value, l.Level, err, want)
		}
	}
	if l, _, err := LoadLogging(machine(t, nil, "RUST_LOG=debug", "KEYLIME_LOGGING_LEVEL=warn")); err != nil || l.Level != "warn" {
		t.Errorf("our own variable loses: %s, %v", l.Level, err)
	}
}

// NT-72: keys and passwords that others can read.
func TestExposedFiles(t *testing.T) {
	t.Parallel()
	src := machine(t, map[string]string{
		"etc/keylime/verifier.conf":     "[verifier]\nserver_key_password = hunter2\n",
		"k/cv_ca/server-private.pem":    "key",
		"k/cv_ca/client-private.pem":    "key",
		"k/closed/server-private.pem":   "key",
		"etc/keylime/verifier.conf.d/x": "[verifier]\nport = 1\n",
	}, "KEYLIME_DIR=$ROOT/k")
	chmod := func(path string, mode os.FileMode) {
		if err := os.Chmod(filepath.Join(src.Root, path), mode); err != nil {
			t.Fatal(err)
		}
	}
	load := func(policy string) (Report, error) {
		s := src
		s.Flags = map[string]string{"key_file_permissions": policy}
		_, rep, err := LoadVerifier(s)
		return rep, err
	}
	if rep, err := load("refuse"); err != nil || len(rep.Warnings) > 0 {
		t.Fatalf("private files: %q, %v", rep.Warnings, err)
	}
	chmod("k/cv_ca/server-private.pem", 0o640)
	chmod("etc/keylime/verifier.conf", 0o644)
	chmod("etc/keylime/verifier.conf.d/x", 0o644) // holds no password
	rep, err := load("warn")
	if err != nil || len(rep.Warnings) != 2 || !strings.Contains(rep.Warnings[0], "verifier.conf holds a password") || !strings.Contains(rep.Warnings[1], "server-private.pem can be read by others") {
		t.Errorf("warn: %q, %v", rep.Warnings, err)
	}
	if _, err := load("refuse"); err == nil || !strings.Contains(err.Error(), "key_file_permissions") {
		t.Errorf("refuse: %v", err)
	}
	chmod("k/cv_ca", 0o700) // keeps others from the key, whatever its mode
	chmod("etc/keylime/verifier.conf", 0o600)
	if rep, err := load("refuse"); err != nil || len(rep.Warnings) > 0 {
		t.Errorf("private directory: %q, %v", rep.Warnings, err)
	}
}

func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	src := machine(t, nil, "KEYLIME_VERIFIER_SERVER_KEY_PASSWORD=hunter2")
	v, rep, err := LoadVerifier(src)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := rep.Show(&b); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"show": b.String(), "v": sprint("%v", v), "+v": sprint("%+v", v), "#v": sprint("%#v", v), "s": sprint("%s", v.TLS.ServerKeyPassword), "json": jsonText(t, v)} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("%s prints the password: %s", name, text)
		}
	}
	if v.TLS.ServerKeyPassword != "hunter2" || !strings.Contains(b.String(), redacted) {
		t.Error("the password is lost")
	}
}
