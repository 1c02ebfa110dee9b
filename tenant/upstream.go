package tenant

import (
	"strings"

	"keylime/internal/argparse"
)

// Upstream's form of the command line is that of Python's argparse: one flat set of flags, -c names the command.
//
//	keylime_tenant -c add -t 192.0.2.7 -u d432fbb3-… --runtime-pol policy.json

// defaultAgent is the id that upstream's agents and tenant use when none is configured.
const defaultAgent = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000"

// parseUpstream reads a command line in upstream's form. The name is the value of -c.
func parseUpstream(args []string) (name string, o options, err error) {
	name = "add"
	loose, err := upstreamFlags(&name).parse(args, &o)
	if err == nil && len(loose) > 0 {
		err = argparse.Error("unrecognized arguments: " + strings.Join(loose, " "))
	}
	if err != nil {
		return "", o, usage("`keylime tenant --help` lists the flags", "keylime_tenant: error: %w", err)
	}
	return name, o, nil
}

// parse reads arguments into o, flags anywhere among them, and returns those that belong to no flag.
func (set flagSet) parse(args []string, o *options) (loose []string, err error) {
	var flags []argparse.Flag
	for _, f := range set {
		flags = append(flags, argparse.Flag{Spellings: f.spellings(), Switch: f.isSwitch(), Store: func(value string) error {
			f.store(o, value)
			return nil
		}})
	}
	return argparse.Parse(args, flags)
}

// upstreamFlags are all flags of all commands, -c and -h.
func upstreamFlags(name *string) flagSet {
	command := flag{"command", []string{"c"}, "", func(*options) any { return name }}
	help := flag{"help", []string{"h"}, "", func(o *options) any { return &o.help }}
	return join(flagSet{command, help}, everywhere(), pushFlag(), verifierFlags(), verifierIDFlag(), uncheckedFlag(),
		registrarFlags(), agentFlag(), enrolFlags(), pcrPolicyFlags(), retired())
}
