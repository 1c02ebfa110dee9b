package verifier

import (
	"context"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"keylime/internal/config"
	"keylime/internal/daemon"
	"keylime/store"
)

// Command is the command line of the verifier.
func Command(open daemon.OpenStore[store.Verifier]) *cli.Command {
	return daemon.Command(daemon.Role{
		Name:  "verifier",
		Usage: "attest agents continuously and tell others when one fails",
		About: `Asks every enrolled agent for a quote, again and again, appraises it against the agent's policies, and
reports failures. Without configuration it listens on 127.0.0.1:8881 and makes the CA and certificates that it
needs under /var/lib/keylime/cv_ca; agents are enrolled with keylime tenant add.

   keylime verifier --set quote_interval=10 --set revocations.webhook_url=https://hooks.example/keylime`,
		Load: func(_ *cli.Context, src config.Sources) (daemon.Runner, config.Report, error) { return load(src, open) },
	})
}

// load reads the configuration and returns what runs with it.
func load(src config.Sources, open daemon.OpenStore[store.Verifier]) (daemon.Runner, config.Report, error) {
	cfg, report, err := config.LoadVerifier(src)
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
	if _, err := severities(cfg); err != nil {
		return nil, report, err
	}
	return open.Over(cfg.Store, "verifier", func(ctx context.Context, s store.Verifier, log zerolog.Logger) error {
		return Run(ctx, cfg, ca, s, log)
	}), report, nil
}
