package policytool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"keylime/internal/argparse"
	"keylime/internal/config"
	"keylime/internal/daemon"
)

const exitCodes = "Exit codes: 0 done; 1 failed, nothing was written; 2 wrong command line."

// command is a command of the tool.
type command struct {
	path      string // below `keylime policy`
	brief     string
	about     string
	arguments string // what follows the flags
	examples  []string
	// prepare makes a call, whose options fill the request that it runs with.
	prepare func(stdout io.Writer, screen *screen) call
}

// commands are all commands of the tool.
func commands() []command {
	return append([]command{runtimeCommand(), bootCommand(), signCommand(), verifyCommand(), convertCommand()}, analysing()...)
}

// errHelp is returned for a command line that asks for help.
var errHelp = errors.New("help")

// execute carries out a command line.
func (c command) execute(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	call := c.prepare(stdout, newScreen(stderr))
	help := false
	flags := append(call.flags(), argparse.Flag{Spellings: []string{"--help", "-h"}, Switch: true, Store: func(string) error {
		help = true
		return errHelp
	}})
	loose, err := argparse.Parse(args, flags)
	if help {
		return errHelp
	}
	if err == nil {
		err = call.accept(loose)
	}
	if err != nil {
		return usageError("policy "+c.path, "%w", err)
	}
	return call.run(ctx)
}

// call is one use of a command.
type call struct {
	options  []option
	required []string  // names of options that must be given
	loose    *[]string // takes the arguments that are no flags; nil when the command takes none
	run      func(ctx context.Context) error
}

// option is one flag of a call.
type option struct {
	name, short string
	value       string // the value's name; "" for a switch
	alone       string // value of an option that is given without one; "": it needs one
	help        string
	store       func(string) error
}

// title names the option in messages.
func (o option) title() string {
	if o.short == "" {
		return "--" + o.name
	}
	return "-" + o.short + "/--" + o.name
}

// flags are the options as argparse takes them; each that is stored is struck from the required ones.
func (c *call) flags() []argparse.Flag {
	var list []argparse.Flag
	for _, o := range c.options {
		f := argparse.Flag{Spellings: []string{"--" + o.name}, Switch: o.value == "", Alone: o.alone}
		if o.short != "" {
			f.Spellings = append(f.Spellings, "-"+o.short)
		}
		f.Store = func(value string) error {
			c.required = slices.DeleteFunc(c.required, func(name string) bool { return name == o.name })
			return o.store(value)
		}
		list = append(list, f)
	}
	return list
}

// accept takes the arguments that are no flags, and holds that nothing is missing.
func (c *call) accept(loose []string) error {
	if c.loose != nil {
		isFlag := func(arg string) bool { return len(arg) > 1 && arg[0] == '-' }
		unknown := slices.IndexFunc(loose, isFlag)
		if unknown < 0 {
			unknown = len(loose)
		}
		*c.loose = append(*c.loose, loose[:unknown]...)
		loose = loose[unknown:]
	}
	var missing []string
	for _, o := range c.options {
		if slices.Contains(c.required, o.name) {
			missing = append(missing, o.title())
		}
	}
	switch {
	case len(missing) > 0:
		return fmt.Errorf("the following arguments are required: %s", strings.Join(missing, ", "))
	case len(loose) > 0:
		return fmt.Errorf("unrecognized arguments: %s", strings.Join(loose, " "))
	}
	return nil
}

// text, list and on store values.
func text(to *string) func(string) error {
	return func(v string) error { *to = v; return nil }
}

func list(to *[]string) func(string) error {
	return func(v string) error { *to = append(*to, v); return nil }
}

func on(to *bool) func(string) error {
	return func(string) error { *to = true; return nil }
}

// logger prints messages for people: their text alone, or with -v all and when they were written.
func logger(to io.Writer, verbose bool) zerolog.Logger {
	cfg := config.Logging{Level: "info", Format: "%(message)s", Output: "stderr"}
	if verbose {
		cfg.Level, cfg.Format = "debug", "%(asctime)s.%(msecs)03d - keylime-policy - %(levelname)s - %(message)s"
		cfg.DateFormat = "%Y-%m-%d %H:%M:%S"
	}
	log, err := daemon.Logger(cfg, to, to)
	if err != nil {
		panic(err) // the levels above are levels
	}
	return log
}

// commandError is a failure with its exit code.
type commandError struct {
	err  error
	code int
}

func (e *commandError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *commandError) Unwrap() error { return e.err }

// ExitCode is the code to exit with.
func (e *commandError) ExitCode() int { return e.code }

// usageError is a command line that cannot be carried out.
func usageError(path, format string, args ...any) error {
	return &commandError{fmt.Errorf("%s: %w\nhint: `keylime %s --help` lists what it takes", path, fmt.Errorf(format, args...), path), 2}
}
