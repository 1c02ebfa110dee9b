package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// ServerFiles are the files of a TLS listener, PEM.
type ServerFiles struct {
	CertFile, KeyFile string
	KeyPassword       string   // of an encrypted key; "" = none
	ClientCAs         []string // files with the CA certificates of those who may present a client certificate
	RequireClient     bool     // refuse a connection without a client certificate
	CRLFile           string   // revoked client certificates, PEM or DER; "" = none
}

// ClientFiles are the files of a TLS client, PEM.
type ClientFiles struct {
	CertFile, KeyFile string     // both empty = no client certificate
	KeyPassword       string     // of an encrypted key; "" = none
	ServerCAs         []string   // files with the CA certificates of servers; no others are trusted
	VerifyHostname    VerifyName // "" = NameAuto
	// Host is the name or address that the server is reached under. Without it the name that net/http or tls.Dial
	// asks for is checked whatever VerifyHostname says, short of NameOff.
	Host string
}

// VerifyName says whether a server's certificate must be for the name that was asked for.
type VerifyName string

const (
	NameAuto VerifyName = "auto" // when it carries other names than its common name
	NameOn   VerifyName = "on"
	NameOff  VerifyName = "off"
)

// ServerTLS makes the settings of a listener: TLS 1.2 or later; a client certificate is optional unless required, and
// must chain to ClientCAs, be in date and allow client authentication. What its owner may do is for Admin to say.
func ServerTLS(f ServerFiles) (*tls.Config, error) {
	cert, err := loadKeyPair(f.CertFile, f.KeyFile, f.KeyPassword)
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, ClientAuth: tls.VerifyClientCertIfGiven}
	if f.RequireClient {
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	if cfg.ClientCAs, err = loadCAs(f.ClientCAs); err != nil {
		return nil, fmt.Errorf("CA of clients: %w", err)
	}
	if f.CRLFile != "" {
		if cfg.VerifyConnection, err = revocationCheck(f.CRLFile); err != nil {
			return nil, err
		}
	}
	return cfg, nil
}

// ClientTLS makes the settings for talking to servers whose certificates chain to ServerCAs. The system's CAs are not
// trusted.
func ClientTLS(f ClientFiles) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	if f.CertFile != "" || f.KeyFile != "" {
		cert, err := loadKeyPair(f.CertFile, f.KeyFile, f.KeyPassword)
		if err != nil {
			return nil, err
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	roots, err := loadCAs(f.ServerCAs)
	if err != nil {
		return nil, fmt.Errorf("CA of servers: %w", err)
	}
	cfg.RootCAs = roots
	if f.Host != "" || f.VerifyHostname == NameOff {
		verifyOurselves(cfg, func(cs tls.ConnectionState) error {
			return verifyServer(cs, roots, f.Host, f.VerifyHostname)
		})
	}
	return cfg, nil
}

// verifyOurselves hands the whole check of the server's certificate to verify. crypto/tls needs its own check switched
// off for that; verify runs on full and on resumed handshakes, before any application data.
func verifyOurselves(cfg *tls.Config, verify func(tls.ConnectionState) error) {
	cfg.InsecureSkipVerify = true
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return errors.New("server sent no certificate")
		}
		return verify(cs)
	}
}

func verifyServer(cs tls.ConnectionState, roots *x509.CertPool, host string, mode VerifyName) error {
	leaf := cs.PeerCertificates[0]
	intermediates := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		intermediates.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err != nil {
		return fmt.Errorf("server certificate %q: %w", leaf.Subject.CommonName, explain(err, leaf))
	}
	if mode == NameOff || (mode != NameOn && !carriesHosts(leaf)) {
		return nil
	}
	if err := leaf.VerifyHostname(host); err != nil {
		return fmt.Errorf("server certificate %q is for %s, not for %s: have it issued for that name too, or set tls_verify_hostname = off",
			leaf.Subject.CommonName, strings.Join(hostsOf(leaf), ", "), host)
	}
	return nil
}

// carriesHosts reports whether a certificate says where its server is. One whose only name repeats its common name,
// such as DNS:server, does not: Keylime's CA issued such for any name.
func carriesHosts(c *x509.Certificate) bool {
	return len(c.IPAddresses) > 0 || len(c.DNSNames) > 1 || (len(c.DNSNames) == 1 && c.DNSNames[0] != c.Subject.CommonName)
}

func hostsOf(c *x509.Certificate) []string {
	hosts := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	if len(hosts) == 0 {
		return []string{"no host"}
	}
	return hosts
}

// explain adds to a verification error what its reader needs to act.
func explain(err error, leaf *x509.Certificate) error {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("issued by %q, which is not among the configured CA certificates: %w", leaf.Issuer, err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("valid from %s to %s only; have it renewed: %w", leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339), err)
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return fmt.Errorf("not issued for this use (extended key usage): %w", err)
	}
	return err
}

// ErrOtherCertificate is returned by a handshake with an agent that is not the one of the registered certificate.
var ErrOtherCertificate = errors.New("agent presents another certificate than the one it registered")

// PinnedClient makes the settings for talking to one agent: the server's certificate must be the one that the agent
// registered, byte for byte. That is the whole check; its names, dates and signature are of no account. base gives the
// client certificate. Sessions are resumed, and the pin is checked then too.
func PinnedClient(base *tls.Config, agentCertPEM string) (*tls.Config, error) {
	pin, err := firstCertificate([]byte(agentCertPEM))
	if err != nil {
		return nil, fmt.Errorf("registered certificate of the agent: %w", err)
	}
	cfg := base.Clone()
	cfg.RootCAs = nil
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	verifyOurselves(cfg, func(cs tls.ConnectionState) error {
		if !cs.PeerCertificates[0].Equal(pin) { // compares all bytes
			return fmt.Errorf("%w: if it was reinstalled, it must be enrolled again", ErrOtherCertificate)
		}
		return nil
	})
	return cfg, nil
}

func firstCertificate(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no certificate in PEM form")
	}
	return x509.ParseCertificate(block.Bytes)
}

func loadKeyPair(certFile, keyFile, password string) (tls.Certificate, error) {
	certText, err := os.ReadFile(certFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read certificate: %w", err)
	}
	keyText, err := os.ReadFile(keyFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read private key: %w", err)
	}
	key, err := ReadPrivateKey(keyText, password)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s: %w", keyFile, err)
	}
	cert := tls.Certificate{PrivateKey: key}
	for block, rest := pem.Decode(certText); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			cert.Certificate = append(cert.Certificate, block.Bytes)
		}
	}
	if len(cert.Certificate) == 0 {
		return tls.Certificate{}, fmt.Errorf("%s holds no certificate in PEM form", certFile)
	}
	if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
		return tls.Certificate{}, fmt.Errorf("parse %s: %w", certFile, err)
	}
	if !samePublicKey(cert.Leaf.PublicKey, key.Public()) {
		return tls.Certificate{}, fmt.Errorf("private key %s does not belong to certificate %s", keyFile, certFile)
	}
	return cert, nil
}

// NotAfter is when the certificate in a PEM file expires.
func NotAfter(certFile string) (time.Time, error) {
	text, err := os.ReadFile(certFile)
	if err != nil {
		return time.Time{}, err
	}
	cert, err := firstCertificate(text)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", certFile, err)
	}
	return cert.NotAfter, nil
}

// loadCAs reads every certificate of every file.
func loadCAs(files []string) (*x509.CertPool, error) {
	if len(files) == 0 {
		return nil, errors.New("none is configured")
	}
	pool := x509.NewCertPool()
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read certificate: %w", err)
		}
		if !pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate in PEM form", name)
		}
	}
	return pool, nil
}

// revocationCheck refuses client certificates whose serial is on the list. The list is read once.
func revocationCheck(file string) (func(tls.ConnectionState) error, error) {
	der, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read revocation list: %w", err)
	}
	if block, _ := pem.Decode(der); block != nil {
		der = block.Bytes
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("parse revocation list %s: %w", file, err)
	}
	revoked := make(map[string]bool, len(list.RevokedCertificateEntries))
	for _, e := range list.RevokedCertificateEntries {
		revoked[e.SerialNumber.String()] = true
	}
	return func(cs tls.ConnectionState) error {
		for _, chain := range cs.VerifiedChains {
			if len(chain) > 0 && string(chain[0].RawIssuer) == string(list.RawIssuer) && revoked[chain[0].SerialNumber.String()] {
				return fmt.Errorf("client certificate %q, serial %s, is revoked", chain[0].Subject.CommonName, chain[0].SerialNumber)
			}
		}
		return nil
	}, nil
}
