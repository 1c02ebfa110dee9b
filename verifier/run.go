package verifier

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"

	"github.com/rs/zerolog"

	"keylime/internal/config"
	"keylime/internal/pki"
	"keylime/internal/web"
	"keylime/store"
)

// Run serves the API and attests until ctx ends; then it lets requests and rounds under way finish. With tls_dir =
// generate it makes the CA and the certificates first that are not there, for which it needs ca.
func Run(ctx context.Context, cfg config.Verifier, ca config.CA, s store.Verifier, log zerolog.Logger) error {
	server, client, err := prepareTLS(cfg, ca)
	if err != nil {
		return fmt.Errorf("verifier: %w", err)
	}
	ln, err := web.Listen(ctx, cfg.IP, cfg.Port)
	if err != nil {
		return fmt.Errorf("verifier: %w", err)
	}
	v, err := New(ctx, cfg, s, Options{Client: client, Listen: addressOf(ln), Log: log})
	if err != nil {
		_ = ln.Close()
		return fmt.Errorf("verifier: %w", err)
	}
	defer v.Close()
	log.Info().Str("address", ln.Addr().String()).Str("verifier_id", cfg.UUID).Msg("Verifier is listening")

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	attested := make(chan struct{})
	go func() {
		defer close(attested)
		v.Attest(ctx)
	}()
	err = web.Serve(ctx, ln, v.Handler(), server, web.Limits{Drain: cfg.ShutdownDrainTimeout}, log)
	cancel() // if the listener failed, polling has no one to report to
	<-attested
	if err != nil {
		return fmt.Errorf("verifier: %w", err)
	}
	log.Info().Msg("Verifier stopped")
	return nil
}

// prepareTLS returns the settings of the listener and of the verifier as a client.
func prepareTLS(cfg config.Verifier, ca config.CA) (server, client *tls.Config, err error) {
	if cfg.TLS.Generate {
		if err := generate(cfg, ca); err != nil {
			return nil, nil, fmt.Errorf("tls_dir = generate: %w", err)
		}
	}
	if server, err = pki.ServerTLS(cfg.TLS.ServerFiles()); err != nil {
		return nil, nil, err
	}
	if client, err = pki.ClientTLS(cfg.TLS.ClientFiles()); err != nil {
		return nil, nil, err
	}
	return server, client, nil
}

// generate makes the CA, the verifier's certificate, and the one that verifier and tenant present to agents and
// servers.
func generate(cfg config.Verifier, ca config.CA) error {
	made, err := pki.EnsureCA(cfg.TLS.Dir, ca.Options())
	if err != nil {
		return err
	}
	err = made.EnsureLeaf(pki.Leaf{
		Name: "server", Kind: pki.Server, Hosts: pki.ServerHosts(cfg.IP, cfg.TLS.SANs...),
		KeyPassword: string(cfg.TLS.ServerKeyPassword),
	})
	if err != nil {
		return err
	}
	return made.EnsureLeaf(pki.Leaf{Name: "client", Kind: pki.Client, KeyPassword: string(cfg.TLS.ClientKeyPassword)})
}

// addressOf is a listener's address, as far as it has one of IP.
func addressOf(ln net.Listener) netip.AddrPort {
	if a, ok := ln.Addr().(*net.TCPAddr); ok {
		return a.AddrPort()
	}
	return netip.AddrPort{}
}
