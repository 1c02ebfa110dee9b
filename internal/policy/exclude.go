package policy

import (
	"fmt"
	"regexp"
	"strings"
)

// excludes matches names from their start, as Python's re.match does with all patterns joined by "|": a pattern need
// not reach the end of the name, and an empty pattern excludes everything.
type excludes struct {
	automata []*regexp.Regexp // one, unless the patterns together exceed what package regexp compiles
}

// compileExcludes joins the patterns into one automaton. Its error is an *Error that names the pattern at fault.
func compileExcludes(patterns []string) (excludes, error) {
	if len(patterns) == 0 {
		return excludes{}, nil
	}
	size := 0
	branches := make([]string, len(patterns))
	for i, p := range patterns {
		translated, err := translatePattern(p)
		if err != nil {
			return excludes{}, badExclude(p, err)
		}
		if size += len(p); size > maxExcludeBytes {
			return excludes{}, badExclude(p, fmt.Errorf("patterns exceed %d bytes", maxExcludeBytes))
		}
		branches[i] = "(?:" + translated + ")"
	}
	var x excludes
	failed, err := x.compile(branches)
	if err != nil {
		return excludes{}, badExclude(patterns[failed], err)
	}
	return x, nil
}

// compile adds the branches as one automaton, or as several when one would be too large. A failure is that of the
// branch whose index it returns.
func (x *excludes) compile(branches []string) (failed int, err error) {
	re, err := regexp.Compile(`\A(?:` + strings.Join(branches, "|") + `)`)
	if err == nil {
		x.automata = append(x.automata, re)
		return 0, nil
	}
	if len(branches) == 1 {
		return 0, err
	}
	half := len(branches) / 2
	if failed, err = x.compile(branches[:half]); err != nil {
		return failed, err
	}
	failed, err = x.compile(branches[half:])
	return half + failed, err
}

func (x excludes) match(name []byte) bool {
	for _, re := range x.automata {
		if re.Match(name) {
			return true
		}
	}
	return false
}

func badExclude(pattern string, err error) error {
	return &Error{fmt.Sprintf("%q: %v Exclude list regex is misformatted. Please correct the issue and try again.", pattern, err)}
}
