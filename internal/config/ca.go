package config

import (
	"time"

	"keylime/internal/pki"
)

// CA configures the certificate authority that tls_dir = generate creates.
type CA struct {
	Password     Secret // of the keystore private.yml
	Country      string
	CommonName   string
	State        string
	Locality     string
	Organization string
	OrgUnit      string
	CALifetime   time.Duration
	CertLifetime time.Duration
	Bits         int
	CRLDist      string // URL put into certificates; "" = none
}

func (c *CA) options() []option {
	return []option{
		{"version", ignored("2.6"), "schema version of the file; informational"},
		{"password", secret(&c.Password, "default"), "password of the keystore private.yml"},
		{"cert_country", text(&c.Country, "US"), "country of the subject"},
		{"cert_ca_name", text(&c.CommonName, "Keylime Certificate Authority"), "common name of the CA"},
		{"cert_state", text(&c.State, "MA"), "state of the subject"},
		{"cert_locality", text(&c.Locality, "Lexington"), "locality of the subject"},
		{"cert_organization", text(&c.Organization, "Keylime"), "organization of the subject"},
		{"cert_org_unit", text(&c.OrgUnit, "53"), "organizational unit of the subject"},
		{"cert_ca_lifetime", days(&c.CALifetime, 3650), "life of the CA certificate, in days"},
		{"cert_lifetime", days(&c.CertLifetime, 365), "life of the certificates it issues, in days"},
		{"cert_bits", integer(&c.Bits, 2048, 2048, 8192), "size of its RSA keys"},
		{"cert_crl_dist", text(&c.CRLDist, "http://localhost:38080/crl"), "where certificates say their revocation list is; empty = nowhere"},
	}
}

// Options are the options of the CA directory.
func (c CA) Options() pki.CAOptions {
	return pki.CAOptions{
		Password: string(c.Password), Country: c.Country, CommonName: c.CommonName, State: c.State, Locality: c.Locality,
		Organization: c.Organization, OrgUnit: c.OrgUnit, Lifetime: c.CALifetime, LeafLifetime: c.CertLifetime, Bits: c.Bits, CRLURL: c.CRLDist,
	}
}

func (c *CA) finish() (warnings []string, errs []error) {
	for name, ok := range map[string]bool{
		"password":         c.Password != "",
		"cert_ca_name":     c.CommonName != "",
		"cert_ca_lifetime": c.CALifetime > 0,
		"cert_lifetime":    c.CertLifetime > 0,
	} {
		if !ok {
			errs = append(errs, optionError(name, "must not be empty or zero"))
		}
	}
	if c.Password == "default" {
		warnings = append(warnings, "option password of [ca] is the word default: the keystore private.yml is protected by its file mode alone")
	}
	return warnings, errs
}
