package policytool

import (
	"errors"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
)

// Command is `keylime policy`.
func Command() *cli.Command {
	root := group("policy", "policy", "make, convert, sign, compare, try out and explain policies")
	groups := map[string]*cli.Command{
		"create": group("create", "policy create", "make a policy"),
		"sign":   group("sign", "policy sign", "sign a policy"),
	}
	for _, c := range commands() {
		first, second, nested := strings.Cut(c.path, " ")
		if !nested {
			root.Subcommands = append(root.Subcommands, c.cli(first))
			continue
		}
		in := groups[first]
		if len(in.Subcommands) == 0 {
			root.Subcommands = append(root.Subcommands, in)
		}
		in.Subcommands = append(in.Subcommands, c.cli(second))
	}
	return root
}

// group is a command that only holds others. Alone it shows its help.
func group(name, path, usage string) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, UsageText: "keylime " + path + " COMMAND [flags]",
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usageError(path, "no command %q", c.Args().First())
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

// cli turns a command into one of package cli, which shows its help; the command line is read as argparse does.
func (c command) cli(name string) *cli.Command {
	return &cli.Command{
		Name:            name,
		Usage:           c.brief,
		UsageText:       strings.TrimSpace("keylime policy " + c.path + " [flags] " + c.arguments),
		Description:     c.about + "\n\nExamples:\n  " + strings.Join(c.examples, "\n  ") + "\n\n" + exitCodes,
		Flags:           helpFlags(c.prepare(nil, nil).options),
		SkipFlagParsing: true,
		HideHelpCommand: true,
		Action: func(cc *cli.Context) error {
			// A reader that goes away is an error like others, not the end of the program.
			signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
			err := c.execute(cc.Context, cc.Args().Slice(), cc.App.Writer, cc.App.ErrWriter)
			if errors.Is(err, errHelp) {
				return cli.ShowSubcommandHelp(cc)
			}
			return err
		},
	}
}

// helpFlags are the options as package cli lists them.
func helpFlags(options []option) []cli.Flag {
	var list []cli.Flag
	for _, o := range options {
		var alias []string
		if o.short != "" {
			alias = append(alias, o.short)
		}
		if o.value == "" {
			list = append(list, &cli.BoolFlag{Name: o.name, Aliases: alias, Usage: o.help, DisableDefaultText: true})
			continue
		}
		list = append(list, &cli.StringFlag{Name: o.name, Aliases: alias, Usage: o.help})
	}
	return list
}
