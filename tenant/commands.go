package tenant

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"keylime/internal/api"
	"keylime/internal/config"
)

// command is one thing that the tenant can do, whichever form of the command line asks for it.
type command struct {
	path     string // native form: "add", "runtime-policy add"
	upstream string // value of upstream's -c
	flags    flagSet
	ofAgent  bool // is about one agent, which must be named
	// named is where the name of what the command is about goes, which may stand without its flag; nil: no such thing.
	named   func(*options) *string
	brief   string
	long    string // more, for the help
	example string // arguments after `keylime tenant PATH`
	run     func(context.Context, *tenant, *options) (report, error)
}

// commands are all commands, in the order of the help.
func commands() []command {
	return append(agentCommands(), policyCommands()...)
}

const exampleAgent = "-u d432fbb3-d2f1-4a97-9ef7-75bd81c00000"

func agentCommands() []command {
	servers := join(registrarFlags(), verifierFlags())
	one, oneVerifier := agentFlag(), join(agentFlag(), verifierFlags())
	return []command{{
		path: "add", upstream: "add", run: add, ofAgent: true, flags: join(one, enrolFlags(), pushFlag(), servers),
		brief: "enrol an agent: check its TPM, hand it a payload, have it attested",
		long: "The agent must prove with a quote that it holds the registered key, and its EK certificate must come from a\n" +
			"TPM maker in tpm_cert_store, before it is given anything.",
		example: exampleAgent + " -f secret.txt --runtime-policy policy.json --verify",
	}, {
		path: "update", upstream: "update", run: update, ofAgent: true, flags: join(one, enrolFlags(), pushFlag(), uncheckedFlag(), servers),
		brief:   "enrol an agent anew, with other policies or another payload",
		long:    "All checks of `add` are made before the old enrolment ends.",
		example: exampleAgent + " --runtime-policy-name production",
	}, {
		path: "delete", upstream: "delete", run: deleteAgent, ofAgent: true, flags: join(oneVerifier, uncheckedFlag()),
		brief:   "end an agent's enrolment; it stays registered",
		long:    "An agent that is not enrolled is no error.",
		example: exampleAgent,
	}, {
		path: "status", upstream: "status", run: statusOf(true, true), ofAgent: true, flags: join(one, pushFlag(), servers),
		brief:   "show an agent's registration, attestation, and which file failed",
		example: exampleAgent,
	}, {
		path: "cvstatus", upstream: "cvstatus", run: statusOf(false, true), ofAgent: true, flags: join(oneVerifier, pushFlag()),
		brief:   "show an agent as the verifier sees it",
		example: exampleAgent + " --json",
	}, {
		path: "regstatus", upstream: "regstatus", run: statusOf(true, false), ofAgent: true, flags: join(one, registrarFlags()),
		brief:   "show an agent as the registrar sees it",
		example: exampleAgent,
	}, {
		path: "attestations", run: attestations, ofAgent: true, flags: join(oneVerifier, attestationFlags()),
		brief:   "show the attestations of an agent that calls in, the newest first",
		long:    "--index and --latest show one with all that was asked, delivered and found.",
		example: exampleAgent + " --latest --json",
	}, {
		path: "cvlist", upstream: "cvlist", run: listEnrolled, flags: join(verifierFlags(), verifierIDFlag()),
		brief: "list the agents that are enrolled",
	}, {
		path: "reglist", upstream: "reglist", run: listRegistered, flags: registrarFlags(),
		brief: "list the agents that are registered",
	}, {
		path: "bulkinfo", upstream: "bulkinfo", run: bulkInfo, flags: join(verifierFlags(), verifierIDFlag()),
		brief: "show all enrolled agents",
	}, {
		path: "reactivate", upstream: "reactivate", run: reactivate, ofAgent: true, flags: join(oneVerifier, uncheckedFlag()),
		brief:   "attest a failed agent again",
		example: exampleAgent,
	}, {
		path: "regdelete", upstream: "regdelete", run: deregister, ofAgent: true, flags: join(one, registrarFlags()),
		brief:   "remove an agent from the registrar",
		long:    "An agent that is not registered is no error. Needed before another TPM may take the id.",
		example: exampleAgent,
	}}
}

func policyCommands() []command {
	runtime := runtimePolicies().commands(runtimePolicyFlags(), runtimePolicyNameFlag(), "--runtime-policy-name production", "--runtime-policy policy.json")
	return slices.Concat(
		withRollout(runtime),
		measuredBootPolicies().commands(mbPolicyFlags(), mbPolicyNameFlag(), "--mb-policy-name laptops", "--mb-policy boot.json"),
		pcrPolicies().commands(pcrPolicyFlags(), pcrPolicyNameFlag(), "--pcr-policy-name laptops", "--pcr-policy pcrs.json"))
}

// commands are those on one kind of policies. text and name are the flags that give a policy's text and its name.
func (k policyKind) commands(text, name flagSet, exampleName, exampleText string) []command {
	list := []command{
		{path: "add", flags: join(text, name), brief: "store a new policy", example: exampleName + " " + exampleText, run: k.addCommand()},
		{path: "show", flags: name, brief: "print a policy's text", example: exampleName, run: k.showCommand()},
		{path: "update", flags: join(text, name), brief: "replace a policy's text", example: exampleName + " " + exampleText, run: k.updateCommand()},
		{path: "delete", flags: name, brief: "delete a policy that no agent uses", example: exampleName, run: k.deleteCommand()},
		{path: "list", brief: "list the names of policies", run: k.listCommand()},
	}
	for i, c := range list {
		list[i].path, list[i].upstream = k.command+" "+c.path, c.path+strings.ReplaceAll(k.command, "-", "")
		list[i].flags = join(c.flags, verifierFlags())
		if c.path != "list" {
			list[i].named = k.name
		}
	}
	return list
}

// withRollout lets a new version of a runtime policy be checked first, and its update go in stages.
func withRollout(list []command) []command {
	i := slices.IndexFunc(list, func(c command) bool { return c.path == "runtime-policy update" })
	at, now := &list[i], list[i].run
	at.flags = join(at.flags, stageFlags())
	at.long = "With --stage the present text counts beside the new one for a while, so that machines can be brought up to date one\n" +
		"after the other. Then the new one counts alone; nobody has to do anything for it. What an agent had accepted stays\n" +
		"accepted until its machine starts anew."
	at.run = func(ctx context.Context, t *tenant, o *options) (report, error) {
		if o.stage {
			return stageUpdate(ctx, t, o)
		}
		return now(ctx, t, o)
	}
	return append(list, command{
		path: "runtime-policy check", upstream: "checkruntimepolicy", run: checkPolicy, named: at.named,
		flags: join(runtimePolicyFlags(), runtimePolicyNameFlag(), verifierFlags()),
		brief: "show which agents would fail by a proposed text",
		long: "Each agent that uses the policy is asked for fresh evidence, and all that it measured is judged by the proposed text.\n" +
			"Nothing is changed. Exit code 1: some would fail; 5: none would, but some did not answer.",
		example: "production --runtime-policy policy.json",
	})
}

// upstreamCommand finds the command that a value of -c names.
func upstreamCommand(name string) (command, error) {
	named := func(c command) bool {
		return c.upstream == name || c.upstream == strings.Replace(name, "allowlist", "runtimepolicy", 1)
	}
	all := commands()
	if i := slices.IndexFunc(all, named); i >= 0 {
		return all[i], nil
	}
	return command{}, failure(exitFailed, "`keylime tenant --help` lists the commands", "Invalid command specified: %s", clean(name))
}

// streams are where a command's output goes.
type streams struct {
	out, err io.Writer
	colour   bool // out is a terminal that shows colours
}

// execute carries out a command: options are checked, the configuration is read, and the report is printed.
func (c command) execute(ctx context.Context, o *options, s streams) error {
	if err := cmp.Or(o.check(c), o.checkPayload()); err != nil {
		return err
	}
	if c.ofAgent && o.agent == "" {
		return usage("`keylime tenant reglist` shows the agents there are", "no agent named: give -u ID")
	}
	if o.agent != "" && !api.ValidAgentID(o.agent) {
		return usage("an id has 1 to 80 letters, digits, dots, dashes and underscores", "-u: %q is no agent id", o.agent)
	}
	t, err := o.tenant(s.err)
	if err != nil {
		return err
	}
	r, err := c.run(ctx, t, o)
	if r != nil {
		if werr := write(s.out, o.format(), s.colour, time.Now(), r); werr != nil && err == nil {
			err = werr
		}
	}
	return err
}

// tenant makes the tenant that configuration and flags describe.
func (o *options) tenant(notes io.Writer) (*tenant, error) {
	const hint = "`keylime tenant config check` checks the configuration"
	src := config.System(o.configFile, o.configured())
	cfg, rep, err := config.LoadTenant(src)
	if err != nil {
		return nil, failure(exitUsage, hint, "configuration: %w", err)
	}
	for _, w := range rep.Warnings {
		fmt.Fprintln(notes, "warning: "+w)
	}
	var ca config.CA
	if o.certDir != "" {
		ca, rep, err = config.LoadCA(config.System(o.configFile, nil))
		if err != nil {
			return nil, failure(exitUsage, hint, "configuration: %w", err)
		}
		for _, w := range rep.Warnings {
			fmt.Fprintln(notes, "warning: "+w)
		}
	}
	return newTenant(cfg, ca, notes)
}

// configured are the options of [tenant] that flags set.
func (o *options) configured() map[string]string {
	set := map[string]string{}
	for name, value := range map[string]string{
		"verifier_ip": o.verifierIP, "verifier_port": o.verifierPort,
		"registrar_ip": o.registrarIP, "registrar_port": o.registrarPort,
	} {
		if value != "" {
			set[name] = value
		}
	}
	return set
}

func (o *options) format() string {
	if o.json {
		return "json"
	}
	return o.output
}

// executeUpstream carries out a command line in upstream's form. Exit codes are 0, 1 and, for what its parser would
// refuse, 2.
func executeUpstream(ctx context.Context, name string, o *options, s streams) error {
	c, err := upstreamCommand(name)
	if err != nil {
		return err
	}
	if err := cmp.Or(o.checkRetired(), o.check(c)); err != nil {
		return err
	}
	if o.agent == "" {
		o.agent = defaultAgent
		fmt.Fprintln(s.err, "warning: using the default id", defaultAgent)
	}
	if o.output == "" && !o.json {
		o.output = "upstream"
	}
	if err := c.execute(ctx, o, s); err != nil {
		return &Error{code: exitFailed, err: err}
	}
	return nil
}

// terminal reports whether w is a terminal that shows colours to somebody who wants them.
func terminal(w io.Writer, environ func(string) string) bool {
	f, ok := w.(*os.File)
	if !ok || environ("NO_COLOR") != "" || environ("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
