package config

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// table is a role with its options, at their defaults.
type table struct {
	role, about string
	options     []option
}

// tables lists every role's options in the order of the example file.
func tables() []table {
	return []table{
		{"verifier", "Attests agents and tells of those that fail.", new(Verifier).options()},
		{"registrar", "Keeps the directory of agents, and proves that their keys live in one TPM.", new(Registrar).options()},
		{"tenant", "The operator's commands.", new(Tenant).options()},
		{"agent", "Runs on the machine that is attested.", new(Agent).options()},
		{"ca", "The certificate authority that `tls_dir = \"generate\"` makes.", new(CA).options()},
		{"logging", "What is logged, where to, and in which shape.", new(Logging).options()},
		{"server", "What the server roles share; `keylime server` runs registrar and verifier in one process.", new(Server).options()},
	}
}

// tableOf splits an option's name into the TOML table and the key in it.
func tableOf(role, name string) (table, key string) {
	if section, key, ok := strings.Cut(name, "."); ok {
		return role + "." + section, key
	}
	return role, name
}

// WriteExample writes a keylime.toml with every option that has an effect, at its default.
func WriteExample(w io.Writer) error {
	out := bufio.NewWriter(w)
	fmt.Fprint(out, "# Keylime's configuration. Every option is shown at its default; delete what you do not change.\n"+
		"# Read from --config, $KEYLIME_CONFIG or /etc/keylime/keylime.toml. KEYLIME_<TABLE>_<OPTION> in the environment\n"+
		"# overrides an option, for example KEYLIME_VERIFIER_QUOTE_INTERVAL=10.\n")
	for _, t := range tables() {
		current := ""
		for _, o := range t.options {
			if _, foreign := o.value.(*foreignValue); foreign {
				continue
			}
			name, key := tableOf(t.role, o.name)
			if name != current {
				current = name
				fmt.Fprintln(out)
				if name == t.role {
					writeComment(out, t.about)
				}
				fmt.Fprintf(out, "[%s]\n", name)
			}
			writeComment(out, sentence(o.doc))
			fmt.Fprintf(out, "%s = %s\n", key, o.value.toml())
		}
	}
	return out.Flush()
}

// writeComment wraps a comment at 100 columns.
func writeComment(w io.Writer, text string) {
	line := "#"
	for _, word := range strings.Fields(text) {
		if len(line)+1+len(word) > 100 {
			fmt.Fprintln(w, line)
			line = "#"
		}
		line += " " + word
	}
	fmt.Fprintln(w, line)
}

func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] + "." }

// WriteReference writes every option as Markdown, those without effect too.
func WriteReference(w io.Writer) error {
	out := bufio.NewWriter(w)
	for _, t := range tables() {
		fmt.Fprintf(out, "### [%s]\n\n%s\n\n| option | default | takes | meaning |\n| --- | --- | --- | --- |\n", t.role, t.about)
		var idle []string
		for _, o := range t.options {
			if v, foreign := o.value.(*foreignValue); foreign {
				if v.refuse {
					idle = append(idle, fmt.Sprintf("`%s` (only `%s`)", o.name, v.def))
				} else {
					idle = append(idle, "`"+o.name+"`")
				}
				continue
			}
			def := o.value.toml()
			if s, ok := o.value.(*secretValue); ok {
				def = quote(string(*s.p))
			}
			fmt.Fprintf(out, "| `%s` | `%s` | %s | %s |\n", o.name, def, cell(o.value.form()), cell(sentence(o.doc)))
		}
		if len(idle) > 0 {
			fmt.Fprintf(out, "\nKnown, without effect: %s.\n", strings.Join(idle, ", "))
		}
		fmt.Fprintln(out)
	}
	return out.Flush()
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
