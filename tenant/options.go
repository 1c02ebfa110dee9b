package tenant

import (
	"slices"
	"strings"
)

// options is a parsed command line, whichever form it had.
type options struct {
	// How to run.
	configFile string // of the program's --config
	output     string // table, json, upstream; "" = table
	json       bool
	help       bool // upstream's form only

	// Whom to ask; "" = as configured.
	verifierIP, verifierPort   string
	registrarIP, registrarPort string
	verifierID                 string
	noVerifierCheck            bool

	// The agent.
	agent               string
	agentIP, agentPort  string
	verifiersViewOfHost string // the agent's address as the verifier must use it
	agentAPIVersion     string
	pushModel           bool
	index               string // of an attestation
	latest              bool

	// What it gets.
	file, keyFile, payload string
	certDir, include       string
	verify                 bool

	// What it must be.
	runtimePolicy, runtimePolicyURL, runtimePolicyChecksum string
	runtimePolicyName, runtimePolicyKey                    string
	mbPolicy, mbPolicyName                                 string
	pcrPolicy, pcrPolicyName                               string
	stage                                                  bool
	stageFor                                               string
	tpmPolicy                                              string

	// Upstream's deprecated flags: what they say is part of a runtime policy.
	allowlist, exclude string
	imaKeys            []string // files

	// Flags of upstream that are not supported, or only under another name.
	retired retiredFlags
}

// retiredFlags are upstream's deprecated flags that have another name now, and those that this release does not
// implement: the message names them.
type retiredFlags struct {
	allowlistURL, allowlistName string
	supportedVersion            string
	imaKeySources               []string // URLs and PGP signatures of keys
}

// flag is one option of the command line: the same name, short form and meaning in both forms.
type flag struct {
	name  string   // long name, without dashes
	alias []string // short forms and other spellings, without dashes; one letter or upstream's two
	help  string   // with the value's name in back quotes
	// at is where the value goes: *string, *bool or *[]string.
	at func(*options) any
}

func (f flag) isSwitch() bool {
	_, is := f.at(&options{}).(*bool)
	return is
}

// spellings are all names of the flag as they are typed: the long name and other long spellings with two dashes, the
// short forms (up to three letters) with one.
func (f flag) spellings() []string {
	typed := []string{"--" + f.name}
	for _, name := range f.alias {
		if len(name) <= 3 {
			typed = append(typed, "-"+name)
		} else {
			typed = append(typed, "--"+name)
		}
	}
	return typed
}

// store puts a value, or for a switch the fact that it was given, where it belongs.
func (f flag) store(o *options, value string) {
	switch at := f.at(o).(type) {
	case *bool:
		*at = true
	case *string:
		*at = value
	case *[]string:
		*at = append(*at, value)
	}
}

// flagSet is a list of flags that commands share.
type flagSet []flag

func join(sets ...flagSet) flagSet { return slices.Concat(sets...) }

// everywhere are the flags of all commands.
func everywhere() flagSet {
	return flagSet{
		{"output", nil, "print as `FORMAT`: table, json, or upstream (the lines of keylime_tenant)", func(o *options) any { return &o.output }},
		{"json", nil, "same as --output json", func(o *options) any { return &o.json }},
	}
}

func verifierFlags() flagSet {
	return flagSet{
		{"cv", []string{"v"}, "`HOST` of the verifier", func(o *options) any { return &o.verifierIP }},
		{"cvport", []string{"vp"}, "`PORT` of the verifier", func(o *options) any { return &o.verifierPort }},
	}
}

func verifierIDFlag() flagSet {
	return flagSet{{"cvid", []string{"vi"}, "only agents of the verifier with this `ID`", func(o *options) any { return &o.verifierID }}}
}

func uncheckedFlag() flagSet {
	return flagSet{{"no-verifier-check", []string{"nvc"}, "do not ask for the agent's status first", func(o *options) any { return &o.noVerifierCheck }}}
}

func registrarFlags() flagSet {
	return flagSet{
		{"registrarhost", []string{"r"}, "`HOST` of the registrar", func(o *options) any { return &o.registrarIP }},
		{"registrarport", []string{"rp"}, "TLS `PORT` of the registrar", func(o *options) any { return &o.registrarPort }},
	}
}

func agentFlag() flagSet {
	return flagSet{{"uuid", []string{"u"}, "`ID` of the agent", func(o *options) any { return &o.agent }}}
}

func pushFlag() flagSet {
	return flagSet{{"push-model", nil, "the agent reports by itself and is never contacted", func(o *options) any { return &o.pushModel }}}
}

func enrolFlags() flagSet {
	return join(flagSet{
		{"targethost", []string{"t"}, "`HOST` of the agent, if not as registered", func(o *options) any { return &o.agentIP }},
		{"targetport", []string{"tp"}, "`PORT` of the agent, if not as registered", func(o *options) any { return &o.agentPort }},
		{"cv_targethost", []string{"cv-targethost"}, "`HOST` of the agent as the verifier reaches it", func(o *options) any { return &o.verifiersViewOfHost }},
		{"agent-api-version", nil, "speak API `VERSION` to the agent, not the newest that both know", func(o *options) any { return &o.agentAPIVersion }},
		{"file", []string{"f"}, "encrypt `FILE` and deliver it", func(o *options) any { return &o.file }},
		{"cert", nil, "deliver a certificate issued by the CA in `DIR`, made when absent; default stands for ca under KEYLIME_DIR", func(o *options) any { return &o.certDir }},
		{"include", nil, "with --cert: deliver the files in `DIR` too", func(o *options) any { return &o.include }},
		{"key", []string{"k"}, "deliver the key in `FILE`: three lines of base64", func(o *options) any { return &o.keyFile }},
		{"payload", []string{"p"}, "with --key: deliver `FILE`, encrypted with that key before", func(o *options) any { return &o.payload }},
		{"verify", nil, "wait until the agent proves that it has the key", func(o *options) any { return &o.verify }},
	}, runtimePolicyFlags(), runtimePolicyNameFlag(), mbPolicyFlags(), mbPolicyNameFlag(), tpmPolicyFlag(), pcrPolicyNameFlag())
}

func runtimePolicyFlags() flagSet {
	return flagSet{
		{"runtime-policy", nil, "`FILE` with the runtime policy: what measured files may be", func(o *options) any { return &o.runtimePolicy }},
		{"runtime-policy-url", nil, "download the runtime policy from `URL` (http or https, no redirects)", func(o *options) any { return &o.runtimePolicyURL }},
		{"runtime-policy-sig-key", nil, "`FILE` with the public key that the runtime policy is signed with", func(o *options) any { return &o.runtimePolicyKey }},
		{"runtime-policy-checksum", nil, "SHA-256 in `HEX` that the runtime policy must have; needed with an URL", func(o *options) any { return &o.runtimePolicyChecksum }},
	}
}

func runtimePolicyNameFlag() flagSet {
	return flagSet{{"runtime-policy-name", nil, "`NAME` of the runtime policy at the verifier", func(o *options) any { return &o.runtimePolicyName }}}
}

func mbPolicyFlags() flagSet {
	return flagSet{{"mb-policy", []string{"mb_refstate"}, "`FILE` with the measured-boot policy; default stands for mb_refstate of [tenant]", func(o *options) any { return &o.mbPolicy }}}
}

func mbPolicyNameFlag() flagSet {
	return flagSet{{"mb-policy-name", nil, "`NAME` of the measured-boot policy at the verifier", func(o *options) any { return &o.mbPolicyName }}}
}

func tpmPolicyFlag() flagSet {
	return flagSet{{"tpm_policy", []string{"tpm-policy"}, "digests that PCRs must have, in `JSON`: '{\"22\": [\"HEX\", ...]}'", func(o *options) any { return &o.tpmPolicy }}}
}

func stageFlags() flagSet {
	return flagSet{
		{"stage", nil, "let the present text count as well for a while, so that machines can change over", func(o *options) any { return &o.stage }},
		{"for", nil, "with --stage: for how long, as in 90m or 24h (the default)", func(o *options) any { return &o.stageFor }},
	}
}

func pcrPolicyFlags() flagSet {
	return flagSet{{"pcr-policy", nil, "`FILE` with the PCR policy: digests that PCRs must have, as in --tpm_policy", func(o *options) any { return &o.pcrPolicy }}}
}

func pcrPolicyNameFlag() flagSet {
	return flagSet{{"pcr-policy-name", nil, "`NAME` of the PCR policy at the verifier", func(o *options) any { return &o.pcrPolicyName }}}
}

// retired are deprecated flags and those of retiredFlags; only upstream's form of the command line knows them.
func retired() flagSet {
	return flagSet{
		{"allowlist", nil, "", func(o *options) any { return &o.allowlist }},
		{"allowlist-url", nil, "", func(o *options) any { return &o.retired.allowlistURL }},
		{"allowlist-name", nil, "", func(o *options) any { return &o.retired.allowlistName }},
		{"exclude", nil, "", func(o *options) any { return &o.exclude }},
		{"supported-version", nil, "", func(o *options) any { return &o.retired.supportedVersion }},
		{"signature-verification-key", []string{"sign_verification_key"}, "", func(o *options) any { return &o.imaKeys }},
		{"signature-verification-key-sig", nil, "", func(o *options) any { return &o.retired.imaKeySources }},
		{"signature-verification-key-sig-key", nil, "", func(o *options) any { return &o.retired.imaKeySources }},
		{"signature-verification-key-url", nil, "", func(o *options) any { return &o.retired.imaKeySources }},
		{"signature-verification-key-sig-url", nil, "", func(o *options) any { return &o.retired.imaKeySources }},
		{"signature-verification-key-sig-url-key", nil, "", func(o *options) any { return &o.retired.imaKeySources }},
	}
}

// check refuses combinations of flags that contradict each other.
func (o *options) check(c command) error {
	switch {
	case c.upstream == "addruntimepolicy" && o.runtimePolicy == "" && o.runtimePolicyURL == "" && o.allowlist == "":
		return usage("`keylime tenant runtime-policy add --help` shows how", "--runtime-policy or --runtime-policy-url is required to add a runtime policy")
	case o.output != "" && !slices.Contains([]string{"table", "json", "upstream"}, o.output):
		return usage("choose table, json or upstream", "--output %s: no such format", o.output)
	case o.json && o.output != "" && o.output != "json":
		return usage("leave one of the two out", "--json contradicts --output %s", o.output)
	case o.runtimePolicy != "" && o.runtimePolicyURL != "":
		return usage("give the file or the URL", "--runtime-policy and --runtime-policy-url cannot be specified at the same time")
	case o.runtimePolicyURL != "" && o.runtimePolicyChecksum == "":
		return usage("`sha256sum FILE` of the policy as it should be gives it", "--runtime-policy-url must have --runtime-policy-checksum")
	case o.runtimePolicyChecksum != "" && o.runtimePolicy == "" && o.runtimePolicyURL == "":
		return usage("name the policy", "--runtime-policy-checksum must have --runtime-policy or --runtime-policy-url")
	case o.stageFor != "" && !o.stage:
		return usage("add --stage", "--for must have --stage")
	case o.pcrPolicyName != "" && o.tpmPolicy != "":
		return usage("choose one", "--pcr-policy-name and --tpm_policy cannot be specified at the same time")
	case o.runtimePolicyKey != "" && o.runtimePolicy == "" && o.runtimePolicyURL == "":
		return usage("name the policy", "--runtime-policy-sig-key must have --runtime-policy or --runtime-policy-url")
	}
	return nil
}

// checkPayload does the same for the flags that say what an agent is given.
func (o *options) checkPayload() error {
	var modes []string
	for _, m := range []struct{ flag, value string }{{"--file", o.file}, {"--key", o.keyFile}, {"--cert", o.certDir}} {
		if m.value != "" {
			modes = append(modes, m.flag)
		}
	}
	switch {
	case len(modes) > 1:
		return usage("choose one", "%s cannot be specified at the same time", strings.Join(modes, " and "))
	case o.include != "" && o.certDir == "":
		return usage("add --cert DIR; for a single file use --file", "--include must have --cert")
	case o.payload != "" && o.keyFile == "":
		return usage("add --key FILE, or use --file to encrypt and deliver", "--payload must have --key")
	case o.verify && len(modes) == 0:
		return usage("add --file, --key or --cert, or leave --verify out", "--verify has no key to verify")
	case o.pushModel && o.keyFile != "" && o.payload == "":
		return usage("add --payload, or use --file", "--push-model: a key alone cannot be left for an agent; it comes with a payload")
	case o.pushModel && o.verify:
		return usage("leave --verify out; the agent's log tells when it has the payload", "--push-model: an agent that is never contacted cannot be asked for proof of the key")
	}
	return nil
}

// checkRetired names what took the place of flags that are no longer there.
func (o *options) checkRetired() error {
	r := o.retired
	switch {
	case o.exclude != "" && o.allowlist == "":
		return usage("excludes are part of a runtime policy", "--exclude cannot be used without an --allowlist")
	case o.allowlist != "" && (o.runtimePolicy != "" || o.runtimePolicyURL != ""):
		return usage("give the runtime policy alone", "--allowlist and a runtime policy cannot be specified at the same time")
	case r.allowlistURL != "":
		return usage("fetch it and give the file with --allowlist, or make a runtime policy of it with `keylime policy convert`", "--allowlist-url is not supported")
	case len(r.imaKeySources) > 0:
		return usage("check the keys and give their files with --signature-verification-key, or put them into verification-keys of the runtime policy", "URLs and PGP signatures of keys for file signatures are not supported")
	}
	if o.runtimePolicyName == "" {
		o.runtimePolicyName = r.allowlistName
	}
	if o.agentAPIVersion == "" {
		o.agentAPIVersion = r.supportedVersion
	}
	return nil
}
