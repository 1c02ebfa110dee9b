package policytool

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/rs/zerolog"

	"keylime/internal/attest"
	"keylime/internal/policy"
	"keylime/internal/uefi"
	"keylime/tpm"
)

// dryRunRequest is what `test` is asked for.
type dryRunRequest struct {
	files    []string // the runtime policy
	log      string
	bootLog  string
	pcrs     pcrOptions
	tpm      string // tpm_policy
	boot     string // measured-boot policy
	engine   string
	extended bool
	strict   bool
	json     bool
}

func dryRunCommand() command {
	return command{
		path:      "test",
		brief:     "say what a verifier would decide about a measurement list, without one",
		arguments: "POLICY",
		about: "Judges a measurement list, and with --mb-log the event log of a boot, by the code that verifiers judge them by, and lists\n" +
			"every failure. PCRs come from a quote or from --pcr. Without PCR 10 the value that the list comes to is taken as given;\n" +
			"an event log is believed where no PCR contradicts it. Notes on what nobody vouches for go to the error output.\n" +
			"Exits with 1 when the verdict is fail.",
		examples: []string{
			"keylime policy test policy.json --log ascii_runtime_measurements",
			"keylime policy test policy.json --log ascii_runtime_measurements --quote answer.json --ak ak.b64 --json",
			"keylime policy test policy.json --log list --pcr sha256:10=HEX --mb-log eventlog.bin --mb-policy boot.json",
		},
		prepare: func(stdout io.Writer, screen *screen) call {
			r := &dryRunRequest{engine: policy.BootExample}
			return call{loose: &r.files, options: append(append([]option{
				{"log", "", "FILE", "", "judge the measurement list (ASCII) in `FILE`", text(&r.log)},
				{"mb-log", "", "FILE", "", "judge the binary event log in `FILE`", text(&r.bootLog)},
			}, r.pcrs.options()...), []option{
				{"tpm_policy", "", "JSON", "", "hold PCRs to this `JSON`, as in '{\"7\": [\"HEX\"]}'", text(&r.tpm)},
				{"mb-policy", "", "FILE", "", "judge the boot by the measured-boot policy in `FILE`", text(&r.boot)},
				{"mb-engine", "", "NAME", "", "with the rules of `NAME` (example): " + strings.Join(policy.BootEngines(), ", "), text(&r.engine)},
				{"extended-templates", "", "", "", "read the templates of newer kernels, as a verifier with extended_ima_templates does", on(&r.extended)},
				{"no-ignore-tomtou", "", "", "", "measurement violations fail, as at a verifier with ignore_tomtou_errors = false", on(&r.strict)},
				{"json", "", "", "", "print JSON", on(&r.json)},
			}...), run: func(context.Context) error { return r.run(stdout, logger(screen, false)) }}
		},
	}
}

func (r *dryRunRequest) run(stdout io.Writer, log zerolog.Logger) error {
	if err := r.complete(); err != nil {
		return usageError("policy test", "%w", err)
	}
	in, err := r.rehearsal(log)
	if err != nil {
		return err
	}
	out := attest.Rehearse(in)
	if r.json {
		err = printJSON(stdout, verdictOf(out))
	} else {
		err = printVerdict(stdout, out)
	}
	if err == nil && len(out.Failures) > 0 {
		err = errDiffers
	}
	return err
}

func (r *dryRunRequest) complete() error {
	if err := arguments(r.files, 1, 1, "one runtime policy"); err != nil {
		return err
	}
	switch {
	case r.log == "" && r.bootLog == "":
		return errors.New("there is nothing to judge: give --log FILE, --mb-log FILE, or both")
	case r.boot != "" && r.bootLog == "":
		return errors.New("--mb-policy needs --mb-log FILE, the event log that it judges")
	}
	return nil
}

// rehearsal reads policies and evidence.
func (r *dryRunRequest) rehearsal(log zerolog.Logger) (in attest.Rehearsal, err error) {
	if in.Policy, err = r.policies(); err != nil {
		return in, err
	}
	if in.Policy.Runtime.DeviceMapper() != nil {
		log.Warn().Msg("note: the policy has a dm_policy; verifiers accept it only with enable_dm_policy")
	}
	given, err := r.pcrs.read(log)
	if err != nil {
		return in, err
	}
	in.Bank, in.PCRs = given.bank, given.values
	if r.log != "" {
		in.HasIMA = true
		if in.IMA, err = ReadInput(r.log); err != nil {
			return in, err
		}
		if in.PCRs[tpm.PCRIma] == nil {
			log.Warn().Msg("note: PCR 10 is not given, so the value that the measurement list comes to is taken as given")
		}
	}
	if r.bootLog != "" {
		if in.BootLog, err = ReadInput(r.bootLog); err != nil {
			return in, err
		}
	}
	if in.Bank == 0 {
		in.Bank = bankOf(in.BootLog)
	}
	return in, nil
}

// bankOf is the bank to work in when no PCR says: SHA-256, or another that the event log has.
func bankOf(bootLog []byte) tpm.Hash {
	if parsed, err := uefi.Parse(bootLog); err == nil {
		for _, bank := range parsed.Banks() {
			if bank == tpm.SHA256 {
				return bank
			}
		}
		if banks := parsed.Banks(); len(banks) > 0 {
			return banks[0]
		}
	}
	return tpm.SHA256
}

func (r *dryRunRequest) policies() (*policy.Set, error) {
	runtime, err := openRuntime(r.files[0])
	if err != nil {
		return nil, err
	}
	text := r.tpm
	if text == "" {
		text = "{}"
	}
	pcr, err := policy.ParsePCR(text)
	if err != nil {
		return nil, err
	}
	set := &policy.Set{
		Runtime: runtime.compiled, PCR: pcr, Labels: policy.DefaultLabels(),
		ExtendedTemplates: r.extended, IgnoreToMToU: !r.strict,
	}
	if r.boot != "" {
		text, err := ReadInput(r.boot)
		if err != nil {
			return nil, err
		}
		if set.Boot, err = policy.CompileBoot(r.engine, text); err != nil {
			return nil, fmt.Errorf("%s: %w", r.boot, err)
		}
	}
	return set, nil
}

// verdict is the JSON of a dry run.
type verdict struct {
	Verdict  string           `json:"verdict"`
	Entries  int              `json:"entries"`
	Failures []verdictFailure `json:"failures"`
}

type verdictFailure struct {
	EventID  string          `json:"event_id"`
	Severity string          `json:"severity"`
	Context  json.RawMessage `json:"context"`
}

func verdictOf(out attest.Rehearsed) verdict {
	v := verdict{Verdict: passOrFail(out), Entries: out.Entries, Failures: []verdictFailure{}}
	for _, f := range out.Failures {
		v.Failures = append(v.Failures, verdictFailure{f.EventID, f.Severity.Label, json.RawMessage(f.Context)})
	}
	return v
}

func passOrFail(out attest.Rehearsed) string {
	if len(out.Failures) > 0 {
		return "fail"
	}
	return "pass"
}

func printVerdict(w io.Writer, out attest.Rehearsed) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "%s: %d entries, %d of them covered by PCR 10, %d failures\n", passOrFail(out), out.Entries, out.Proven, len(out.Failures))
	if out.PCR10 != nil {
		fmt.Fprintf(b, "the measurement list comes to PCR 10 = %x\n", out.PCR10)
	}
	for _, f := range out.Failures {
		fmt.Fprintf(b, "%s [%s] %s\n", f.EventID, f.Severity.Label, Printable(f.Context))
	}
	return b.Flush()
}
