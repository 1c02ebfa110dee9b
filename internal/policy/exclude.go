package policy

import (
	"bytes"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"
)

// excludes matches names from their start, as Python's re.match does with all patterns joined by "|": a pattern need
// not reach the end of the name, and an empty pattern excludes everything. Names hold no line feed.
type excludes struct {
	// prefixes stand for the patterns that are plain text, with or without ".*" after it. They are sorted, and none
	// begins with another, so that only the last one not after a name can be a prefix of it.
	prefixes  [][]byte
	automaton *regexp.Regexp // all others; nil when there are none
}

// compileExcludes compiles the patterns. Its error is an *Error that names the pattern at fault.
func compileExcludes(patterns []string) (excludes, error) {
	var x excludes
	var branches []string
	var names []string
	size := 0
	for _, p := range patterns {
		translated, err := translateNext(p, &names)
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
		branches = append(branches, "(?:"+translated+")")
	}
	x.prefixes = shortest(x.prefixes)
	if len(branches) == 0 {
		return x, nil
	}
	var err error
	if x.automaton, err = regexp.Compile(`\A(?:` + strings.Join(branches, "|") + `)`); err != nil {
		return excludes{}, badExclude(patterns[len(patterns)-1], fmt.Errorf("all patterns together are too large: %w", err))
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
	open := false // the rest may be anything
	for _, p := range parts {
		switch {
		case p.Op == syntax.OpStar && p.Sub[0].Op == syntax.OpAnyCharNotNL:
			open = true
		case p.Op == syntax.OpEmptyMatch, p.Op == syntax.OpEndText && open:
		default:
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

func (x *excludes) any() bool { return len(x.prefixes) > 0 || x.automaton != nil }

func (x *excludes) match(name []byte) bool {
	after, equal := slices.BinarySearchFunc(x.prefixes, name, bytes.Compare)
	if equal || after > 0 && bytes.HasPrefix(name, x.prefixes[after-1]) {
		return true
	}
	return x.automaton != nil && x.automaton.Match(name)
}

func badExclude(pattern string, err error) error {
	return &Error{fmt.Sprintf("%q: %v Exclude list regex is misformatted. Please correct the issue and try again.", pattern, err)}
}

// CheckExclude reports whether a pattern may stand among a policy's excludes. Its error says where it is at fault.
func CheckExclude(pattern string) error {
	_, err := compileExcludes([]string{pattern})
	return err
}

// Exclude is one exclude pattern by itself, to explain what it does.
type Exclude struct {
	pattern            string
	start, anywhere    *regexp.Regexp // as it is matched, and wherever it would match
	anyCase, startOnly *regexp.Regexp // but for upper and lower case; but for the end that it asks for, nil when for none
}

// NewExclude compiles a pattern, which must be one that CheckExclude accepts.
func NewExclude(pattern string) (*Exclude, error) {
	translated, err := translatePattern(pattern)
	if err != nil {
		return nil, badExclude(pattern, err)
	}
	x := &Exclude{pattern: pattern}
	for _, form := range []struct {
		into **regexp.Regexp
		text string
	}{
		{&x.start, `\A(?:` + translated + `)`},
		{&x.anywhere, translated},
		{&x.anyCase, `\A(?i:` + translated + `)`},
	} {
		if *form.into, err = regexp.Compile(form.text); err != nil {
			return nil, badExclude(pattern, err)
		}
	}
	if open, ok := strings.CutSuffix(translated, `\z`); ok {
		x.startOnly, _ = regexp.Compile(`\A(?:` + open + `)`) // of "(a|b\z)" nothing is left that is a pattern
	}
	return x, nil
}

// String is the pattern.
func (x *Exclude) String() string { return x.pattern }

// Match reports whether the pattern excludes the name.
func (x *Exclude) Match(name string) bool { return x.start.MatchString(name) }

// NearMiss says why the pattern does not exclude a name that it nearly does; "" when it is far from it, or excludes it.
func (x *Exclude) NearMiss(name string) string {
	if x.Match(name) {
		return ""
	}
	if at := x.anywhere.FindStringIndex(name); at != nil {
		return fmt.Sprintf("it matches from character %d on, but patterns match from the start of the path: begin it with .*", utf8.RuneCountInString(name[:at[0]])+1)
	}
	if x.startOnly != nil && x.startOnly.MatchString(name) {
		return "it matches the beginning, but asks for the end of the path after it: leave out the $"
	}
	if x.anyCase.MatchString(name) {
		return "it matches but for upper and lower case"
	}
	literal, _ := x.anywhere.LiteralPrefix()
	const telling = 5 // characters: more than "/usr/" says little, less nothing
	common := 0
	for common < min(len(literal), len(name)) && literal[common] == name[common] {
		common++
	}
	if common >= telling && 3*common >= 2*len(literal) {
		return fmt.Sprintf("the path begins as it does, with %q, and differs then", strings.ToValidUTF8(name[:common], ""))
	}
	return ""
}
