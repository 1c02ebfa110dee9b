package config

import (
	"maps"
	"os"
	"slices"
	"strings"
)

// Sources says where configuration comes from. The zero value reads the files of this machine and no environment.
type Sources struct {
	// File is the keylime.toml of --config; "" = KEYLIME_CONFIG, else /etc/keylime/keylime.toml when it exists.
	File string
	// Environ is the environment as os.Environ gives it.
	Environ []string
	// Flags are options set on the command line, by option name ("quote_interval", "revocations.webhook_url").
	Flags map[string]string
	// Root stands for / when /etc/keylime and /usr/etc/keylime are looked for; "" = /.
	Root string
}

// System are the sources of this process: its environment, the file of --config, the options set by flags.
func System(file string, flags map[string]string) Sources {
	return Sources{File: file, Environ: os.Environ(), Flags: flags}
}

// environment has each variable's last value, as shells and C programs see it.
func (s Sources) environment() map[string]string {
	vars := make(map[string]string, len(s.Environ))
	for _, e := range s.Environ {
		if name, value, ok := strings.Cut(e, "="); ok {
			vars[name] = value
		}
	}
	return vars
}

func (s Sources) env(name string) string { return s.environment()[name] }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
