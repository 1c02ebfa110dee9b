package policytool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/policy"
	"keylime/internal/policytool/collect"
)

// Source is something that files and their digests are read from; see package collect for how.
type Source interface {
	// String names it in messages.
	String() string
	Collect(ctx context.Context, into *collect.Files, alg collect.Algorithm) error
}

// kernelList is where the kernel shows what it has measured since boot.
const kernelList = "/sys/kernel/security/ima/ascii_runtime_measurements"

// runtimeRequest is what `create runtime` is asked for.
type runtimeRequest struct {
	output           string
	basePolicy       string
	allowList        string
	excludeList      string
	measurements     string // "" and /dev/null: none
	take             measured
	ignoredKeyrings  []string
	verificationKeys []string
	legacy           bool
	verbose          bool
	algorithm        collect.Algorithm // "": that of the other inputs
	sources          sourceSettings
}

// createRuntime makes a runtime policy and writes it. Messages go to the screen.
func createRuntime(ctx context.Context, r *runtimeRequest, stdout io.Writer, screen *screen) error {
	log := logger(screen, r.verbose)
	sources, err := r.sources.open(screen.terminal, log)
	if err != nil {
		return err
	}
	d, alg, err := r.readFiles(log)
	if err != nil {
		return err
	}
	for _, s := range sources {
		done := screen.watch(s.String(), d.digests)
		err := s.Collect(ctx, d.digests, alg)
		done()
		if err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	if err := r.finish(d, log); err != nil {
		return err
	}
	return writeOutput(r.output, stdout, func(w io.Writer) error {
		if r.legacy {
			return d.writeLegacy(w)
		}
		var size counter
		err := d.write(io.MultiWriter(w, &size), time.Now())
		if size > policy.MaxRuntimeBytes {
			log.Warn().Msgf("the policy has %d bytes, and verifiers take %d: leave out what is never run or read by root, "+
				"with --skip-path, and exclude it with --excludelist", size, policy.MaxRuntimeBytes)
		}
		return err
	})
}

// counter counts the bytes written to it.
type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// readFiles reads the inputs that are single files, and settles the algorithm.
func (r *runtimeRequest) readFiles(log zerolog.Logger) (*document, collect.Algorithm, error) {
	d := newDocument()
	claims := []claim{{source: "--algo option", alg: r.algorithm}}
	if r.algorithm != "" && r.sources.empty() {
		log.Warn().Msg("You need to specify at least one of --ramdisk-dir or --rootfs to use a custom digest algorithm")
	}
	if r.basePolicy != "" {
		var err error
		if d, err = openBase(r.basePolicy); err != nil {
			return nil, "", fmt.Errorf("base policy %s: %w", r.basePolicy, err)
		}
		claims = append(claims, claimOf("base policy", d.firstSize))
	}
	d.ignored = append(d.ignored, r.ignoredKeyrings...)
	if r.allowList != "" {
		err := withFile(r.allowList, func(f io.Reader) error {
			first, err := d.readAllowList(f, log)
			claims = append(claims, claimOf("allowlist", first))
			return err
		})
		if err != nil {
			return nil, "", fmt.Errorf("allow list %s: %w", r.allowList, err)
		}
	}
	if r.measurements != "" && r.measurements != os.DevNull {
		c, err := r.readMeasurements(d, log)
		if err != nil {
			return nil, "", fmt.Errorf("measurement list %s: %w", r.measurements, err)
		}
		claims = append(claims, c)
	} else if r.take.keyrings || r.take.buffers {
		log.Warn().Msg("--keyrings and --ima-buf find nothing without --ima-measurement-list")
	}
	alg, err := chooseAlgorithm(claims, log)
	return d, alg, err
}

func (r *runtimeRequest) readMeasurements(d *document, log zerolog.Logger) (claim, error) {
	c := claim{source: "IMA measurement list"}
	if _, err := os.Stat(r.measurements); errors.Is(err, fs.ErrNotExist) {
		return c, fmt.Errorf("does not seem to exist: IMA is off, or securityfs is not mounted at /sys/kernel/security")
	}
	err := withFile(r.measurements, func(f io.Reader) (err error) {
		c.alg, err = d.readMeasurements(f, r.take, log)
		c.unknown = c.alg == ""
		return err
	})
	return c, err
}

// finish adds what needs no reading of files, and holds the policy to a verifier's rules.
func (r *runtimeRequest) finish(d *document, log zerolog.Logger) error {
	if r.excludeList != "" {
		if err := withFile(r.excludeList, d.readExcludes); err != nil {
			return fmt.Errorf("exclude list %s: %w", r.excludeList, err)
		}
	}
	if err := d.addKeys(r.verificationKeys, log); err != nil {
		return err
	}
	if n := d.digests.Dropped(); n > 0 {
		log.Warn().Msgf("%d files are not in the policy, which cannot hold them: their name is not UTF-8, or their digest is MD5", n)
	}
	d.normalise()
	if err := d.check(); err != nil {
		return fmt.Errorf("the policy would not be valid: %w", err)
	}
	return nil
}

// openBase reads the policy to begin with, signed or not.
func openBase(name string) (*document, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	opened, err := policy.OpenDocument(text)
	if err != nil {
		return nil, err
	}
	return readDocument(opened.Policy)
}

// withFile opens a file for f.
func withFile(name string, f func(io.Reader) error) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	return f(file)
}
