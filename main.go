// Keylime proves that remote machines booted and run what they should, with the TPM 2.0 that they have.
//
// This file lists the commands and composes the roles; what a role does is in its package.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"keylime/agent"
	"keylime/internal/config"
	"keylime/internal/daemon"
	"keylime/internal/policytool"
	"keylime/internal/verifytool"
	"keylime/registrar"
	"keylime/store"
	"keylime/store/bolt"
	"keylime/tenant"
	"keylime/verifier"
)

func main() { os.Exit(run(os.Args, os.Stdin, os.Stdout, os.Stderr)) }

// aliases are upstream's program names: a link of that name to this executable starts the role as theirs does.
var aliases = map[string][]string{
	"keylime_agent":     {"agent"},
	agent.PushName:      {"agent", "--push"},
	"keylime_registrar": {"registrar"},
	"keylime_verifier":  {"verifier"},
	"keylime_tenant":    {"tenant"},
	"keylime-policy":    {"policy"},
}

// run executes one command line and returns the exit status. The first interrupt or SIGTERM ends it in an orderly way,
// the second at once.
func run(args []string, in io.Reader, out, errs io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	if role, ok := aliases[filepath.Base(args[0])]; ok {
		args = slices.Concat([]string{"keylime"}, role, args[1:])
	}
	app := &cli.App{
		Name:    "keylime",
		Usage:   "prove that remote machines booted and run what they should",
		Version: version(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "read `FILE`, a keylime.toml; else KEYLIME_CONFIG, or /etc/keylime/keylime.toml"},
		},
		Commands: []*cli.Command{
			agent.Command(),
			registrar.Command(opener(func(db *bolt.DB) store.Registrar { return db })),
			verifier.Command(opener(func(db *bolt.DB) store.Verifier { return db })),
			server(),
			tenant.Command(),
			policytool.Command(),
			verifytool.Command(),
		},
		Reader:         in,
		Writer:         out,
		ErrWriter:      errs,
		ExitErrHandler: func(*cli.Context, error) {}, // status below decides
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return cli.Exit(fmt.Sprintf("no command %q; keylime --help lists them", c.Args().First()), 2)
			}
			return cli.ShowAppHelp(c)
		},
	}
	return status(app.RunContext(ctx, args), errs)
}

// status prints an error and returns the exit status that it asks for: 0 without one, 1 unless it says otherwise.
func status(err error, errs io.Writer) int {
	if err == nil {
		return 0
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(errs, "keylime:", text)
	}
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return 1
}

// opener opens the database file as the part of the store that a role uses.
func opener[S any](part func(*bolt.DB) S) daemon.OpenStore[S] {
	return func(path string, log zerolog.Logger) (s S, closeStore func() error, err error) {
		db, err := bolt.Open(path, bolt.Options{Log: log})
		if err != nil {
			return s, nil, err
		}
		return part(db), db.Close, nil
	}
}

// server is registrar and verifier in one process over one file, for installations of one box.
func server() *cli.Command {
	return daemon.Command(daemon.Role{
		Name:    "server",
		Several: true,
		Usage:   "registrar and verifier in one process, over one database file",
		About: "Runs what `keylime registrar` and `keylime verifier` run, with their configuration, over one bbolt file.\n\n" +
			"Example:\n  keylime --config /etc/keylime/keylime.toml server",
		Load: loadServer,
	})
}

func loadServer(c *cli.Context, src config.Sources) (daemon.Runner, config.Report, error) {
	shared, report, err := config.LoadServer(src)
	if err != nil {
		return nil, report, err
	}
	reg, regReport, err := config.LoadRegistrar(src)
	if err != nil {
		return nil, report, err
	}
	ver, verReport, err := config.LoadVerifier(src)
	if err != nil {
		return nil, report, err
	}
	ca, caReport, err := config.LoadCA(src)
	if err != nil {
		return nil, report, err
	}
	report = report.With(regReport).With(verReport).With(caReport)
	return func(ctx context.Context, log zerolog.Logger) error {
		db, err := bolt.Open(shared.Store, bolt.Options{Log: log})
		if err != nil {
			return err
		}
		both, ctx := errgroup.WithContext(ctx)
		both.Go(func() error { return registrar.Run(ctx, reg, ca, db, daemon.ForRole(log, "registrar")) })
		both.Go(func() error { return verifier.Run(ctx, ver, ca, db, daemon.ForRole(log, "verifier")) })
		return errors.Join(both.Wait(), db.Close())
	}, report, nil
}

// version is the tag or commit that this executable was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
