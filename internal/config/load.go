package config

import (
	"os"
	"slices"
)

// Sources says where configuration comes from. The zero value gives the defaults alone.
type Sources struct {
	// File is the keylime.toml of --config; "" = KEYLIME_CONFIG, or /etc/keylime/keylime.toml when it exists.
	File string
	// Environ is the environment as os.Environ gives it.
	Environ []string
	// Flags are options set on the command line, by option name ("quote_interval", "revocations.webhook_url").
	Flags map[string]string
	// Root stands for / when configuration files are looked for; "" = /.
	Root string
}

// Report says how a configuration came about.
type Report struct {
	Files    []string  // files read, in order
	Warnings []string  // what a user should know, one sentence each
	Settings []Setting // every option of the role, in the order of its table
}

// Setting is one option as loaded. Value is TOML text, secrets redacted.
type Setting struct {
	Role, Name, Value string
	Source            string // "default", "file PATH", "environment NAME" or "flag"
}

// LoadVerifier loads the verifier's configuration. An error names file, line, option and accepted form.
func LoadVerifier(src Sources) (Verifier, Report, error) {
	var v Verifier
	rep, err := load(src, "verifier", v.options())
	return v, rep, err
}

// LoadRegistrar is LoadVerifier for the registrar.
func LoadRegistrar(src Sources) (Registrar, Report, error) {
	var r Registrar
	rep, err := load(src, "registrar", r.options())
	return r, rep, err
}

// LoadTenant is LoadVerifier for the tenant.
func LoadTenant(src Sources) (Tenant, Report, error) {
	var t Tenant
	rep, err := load(src, "tenant", t.options())
	return t, rep, err
}

// LoadAgent is LoadVerifier for the agent.
func LoadAgent(src Sources) (Agent, Report, error) {
	var a Agent
	rep, err := load(src, "agent", a.options())
	return a, rep, err
}

// LoadCA is LoadVerifier for the certificate authority.
func LoadCA(src Sources) (CA, Report, error) {
	var c CA
	rep, err := load(src, "ca", c.options())
	return c, rep, err
}

// LoadLogging is LoadVerifier for logging.
func LoadLogging(src Sources) (Logging, Report, error) {
	var l Logging
	rep, err := load(src, "logging", l.options())
	return l, rep, err
}

// LoadServer is LoadVerifier for what the server roles share.
func LoadServer(src Sources) (Server, Report, error) {
	var s Server
	rep, err := load(src, "server", s.options())
	return s, rep, err
}

// System are the sources of this process: its environment, the file of --config, the options set by flags.
func System(file string, flags map[string]string) Sources {
	return Sources{File: file, Environ: os.Environ(), Flags: flags}
}

func load(src Sources, role string, opts []option) (Report, error) {
	return Report{}, nil
}

func concat(parts ...[]option) []option { return slices.Concat(parts...) }
