package agent

import (
	"context"
	"errors"
	"os"
	"os/user"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"keylime/internal/config"
	"keylime/internal/daemon"
)

// Command is `keylime agent`.
func Command() *cli.Command {
	return daemon.Command(daemon.Role{
		Name:  "agent",
		Usage: "attest this machine: register its TPM, answer quotes, unpack payloads, act on revocations",
		About: `The agent runs on the machine that is to be attested and needs its TPM: /dev/tpmrm0, or the one that the
environment variable TCTI names (device:/dev/tpm0, swtpm:host=127.0.0.1,port=2321, swtpm:path=/run/tpm.sock).
It listens for the verifier and the tenant once the registrar knows it. Started by root it mounts the secure
directory for payloads and goes on as the user of run_as.

Example:
   KEYLIME_AGENT_UUID=hash_ek KEYLIME_AGENT_REGISTRAR_IP=registrar.example.org keylime agent`,
		Load: load,
	})
}

func load(_ *cli.Context, src config.Sources) (daemon.Runner, config.Report, error) {
	cfg, report, err := config.LoadAgent(src)
	if err != nil {
		return nil, report, err
	}
	if warning := keepRoot(&cfg, report); warning != "" {
		report.Warnings = append(report.Warnings, warning)
	}
	return func(ctx context.Context, log zerolog.Logger) error {
		return Run(ctx, Config{Agent: cfg, TCTI: os.Getenv("TCTI")}, log)
	}, report, nil
}

// keepRoot lets the agent run as root where the account of the default run_as does not exist: the agent then starts
// without any configuration. An account that was configured must exist.
func keepRoot(cfg *config.Agent, report config.Report) (warning string) {
	for _, setting := range report.Settings {
		if setting.Name != "run_as" || setting.Source != "default" {
			continue
		}
		var unknownUser user.UnknownUserError
		var unknownGroup user.UnknownGroupError
		if _, err := parseRunAs(cfg.RunAs); errors.As(err, &unknownUser) || errors.As(err, &unknownGroup) {
			warning = "run_as is not set and its default, " + cfg.RunAs + ", does not exist: the agent keeps root's privileges"
			cfg.RunAs = ""
		}
	}
	return warning
}
