package config

import (
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Calling configures an agent that calls in (push): whom it calls, and how it knows them.
type Calling struct {
	VerifierURLs   []string // tried in turn; https, or http on this machine
	VerifierCAs    []string // of the verifiers' certificates
	VerifierProxy  Secret   // URL of a proxy, perhaps with a password; "" = that of the environment
	RequestTimeout time.Duration
	Interval       time.Duration // when a verifier does not say when to come again, and after a refusal

	RegistrarTLS      bool
	RegistrarTLSPort  int
	RegistrarCAs      []string
	RegistrarVersions string // default, latest, or a list

	KeyIdentifier  string // server_identifier of the AK
	BootLogVersion string
	AcceptAnyCert  bool // for tests
	AcceptAnyHost  bool // for tests
}

func (c *Calling) options() []option {
	return []option{
		{"verifier_url", words(&c.VerifierURLs, "https://localhost:8881"), "push: verifiers, tried in turn; https, or http to this machine itself"},
		{"verifier_tls_ca_cert", words(&c.VerifierCAs, "default"), "push: CA certificates of the verifiers; `default` is cv_ca/cacert.crt"},
		{"verifier_proxy", secret(&c.VerifierProxy, ""), "push: URL of the HTTP proxy that HTTPS connections take; empty = that of HTTPS_PROXY and NO_PROXY"},
		{"verifier_timeout", millis(&c.RequestTimeout, 60*time.Second), "push: limit for one request to a verifier, in milliseconds"},
		{"attestation_interval_seconds", seconds(&c.Interval, 60*time.Second), "push: pause after a refusal, and when the verifier does not say when to attest again, in seconds"},
		{"certification_keys_server_identifier", text(&c.KeyIdentifier, "ak"), "push: what the attestation key is called towards the verifier"},
		{"uefi_logs_evidence_version", text(&c.BootLogVersion, "2.1"), "push: what the version of the event log's format is called towards the verifier"},
		{"registrar_tls_enabled", boolean(&c.RegistrarTLS, false), "register over HTTPS; there is no way back to plain HTTP"},
		{"registrar_tls_port", integer(&c.RegistrarTLSPort, 8891, 1, 65535), "HTTPS port of the registrar"},
		{"registrar_tls_ca_cert", words(&c.RegistrarCAs, "default"), "CA certificates of the registrar; `default` is cv_ca/cacert.crt"},
		{"registrar_api_versions", text(&c.RegistrarVersions, "default"), "API versions spoken to the registrar: default (all of them), latest, or a list"},
		{"tls_accept_invalid_certs", boolean(&c.AcceptAnyCert, false), "push: accept any certificate of a verifier; for tests only, for anybody can then pose as it"},
		{"tls_accept_invalid_hostnames", boolean(&c.AcceptAnyHost, false), "push: accept a verifier's certificate under any name; for tests only"},
	}
}

// finish resolves paths and checks the URLs. dir is keylime_dir.
func (c *Calling) finish(dir string) (warnings []string, errs []error) {
	for _, files := range [][]string{c.VerifierCAs, c.RegistrarCAs} {
		for i, f := range files {
			if f == "default" {
				f = "cv_ca/cacert.crt"
			}
			files[i] = under(dir, f)
		}
	}
	if len(c.VerifierURLs) == 0 { // files that upgrade tools emptied ask for the default
		c.VerifierURLs = []string{"https://localhost:8881"}
	}
	for i, text := range c.VerifierURLs {
		normal, err := verifierURL(text)
		if err != nil {
			errs = append(errs, err)
		}
		c.VerifierURLs[i] = normal
	}
	if _, err := parseURL(string(c.VerifierProxy)); err != nil { // which may quote a password
		errs = append(errs, optionError("verifier_proxy", "is no http or https URL"))
	}
	for _, o := range []struct {
		name  string
		value time.Duration
	}{{"verifier_timeout", c.RequestTimeout}, {"attestation_interval_seconds", c.Interval}} {
		if o.value <= 0 {
			errs = append(errs, optionError(o.name, "must be more than 0"))
		}
	}
	if c.KeyIdentifier == "" {
		c.KeyIdentifier = "ak"
	}
	if c.AcceptAnyCert || c.AcceptAnyHost {
		warnings = append(warnings, "tls_accept_invalid_certs or tls_accept_invalid_hostnames is on: whoever is between this agent and its verifier can pose as it; for tests only")
	}
	return warnings, errs
}

// verifierURL checks one URL and cuts its trailing slash. A token or a quote goes over the network encrypted only.
func verifierURL(text string) (string, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || (u.Scheme != "https" && u.Scheme != "http"):
		if err == nil {
			text = u.Redacted()
		}
		return text, optionError("verifier_url", "%q is no URL such as https://verifier.example.org:8881", text)
	case u.Scheme == "http" && !thisMachine(u.Hostname()):
		return text, optionError("verifier_url", "%q is plain HTTP to another machine: whoever is in between could take the session and attest in this agent's place; use https", text)
	}
	return strings.TrimRight(text, "/"), nil
}

// thisMachine reports whether a host is this machine by its name or address.
func thisMachine(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && a.Unmap().IsLoopback()
}

// RegistrarAddress is where to register, as a URL's host.
func (a Agent) RegistrarAddress() (scheme, host string, port int) {
	if a.Calling.RegistrarTLS {
		return "https", a.RegistrarIP, a.Calling.RegistrarTLSPort
	}
	return "http", a.RegistrarIP, a.RegistrarPort
}
