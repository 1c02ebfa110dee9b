// Package argparse reads command lines as Python's argparse does: scripts written for Keylime's Python programs rely on
// its ways. Long flags may be shortened while they stay unique, a value may follow a short flag without a space, and
// flags and other arguments may be mixed.
package argparse

import (
	"fmt"
	"slices"
	"strings"
)

// Flag is a flag of a command.
type Flag struct {
	// Spellings are its names as they are typed, with dashes.
	Spellings []string
	// Switch flags take no value.
	Switch bool
	// Alone makes the value optional: it is the value of the flag when it stands alone.
	Alone string
	// Store takes the value; that of a switch is "". Its error, which says what is wrong with the value, ends the reading.
	Store func(value string) error
}

// Error is a command line that cannot be read, in argparse's words.
type Error string

func (e Error) Error() string { return string(e) }

// Parse stores the values of the flags in args, and returns the arguments that belong to no flag. Those that look like a
// flag are among them.
func Parse(args []string, flags []Flag) (loose []string, err error) {
	p := parser{args: args, flags: flags}
	for len(p.args) > 0 {
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	return p.loose, nil
}

type parser struct {
	args  []string // not yet read
	flags []Flag
	loose []string // arguments that belong to no flag
}

// next reads one flag and its value.
func (p *parser) next() error {
	arg := p.args[0]
	p.args = p.args[1:]
	switch {
	case arg == "--":
		p.loose = append(p.loose, p.args...)
		p.args = nil
		return nil
	case !looksLikeFlag(arg):
		p.loose = append(p.loose, arg)
		return nil
	}
	f, attached, err := p.resolve(arg)
	switch {
	case err != nil:
		return err
	case f == nil:
		p.loose = append(p.loose, arg)
		return nil
	case f.Switch && attached != nil:
		return failure("argument %s: ignored explicit argument '%s'", f.title(), *attached)
	case f.Switch:
		return p.store(f, "")
	case attached != nil:
		return p.store(f, *attached)
	case len(p.args) > 0 && !looksLikeFlag(p.args[0]):
		value := p.args[0]
		p.args = p.args[1:]
		return p.store(f, value)
	case f.Alone != "":
		return p.store(f, f.Alone)
	}
	return failure("argument %s: expected one argument", f.title())
}

func (p *parser) store(f *Flag, value string) error {
	if err := f.Store(value); err != nil {
		return failure("argument %s: %v", f.title(), err)
	}
	return nil
}

// looksLikeFlag: a dash and more, unless it is a negative number.
func looksLikeFlag(arg string) bool {
	if len(arg) < 2 || arg[0] != '-' {
		return false
	}
	return strings.Trim(arg[1:], "0123456789.") != "" || strings.Count(arg, ".") > 1
}

// resolve finds the flag that an argument names, and the value attached to it. The flag is nil when there is none.
func (p *parser) resolve(arg string) (f *Flag, attached *string, err error) {
	if f := p.exact(arg); f != nil {
		return f, nil, nil
	}
	head, value, hasValue := strings.Cut(arg, "=")
	if hasValue {
		attached = &value
		if f := p.exact(head); f != nil {
			return f, attached, nil
		}
	}
	candidates := p.startingWith(head)
	if !strings.HasPrefix(arg, "--") {
		if f := p.exact(arg[:2]); f != nil {
			glued := arg[2:]
			candidates = append(candidates, candidate{f, arg[:2], &glued})
		}
	}
	switch len(candidates) {
	case 0:
		return nil, nil, nil
	case 1:
		c := candidates[0]
		if c.value == nil {
			c.value = attached
		}
		return c.flag, c.value, nil
	}
	var could []string
	for _, c := range candidates {
		could = append(could, c.spelling)
	}
	return nil, nil, failure("ambiguous option: %s could match %s", head, strings.Join(could, ", "))
}

// candidate is a flag that an argument may mean.
type candidate struct {
	flag     *Flag
	spelling string
	value    *string // glued to a short flag
}

func (p *parser) exact(arg string) *Flag {
	for i, f := range p.flags {
		if slices.Contains(f.Spellings, arg) {
			return &p.flags[i]
		}
	}
	return nil
}

func (p *parser) startingWith(head string) []candidate {
	var list []candidate
	for i, f := range p.flags {
		for _, s := range f.Spellings {
			if strings.HasPrefix(s, head) {
				list = append(list, candidate{&p.flags[i], s, nil})
				break // two spellings of one flag are no ambiguity
			}
		}
	}
	return list
}

// title names the flag as argparse does in messages: short forms first.
func (f *Flag) title() string {
	typed := slices.Clone(f.Spellings)
	slices.SortStableFunc(typed, func(a, b string) int { return len(a) - len(b) })
	return strings.Join(typed, "/")
}

func failure(format string, args ...any) error { return Error(fmt.Sprintf(format, args...)) }
