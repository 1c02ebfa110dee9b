package agent

import (
	"bytes"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"keylime/internal/config"
)

func TestConfigCommands(t *testing.T) {
	t.Setenv("KEYLIME_DIR", t.TempDir())
	t.Setenv("KEYLIME_AGENT_TPM_OWNERPASSWORD", "very secret")
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		app := &cli.App{
			Name: "keylime", Commands: []*cli.Command{Command()}, Writer: &out, ErrWriter: &out,
			Flags: []cli.Flag{&cli.StringFlag{Name: "config"}}, ExitErrHandler: func(*cli.Context, error) {},
		}
		err := app.Run(append([]string{"keylime", "agent"}, args...))
		return out.String(), err
	}
	if out, err := run("config", "check"); err != nil || !strings.Contains(out, "configuration of the agent is valid") {
		t.Errorf("config check: %v\n%s", err, out)
	}
	out, err := run("config", "show")
	if err != nil || !strings.Contains(out, "uuid = ") || strings.Contains(out, "very secret") {
		t.Errorf("config show: %v\n%s", err, out)
	}
	if out, err := run("surplus"); err == nil {
		t.Errorf("an argument that means nothing is accepted\n%s", out)
	}
	t.Setenv("KEYLIME_AGENT_UUID", "not an id")
	if out, err := run("config", "check"); err == nil || !strings.Contains(err.Error(), "uuid") {
		t.Errorf("bad id: %v\n%s", err, out)
	}
}

// A default account that does not exist is passed over with a warning; a configured one is not.
func TestDefaultAccountMayBeMissing(t *testing.T) {
	t.Parallel()
	setting := func(source string) config.Report {
		return config.Report{Settings: []config.Setting{{Name: "run_as", Source: source}}}
	}
	cfg := config.Agent{RunAs: "no-such-user:no-such-group"}
	if warning := keepRoot(&cfg, setting("environment KEYLIME_AGENT_RUN_AS")); warning != "" || cfg.RunAs == "" {
		t.Errorf("configured account: %q, runs as %q", warning, cfg.RunAs)
	}
	if warning := keepRoot(&cfg, setting("default")); !strings.Contains(warning, "keeps root's privileges") || cfg.RunAs != "" {
		t.Errorf("default account: %q, runs as %q", warning, cfg.RunAs)
	}
	cfg.RunAs = "nobody:root"
	if warning := keepRoot(&cfg, setting("default")); warning != "" || cfg.RunAs == "" {
		t.Errorf("existing account: %q, runs as %q", warning, cfg.RunAs)
	}
}
