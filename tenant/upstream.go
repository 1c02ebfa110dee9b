package tenant

import (
	"fmt"
	"slices"
	"strings"
)

// Upstream's form of the command line is that of Python's argparse: one flat set of flags, -c names the command,
// long flags may be shortened while they stay unique, and a value may follow a short flag without a space.
//
//	keylime_tenant -c add -t 192.0.2.7 -u d432fbb3-… --runtime-pol policy.json

// defaultAgent is the id that upstream's agents and tenant use when none is configured.
const defaultAgent = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000"

// parseUpstream reads a command line in upstream's form. The name is the value of -c.
func parseUpstream(args []string) (name string, o options, err error) {
	p := upstreamParser{args: args, flags: upstreamFlags(&name), options: &o}
	name = "add"
	for len(p.args) > 0 {
		if err := p.next(); err != nil {
			return "", o, err
		}
	}
	if len(p.loose) > 0 {
		return "", o, usageUpstream("unrecognized arguments: %s", strings.Join(p.loose, " "))
	}
	return name, o, nil
}

// upstreamFlags are all flags of all commands, -c and -h.
func upstreamFlags(name *string) flagSet {
	command := flag{"command", []string{"c"}, "", func(*options) any { return name }}
	help := flag{"help", []string{"h"}, "", func(o *options) any { return &o.help }}
	return join(flagSet{command, help}, everywhere(), pushFlag(), verifierFlags(), verifierIDFlag(), uncheckedFlag(),
		registrarFlags(), agentFlag(), enrolFlags(), retired())
}

type upstreamParser struct {
	args    []string // not yet read
	flags   flagSet
	options *options
	loose   []string // arguments that belong to no flag
}

// next reads one flag and its value.
func (p *upstreamParser) next() error {
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
	f, attached, found, err := p.resolve(arg)
	switch {
	case err != nil:
		return err
	case !found:
		p.loose = append(p.loose, arg)
		return nil
	case f.isSwitch() && attached != nil:
		return usageUpstream("argument %s: ignored explicit argument '%s'", f.title(), *attached)
	case f.isSwitch():
		f.store(p.options, "")
		return nil
	case attached == nil:
		if len(p.args) == 0 || looksLikeFlag(p.args[0]) {
			return usageUpstream("argument %s: expected one argument", f.title())
		}
		attached = &p.args[0]
		p.args = p.args[1:]
	}
	f.store(p.options, *attached)
	return nil
}

// looksLikeFlag: a dash and more, unless it is a negative number.
func looksLikeFlag(arg string) bool {
	if len(arg) < 2 || arg[0] != '-' {
		return false
	}
	return strings.Trim(arg[1:], "0123456789.") != "" || strings.Count(arg, ".") > 1
}

// resolve finds the flag that an argument names, and the value attached to it.
func (p *upstreamParser) resolve(arg string) (f flag, attached *string, found bool, err error) {
	if f, ok := p.exact(arg); ok {
		return f, nil, true, nil
	}
	head, value, hasValue := strings.Cut(arg, "=")
	if hasValue {
		attached = &value
		if f, ok := p.exact(head); ok {
			return f, attached, true, nil
		}
	}
	candidates := p.startingWith(head)
	if !strings.HasPrefix(arg, "--") {
		if f, ok := p.exact(arg[:2]); ok {
			glued := arg[2:]
			candidates = append(candidates, candidate{f, arg[:2], &glued})
		}
	}
	switch len(candidates) {
	case 0:
		return flag{}, nil, false, nil
	case 1:
		c := candidates[0]
		if c.value == nil {
			c.value = attached
		}
		return c.flag, c.value, true, nil
	}
	var could []string
	for _, c := range candidates {
		could = append(could, c.spelling)
	}
	return flag{}, nil, false, usageUpstream("ambiguous option: %s could match %s", head, strings.Join(could, ", "))
}

// candidate is a flag that an argument may mean.
type candidate struct {
	flag     flag
	spelling string
	value    *string // glued to a short flag
}

func (p *upstreamParser) exact(arg string) (flag, bool) {
	for _, f := range p.flags {
		if slices.Contains(f.spellings(), arg) {
			return f, true
		}
	}
	return flag{}, false
}

func (p *upstreamParser) startingWith(head string) []candidate {
	var list []candidate
	for _, f := range p.flags {
		for _, s := range f.spellings() {
			if strings.HasPrefix(s, head) {
				list = append(list, candidate{f, s, nil})
				break // two spellings of one flag are no ambiguity
			}
		}
	}
	return list
}

// title names the flag as argparse does in messages.
func (f flag) title() string {
	typed := f.spellings()
	slices.SortStableFunc(typed, func(a, b string) int { return len(a) - len(b) })
	return strings.Join(typed, "/")
}

func usageUpstream(format string, args ...any) error {
	return usage("`keylime tenant --help` lists the flags", "keylime_tenant: error: %s", fmt.Sprintf(format, args...))
}
