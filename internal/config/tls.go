package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"keylime/internal/pki"
)

// TLS names the keys and certificates of a role. Paths are absolute once loaded.
type TLS struct {
	Dir string
	// Generate says that Dir is one that Provide fills.
	Generate bool

	ServerKey, ServerCert string
	ServerKeyPassword     Secret
	SANs                  []string // further names and addresses for a generated server certificate
	TrustedClientCA       []string
	CRLFile               string // revoked client certificates; "" = none

	ClientKey, ClientCert string
	ClientKeyPassword     Secret
	TrustedServerCA       []string
	VerifyHostname        string // auto, on or off

	KeyFilePermissions string // warn or refuse
}

func (t *TLS) dirOption(def string) []option {
	return []option{
		{"tls_dir", text(&t.Dir, def), "directory of keys and certificates: a path, `default` (cv_ca under the working directory) or, for servers, `generate` (made when absent: the verifier's in cv_ca, the registrar's in reg_ca)"},
		{"key_file_permissions", oneOf(&t.KeyFilePermissions, "warn", "warn", "refuse"), "what to do about a private key, or a configuration file with a password, that others can read"},
	}
}

func (t *TLS) serverOptions() []option {
	return []option{
		{"server_key", text(&t.ServerKey, "default"), "private key of the listener; `default` is server-private.pem"},
		{"server_key_password", secret(&t.ServerKeyPassword, ""), "password of that key; a generated key is encrypted with it"},
		{"server_cert", text(&t.ServerCert, "default"), "certificate of the listener; `default` is server-cert.crt"},
		{"cert_subject_alternative_names", commas(&t.SANs), "further names and addresses for a generated server certificate"},
		{"trusted_client_ca", words(&t.TrustedClientCA, "default"), "CA certificates of administrators; `default` is cv_ca/cacert.crt under the working directory"},
		{"tls_crl_file", text(&t.CRLFile, ""), "list of revoked client certificates, read at start; empty = none"},
	}
}

func (t *TLS) clientOptions() []option {
	return []option{
		{"client_key", text(&t.ClientKey, "default"), "private key to contact others with; `default` is client-private.pem"},
		{"client_key_password", secret(&t.ClientKeyPassword, ""), "password of that key; a generated key is encrypted with it"},
		{"client_cert", text(&t.ClientCert, "default"), "certificate to contact others with; `default` is client-cert.crt"},
		{"trusted_server_ca", words(&t.TrustedServerCA, "default"), "CA certificates of the servers contacted; `default` is cv_ca/cacert.crt under the working directory"},
		{"tls_verify_hostname", oneOf(&t.VerifyHostname, "auto", "auto", "on", "off"), "check that a server's certificate is for the name asked for; `auto` does when it carries such names"},
	}
}

// sharedCA is the directory whose CA all roles trust by default.
func sharedCA(dir string) string { return filepath.Join(dir, "cv_ca") }

// finish makes the paths absolute. generated is the directory that tls_dir = generate stands for, "" when the role
// cannot generate; provideDefault makes tls_dir = default generate too.
func (t *TLS) finish(dir, generated string, provideDefault bool) (warnings []string, errs []error) {
	switch t.Dir {
	case "":
		return nil, []error{optionError("tls_dir", "must not be empty")}
	case "generate":
		if generated == "" {
			return nil, []error{optionError("tls_dir", "generate is for servers; use default, or the directory's path")}
		}
		t.Generate = true
		errs = t.allDefault()
		t.Dir = filepath.Join(dir, generated)
	case "default":
		t.Generate = provideDefault && len(t.allDefault()) == 0
		t.Dir = sharedCA(dir)
	default:
		t.Dir = under(dir, t.Dir)
	}
	t.fileName(&t.ServerKey, "server-private.pem")
	t.fileName(&t.ServerCert, "server-cert.crt")
	t.fileName(&t.ClientKey, "client-private.pem")
	t.fileName(&t.ClientCert, "client-cert.crt")
	if t.CRLFile != "" {
		t.CRLFile = under(t.Dir, t.CRLFile)
	}
	if t.ServerCert != "" {
		errs = append(errs, t.caFiles("trusted_client_ca", &t.TrustedClientCA, dir))
	}
	if t.ClientCert != "" {
		errs = append(errs, t.caFiles("trusted_server_ca", &t.TrustedServerCA, dir))
	}
	warnings, exposures := checkFiles(t.KeyFilePermissions, t.ServerKey, t.ClientKey)
	return append(warnings, t.expiring(time.Now())...), append(errs, exposures...)
}

// allDefault refuses names of own files where files are generated.
func (t *TLS) allDefault() (errs []error) {
	for name, v := range map[string]string{"server_key": t.ServerKey, "server_cert": t.ServerCert, "client_key": t.ClientKey, "client_cert": t.ClientCert} {
		if v != "" && v != "default" {
			errs = append(errs, optionError(name, "must be default where tls_dir generates the files, not %q", v))
		}
	}
	return errs
}

// fileName resolves a name; an empty one belongs to a half that the role does not have.
func (t *TLS) fileName(p *string, def string) {
	switch *p {
	case "":
	case "default":
		*p = filepath.Join(t.Dir, def)
	default:
		*p = under(t.Dir, *p)
	}
}

func (t *TLS) caFiles(name string, files *[]string, dir string) error {
	if len(*files) == 0 {
		return optionError(name, "names no CA certificate, so that nobody could be trusted")
	}
	resolved := make([]string, len(*files))
	for i, f := range *files {
		switch f {
		case "default":
			resolved[i] = filepath.Join(sharedCA(dir), "cacert.crt")
		case "all":
			return optionError(name, "all would trust anybody; name the CA certificates")
		default:
			resolved[i] = under(t.Dir, f)
		}
	}
	*files = resolved
	return nil
}

// ServerFiles are the files of the role's listener.
func (t TLS) ServerFiles() pki.ServerFiles {
	return pki.ServerFiles{CertFile: t.ServerCert, KeyFile: t.ServerKey, KeyPassword: string(t.ServerKeyPassword), ClientCAs: t.TrustedClientCA, CRLFile: t.CRLFile}
}

// ClientFiles are the files that the role contacts others with. The caller adds the host that it contacts.
func (t TLS) ClientFiles() pki.ClientFiles {
	return pki.ClientFiles{
		CertFile: t.ClientCert, KeyFile: t.ClientKey, KeyPassword: string(t.ClientKeyPassword), ServerCAs: t.TrustedServerCA,
		VerifyHostname: pki.VerifyName(t.VerifyHostname),
	}
}

// renewal is how long before the end of a certificate warnings begin.
const renewal = 30 * 24 * time.Hour

// expiring warns of certificates that end soon, or have. Files that are missing or bad are for their users to report.
func (t *TLS) expiring(now time.Time) (warnings []string) {
	cure := "have it renewed"
	if t.Generate {
		cure = "delete the file, and the next start makes another"
	}
	for _, file := range []string{t.ServerCert, t.ClientCert} {
		if end, err := pki.NotAfter(file); err == nil && now.Add(renewal).After(end) {
			warnings = append(warnings, fmt.Sprintf("certificate %s is valid until %s: %s", file, end.UTC().Format(time.DateOnly), cure))
		}
	}
	return warnings
}

// checkFiles warns of or refuses private keys that others can read. Keys that are still to be made are not there yet.
func checkFiles(policy string, keys ...string) (warnings []string, errs []error) {
	for _, key := range keys {
		if key == "" || !exposed(key) {
			continue
		}
		msg := fmt.Sprintf("private key %s can be read by others than its owner; `chmod 600` it", key)
		if policy == "refuse" {
			errs = append(errs, optionError("key_file_permissions", "%s", msg))
		} else {
			warnings = append(warnings, msg)
		}
	}
	return warnings, errs
}

// Provide makes what is absent of a directory that generates: the CA, the certificate of the listener on bind and, for
// a role that contacts others, its client certificate. Several programs may call it at once.
func (t TLS) Provide(ca CA, bind string) error {
	if !t.Generate {
		return nil
	}
	authority, err := pki.EnsureCA(t.Dir, ca.Options())
	if err != nil {
		return fmt.Errorf("tls_dir: %w", err)
	}
	// Whoever trusts the shared CA must find it, even if the verifier, whose it is, starts later.
	shared := sharedCA(filepath.Dir(t.Dir))
	if shared != t.Dir && slices.Contains(t.TrustedClientCA, filepath.Join(shared, "cacert.crt")) {
		if _, err := pki.EnsureCA(shared, ca.Options()); err != nil {
			return fmt.Errorf("trusted_client_ca: %w", err)
		}
	}
	server := pki.Leaf{Name: "server", Kind: pki.Server, Hosts: pki.ServerHosts(bind, t.SANs...), KeyPassword: string(t.ServerKeyPassword)}
	if err := authority.EnsureLeaf(server); err != nil {
		return fmt.Errorf("server_cert: %w", err)
	}
	if t.ClientCert == "" {
		return nil
	}
	client := pki.Leaf{Name: "client", Kind: pki.Client, KeyPassword: string(t.ClientKeyPassword)}
	if err := authority.EnsureLeaf(client); err != nil {
		return fmt.Errorf("client_cert: %w", err)
	}
	return nil
}
