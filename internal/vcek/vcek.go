// Package vcek finds the certificates of AMD processors' keys: in a directory that an operator fills, and at AMD's
// certificate service where that is allowed.
package vcek

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/pki"
	"keylime/internal/snp"
)

// service is AMD's Key Distribution Service (publication 57230). No other host is ever asked.
const service = "https://kdsintf.amd.com"

const (
	fetchTimeout   = 20 * time.Second
	maxCertificate = 16 << 10 // AMD's have 1.4 KB
)

// Store finds certificates. It is safe for concurrent use.
type Store struct {
	dir     string
	service string // "": nobody is asked
	client  *http.Client
	log     zerolog.Logger
}

// New returns a store over a directory; "" is none. With fetch AMD is asked for what is not there, and what it has is kept
// there.
func New(dir string, fetch bool, log zerolog.Logger) *Store {
	s := &Store{dir: dir, log: log, client: &http.Client{
		Timeout:       fetchTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if fetch {
		s.service = service
	}
	return s
}

// Find returns the certificate for a report of a processor of the chain's product. One from the directory is returned as it
// is: Chain.Verify says whether it is good. The error says what was looked for and where to get it, for whoever sent the
// report; of this machine it says nothing.
func (s *Store) Find(ctx context.Context, r snp.Report, c snp.Chain, now time.Time) (*x509.Certificate, error) {
	name, path := r.VCEKName()+".der", r.VCEKPath(c.Product())
	if s.dir != "" {
		cert, err := read(filepath.Join(s.dir, name))
		if err == nil {
			return cert, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn().Err(err).Msg("VCEK cannot be read")
			return nil, fmt.Errorf("the VCEK that is kept here as %s cannot be read", name)
		}
	}
	if s.service == "" {
		return nil, fmt.Errorf("the request brings no VCEK along, and %s is not kept here; AMD has it at %s%s", name, service, path)
	}
	return s.fetch(ctx, path, r, c, now)
}

func read(name string) (*x509.Certificate, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parse(f, name)
}

func parse(r io.Reader, from string) (*x509.Certificate, error) {
	der, err := io.ReadAll(io.LimitReader(r, maxCertificate+1))
	if err == nil && len(der) > maxCertificate {
		err = fmt.Errorf("more than %d bytes", maxCertificate)
	}
	var cert *x509.Certificate
	if err == nil {
		cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		return nil, fmt.Errorf("VCEK from %s: %w", from, err)
	}
	return cert, nil
}

// fetch asks AMD. What is kept is good: whoever sends reports must not fill the directory with what he likes.
func (s *Store) fetch(ctx context.Context, path string, r snp.Report, c snp.Chain, now time.Time) (*x509.Certificate, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.service+path, nil)
	if err != nil {
		return nil, err
	}
	answer, err := s.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask AMD for the VCEK: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask AMD for the VCEK: %s answers %s", req.URL, answer.Status)
	}
	cert, err := parse(answer.Body, req.URL.String())
	if err != nil {
		return nil, err
	}
	if _, err := c.Verify(r, cert, now); err != nil || s.dir == "" {
		return cert, nil // whoever asked is told what is wrong with it
	}
	if err := pki.WriteFile(filepath.Join(s.dir, r.VCEKName()+".der"), cert.Raw, 0o644); err != nil {
		s.log.Warn().Err(err).Msg("VCEK could not be kept; AMD is asked for it again")
	}
	return cert, nil
}
