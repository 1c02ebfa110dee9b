package policytool

import (
	"errors"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"keylime/internal/argparse"
)

// Command is `keylime policy`.
func Command() *cli.Command {
	return group("policy", "policy", "make, convert, sign and check policies",
		group("create", "policy create", "make a policy", runtimeCommand().cli(), bootCommand().cli()),
		group("sign", "policy sign", "sign a policy", signCommand().cli()),
		verifyCommand().cli(),
		convertCommand().cli(),
	)
}

// group is a command that only holds others. Alone it shows its help.
func group(name, path, usage string, commands ...*cli.Command) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, UsageText: "keylime " + path + " COMMAND [flags]", Subcommands: commands,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usageError(path, "no command %q", c.Args().First())
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

// cli turns a command into one of package cli, which shows its help; the command line is read as argparse does.
func (c command) cli() *cli.Command {
	path := "policy " + c.path
	return &cli.Command{
		Name:            c.path[strings.LastIndexByte(c.path, ' ')+1:],
		Usage:           c.brief,
		UsageText:       strings.TrimSpace("keylime " + path + " [flags] " + c.arguments),
		Description:     strings.TrimSpace(c.about + "\n\nExamples:\n  " + strings.Join(c.examples, "\n  ") + "\n\n" + exitCodes),
		Flags:           helpFlags(c.prepare(nil, nil).options),
		SkipFlagParsing: true,
		HideHelpCommand: true,
		Action: func(cc *cli.Context) error {
			// A reader that goes away is an error like others, not the end of the program.
			signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
			call := c.prepare(cc.App.Writer, newScreen(cc.App.ErrWriter))
			help := false
			flags := append(call.flags(), argparse.Flag{Spellings: []string{"--help", "-h"}, Switch: true, Store: func(string) error {
				help = true
				return errHelp
			}})
			loose, err := argparse.Parse(cc.Args().Slice(), flags)
			if help {
				return cli.ShowSubcommandHelp(cc)
			}
			if err == nil {
				err = call.accept(loose)
			}
			if err != nil {
				return usageError(path, "%w", err)
			}
			return call.run(cc.Context)
		},
	}
}

// errHelp ends the reading of a command line that asks for help.
var errHelp = errors.New("help")

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
