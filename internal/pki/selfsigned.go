package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"
)

// agentLifetime is how long an agent's certificate is in date. Keylime's servers check it, though they pin the rest.
const agentLifetime = 365 * 24 * time.Hour

// SelfSigned makes a key (P-256) and the certificate that an agent serves TLS with and registers. Beside the loopback
// names it is for hosts, names or addresses. Both are PEM.
func SelfSigned(agentID string, hosts []string, now time.Time) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generate key: %w", err)
	}
	if keyPEM, err = EncodePrivateKey(key, ""); err != nil {
		return nil, nil, err
	}
	certPEM, err = SelfSign(agentID, hosts, key, now)
	return certPEM, keyPEM, err
}

// SelfSign is SelfSigned with a key that exists.
func SelfSign(agentID string, hosts []string, key crypto.Signer, now time.Time) (certPEM []byte, err error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)),
		Subject:               pkix.Name{CommonName: agentID},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(agentLifetime),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	template.DNSNames, template.IPAddresses = splitHosts(unique(append([]string{"localhost", "localhost.domain", "127.0.0.1", "::1"}, hosts...)))
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return encodeCertificate(der), nil
}
