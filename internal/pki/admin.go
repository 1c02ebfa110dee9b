package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"time"
)

// ErrNoCertificate is Admin's answer to a client without a certificate.
var ErrNoCertificate = errors.New("no client certificate")

// Admin names the administrator at the other end of a connection that ServerTLS's settings accepted: the common name
// of a client certificate that chains to the configured CA. A certificate made for servers only is none, nor is one
// that has expired since the handshake. An agent's certificate is self-signed and chains to nothing; whoever knows
// that a CA-issued certificate belongs to an agent must refuse it as well.
func Admin(cs *tls.ConnectionState, now time.Time) (name string, err error) {
	if cs == nil || len(cs.PeerCertificates) == 0 {
		return "", ErrNoCertificate
	}
	if len(cs.VerifiedChains) == 0 {
		return "", errors.New("client certificate was not verified")
	}
	leaf := cs.PeerCertificates[0]
	switch {
	case now.Before(leaf.NotBefore) || now.After(leaf.NotAfter):
		return "", errors.New("client certificate is not in date")
	case leaf.IsCA:
		return "", errors.New("client certificate is a CA's")
	case hasUsages(leaf) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny):
		return "", errors.New("client certificate is not for clients")
	case leaf.Subject.CommonName == "":
		return "", errors.New("client certificate has no common name")
	}
	return leaf.Subject.CommonName, nil
}

func hasUsages(c *x509.Certificate) bool { return len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 }
