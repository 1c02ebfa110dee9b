package registrar

import (
	"context"
	"errors"
	"fmt"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"keylime/internal/config"
	"keylime/internal/daemon"
	"keylime/store"
)

// OpenStore opens the store in a file. close ends its use.
type OpenStore func(path string, log zerolog.Logger) (s store.Registrar, close func() error, err error)

// Command is the command line of the registrar.
func Command(open OpenStore) *cli.Command {
	return daemon.Command(daemon.Role{
		Name:  "registrar",
		Usage: "prove that agents' keys live in their TPMs, and keep the directory of agents",
		About: `Lets agents register and activate on a plain HTTP port, and serves the tenant's requests on a TLS port.
Without configuration it listens on 127.0.0.1, ports 8890 and 8891, with the CA and certificates under
/var/lib/keylime/cv_ca, which it makes when they are absent.

   KEYLIME_REGISTRAR_IP=192.0.2.1 keylime registrar`,
		Load: func(_ *cli.Context, src config.Sources) (daemon.Runner, config.Report, error) { return load(src, open) },
	})
}

// load reads the configuration and returns what runs with it.
func load(src config.Sources, open OpenStore) (daemon.Runner, config.Report, error) {
	cfg, report, err := config.LoadRegistrar(src)
	if err != nil {
		return nil, report, err
	}
	src.Flags = nil // they are the registrar's
	ca, _, err := config.LoadCA(src)
	if err != nil {
		return nil, report, err
	}
	return func(ctx context.Context, log zerolog.Logger) (err error) {
		s, closeStore, err := open(cfg.Store, log)
		if err != nil {
			return fmt.Errorf("registrar: %w", err)
		}
		defer func() { err = errors.Join(err, closeStore()) }()
		return Run(ctx, cfg, ca, s, log)
	}, report, nil
}
