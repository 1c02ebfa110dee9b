// Demo shows the whole story of attestation on a software TPM, by the commands that an operator would type:
// registration, enrolment with an encrypted payload, good rounds, a file that no policy permits, revocation,
// recovery with a corrected policy, and removal. It exits with 0 only if each step did what it says.
//
// All state is in a temporary directory, which is removed at the end.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	binary := flag.String("keylime", "./keylime", "the executable to show")
	keep := flag.Bool("keep", false, "keep the directory with all state")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *binary, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, binary string, keep bool) (err error) {
	binary, err = filepath.Abs(binary)
	if err != nil {
		return err
	}
	if _, err := os.Stat(binary); err != nil {
		return fmt.Errorf("%w: run make build first", err)
	}
	dir, err := os.MkdirTemp("", "keylime-demo-")
	if err != nil {
		return err
	}
	screen := newScreen(os.Stdout)
	if keep {
		screen.note("state is kept in %s", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	s, err := newStage(ctx, dir, binary, screen)
	if err != nil {
		return err
	}
	defer s.close()
	if err := tell(ctx, s); err != nil {
		s.showLogs()
		return err
	}
	screen.end()
	return nil
}
