package tenant

import (
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"keylime/internal/config"
	"keylime/internal/daemon"
)

const (
	about = `Enrols machines, asks how they fare, and keeps policies. It talks to a registrar and a verifier, with the
certificates and at the addresses of [tenant] in the configuration.

Scripts written for keylime_tenant work as they are: "keylime tenant -c add ..." and the program name
keylime_tenant take its flags, print its lines and exit with its codes.`

	exitCodes = `Exit codes: 0 done; 1 refused or failed; 2 wrong command line or configuration; 3 no such agent or policy;
4 the agent or a file is not to be trusted; 5 no answer from a server or the agent.
With -c: 0 done; 1 failed; 2 wrong command line.`
)

// Command is `keylime tenant`, in both forms.
func Command() *cli.Command {
	return &cli.Command{
		Name:            "tenant",
		Usage:           "enrol machines, ask how they fare, keep policies",
		UsageText:       "keylime tenant COMMAND [flags]\nkeylime tenant -c COMMAND [flags of keylime_tenant]",
		Description:     about + "\n\n" + exitCodes,
		SkipFlagParsing: true, // what is no native command is in upstream's form
		Subcommands:     append(nativeCommands(), configCommand()),
		Action:          upstreamAction,
	}
}

func configCommand() *cli.Command {
	return daemon.ConfigCommand("tenant", func(_ *cli.Context, src config.Sources) (config.Report, error) {
		_, report, err := config.LoadTenant(src)
		return report, err
	})
}

// nativeCommands makes the commands with a path of two words subcommands of the first.
func nativeCommands() []*cli.Command {
	groups := map[string]*cli.Command{
		"runtime-policy": policyGroup("runtime-policy", "keep runtime policies at the verifier: what files may be, for many agents"),
		"mb-policy":      policyGroup("mb-policy", "keep measured-boot policies at the verifier"),
		"pcr-policy":     policyGroup("pcr-policy", "keep PCR policies at the verifier: digests that PCRs must have, for many agents"),
	}
	var list []*cli.Command
	for _, c := range commands() {
		first, second, nested := strings.Cut(c.path, " ")
		if !nested {
			list = append(list, c.native(first))
			continue
		}
		group := groups[first]
		if len(group.Subcommands) == 0 {
			list = append(list, group)
		}
		group.Subcommands = append(group.Subcommands, c.native(second))
	}
	return list
}

func (c command) native(name string) *cli.Command {
	flags := join(c.flags, everywhere())
	description := strings.TrimSpace(c.long + "\n\nExample:\n  " + strings.TrimSpace("keylime tenant "+c.path+" "+c.example) + "\n\n" + exitCodes)
	usageText := "keylime tenant " + c.path + " [flags]"
	if c.named != nil {
		usageText = "keylime tenant " + c.path + " NAME [flags]"
	}
	return &cli.Command{
		Name:        name,
		Usage:       c.brief,
		UsageText:   usageText,
		Description: description,
		Flags:       cliFlags(flags),
		OnUsageError: func(_ *cli.Context, err error, _ bool) error {
			return usage("`keylime tenant "+c.path+" --help` lists the flags", "%w", err)
		},
		Action: func(cc *cli.Context) error {
			o := options{configFile: cc.String("config")}
			for _, f := range flags {
				f.take(cc, &o)
			}
			if err := c.takeArguments(cc.Args().Slice(), flags, &o); err != nil {
				return err
			}
			return c.execute(cc.Context, &o, streamsOf(cc))
		},
	}
}

// takeArguments reads what follows the flags: the name of what the command is about, where it is about something, and
// more flags.
func (c command) takeArguments(args []string, flags flagSet, o *options) error {
	hint := "`keylime tenant " + c.path + " --help` lists the flags"
	loose, err := flags.parse(args, o)
	if err != nil {
		return usage(hint, "%w", err)
	}
	if len(loose) > 0 && c.named != nil && *c.named(o) == "" {
		*c.named(o), loose = loose[0], loose[1:]
	}
	if len(loose) > 0 {
		return usage(hint, "unexpected argument %q", loose[0])
	}
	return nil
}

func cliFlags(set flagSet) []cli.Flag {
	var list []cli.Flag
	for _, f := range set {
		if f.isSwitch() {
			list = append(list, &cli.BoolFlag{Name: f.name, Aliases: f.alias, Usage: f.help, DisableDefaultText: true})
			continue
		}
		list = append(list, &cli.StringFlag{Name: f.name, Aliases: f.alias, Usage: f.help})
	}
	return list
}

// take stores what the command line said of a flag.
func (f flag) take(cc *cli.Context, o *options) {
	switch {
	case !cc.IsSet(f.name):
	case !f.isSwitch():
		f.store(o, cc.String(f.name))
	case cc.Bool(f.name):
		f.store(o, "")
	}
}

func policyGroup(name, brief string) *cli.Command {
	return &cli.Command{Name: name, Usage: brief, UsageText: "keylime tenant " + name + " COMMAND [flags]", Action: groupAction}
}

// groupAction is a group named without one of its commands.
func groupAction(cc *cli.Context) error {
	if cc.Args().Present() {
		return usage("`keylime tenant "+cc.Command.Name+" --help` lists the commands", "no command %q", cc.Args().First())
	}
	return cli.ShowSubcommandHelp(cc)
}

// upstreamAction takes what is no native command.
func upstreamAction(cc *cli.Context) error {
	args := cc.Args().Slice()
	if len(args) == 0 {
		return cli.ShowSubcommandHelp(cc)
	}
	if !strings.HasPrefix(args[0], "-") {
		return usage("`keylime tenant --help` lists the commands", "no command %q", args[0])
	}
	name, o, err := parseUpstream(args)
	if o.help {
		return cli.ShowSubcommandHelp(cc)
	}
	if err != nil {
		return err
	}
	o.configFile = cc.String("config")
	return executeUpstream(cc.Context, name, &o, streamsOf(cc))
}

func streamsOf(cc *cli.Context) streams {
	return streams{cc.App.Writer, cc.App.ErrWriter, terminal(cc.App.Writer, os.Getenv)}
}
