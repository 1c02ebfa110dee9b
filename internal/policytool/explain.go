package policytool

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"keylime/ima"
	"keylime/internal/attest"
	"keylime/internal/policy"
	"keylime/tpm"
)

// explainRequest is what `explain` is asked for.
type explainRequest struct {
	files        []string // the policy
	path, digest string
	engine       string // of a measured-boot policy
	log          string
	json         bool
}

func explainCommand() command {
	return command{
		path:      "explain",
		brief:     "say why a runtime policy accepts or refuses a path or the entries of a list, or what a measured-boot policy asks",
		arguments: "POLICY",
		about: "Shows the digests that the policy lists for the path, the exclude patterns that match it or nearly do, the listed paths\n" +
			"most like it, and where else its digest is listed. With --log: that for each entry that fails.\n" +
			"With --mb-engine POLICY is a measured-boot policy: lists what its rules ask of which events.\n" +
			"Exits with 1 when something is refused.",
		examples: []string{
			"keylime policy explain policy.json --path /usr/bin/tool",
			"keylime policy explain policy.json --path /usr/bin/tool --digest HEX",
			"keylime policy explain policy.json --log ascii_runtime_measurements",
			"keylime policy explain boot.json --mb-engine example",
		},
		prepare: func(stdout io.Writer, screen *screen) call {
			r := &explainRequest{}
			return call{loose: &r.files, options: []option{
				{"path", "p", "PATH", "", "explain what the policy says of the file `PATH`", text(&r.path)},
				{"digest", "d", "HEX", "", "when its digest is this", text(&r.digest)},
				{"log", "", "FILE", "", "explain the entries that fail of the measurement list (ASCII) in `FILE`", text(&r.log)},
				{"mb-engine", "", "NAME", "", "explain a measured-boot policy as `NAME` reads it: " + strings.Join(policy.BootEngines(), ", "), text(&r.engine)},
				{"json", "", "", "", "print JSON, a list of explanations", on(&r.json)},
			}, run: func(context.Context) error { return r.run(stdout, logger(screen, false)) }}
		},
	}
}

func (r *explainRequest) run(stdout io.Writer, log zerolog.Logger) error {
	if r.engine != "" {
		return r.boot(stdout)
	}
	digest, err := hex.DecodeString(strings.TrimPrefix(r.digest, "sha256:"))
	switch {
	case err != nil:
		err = fmt.Errorf("--digest %q is not hexadecimal", r.digest)
	case (r.path == "") == (r.log == ""):
		err = errors.New("give --path PATH or --log FILE")
	case r.log != "" && r.digest != "":
		err = errors.New("--digest is for --path; the entries of a list have digests")
	default:
		err = arguments(r.files, 1, 1, "one runtime policy")
	}
	if err != nil {
		return usageError("policy explain", "%w", err)
	}
	p, err := openRuntime(r.files[0])
	if err != nil {
		return err
	}
	x, err := newExplainer(p)
	if err != nil {
		return err
	}
	all := []explanation{}
	if r.path != "" {
		all = append(all, x.file(r.path, digest))
	} else if all, err = x.list(r.log, log); err != nil {
		return err
	}
	if r.json {
		err = printJSON(stdout, all)
	} else {
		err = printExplanations(stdout, all)
	}
	if err == nil && slices.ContainsFunc(all, func(e explanation) bool { return e.Verdict == refused }) {
		err = errDiffers
	}
	return err
}

// The verdicts of an explanation.
const (
	accepted = "accepted"
	refused  = "refused"
)

// explanation is what a policy says of one name, and what it has that is like it.
type explanation struct {
	Line     int        `json:"line,omitempty"` // of the measurement list
	Name     string     `json:"path"`
	Digest   string     `json:"digest,omitempty"`
	Verdict  string     `json:"verdict"`
	EventID  string     `json:"event_id,omitempty"`
	Reason   string     `json:"reason"`
	Known    []string   `json:"known_digests"` // that the policy lists for the name
	Excluded []string   `json:"excluded_by"`
	Near     []nearMiss `json:"nearly_excluded_by"`
	Nearest  []nearPath `json:"nearest_paths"`
	// Owners are the paths that the digest is listed for.
	Owners []string `json:"digest_listed_for"`
}

type nearMiss struct {
	Pattern string `json:"pattern"`
	Why     string `json:"why"`
}

type nearPath struct {
	Path string `json:"path"`
	Same bool   `json:"same_digest"` // the digest is listed for it
}

// explainer explains one policy.
type explainer struct {
	policy   *runtimePolicy
	paths    *pathIndex
	excludes []*policy.Exclude
}

func newExplainer(p *runtimePolicy) (*explainer, error) {
	x := &explainer{policy: p, paths: newPathIndex(p.parts)}
	for _, pattern := range p.parts.excludes {
		e, err := policy.NewExclude(pattern)
		if err != nil {
			return nil, err
		}
		x.excludes = append(x.excludes, e)
	}
	return x, nil
}

// file explains a file. Without a digest it is the name alone that is judged.
func (x *explainer) file(name string, digest []byte) explanation {
	e := x.about(name, digest, x.paths.digests[name])
	finding := x.policy.compiled.File([]byte(name), digest)
	switch {
	case len(e.Excluded) > 0:
		e.Verdict, e.Reason = accepted, "an exclude pattern matches the path: its content is not looked at"
	case finding.Reason == policy.Accepted:
		e.Verdict, e.Reason = accepted, "the digest is listed for the path"
	case finding.Reason == policy.WrongDigest && len(digest) == 0:
		e.Verdict, e.Reason = accepted, "the path is listed; give --digest to see whether a digest is"
	case finding.Reason == policy.WrongDigest:
		e.Verdict, e.EventID, e.Reason = refused, attest.EventIMAWrongHash, "the path is listed, but with other digests: the file is not the one that the policy was made from"
	default:
		e.Verdict, e.EventID, e.Reason = refused, attest.EventIMANotListed, "the path is not listed, and no exclude pattern matches it"
	}
	return e
}

// about collects what the policy has on a name and on what is like it.
func (x *explainer) about(name string, digest []byte, known []string) explanation {
	e := explanation{Name: name, Digest: hex.EncodeToString(digest), Known: known, Excluded: []string{}, Near: []nearMiss{}, Nearest: []nearPath{}, Owners: []string{}}
	if e.Known == nil {
		e.Known = []string{}
	}
	for _, pattern := range x.excludes {
		if pattern.Match(name) {
			e.Excluded = append(e.Excluded, pattern.String())
		} else if why := pattern.NearMiss(name); why != "" && len(e.Near) < mostNear {
			e.Near = append(e.Near, nearMiss{pattern.String(), why})
		}
	}
	owners := x.paths.owners[e.Digest]
	for _, near := range x.paths.nearest(name) {
		e.Nearest = append(e.Nearest, nearPath{near, slices.Contains(owners, near)})
	}
	for _, owner := range owners {
		if owner != name && len(e.Owners) < mostNear {
			e.Owners = append(e.Owners, owner)
		}
	}
	return e
}

// list explains the entries of a measurement list that fail.
func (x *explainer) list(name string, log zerolog.Logger) ([]explanation, error) {
	text, err := ReadInput(name)
	if err != nil {
		return nil, err
	}
	pcr, err := policy.ParsePCR("{}")
	if err != nil {
		return nil, err
	}
	all := []explanation{}
	out := attest.Rehearse(attest.Rehearsal{
		Policy: &policy.Set{Runtime: x.policy.compiled, PCR: pcr, Labels: policy.DefaultLabels(), IgnoreToMToU: true},
		Bank:   tpm.SHA256, IMA: text, HasIMA: true,
		Visit: func(e *ima.Entry, err error, failures []attest.Failure) {
			for _, f := range failures {
				all = append(all, x.entry(e, err, f))
			}
		},
	})
	log.Info().Msgf("%d of %d entries fail", len(all), out.Entries)
	return all, nil
}

// entry explains a failure of an entry.
func (x *explainer) entry(e *ima.Entry, bad error, f attest.Failure) (out explanation) {
	name := string(e.Name)
	switch {
	case bad != nil:
		out = explanation{Name: string(e.Text[:min(len(e.Text), 200)]), Verdict: refused, Reason: "the line is no entry: " + bad.Error()}
	case e.Template == "ima-buf" && ima.ClassifyKey(e.Buffer) != ima.NotKey:
		out = x.named(name, "keyrings", e.Digest, x.policy.parts.keyrings[name])
	case e.Template == "ima-buf":
		out = x.named(name, "ima-buf", e.Digest, x.policy.parts.buffers[name])
	default:
		out = x.file(name, e.Digest)
		if len(e.Signature) > 0 && out.Verdict == refused {
			out.Reason += "; its signature is by no key that is trusted, or is not good"
		}
	}
	if f.EventID != attest.EventIMANotListed && f.EventID != attest.EventIMAWrongHash && bad == nil {
		out.Verdict, out.Reason = refused, "it is no matter of a listed digest: "+f.Context
	}
	out.Line, out.EventID = e.Line, f.EventID
	return out
}

// named explains a key or critical data.
func (x *explainer) named(name, part string, digest []byte, known []string) explanation {
	e := x.about(name, digest, known)
	e.Nearest, e.Verdict = []nearPath{}, refused
	e.Reason = fmt.Sprintf("%q is not among %s of the policy", name, part)
	if len(known) > 0 {
		e.Reason = fmt.Sprintf("%s of the policy lists %q with other digests", part, name)
	}
	return e
}

func printExplanations(w io.Writer, all []explanation) error {
	out := bufio.NewWriter(w)
	for _, e := range all {
		if e.Line > 0 {
			fmt.Fprintf(out, "line %d: ", e.Line)
		}
		fmt.Fprintf(out, "%s: %s", Printable(e.Name), e.Verdict)
		if e.EventID != "" {
			fmt.Fprintf(out, " (%s)", e.EventID)
		}
		fmt.Fprintf(out, "\n  %s\n", Printable(e.Reason))
		if e.Digest != "" {
			fmt.Fprintf(out, "  its digest:      %s\n", e.Digest)
		}
		for _, digest := range e.Known[:min(len(e.Known), 10)] {
			fmt.Fprintf(out, "  known digest:    %s\n", digest)
		}
		for _, pattern := range e.Excluded {
			fmt.Fprintf(out, "  excluded by:     %s\n", Printable(pattern))
		}
		for _, near := range e.Near {
			fmt.Fprintf(out, "  nearly excluded: %s: %s\n", Printable(near.Pattern), Printable(near.Why))
		}
		for _, near := range e.Nearest {
			note := ""
			if near.Same {
				note = " (with this digest)"
			}
			fmt.Fprintf(out, "  nearest path:    %s%s\n", Printable(near.Path), note)
		}
		for _, owner := range e.Owners {
			fmt.Fprintf(out, "  digest is of:    %s\n", Printable(owner))
		}
	}
	return out.Flush()
}
