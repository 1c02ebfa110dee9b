package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"keylime/internal/config"
	"keylime/internal/daemon"
)

// PushName is upstream's name of the program for agents that call in.
const PushName = "keylime_push_model_agent"

// Command is `keylime agent`.
func Command() *cli.Command {
	return daemon.Command(daemon.Role{
		Name:  "agent",
		Usage: "attest this machine: register its TPM, answer quotes or deliver them, unpack payloads, act on revocations",
		About: `The agent runs on the machine that is to be attested and needs its TPM: /dev/tpmrm0, or the one that the
environment variable TCTI names (device:/dev/tpm0, swtpm:host=127.0.0.1,port=2321, swtpm:path=/run/tpm.sock).
It listens for the verifier and the tenant once the registrar knows it. Started by root it mounts the secure
directory for payloads and goes on as the user of run_as.

With --push it listens to nobody and calls its verifiers instead, through firewalls, NAT and proxies. With --once
it then attests once, prints the verdict and exits: 0 = passed, 3 = failed, 4 = not enrolled for the push model,
5 = nobody answered in time, 6 = the verifier refuses to attest it, 1 = trouble on this machine. Its log goes to
standard error then.

Examples:
   KEYLIME_AGENT_UUID=hash_ek KEYLIME_AGENT_REGISTRAR_IP=registrar.example.org keylime agent
   keylime agent --push --verifier-url https://verifier.example.org:8881
   keylime agent --push --once --within 30s || reboot`,
		Flags: flags(),
		Load:  load,
	})
}

func flags() []cli.Flag {
	return append([]cli.Flag{
		&cli.BoolFlag{Name: "push", Usage: "call the verifiers of verifier_url instead of listening"},
		&cli.BoolFlag{Name: "once", Usage: "with --push: attest once, print the verdict, exit with it"},
		&cli.DurationFlag{Name: "within", Value: 2 * time.Minute, Usage: "with --once: give up after `TIME`"},
		&cli.BoolFlag{Name: "json", Usage: "with --once: print the verdict as JSON"},
	}, upstreamFlags()...)
}

func load(c *cli.Context, src config.Sources) (daemon.Runner, config.Report, error) {
	fromFlags(c, src.Flags)
	cfg, report, err := config.LoadAgent(src)
	if err != nil {
		return nil, report, err
	}
	if warning := keepRoot(&cfg, report); warning != "" {
		report.Warnings = append(report.Warnings, warning)
	}
	full := Config{Agent: cfg, TCTI: os.Getenv("TCTI"), Push: c.Bool("push")}
	if !c.Bool("once") {
		return func(ctx context.Context, log zerolog.Logger) error { return Run(ctx, full, log) }, report, nil
	}
	if !full.Push {
		return nil, report, cli.Exit("keylime agent: --once needs --push", 2)
	}
	return func(ctx context.Context, log zerolog.Logger) error {
		ctx, cancel := context.WithTimeout(ctx, c.Duration("within"))
		defer cancel()
		return runOnce(ctx, full, log.Output(c.App.ErrWriter), c.App.Writer, c.Bool("json"))
	}, report, nil
}

// exitStatuses are those of --once. 1 is anything that is wrong on this machine, 2 a wrong command line.
var exitStatuses = map[Outcome]int{
	OutcomePass: 0, OutcomeFail: 3, OutcomeNotEnrolled: 4, OutcomeUnreachable: 5, OutcomeRefused: 6,
}

// runOnce attests once, prints what came of it, and makes an exit status of it.
func runOnce(ctx context.Context, cfg Config, log zerolog.Logger, out io.Writer, asJSON bool) error {
	verdict := Verdict{Outcome: OutcomeUnreachable, AgentID: cfg.UUID, Detail: "no verdict within the time"}
	cfg.Once = func(v Verdict) { verdict = v }
	err := Run(ctx, cfg, log)
	switch {
	case err != nil:
		return err
	case asJSON:
		err = json.NewEncoder(out).Encode(verdict)
	default:
		_, err = fmt.Fprintln(out, verdict)
	}
	if err != nil {
		return fmt.Errorf("print the verdict: %w", err)
	}
	if status := exitStatuses[verdict.Outcome]; status != 0 {
		return cli.Exit("", status)
	}
	return nil
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

// The flags of upstream's program for agents that call in. They stand for options; those that only its tests use are
// accepted and do nothing.

// optionFlags are the options that flags set.
var optionFlags = []struct{ flag, option string }{
	{"verifier-url", "verifier_url"},
	{"timeout", "verifier_timeout"},
	{"agent-identifier", "uuid"},
	{"attestation-interval-seconds", "attestation_interval_seconds"},
}

// idleFlags do nothing here. The version of the API is the one there is, 3.0.
var idleFlags = []string{"api-version", "json-file", "attestation-index", "message-type", "method", "registrar-url", "session-index"}

func upstreamFlags() []cli.Flag {
	list := []cli.Flag{
		&cli.StringFlag{Name: "verifier-url", Aliases: []string{"v"}, Usage: "option verifier_url: the verifier's `URL`, or several with commas between"},
		&cli.StringFlag{Name: "ca-certificate", Usage: "option verifier_tls_ca_cert: `FILE` with the CA certificate of the verifiers"},
		&cli.StringFlag{Name: "timeout", Usage: "option verifier_timeout: limit for one request, in `MILLISECONDS`"},
		&cli.StringFlag{Name: "agent-identifier", Usage: "option uuid: the agent's `ID`"},
		&cli.StringFlag{Name: "attestation-interval-seconds", Usage: "option attestation_interval_seconds: `SECONDS` between attestations when the verifier does not say"},
		&cli.BoolFlag{Name: "insecure", Usage: "option tls_accept_invalid_certs: accept any certificate of a verifier; for tests only"},
		&cli.BoolFlag{Name: "avoid-tpm", Hidden: true},
	}
	for _, name := range idleFlags {
		f := &cli.StringFlag{Name: name, Hidden: true}
		if name == "json-file" {
			f.Aliases = []string{"j"}
		}
		list = append(list, f)
	}
	return list
}

// fromFlags turns flags into options.
func fromFlags(c *cli.Context, options map[string]string) {
	for _, f := range optionFlags {
		if c.IsSet(f.flag) {
			options[f.option] = c.String(f.flag)
		}
	}
	if file := c.String("ca-certificate"); file != "" { // as the shell sees it; the option is below keylime_dir
		if file, err := filepath.Abs(file); err == nil {
			options["verifier_tls_ca_cert"] = file
		}
	}
	if c.Bool("insecure") {
		options["tls_accept_invalid_certs"] = "true"
	}
}
