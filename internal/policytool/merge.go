package policytool

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/rs/zerolog"

	"keylime/ima"
)

// mergeRequest is what `merge` is asked for.
type mergeRequest struct {
	files  []string
	output string
}

func mergeCommand() command {
	return command{
		path:      "merge",
		brief:     "make one runtime policy that accepts what any of several accepts",
		arguments: "POLICY POLICY...",
		about: "Joins digests, excludes, keyrings, critical data, ignored keyrings and keys. The result accepts what one of the policies\n" +
			"accepts; an exclude pattern of one excludes for all. Policies for measurement lists with different template hashes\n" +
			"(log_hash_alg) cannot be joined. The result is not signed.",
		examples: []string{"keylime policy merge base.json webserver.json -o policy.json"},
		prepare: func(stdout io.Writer, screen *screen) call {
			r := &mergeRequest{}
			return call{loose: &r.files, options: []option{
				{"output", "o", "FILE", "", "write to `FILE`, not to standard output", text(&r.output)},
			}, run: func(context.Context) error { return r.run(stdout, logger(screen, false)) }}
		},
	}
}

func (r *mergeRequest) run(stdout io.Writer, log zerolog.Logger) error {
	if err := arguments(r.files, 2, 0, "two policies or more"); err != nil {
		return usageError("policy merge", "%w", err)
	}
	var all *document
	for _, name := range r.files {
		p, err := openRuntime(name)
		if err != nil {
			return err
		}
		if err := p.intoAnother(log); err != nil {
			return err
		}
		if all == nil {
			all = p.parts
			continue
		}
		if err := all.join(p.parts, log); err != nil {
			return fmt.Errorf("merge %s: %w", name, err)
		}
	}
	return all.finish(r.output, stdout)
}

// intoAnother holds that a policy may become part of another: nothing of it may be lost that makes it stricter.
func (p *runtimePolicy) intoAnother(log zerolog.Logger) error {
	if p.compiled.DeviceMapper() != nil {
		return fmt.Errorf("%s has a dm_policy, which can be part of no other policy; take it out and put it into the result", p.name)
	}
	if p.signed {
		log.Warn().Msgf("%s is signed; its signature was not verified, and the result has none", p.name)
	}
	return nil
}

// join adds what another policy accepts.
func (d *document) join(other *document, log zerolog.Logger) error {
	if d.logHash != other.logHash {
		return fmt.Errorf("log_hash_alg is %s, that of the others %s: a measurement list has one", other.logHash, d.logHash)
	}
	for path, digests := range other.digests.Sorted() {
		for _, digest := range digests {
			d.digests.Add(path, digest)
		}
	}
	for name, digests := range other.keyrings {
		d.keyrings[name] = append(d.keyrings[name], digests...)
	}
	for name, digests := range other.buffers {
		d.buffers[name] = append(d.buffers[name], digests...)
	}
	d.excludes = append(d.excludes, other.excludes...)
	d.ignored = append(d.ignored, other.ignored...)
	return d.joinKeys(other.keys, log)
}

func (d *document) joinKeys(text string, log zerolog.Logger) error {
	if text == "" || text == d.keys {
		return nil
	}
	ring := &ima.Keyring{}
	for _, text := range []string{d.keys, text} {
		own, unusable, err := ima.ParseKeyring(text)
		if err != nil {
			return fmt.Errorf("verification-keys: %w", err)
		}
		for _, u := range unusable {
			log.Warn().Err(u).Msg("a verification key cannot be used, and is left out")
		}
		ring = ring.With(own.Keys()...)
	}
	d.keys = ring.String()
	return nil
}

// finish writes a policy that is complete, if it is valid.
func (d *document) finish(output string, stdout io.Writer) error {
	d.normalise()
	if err := d.check(); err != nil {
		return fmt.Errorf("the policy would not be valid: %w", err)
	}
	return writeOutput(output, stdout, func(w io.Writer) error { return d.write(w, time.Now()) })
}
