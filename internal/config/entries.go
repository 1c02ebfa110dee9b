package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// entry is one option as a file has it, named as in the role's table.
type entry struct {
	name string
	raw  any
	line int // 0 = unknown
}

// read returns the entries of the role.
func (f file) read(role string) ([]entry, error) {
	switch f.kind {
	case roleINI:
		return f.readINI(role)
	case agentTOML:
		return f.readTable(role, false)
	}
	return f.readTable(role, true)
}

// readINI maps sections to options: the role's own section, and others as SECTION.OPTION.
func (f file) readINI(role string) ([]entry, error) {
	options, err := parseINI(f.text)
	if err != nil {
		return nil, err
	}
	if role == "logging" {
		return loggingEntries(options), nil
	}
	var entries []entry
	for _, o := range options {
		switch {
		case o.section == role:
			entries = append(entries, entry{o.name, o.value, o.line})
		case !slices.Contains(roles, o.section): // one file may serve several roles
			entries = append(entries, entry{o.section + "." + o.name, o.value, o.line})
		}
	}
	return entries, nil
}

// readTable reads the role's table of a TOML file; tables in it become TABLE.OPTION. In a strict file every other
// table must be that of another role.
func (f file) readTable(role string, strict bool) ([]entry, error) {
	doc, err := f.decode()
	if err != nil {
		return nil, err
	}
	if strict {
		if err := checkTables(f, doc); err != nil {
			return nil, err
		}
	}
	table, ok := doc[role].(map[string]any)
	if !ok && doc[role] != nil {
		return nil, fmt.Errorf("%s is not a table", role)
	}
	return f.flatten(table, role, ""), nil
}

func (f file) flatten(table map[string]any, path, prefix string) []entry {
	var entries []entry
	for _, key := range sortedKeys(table) {
		if sub, ok := table[key].(map[string]any); ok {
			entries = append(entries, f.flatten(sub, path+"."+key, prefix+key+".")...)
			continue
		}
		entries = append(entries, entry{prefix + key, plain(table[key]), keyLine(f.text, path, key)})
	}
	return entries
}

// plain gives arrays of tables the type that other arrays have.
func plain(v any) any {
	tables, ok := v.([]map[string]any)
	if !ok {
		return v
	}
	array := make([]any, len(tables))
	for i, t := range tables {
		array[i] = t
	}
	return array
}

func (f file) decode() (map[string]any, error) {
	var doc map[string]any
	_, err := toml.Decode(f.text, &doc)
	var perr toml.ParseError
	if errors.As(err, &perr) {
		return nil, &lineError{perr.Position.Line, errors.New(perr.Message)}
	}
	return doc, err
}

// topTables are the tables of a keylime.toml.
func topTables(f file) ([]string, error) {
	doc, err := f.decode()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.path, err)
	}
	return sortedKeys(doc), nil
}

func checkTables(f file, doc map[string]any) error {
	for _, name := range sortedKeys(doc) {
		if !slices.Contains(roles, name) {
			err := fmt.Errorf("unknown table or option %s%s", name, suggest(name, roles))
			if line := max(headerLine(f.text, name), keyLine(f.text, "", name)); line > 0 {
				return &lineError{line, err}
			}
			return err
		}
	}
	return nil
}

var tomlHeader = regexp.MustCompile(`^\s*\[\[?\s*([^\]]*?)\s*\]`)

// keyLine finds the line of a key in a table for messages; 0 when it is written in a way that a glance does not find.
func keyLine(text, table, key string) int {
	current := ""
	for i, line := range strings.Split(text, "\n") {
		if m := tomlHeader.FindStringSubmatch(line); m != nil {
			current = m[1]
			continue
		}
		name, _, ok := strings.Cut(line, "=")
		name = strings.Trim(strings.TrimSpace(name), `"'`)
		if ok && (current == table && name == key || joinPath(current, name) == joinPath(table, key)) {
			return i + 1
		}
	}
	return 0
}

func headerLine(text, table string) int {
	for i, line := range strings.Split(text, "\n") {
		if m := tomlHeader.FindStringSubmatch(line); m != nil && (m[1] == table || strings.HasPrefix(m[1], table+".")) {
			return i + 1
		}
	}
	return 0
}

func joinPath(table, key string) string {
	if table == "" {
		return key
	}
	return table + "." + key
}
