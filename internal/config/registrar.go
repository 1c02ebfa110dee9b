package config

import (
	"fmt"
	"time"
)

// Registrar configures the registrar. Paths are absolute once loaded.
type Registrar struct {
	KeylimeDir string
	Store      string // bbolt file

	IP      string
	Port    int // plain HTTP: registration and activation
	TLSPort int // HTTPS: administration
	TLS     TLS // server half only

	TPMIdentity          string // default, ek_cert_or_iak_idevid, ek_cert or iak_idevid
	MalformedCertAction  string // warn, reject or ignore
	DuplicateEK          string // warn or refuse
	PendingTTL           time.Duration
	MaxPending           int
	MaxUploadSize        int    // bytes
	TPMCertStore         string // directory of [tenant] tpm_cert_store, for IAK and IDevID certificates
	ShutdownDrainTimeout time.Duration
}

func (r *Registrar) options() []option {
	return concat([]option{
		{"version", ignored("2.6"), "schema version of the file; informational"},
		{"ip", address(&r.IP, "127.0.0.1"), "address or host name to listen on, for both ports"},
		{"port", integer(&r.Port, 8890, 0, 65535), "port of the plain HTTP listener: version, registration, activation"},
		{"tls_port", integer(&r.TLSPort, 8891, 0, 65535), "port of the HTTPS listener"},
		{"store", text(&r.Store, "registrar.db"), "database file; a relative path is under KEYLIME_DIR"},
	}, r.TLS.dirOption("default"), r.TLS.serverOptions(), []option{
		{"tpm_identity", oneOf(&r.TPMIdentity, "default", "default", "ek_cert_or_iak_idevid", "ek_cert", "iak_idevid"), "which root of identity a registration must have; default is ek_cert_or_iak_idevid"},
		{"malformed_cert_action", oneOf(&r.MalformedCertAction, "warn", "warn", "reject", "ignore"), "what to do with a certificate that is not strict DER; the bytes are kept as sent"},
		{"duplicate_ek", oneOf(&r.DuplicateEK, "warn", "warn", "refuse"), "what to do when an endorsement key is registered under a second id"},
		{"pending_ttl", seconds(&r.PendingTTL, 5*time.Minute), "life of a registration that is not activated, in seconds"},
		{"max_pending", integer(&r.MaxPending, 10_000, 1, 10_000_000), "registrations that may wait for activation at once"},
		{"max_upload_size", integer(&r.MaxUploadSize, 100<<20, 1, 1<<31-1), "largest request body, in bytes"},
		{"shutdown_drain_timeout", seconds(&r.ShutdownDrainTimeout, 10*time.Second), "time for work under way to finish when stopping, in seconds"},
		{"authorization_provider", unsupported("simple"), "only simple: an administrator is whoever has a client certificate of trusted_client_ca"},
		{"max_workers", ignored("16"), "worker processes; this registrar is one process"},
	}, databaseOptions(), archiveOptions("ek_tpm,aik_tpm,ekcert"))
}

func (r *Registrar) finish(dir, certStore string) ([]string, []error) {
	r.KeylimeDir = dir
	r.Store = under(dir, r.Store)
	r.TPMCertStore = under(dir, certStore)
	return r.TLS.finish(dir, "reg_ca", true)
}

// tenantStore reads the one option of the tenant that the registrar needs.
func tenantStore(src Sources) (string, error) {
	src.Flags = nil // they are the registrar's
	var t Tenant
	if _, err := load(src, "tenant", t.options(), nil); err != nil {
		return "", fmt.Errorf("tpm_cert_store is read from the tenant's configuration: %w", err)
	}
	return t.TPMCertStore, nil
}
