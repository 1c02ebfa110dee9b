package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Report says how a configuration came about.
type Report struct {
	Files    []string  // files read, in order
	Warnings []string  // what a user should know, one sentence each
	Settings []Setting // every option of the role, in the order of its table
}

// Setting is one option as loaded.
type Setting struct {
	Role, Name string
	Value      string // TOML text; secrets are redacted
	Source     string // "default", FILE:LINE, "environment NAME" or "flag"
}

// LoadVerifier loads the verifier's configuration. The error joins every refused value, each with its place, option
// and accepted form.
func LoadVerifier(src Sources) (Verifier, Report, error) {
	var v Verifier
	rep, err := load(src, "verifier", v.options(), v.finish)
	return v, rep, err
}

// LoadRegistrar is LoadVerifier for the registrar. It reads the tenant's tpm_cert_store too.
func LoadRegistrar(src Sources) (Registrar, Report, error) {
	var r Registrar
	store, err := tenantStore(src)
	rep, lerr := load(src, "registrar", r.options(), func(dir string) ([]string, []error) { return r.finish(dir, store) })
	return r, rep, errors.Join(lerr, err)
}

// LoadTenant is LoadVerifier for the tenant.
func LoadTenant(src Sources) (Tenant, Report, error) {
	var t Tenant
	rep, err := load(src, "tenant", t.options(), t.finish)
	return t, rep, err
}

// LoadAgent is LoadVerifier for the agent.
func LoadAgent(src Sources) (Agent, Report, error) {
	var a Agent
	rep, err := load(src, "agent", a.options(), func(string) ([]string, []error) { return a.finish(src.env("KEYLIME_DIR")) })
	return a, rep, err
}

// LoadCA is LoadVerifier for the certificate authority.
func LoadCA(src Sources) (CA, Report, error) {
	src.Flags = nil // they are the options of the role that makes certificates
	var c CA
	rep, err := load(src, "ca", c.options(), func(string) ([]string, []error) { return c.finish() })
	return c, rep, err
}

// LoadLogging is LoadVerifier for logging.
func LoadLogging(src Sources) (Logging, Report, error) {
	var l Logging
	rep, err := load(src, "logging", l.options(), nil)
	return l, rep, err
}

// LoadServer is LoadVerifier for what the server roles share.
func LoadServer(src Sources) (Server, Report, error) {
	var s Server
	rep, err := load(src, "server", s.options(), func(string) ([]string, []error) { return nil, s.finish(src.env("KEYLIME_DIR")) })
	return s, rep, err
}

// workingDir is the working directory of the server roles.
func workingDir(src Sources) (string, error) {
	src.Flags = nil // they are options of the role
	s, _, err := LoadServer(src)
	return s.KeylimeDir, err
}

// loader fills one role's options.
type loader struct {
	role    string
	options map[string]*option
	order   []option
	from    map[string]string // where an option's present value comes from
	secrets []string          // files that hold a password
	report  Report
	errs    []error
}

// finisher makes paths absolute and checks what single values cannot show. dir is the working directory of the server roles.
type finisher func(dir string) (warnings []string, errs []error)

// load applies the layers in order, then calls finish.
func load(src Sources, role string, opts []option, finish finisher) (Report, error) {
	l := &loader{role: role, options: make(map[string]*option, len(opts)), order: opts, from: map[string]string{}}
	for i := range opts {
		l.options[opts[i].name] = &opts[i]
	}
	l.apply(src)
	l.settings()
	l.judgeForeign()
	l.judgeSecrets()
	if len(l.errs) == 0 && finish != nil {
		l.finish(src, finish)
	}
	return l.report, errors.Join(l.errs...)
}

func (l *loader) finish(src Sources, finish finisher) {
	var dir string
	if l.role != "server" {
		var err error
		if dir, err = workingDir(src); err != nil {
			l.errs = append(l.errs, err)
			return
		}
	}
	warnings, errs := finish(dir)
	l.report.Warnings = append(l.report.Warnings, warnings...)
	l.errs = errs
}

func (l *loader) apply(src Sources) {
	files, err := discover(src, l.role)
	if err != nil {
		l.errs = append(l.errs, err)
		return
	}
	l.report.Warnings = append(l.report.Warnings, files.warnings...)
	for _, f := range files.list {
		l.report.Files = append(l.report.Files, f.path)
		entries, err := f.read(l.role)
		if err != nil {
			l.errs = append(l.errs, fmt.Errorf("%s: %w", f.path, err))
			continue
		}
		l.assignFile(f, entries)
	}
	if level := rustLogLevel(src.env("RUST_LOG")); level != "" && l.role == "logging" {
		l.assign(l.options["level"], level, "environment RUST_LOG")
	}
	l.assignEnvironment(src)
	for _, name := range sortedKeys(src.Flags) {
		if o := l.options[name]; o != nil {
			l.assign(o, src.Flags[name], "flag")
		} else {
			l.errs = append(l.errs, fmt.Errorf("flag for an option %q that %s does not have", name, l.role))
		}
	}
}

func (l *loader) assign(o *option, raw any, place string) {
	if err := o.value.set(raw); err != nil {
		l.errs = append(l.errs, fmt.Errorf("%s: option %s: %w; it takes %s", place, o.name, err, o.value.form()))
		return
	}
	l.from[o.name] = place
}

// assignFile applies the entries of one file. An unknown option is an error in keylime.toml; in Keylime's own files,
// which other releases write and read too, it earns a warning.
func (l *loader) assignFile(f file, entries []entry) {
	var unknown []string
	for _, e := range entries {
		place := f.path
		if e.line > 0 {
			place = fmt.Sprintf("%s:%d", f.path, e.line)
		}
		switch o := l.options[e.name]; {
		case o != nil:
			l.assign(o, e.raw, place)
			if s, ok := o.value.(*secretValue); ok && *s.p != "" && !slices.Contains(l.secrets, f.path) {
				l.secrets = append(l.secrets, f.path)
			}
		case f.kind == keylimeTOML:
			l.errs = append(l.errs, fmt.Errorf("%s: %s has no option %s%s", place, l.role, e.name, l.suggest(e.name)))
		default:
			unknown = append(unknown, e.name)
		}
	}
	if len(unknown) > 0 {
		l.report.Warnings = append(l.report.Warnings, fmt.Sprintf("%s: unknown options are ignored: %s", f.path, strings.Join(unknown, ", ")))
	}
}

// assignEnvironment applies KEYLIME_<ROLE>_<OPTION>. A variable that is set but empty counts.
func (l *loader) assignEnvironment(src Sources) {
	prefix := "KEYLIME_" + strings.ToUpper(l.role) + "_"
	byVariable := make(map[string]*option, len(l.options))
	for name, o := range l.options {
		byVariable[prefix+strings.ToUpper(strings.ReplaceAll(name, ".", "_"))] = o
	}
	vars := src.environment()
	for _, name := range sortedKeys(vars) {
		if !strings.HasPrefix(name, prefix) || name == prefix+"CONFIG" {
			continue
		}
		if o := byVariable[name]; o != nil {
			l.assign(o, vars[name], "environment "+name)
		} else {
			option := strings.ToLower(strings.TrimPrefix(name, prefix))
			l.report.Warnings = append(l.report.Warnings, fmt.Sprintf("environment %s: %s has no option %s%s", name, l.role, option, l.suggest(option)))
		}
	}
}

func (l *loader) settings() {
	for _, o := range l.order {
		if _, foreign := o.value.(*foreignValue); foreign && l.from[o.name] == "" {
			continue
		}
		s := Setting{Role: l.role, Name: o.name, Value: o.value.toml(), Source: "default"}
		if v, ok := o.value.(*secretValue); ok && *v.p != "" {
			s.Value = quote(redacted)
		}
		if from := l.from[o.name]; from != "" {
			s.Source = from
		}
		l.report.Settings = append(l.report.Settings, s)
	}
}

// judgeForeign warns of or refuses options that this release does not implement, where they ask for something.
func (l *loader) judgeForeign() {
	var named []string
	for _, o := range l.order {
		v, ok := o.value.(*foreignValue)
		if !ok || v.isDefault() {
			continue
		}
		switch {
		case v.refuse:
			l.errs = append(l.errs, fmt.Errorf("%s: option %s: %q is not implemented in this release; it takes %q", l.from[o.name], o.name, v.text, v.def))
		case v.warn:
			named = append(named, o.name)
		}
	}
	if len(named) > 0 {
		l.report.Warnings = append(l.report.Warnings, fmt.Sprintf("%s: options without effect in this release: %s", l.role, strings.Join(named, ", ")))
	}
}

// judgeSecrets warns of or refuses files with passwords that others can read.
func (l *loader) judgeSecrets() {
	refuse := false
	if o := l.options["key_file_permissions"]; o != nil {
		refuse = o.value.toml() == quote("refuse")
	}
	for _, path := range l.secrets {
		if !exposed(path) {
			continue
		}
		msg := fmt.Sprintf("%s holds a password and can be read by others than its owner; `chmod 600` it", path)
		if refuse {
			l.errs = append(l.errs, optionError("key_file_permissions", "%s", msg))
		} else {
			l.report.Warnings = append(l.report.Warnings, msg)
		}
	}
}

func (l *loader) suggest(name string) string {
	names := make([]string, 0, len(l.order))
	for _, o := range l.order {
		names = append(names, o.name)
	}
	return suggest(name, names)
}

func concat(parts ...[]option) []option { return slices.Concat(parts...) }
