package policy

import (
	"bytes"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// excludes matches names from their start, as Python's re.match does with all patterns joined by "|": a pattern need
// not reach the end of the name, and an empty pattern excludes everything. Names hold no line feed.
type excludes struct {
	// prefixes stand for the patterns that are plain text, with or without ".*" after it. They are sorted, and none
	// begins with another, so that only the last one not after a name can be a prefix of it.
	prefixes [][]byte
	automata []*regexp.Regexp // all others: one, unless together they exceed what package regexp compiles
}

// compileExcludes compiles the patterns. Its error is an *Error that names the pattern at fault.
func compileExcludes(patterns []string) (excludes, error) {
	var x excludes
	var branches, sources []string
	size := 0
	for _, p := range patterns {
		translated, err := translatePattern(p)
		if err != nil {
			return excludes{}, badExclude(p, err)
		}
		if size += len(translated); size > maxExcludeBytes {
			return excludes{}, badExclude(p, fmt.Errorf("all patterns together exceed %d bytes", maxExcludeBytes))
		}
		tree, err := syntax.Parse(translated, syntax.Perl)
		if err != nil {
			return excludes{}, badExclude(p, err)
		}
		if prefix, ok := plainPrefix(tree); ok {
			x.prefixes = append(x.prefixes, prefix)
			continue
		}
		branches, sources = append(branches, "(?:"+translated+")"), append(sources, p)
	}
	x.prefixes = shortest(x.prefixes)
	if failed, err := x.compile(branches); err != nil {
		return excludes{}, badExclude(sources[failed], err)
	}
	return x, nil
}

// plainPrefix returns the text that a name must begin with, if that is all that the pattern asks for.
func plainPrefix(tree *syntax.Regexp) ([]byte, bool) {
	parts := []*syntax.Regexp{tree}
	if tree.Op == syntax.OpConcat {
		parts = tree.Sub
	}
	if parts[0].Op == syntax.OpBeginText {
		parts = parts[1:]
	}
	var prefix []byte
	if len(parts) > 0 && parts[0].Op == syntax.OpLiteral && parts[0].Flags&syntax.FoldCase == 0 {
		prefix, parts = []byte(string(parts[0].Rune)), parts[1:]
	}
	for _, p := range parts {
		if p.Op == syntax.OpEndText && p != parts[0] {
			continue // after ".*"
		}
		anything := p.Op == syntax.OpEmptyMatch || p.Op == syntax.OpStar && p.Sub[0].Op == syntax.OpAnyCharNotNL
		if !anything {
			return nil, false
		}
	}
	return prefix, true
}

// shortest sorts the prefixes and drops those that begin with another.
func shortest(prefixes [][]byte) [][]byte {
	slices.SortFunc(prefixes, bytes.Compare)
	var kept [][]byte
	for _, p := range prefixes {
		if len(kept) == 0 || !bytes.HasPrefix(p, kept[len(kept)-1]) {
			kept = append(kept, p)
		}
	}
	return kept
}

// compile adds the branches as one automaton, or as several when one would be too large. A failure is that of the
// branch whose index it returns.
func (x *excludes) compile(branches []string) (failed int, err error) {
	if len(branches) == 0 {
		return 0, nil
	}
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

func (x *excludes) any() bool { return len(x.prefixes)+len(x.automata) > 0 }

func (x *excludes) match(name []byte) bool {
	after, equal := slices.BinarySearchFunc(x.prefixes, name, bytes.Compare)
	if equal || after > 0 && bytes.HasPrefix(name, x.prefixes[after-1]) {
		return true
	}
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
