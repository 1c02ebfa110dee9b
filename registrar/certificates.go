package registrar

import (
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/pki"
	"keylime/tpm"
)

// checkCertificate checks that a certificate can be read and is for this key. Who stands behind an EK certificate is
// for the tenant to check, who knows what machines there should be.
func (r identityRules) checkCertificate(id, field string, der []byte, key *tpm.Public) (*pki.Certificate, error) {
	c, err := pki.ParseCertificateTolerant(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	if c.Malformed != nil {
		switch r.malformed {
		case malformedReject:
			return nil, fmt.Errorf("%s: not strict DER, which malformed_cert_action of the registrar rejects: %w", field, c.Malformed)
		case malformedIgnore:
		default:
			r.log.Warn().Str("id", id).Str("field", field).Err(c.Malformed).Msg("Certificate is not strict DER; it is kept as it is")
		}
	}
	if err := pki.PublicKeyMatches(c, key); err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	return c, nil
}

// checkListenerCert checks the certificate that verifier and tenant will find the agent's listener with. They pin it
// byte for byte, so that all that counts is that TLS can read it.
func checkListenerCert(der []byte) error {
	_, err := x509.ParseCertificate(der)
	return err
}

// issuersTTL is how old the certificate store in memory may be: long enough that requests do not make us read it all
// the time, short enough that a CA that was added or removed soon counts.
const issuersTTL = 30 * time.Second

// issuers are the makers' CAs of the certificate store, for IAK and IDevID. Safe for concurrent use.
type issuers struct {
	dir string
	log zerolog.Logger

	mu     sync.Mutex
	store  *pki.Store
	loaded time.Time
}

// load returns the store, read anew when it is too old.
func (s *issuers) load(now time.Time) (*pki.Store, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.store != nil && now.Before(s.loaded.Add(issuersTTL)) {
		return s.store, nil
	}
	store, warnings, err := pki.LoadStore(s.dir)
	if err != nil {
		return nil, fmt.Errorf("read certificate store: %w", err)
	}
	for _, w := range warnings {
		s.log.Warn().Str("file", w.File).Err(w.Err).Msg("File of the certificate store is skipped")
	}
	s.store, s.loaded = store, now
	return store, nil
}

// verify looks for a path from the certificate to the store.
func (s *issuers) verify(c *pki.Certificate, now time.Time) error {
	store, err := s.load(now)
	if err != nil {
		return err
	}
	_, err = store.VerifyDevice(c, nil, now, pki.DefaultRules())
	return err
}
