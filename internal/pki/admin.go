package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ErrNoCertificate is Admin's answer to a client without a certificate.
var ErrNoCertificate = errors.New("no client certificate")

// Operator is who holds an administrator's certificate.
type Operator struct {
	Name     string // common name
	ReadOnly bool   // may look, but change nothing and see no secret
}

// roleURI is the prefix of the URI in a certificate's subject alternative names that limits what its holder may do.
// A certificate without one is a full administrator's, as every certificate of upstream's tools is.
const (
	roleURI      = "urn:keylime:role:"
	roleReadOnly = "read-only"
)

// Admin names the administrator at the other end of a connection that ServerTLS's settings accepted: the common name
// of a client certificate that chains to the configured CA. A certificate made for servers only is none, nor is one
// that has expired since the handshake or that bears a role unknown here. An agent's certificate is self-signed and
// chains to nothing; whoever knows that a CA-issued certificate belongs to an agent must refuse it as well.
func Admin(cs *tls.ConnectionState, now time.Time) (Operator, error) {
	if cs == nil || len(cs.PeerCertificates) == 0 {
		return Operator{}, ErrNoCertificate
	}
	if len(cs.VerifiedChains) == 0 {
		return Operator{}, errors.New("client certificate was not verified")
	}
	leaf := cs.PeerCertificates[0]
	switch {
	case now.Before(leaf.NotBefore) || now.After(leaf.NotAfter):
		return Operator{}, errors.New("client certificate is not in date")
	case leaf.IsCA:
		return Operator{}, errors.New("client certificate is a CA's")
	case hasUsages(leaf) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny):
		return Operator{}, errors.New("client certificate is not for clients")
	case leaf.Subject.CommonName == "":
		return Operator{}, errors.New("client certificate has no common name")
	}
	return operatorOf(leaf)
}

// operatorOf reads the role. One that this release does not know must not be mistaken for a full administrator.
func operatorOf(leaf *x509.Certificate) (Operator, error) {
	op := Operator{Name: leaf.Subject.CommonName}
	for _, u := range leaf.URIs {
		role, ok := strings.CutPrefix(u.String(), roleURI)
		switch {
		case !ok:
		case role == roleReadOnly:
			op.ReadOnly = true
		default:
			return Operator{}, fmt.Errorf("client certificate has the unknown role %q", role)
		}
	}
	return op, nil
}

func hasUsages(c *x509.Certificate) bool { return len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 }
