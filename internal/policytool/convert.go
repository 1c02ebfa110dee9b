package policytool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/policy"
	"keylime/internal/python"
)

// convertRequest is what `convert` is asked for.
type convertRequest struct {
	allowList, policy string // one of the two
	excludes          string
	keys              []string
	output            string
}

func convertCommand() command {
	return command{
		path:  "convert",
		brief: "turn allow and exclude lists, or an old policy, into a runtime policy",
		about: "Makes a runtime policy of an allow list, flat (DIGEST PATH) or JSON, or brings an old runtime policy to the version\n" +
			"of today, and adds exclude patterns and keys to it.",
		examples: []string{
			"keylime policy convert -a allowlist.txt -e exclude.txt -o policy.json",
			"keylime policy convert -r old-policy.json -v ima-cert.pem -o policy.json",
		},
		prepare: func(stdout io.Writer, screen *screen) call {
			r := &convertRequest{}
			return call{loose: &r.keys, options: []option{
				{"allowlist", "a", "FILE", "", "convert the allow list in `FILE`", text(&r.allowList)},
				{"runtime_policy", "r", "FILE", "", "convert the runtime policy in `FILE`", text(&r.policy)},
				{"excludelist", "e", "FILE", "", "exclude the paths that the regular expressions in `FILE` match; # begins a comment", text(&r.excludes)},
				{"verification_keys", "v", "FILE", "", "accept files signed with the keys in `FILE`, and in all that follow", list(&r.keys)},
				{"output_file", "o", "FILE", "", "write to `FILE`", text(&r.output)},
			}, run: func(context.Context) error { return r.run(stdout, logger(screen, false)) }}
		},
	}
}

func (r *convertRequest) run(stdout io.Writer, log zerolog.Logger) error {
	switch {
	case r.allowList != "" && r.policy != "":
		return errors.New("cannot convert both --allowlist and --runtime_policy: give one")
	case r.allowList == "" && r.policy == "":
		return errors.New("either --allowlist or --runtime_policy is required")
	case r.output == "":
		return errors.New("an output file is required: give -o FILE, or -o - for standard output")
	}
	more, err := r.additions(log)
	if err != nil {
		return err
	}
	convert, name := policy.ConvertAllowList, r.allowList
	if r.policy != "" {
		convert, name = policy.UpdateRuntime, r.policy
	}
	old, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	made, err := convert(old, more, time.Now())
	if err != nil {
		return fmt.Errorf("convert %s: %w", name, err)
	}
	for _, note := range made.Notes {
		log.Info().Msg(note)
	}
	if _, err := policy.CompileRuntime(made.Text, policy.DMPolicy); err != nil {
		return fmt.Errorf("convert %s: the policy would not be valid: %w", name, err)
	}
	rendered, err := python.JSON.Render(made.Text)
	if err != nil {
		return err
	}
	return writeOutput(r.output, stdout, writing([]byte(rendered)))
}

// additions reads the exclude list and the keys.
func (r *convertRequest) additions(log zerolog.Logger) (more policy.Additions, err error) {
	if r.excludes != "" {
		if more.Excludes, err = os.ReadFile(r.excludes); err != nil {
			return more, err
		}
	}
	more.Keys = readKeys(r.keys, log)
	return more, nil
}
