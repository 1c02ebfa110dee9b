package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/rs/zerolog"

	"keylime/internal/pki"
	"keylime/internal/web"
)

// listen opens the listener and serves until ctx ends and the requests under way are answered.
func (a *agent) listen(ctx context.Context, handler http.Handler) error {
	listener := a.cfg.Listener
	if listener == nil {
		var err error
		if listener, err = web.Listen(ctx, a.cfg.IP, a.cfg.Port); err != nil {
			return err
		}
	}
	a.log.Info().Stringer("address", listener.Addr()).Msg("Starting server with API versions: " + strings.Join(a.versions, ", "))
	return web.Serve(ctx, listener, handler, a.tls, limits(), a.log)
}

// mutualTLS are the listener's settings: who has no certificate of the configured CA gets no answer.
func (a *agent) mutualTLS() (*tls.Config, error) {
	settings, err := pki.ServerTLS(pki.ServerFiles{
		CertFile: a.cfg.ServerCert, KeyFile: a.cfg.ServerKey, KeyPassword: string(a.cfg.ServerKeyPassword),
		ClientCAs: readable(a.cfg.TrustedClientCA, a.log), RequireClient: true,
	})
	if err != nil {
		return nil, fmt.Errorf("mutual TLS (trusted_client_ca must hold the CA of the verifier and the tenant): %w", err)
	}
	return settings, nil
}

// readable leaves out the files that cannot be opened, with a warning each.
func readable(files []string, log zerolog.Logger) []string {
	var open []string
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			log.Warn().Err(err).Msg("CA certificate of clients is passed over")
			continue
		}
		file.Close()
		open = append(open, name)
	}
	return open
}
