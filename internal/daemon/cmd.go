package daemon

import (
	"context"
	"fmt"
	"strings"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"keylime/internal/config"
)

// Role is a long-running command.
type Role struct {
	Name  string
	Usage string // one line
	About string // shown by --help, with an example
	Flags []cli.Flag
	// Several: the role runs others, which have options of their own and name themselves in their log lines.
	Several bool
	// Load reads the configuration. The Runner is nil only with an error.
	Load func(c *cli.Context, src config.Sources) (Runner, config.Report, error)
}

// Runner is a configured role. It returns when ctx ends, or with the error that ended it.
type Runner func(ctx context.Context, log zerolog.Logger) error

// Command is the role's command: alone it runs; `config check` and `config show` say what it would run with.
func Command(r Role) *cli.Command {
	set := settings{}
	flags := r.Flags
	if !r.Several {
		flags = append(flags, &cli.GenericFlag{
			Name: "set", Value: set, Usage: "set an option for this run, as `OPTION=VALUE`; may be repeated",
		})
	}
	load := r.Load
	r.Load = func(c *cli.Context, src config.Sources) (Runner, config.Report, error) {
		src.Flags = set
		return load(c, src)
	}
	return &cli.Command{
		Name:        r.Name,
		Usage:       r.Usage,
		Description: r.About,
		Flags:       flags,
		Action:      func(c *cli.Context) error { return run(c, r) },
		Subcommands: []*cli.Command{ConfigCommand(r.Name, func(c *cli.Context, src config.Sources) (config.Report, error) {
			_, report, err := r.Load(c, src)
			return report, err
		})},
	}
}

// settings is the flag that collects OPTION=VALUE pairs.
type settings map[string]string

// Set adds a pair.
func (s settings) Set(pair string) error {
	name, value, ok := strings.Cut(pair, "=")
	if !ok || name == "" {
		return fmt.Errorf("%q: want OPTION=VALUE, as in --set port=9000", pair)
	}
	s[name] = value
	return nil
}

func (s settings) String() string { return "" }

// ConfigCommand is `config check` and `config show` of a role. load is as Role.Load.
func ConfigCommand(role string, load func(c *cli.Context, src config.Sources) (config.Report, error)) *cli.Command {
	return &cli.Command{
		Name:  "config",
		Usage: "show or check the configuration that the role would run with",
		Subcommands: []*cli.Command{
			{
				Name:  "check",
				Usage: "say whether the configuration is valid; exit status 1 when it is not",
				Action: func(c *cli.Context) error {
					report, err := load(c, sources(c))
					return check(c, role, report, err)
				},
			},
			{
				Name:  "show",
				Usage: "print every option in force and where its value came from; secrets are redacted",
				Action: func(c *cli.Context) error {
					report, err := load(c, sources(c))
					if err != nil {
						return err
					}
					return report.Show(c.App.Writer)
				},
			},
		},
	}
}

// sources are the environment and the file of the program's --config.
func sources(c *cli.Context) config.Sources { return config.System(c.String("config"), nil) }

func run(c *cli.Context, r Role) error {
	if c.Args().Present() {
		return cli.Exit(fmt.Sprintf("keylime %s: unexpected argument %q; see keylime %s --help", r.Name, c.Args().First(), r.Name), 2)
	}
	src := sources(c)
	logging, _, err := config.LoadLogging(src)
	if err != nil {
		return err
	}
	log, err := Logger(logging, c.App.Writer, c.App.ErrWriter)
	if err != nil {
		return err
	}
	if !r.Several {
		log = ForRole(log, r.Name)
	}
	start, report, err := r.Load(c, src)
	if err != nil {
		return err
	}
	for _, w := range report.Warnings {
		log.Warn().Msg(w)
	}
	return start(c.Context, log)
}

func check(c *cli.Context, role string, report config.Report, err error) error {
	for _, w := range report.Warnings {
		fmt.Fprintln(c.App.ErrWriter, "warning:", w)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "configuration of the %s is valid", role)
	for _, f := range report.Files {
		fmt.Fprintf(c.App.Writer, "; read %s", f)
	}
	fmt.Fprintln(c.App.Writer)
	return nil
}
