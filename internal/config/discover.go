package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// fileKind is how a file is written.
type fileKind int

const (
	keylimeTOML fileKind = iota // a table per role, strict
	roleINI                     // verifier.conf and the other server files
	agentTOML                   // agent.conf
)

type file struct {
	path string
	kind fileKind
	text string
}

type fileSet struct {
	list     []file // later ones win
	warnings []string
}

// Directories of Keylime's files. Those of the administrator come after those of the distribution.
const (
	vendorDir = "/usr/etc/keylime"
	adminDir  = "/etc/keylime"
)

// maxFileSize bounds a configuration file.
const maxFileSize = 1 << 20

// roles are the tables of keylime.toml.
var roles = []string{"verifier", "registrar", "tenant", "agent", "ca", "logging", "server"}

// discover finds the files of a role. The first of these that applies is the source, the others are not read:
//
//  1. --config or KEYLIME_CONFIG: that keylime.toml
//  2. KEYLIME_<ROLE>_CONFIG: that file of Keylime's own
//  3. /etc/keylime/keylime.toml, when it has the role's table
//  4. Keylime's own files in /etc/keylime and /usr/etc/keylime, with their snippets
func discover(src Sources, role string) (fileSet, error) {
	explicit := src.File
	if explicit == "" {
		explicit = src.env("KEYLIME_CONFIG")
	}
	if explicit != "" {
		f, err := readFile(explicit, keylimeTOML)
		return fileSet{list: []file{f}}, err
	}
	var set fileSet
	if role != "server" {
		own, err := fromVariable(src, role, &set)
		if err != nil || own {
			return set, err
		}
	}
	f, err := readFile(filepath.Join("/", src.Root, adminDir, "keylime.toml"), keylimeTOML)
	if err == nil {
		tables, err := topTables(f)
		if err != nil {
			return set, err
		}
		if slices.Contains(tables, role) {
			set.list = []file{f}
			return set, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return set, err
	}
	if role == "server" {
		return set, nil
	}
	return set, systemFiles(src.Root, role, &set)
}

func ownKind(role string) fileKind {
	if role == "agent" {
		return agentTOML
	}
	return roleINI
}

// fromVariable reads the file that KEYLIME_<ROLE>_CONFIG names. When it is missing the agent must not start; a server
// looks on, as it always has.
func fromVariable(src Sources, role string, set *fileSet) (found bool, err error) {
	variable := "KEYLIME_" + strings.ToUpper(role) + "_CONFIG"
	path := src.env(variable)
	if path == "" {
		return false, nil
	}
	info, err := os.Stat(path)
	if role != "agent" && (errors.Is(err, fs.ErrNotExist) || (err == nil && !info.Mode().IsRegular())) {
		set.warnings = append(set.warnings, fmt.Sprintf("environment %s: %s is not a file; looking in %s and %s", variable, path, adminDir, vendorDir))
		return false, nil
	}
	f, err := readFile(path, ownKind(role))
	if err != nil {
		return false, fmt.Errorf("environment %s: %w", variable, err)
	}
	set.list = []file{f}
	return true, nil
}

// systemFiles collects a role's base file and snippets. Servers read one base file, the administrator's before the
// distribution's; the agent merges both.
func systemFiles(root, role string, set *fileSet) error {
	vendor := filepath.Join("/", root, vendorDir, role+".conf")
	admin := filepath.Join("/", root, adminDir, role+".conf")
	if role == "agent" {
		for _, base := range []string{vendor, admin} {
			if _, err := set.add(base, agentTOML); err != nil {
				return err
			}
			if err := set.addSnippets(base+".d", agentTOML); err != nil {
				return err
			}
		}
		return nil
	}
	found, err := set.add(admin, roleINI)
	if err == nil && !found {
		_, err = set.add(vendor, roleINI)
	}
	if err != nil {
		return err
	}
	if err := set.addSnippets(vendor+".d", roleINI); err != nil {
		return err
	}
	return set.addSnippets(admin+".d", roleINI)
}

// add reads a file if it exists.
func (s *fileSet) add(path string, kind fileKind) (found bool, err error) {
	f, err := readFile(path, kind)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	s.list = append(s.list, f)
	return true, nil
}

// addSnippets reads every regular file of a directory, in the order of their names.
func (s *fileSet) addSnippets(dir string, kind fileKind) error {
	entries, err := os.ReadDir(dir) // sorted
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read configuration snippets: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			continue
		}
		if _, err := s.add(path, kind); err != nil {
			return err
		}
	}
	return nil
}

func readFile(path string, kind fileKind) (file, error) {
	f := file{path: path, kind: kind}
	info, err := os.Stat(path)
	if err != nil {
		return f, fmt.Errorf("read configuration: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFileSize {
		return f, fmt.Errorf("read configuration: %s is not a regular file of at most %d bytes", path, maxFileSize)
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrPermission) {
		return f, fmt.Errorf("read configuration: %w (its mode is %v; let the user that this role runs as read it)", err, info.Mode())
	}
	if err != nil {
		return f, fmt.Errorf("read configuration: %w", err)
	}
	if !utf8.Valid(text) {
		return f, fmt.Errorf("read configuration: %s is not UTF-8 text", path)
	}
	f.text = string(text)
	return f, nil
}
