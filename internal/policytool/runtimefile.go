package policytool

import (
	"fmt"
	"io"
	"os"
	"strings"

	"keylime/internal/policy"
)

// runtimePolicy is a runtime policy in a file: what it says, and compiled.
type runtimePolicy struct {
	name     string
	parts    *document
	compiled *policy.Runtime
	signed   bool
}

// openRuntime reads a runtime policy, plain or in its envelope. It must be one that a verifier accepts, where a dm_policy
// is allowed; whether its signature is good is another question.
func openRuntime(name string) (*runtimePolicy, error) {
	text, err := ReadInput(name)
	if err != nil {
		return nil, err
	}
	opened, err := policy.OpenDocument(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	compiled, err := opened.Compile(policy.DMPolicy)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	parts, err := readDocument(opened.Policy)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	parts.normalise()
	return &runtimePolicy{name, parts, compiled, opened.Envelope != nil}, nil
}

// maxInput bounds the files that are read as a whole: the largest are measurement lists.
const maxInput = 256 << 20

// ReadInput reads a file; "-" is standard input.
func ReadInput(name string) ([]byte, error) {
	f := os.Stdin
	if name != "-" {
		var err error
		if f, err = os.Open(name); err != nil {
			return nil, err
		}
		defer f.Close()
	}
	content, err := io.ReadAll(io.LimitReader(f, maxInput+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", name, err)
	case len(content) > maxInput:
		return nil, fmt.Errorf("%s has more than %d bytes", name, maxInput)
	}
	return content, nil
}

// arguments holds the command line to a number of arguments that are no flags; most 0 is no limit.
func arguments(given []string, least, most int, want string) error {
	if len(given) < least || most > 0 && len(given) > most {
		return fmt.Errorf("want %s, got %q", want, strings.Join(given, " "))
	}
	return nil
}

// Printable shows a name from a policy or a list so that it can do nothing to a terminal.
func Printable(name string) string {
	for _, c := range name {
		if c < ' ' || c == 0x7F || c == '\uFFFD' || c >= 0x80 && c < 0xA0 {
			return fmt.Sprintf("%q", name)
		}
	}
	return name
}
