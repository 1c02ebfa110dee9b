package agent

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/pki"
)

// serverCertificate is where the TLS server's key and certificate are kept, and what the certificate must be for.
type serverCertificate struct {
	keyFile, certFile string
	password          string
	agentID           string
	hosts             []string // names and addresses
}

// open returns the certificate's PEM text. Peers trust exactly the certificate that was registered, so one that exists
// stays as long as it will do; a self-signed one that will not is made anew. A CA's is the operator's business.
func (s serverCertificate) open(now time.Time, log zerolog.Logger) (string, error) {
	key, err := openPrivateKey(s.keyFile, s.password, func() (crypto.Signer, error) {
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	})
	if err != nil {
		return "", fmt.Errorf("TLS key: %w", err)
	}
	text, err := readBounded(s.certFile, maxCertificate)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("TLS certificate: %w", err)
	}
	if err == nil {
		keep, err := s.usable(text, key, now, log)
		if err != nil || keep {
			return string(text), err
		}
	}
	if text, err = pki.SelfSign(s.agentID, s.hosts, key, now); err != nil {
		return "", fmt.Errorf("TLS certificate: %w", err)
	}
	return string(text), writePrivate(s.certFile, text)
}

// usable reports whether an existing certificate will do.
func (s serverCertificate) usable(text []byte, key crypto.Signer, now time.Time, log zerolog.Logger) (bool, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return false, fmt.Errorf("TLS certificate %s holds no PEM certificate: remove it to have one made", s.certFile)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return false, fmt.Errorf("TLS certificate %s: %w", s.certFile, err)
	}
	flaw := s.flaw(cert, key, now)
	selfSigned := string(cert.RawIssuer) == string(cert.RawSubject)
	switch {
	case flaw == "":
		return true, nil
	case selfSigned:
		log.Warn().Str("file", s.certFile).Str("reason", flaw).Msg("TLS certificate is replaced: enrol this agent again if it was enrolled")
		return false, nil
	case flaw == otherKey:
		return false, fmt.Errorf("TLS certificate %s %s %s", s.certFile, flaw, s.keyFile)
	default:
		log.Warn().Str("file", s.certFile).Str("reason", flaw).Msg("TLS certificate was issued by a CA and is used as it is")
		return true, nil
	}
}

const otherKey = "does not belong to the private key"

// flaw says why a certificate will not do, or "".
func (s serverCertificate) flaw(cert *x509.Certificate, key crypto.Signer, now time.Time) string {
	public, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(key.Public()) {
		return otherKey
	}
	if now.After(cert.NotAfter) {
		return "has expired"
	}
	if cert.Subject.CommonName != s.agentID {
		return fmt.Sprintf("is for agent %q", cert.Subject.CommonName)
	}
	for _, host := range s.hosts {
		if cert.VerifyHostname(host) != nil {
			return "is not for " + host
		}
	}
	return ""
}

// certificateHosts are the names and addresses that peers reach the agent under.
func certificateHosts(contact, listen string) []string {
	var hosts []string
	for _, host := range []string{contact, listen} {
		if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}
