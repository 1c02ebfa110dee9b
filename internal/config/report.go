package config

import (
	"bufio"
	"fmt"
	"io"
)

// Show writes the settings as a table of keylime.toml, with the source of each value that is not the default. Secrets
// are redacted.
func (r Report) Show(w io.Writer) error {
	out := bufio.NewWriter(w)
	table := ""
	for _, s := range r.Settings {
		if t, _ := tableOf(s.Role, s.Name); t != table {
			table = t
			fmt.Fprintf(out, "[%s]\n", table)
		}
		_, key := tableOf(s.Role, s.Name)
		fmt.Fprintf(out, "%s = %s", key, s.Value)
		if s.Source != "default" {
			fmt.Fprintf(out, "  # %s", s.Source)
		}
		fmt.Fprintln(out)
	}
	return out.Flush()
}
