package config

import (
	"bufio"
	"fmt"
	"io"
	"slices"
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

// With is the report of two configurations that one process loads; a file or warning of both is kept once.
func (r Report) With(other Report) Report {
	merge := func(a, b []string) []string {
		for _, s := range b {
			if !slices.Contains(a, s) {
				a = append(a, s)
			}
		}
		return a
	}
	return Report{
		Files:    merge(slices.Clone(r.Files), other.Files),
		Warnings: merge(slices.Clone(r.Warnings), other.Warnings),
		Settings: slices.Concat(r.Settings, other.Settings),
	}
}
