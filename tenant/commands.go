package tenant

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"keylime/internal/api"
	"keylime/internal/config"
)

// command is one thing that the tenant can do, whichever form of the command line asks for it.
type command struct {
	path     string // native form: "add", "runtime-policy add"
	upstream string // value of upstream's -c
	flags    flagSet
	ofAgent  bool // is about one agent, which must be named
	brief    string
	long     string // more, for the help
	example  string // arguments after `keylime tenant PATH`
	run      func(context.Context, *Tenant, *options) (report, error)
}

// commands are all commands, in the order of the help.
func commands() []command {
	return append(agentCommands(), policyCommands()...)
}

func agentCommands() []command {
	both := join(registrarFlags(), verifierFlags())
	return []command{
		{"add", "add", join(agentFlag(), enrolFlags(), pushFlag(), both), true,
			"enrol an agent: check its TPM, hand it a payload, have it attested",
			"The agent must prove with a quote that it holds the registered key, and its EK certificate must come from a\n" +
				"TPM maker in tpm_cert_store, before it is given anything.",
			"-u d432fbb3-d2f1-4a97-9ef7-75bd81c00000 -f secret.txt --runtime-policy policy.json --verify", add},
		{"update", "update", join(agentFlag(), enrolFlags(), pushFlag(), uncheckedFlag(), both), true,
			"enrol an agent anew, with other policies or another payload",
			"All checks of `add` are made before the old enrolment ends.",
			"-u d432fbb3-d2f1-4a97-9ef7-75bd81c00000 --runtime-policy-name production", update},
		{"delete", "delete", join(agentFlag(), uncheckedFlag(), verifierFlags()), true,
			"end an agent's enrolment; it stays registered",
			"An agent that is not enrolled is no error.",
			"-u d432fbb3-d2f1-4a97-9ef7-75bd81c00000", deleteAgent},
		{"status", "status", join(agentFlag(), pushFlag(), both), true,
			"show an agent's registration, attestation, and which file failed",
			"",
			"-u d432fbb3-d2f1-4a97-9ef7-75bd81c00000", statusOf(true, true)},
		{"cvstatus", "cvstatus", join(agentFlag(), pushFlag(), verifierFlags()), true,
			"show an agent as the verifier sees it", "",
			"-u d432fbb3-d2f1-4a97-9ef7-75bd81c00000 --json", statusOf(false, true)},
		{"regstatus", "regstatus", join(agentFlag(), registrarFlags()), true,
			"show an agent as the registrar sees it", "",
			"-u d432fbb3-d2f1-4a97-9ef7-75bd81c00000", statusOf(true, false)},
		{"cvlist", "cvlist", join(verifierFlags(), verifierIDFlag()), false,
			"list the agents that are enrolled", "", "", listEnrolled},
		{"reglist", "reglist", registrarFlags(), false,
			"list the agents that are registered", "", "", listRegistered},
		{"bulkinfo", "bulkinfo", join(verifierFlags(), verifierIDFlag()), false,
			"show all enrolled agents", "", "", bulkInfo},
		{"reactivate", "reactivate", join(agentFlag(), uncheckedFlag(), verifierFlags()), true,
			"attest a failed agent again", "",
			"-u d432fbb3-d2f1-4a97-9ef7-75bd81c00000", reactivate},
		{"regdelete", "regdelete", join(agentFlag(), registrarFlags()), true,
			"remove an agent from the registrar",
			"An agent that is not registered is no error. Needed before another TPM may take the id.",
			"-u d432fbb3-d2f1-4a97-9ef7-75bd81c00000", deregister},
	}
}

func policyCommands() []command {
	runtime, boot := runtimePolicies(), measuredBootPolicies()
	runtimeName := join(runtimePolicyNameFlag(), verifierFlags())
	runtimeText := join(runtimePolicyFlags(), runtimeName)
	bootName := join(mbPolicyNameFlag(), verifierFlags())
	bootText := join(mbPolicyFlags(), bootName)
	return []command{
		{"runtime-policy add", "addruntimepolicy", runtimeText, false, "store a new policy", "", "--runtime-policy-name production --runtime-policy policy.json", runtime.addCommand()},
		{"runtime-policy show", "showruntimepolicy", runtimeName, false, "print a policy's text", "", "--runtime-policy-name production > policy.json", runtime.showCommand()},
		{"runtime-policy update", "updateruntimepolicy", runtimeText, false, "replace a policy's text", "", "--runtime-policy-name production --runtime-policy policy.json", runtime.updateCommand()},
		{"runtime-policy delete", "deleteruntimepolicy", runtimeName, false, "delete a policy that no agent uses", "", "--runtime-policy-name production", runtime.deleteCommand()},
		{"runtime-policy list", "listruntimepolicy", verifierFlags(), false, "list the names of policies", "", "", runtime.listCommand()},
		{"mb-policy add", "addmbpolicy", bootText, false, "store a new policy", "", "--mb-policy-name laptops --mb-policy boot.json", boot.addCommand()},
		{"mb-policy show", "showmbpolicy", bootName, false, "print a policy's text", "", "--mb-policy-name laptops", boot.showCommand()},
		{"mb-policy update", "updatembpolicy", bootText, false, "replace a policy's text", "", "--mb-policy-name laptops --mb-policy boot.json", boot.updateCommand()},
		{"mb-policy delete", "deletembpolicy", bootName, false, "delete a policy that no agent uses", "", "--mb-policy-name laptops", boot.deleteCommand()},
		{"mb-policy list", "listmbpolicy", verifierFlags(), false, "list the names of policies", "", "", boot.listCommand()},
	}
}

// upstreamCommand finds the command that a value of -c names.
func upstreamCommand(name string) (command, error) {
	for retired, successor := range map[string]string{"showallowlist": "showruntimepolicy", "deleteallowlist": "deleteruntimepolicy", "addallowlist": "addruntimepolicy"} {
		if name == retired {
			name = successor
		}
	}
	for _, c := range commands() {
		if c.upstream == name {
			return c, nil
		}
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
	if err := o.check(c); err != nil {
		return err
	}
	if err := o.checkPayload(); err != nil {
		return err
	}
	if c.ofAgent && o.agent == "" {
		return usage("`keylime tenant reglist` shows the agents there are", "no agent named: give -u ID")
	}
	if o.agent != "" {
		if !api.ValidAgentID(o.agent) {
			return usage("an id has 1 to 80 letters, digits, dots, dashes and underscores", "-u: %q is no agent id", o.agent)
		}
	}
	t, err := c.tenant(o, s.err)
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

// tenant makes the Tenant that the configuration and the flags describe.
func (c command) tenant(o *options, notes io.Writer) (*Tenant, error) {
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
		if ca, _, err = config.LoadCA(config.System(o.configFile, nil)); err != nil {
			return nil, failure(exitUsage, hint, "configuration: %w", err)
		}
	}
	return New(cfg, ca, notes)
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

// terminal reports whether colours may be written to w.
func terminal(w io.Writer, environ func(string) string) bool {
	f, ok := w.(*os.File)
	if !ok || environ("NO_COLOR") != "" || environ("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && !strings.HasSuffix(f.Name(), "null")
}
