package registrar

import (
	"context"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"keylime/internal/config"
	"keylime/internal/daemon"
	"keylime/store"
)

// Command is the command line of the registrar.
func Command(open daemon.OpenStore[store.Registrar]) *cli.Command {
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
func load(src config.Sources, open daemon.OpenStore[store.Registrar]) (daemon.Runner, config.Report, error) {
	cfg, report, err := config.LoadRegistrar(src)
	if err != nil {
		return nil, report, err
	}
	ca, caReport, err := config.LoadCA(src)
	if err != nil {
		return nil, report, err
	}
	if cfg.TLS.Generate {
		report.Warnings = append(report.Warnings, caReport.Warnings...)
	}
	return open.Over(cfg.Store, "registrar", func(ctx context.Context, s store.Registrar, log zerolog.Logger) error {
		return Run(ctx, cfg, ca, s, log)
	}), report, nil
}
