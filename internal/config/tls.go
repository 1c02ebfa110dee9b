package config

import "keylime/internal/pki"

// TLS names the keys and certificates of a role. Paths are absolute once loaded.
type TLS struct {
	Dir      string
	Generate bool // make CA and certificates in Dir when they are absent

	ServerKey, ServerCert string
	ServerKeyPassword     Secret
	SANs                  []string // further names and addresses for a generated server certificate
	TrustedClientCA       []string

	ClientKey, ClientCert string
	ClientKeyPassword     Secret
	TrustedServerCA       []string
	VerifyHostname        string // auto, on or off

	KeyFilePermissions string // warn or refuse
}

// ServerFiles are the files of the role's listener.
func (t TLS) ServerFiles() pki.ServerFiles {
	return pki.ServerFiles{CertFile: t.ServerCert, KeyFile: t.ServerKey, KeyPassword: string(t.ServerKeyPassword), ClientCAs: t.TrustedClientCA}
}

// ClientFiles are the files that the role contacts others with.
func (t TLS) ClientFiles() pki.ClientFiles {
	return pki.ClientFiles{CertFile: t.ClientCert, KeyFile: t.ClientKey, KeyPassword: string(t.ClientKeyPassword), ServerCAs: t.TrustedServerCA, VerifyHostname: pki.VerifyName(t.VerifyHostname)}
}

func (t *TLS) dirOption(def string) []option {
	return []option{
		{"tls_dir", text(&t.Dir, def), "directory of keys and certificates: a path, default (cv_ca under the working directory) or, for servers, generate (make them there when absent)"},
		{"key_file_permissions", oneOf(&t.KeyFilePermissions, "warn", "warn", "refuse"), "what to do when a private key can be read by everybody"},
	}
}

func (t *TLS) serverOptions() []option {
	return []option{
		{"server_key", text(&t.ServerKey, "default"), "private key of the listener. default is server-private.pem"},
		{"server_key_password", secret(&t.ServerKeyPassword), "password of that key; a generated key is encrypted with it"},
		{"server_cert", text(&t.ServerCert, "default"), "certificate of the listener. default is server-cert.crt"},
		{"cert_subject_alternative_names", commas(&t.SANs), "further names and addresses for a generated server certificate"},
		{"trusted_client_ca", words(&t.TrustedClientCA, "default"), "CA certificates of administrators. default is cv_ca/cacert.crt under the working directory"},
	}
}

func (t *TLS) clientOptions() []option {
	return []option{
		{"client_key", text(&t.ClientKey, "default"), "private key to contact others with. default is client-private.pem"},
		{"client_key_password", secret(&t.ClientKeyPassword), "password of that key; a generated key is encrypted with it"},
		{"client_cert", text(&t.ClientCert, "default"), "certificate to contact others with. default is client-cert.crt"},
		{"trusted_server_ca", words(&t.TrustedServerCA, "default"), "CA certificates of the servers contacted. default is cv_ca/cacert.crt under the working directory"},
		{"tls_verify_hostname", oneOf(&t.VerifyHostname, "auto", "auto", "on", "off"), "check that a server's certificate is for the name asked for; auto does when it carries names"},
	}
}
