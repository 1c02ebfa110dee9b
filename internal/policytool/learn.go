package policytool

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/rs/zerolog"

	"keylime/ima"
	"keylime/internal/policy"
	"keylime/tpm"
)

// learnRequest is what `learn` is asked for.
type learnRequest struct {
	log, output string
	pcrs        pcrOptions
	base        string
	excludes    string
	extended    bool
}

func learnCommand() command {
	return command{
		path:  "learn",
		brief: "make a runtime policy of what an attested machine measured",
		about: "Takes the entries of a measurement list that the quoted PCR 10 proves, and no others, into a runtime policy: files, keys\n" +
			"and critical data. What the base policy accepts is left out, and so is what an exclude pattern matches. A machine's word\n" +
			"is not that of its vendor: learn from one that you trust, with --ak and --nonce.",
		examples: []string{
			"keylime policy learn --log ascii_runtime_measurements --quote answer.json --ak ak.b64 --nonce NONCE -o policy.json",
			"keylime policy learn --log ascii_runtime_measurements --pcr sha256:10=HEX -B base.json -o policy.json",
		},
		prepare: func(stdout io.Writer, screen *screen) call {
			r := &learnRequest{}
			return call{required: []string{"log"}, options: append(append([]option{
				{"log", "", "FILE", "", "learn from the measurement list (ASCII) in `FILE`", text(&r.log)},
			}, r.pcrs.options()...), []option{
				{"base-policy", "B", "FILE", "", "add to the runtime policy in `FILE`", text(&r.base)},
				{"excludelist", "e", "FILE", "", "exclude the paths that the regular expressions in `FILE` match, one a line", text(&r.excludes)},
				{"extended-templates", "", "", "", "read the templates of newer kernels", on(&r.extended)},
				{"output", "o", "FILE", "", "write to `FILE`, not to standard output", text(&r.output)},
			}...), run: func(context.Context) error { return r.run(stdout, logger(screen, false)) }}
		},
	}
}

func (r *learnRequest) run(stdout io.Writer, log zerolog.Logger) error {
	given, err := r.pcrs.read(log)
	if err != nil {
		return err
	}
	quoted := given.values[tpm.PCRIma]
	if quoted == nil {
		return usageError("policy learn", "%w", errors.New("nothing says what PCR 10 is, so nothing of the list is proven: give --quote FILE, or --pcr BANK:10=HEX"))
	}
	text, err := ReadInput(r.log)
	if err != nil {
		return err
	}
	l, err := r.begin(text, log)
	if err != nil {
		return err
	}
	result, _ := ima.Rehearse(text, quoted, given.bank, ima.Format{TemplateHash: l.logHash, Extended: r.extended}, l.note)
	if err := l.take(result); err != nil {
		return fmt.Errorf("%s: %w", r.log, err)
	}
	log.Info().Msgf("%d entries are proven, %d of them new; %d after them are not, and were left out; %d violations have no digest to learn",
		l.proven, l.learned, result.Entries-l.proven, l.violations)
	return l.parts.finish(r.output, stdout)
}

// begin prepares a policy to learn into.
func (r *learnRequest) begin(list []byte, log zerolog.Logger) (*learner, error) {
	l := &learner{parts: newDocument()}
	if r.base != "" {
		p, err := openRuntime(r.base)
		if err != nil {
			return nil, err
		}
		if err := p.intoAnother(log); err != nil {
			return nil, err
		}
		l.parts = p.parts
	}
	if r.excludes != "" {
		if err := withFile(r.excludes, l.parts.readExcludes); err != nil {
			return nil, fmt.Errorf("%s: %w", r.excludes, err)
		}
	}
	var err error
	if l.logHash, err = templateHashOf(list); err != nil {
		return nil, fmt.Errorf("%s: %w", r.log, err)
	}
	if r.base != "" && l.parts.logHash != l.logHash.String() {
		return nil, fmt.Errorf("%s has template hashes of %v, %s is for %s", r.log, l.logHash, r.base, l.parts.logHash)
	}
	l.parts.logHash = l.logHash.String()
	l.known, err = l.parts.compile()
	return l, err
}

// compile makes the policy that the document is so far.
func (d *document) compile() (*policy.Runtime, error) {
	d.normalise()
	var text bytes.Buffer
	if err := d.write(&text, time.Unix(0, 0)); err != nil {
		return nil, err
	}
	return policy.CompileRuntime(text.Bytes())
}

// templateHashOf tells the algorithm of a list's template hashes by their length.
func templateHashOf(list []byte) (tpm.Hash, error) {
	fields := bytes.SplitN(bytes.TrimLeft(list, "\n"), []byte{' '}, 3)
	if len(fields) == 3 {
		for _, h := range []tpm.Hash{tpm.SHA1, tpm.SHA256, tpm.SHA384, tpm.SHA512} {
			if len(fields[1]) == 2*h.Size() {
				return h, nil
			}
		}
	}
	return 0, errors.New("it does not begin as a measurement list: PCR, template hash, template, data")
}

// learner takes what a list measures into a policy, once it is known how much of the list is proven.
type learner struct {
	parts   *document
	known   *policy.Runtime // what is accepted before
	logHash tpm.Hash

	seen                        []learnable
	proven, learned, violations int
}

// learnable is an entry, or why it cannot be learned from.
type learnable struct {
	line         int
	part         map[string][]string // keyrings or critical data; nil for a file
	name, digest string
	fault        string
	violation    bool
}

// note remembers an entry.
func (l *learner) note(e *ima.Entry, err error) {
	n := learnable{line: e.Line, name: string(e.Name), digest: string(e.Digest)}
	switch {
	case err != nil:
		n.fault = err.Error()
	case e.PCR != tpm.PCRIma:
		n.fault = fmt.Sprintf("it is of PCR %d, which proves nothing here", e.PCR)
	case e.Violation():
		n.violation = true
	case !e.TemplateHashMatches():
		n.fault = "its template hash is not that of its data"
	case e.Template == "ima-buf" && !e.BufferMatches():
		n.fault = "its digest is not that of its buffer"
	case e.Template == "ima-buf" && ima.ClassifyKey(e.Buffer) != ima.NotKey:
		n.part = l.parts.keyrings
	case e.Template == "ima-buf":
		n.part = l.parts.buffers
	}
	l.seen = append(l.seen, n)
}

// take learns from the proven entries. A list with a fault among them is not learned from at all.
func (l *learner) take(result ima.Replayed) error {
	if !result.Matched {
		return errors.New("it does not come to the given PCR 10: nothing of it is proven. Take list and quote from one boot, the list after the quote")
	}
	for _, n := range l.seen {
		if n.line > result.Proven {
			break
		}
		l.proven++
		switch {
		case n.fault != "":
			return fmt.Errorf("line %d: %s", n.line, n.fault)
		case n.violation:
			l.violations++
		default:
			l.learn(n)
		}
	}
	return nil
}

func (l *learner) learn(n learnable) {
	name, digest := []byte(n.name), []byte(n.digest)
	switch {
	case n.part == nil && l.known.File(name, digest).Reason == policy.Accepted:
	case n.part == nil:
		l.parts.digests.Add(n.name, digest)
		l.learned++
	default:
		n.part[n.name] = append(n.part[n.name], hex.EncodeToString(digest))
		l.learned++
	}
}
