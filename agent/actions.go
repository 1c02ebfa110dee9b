package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"
)

// parseActions reads a list of action names.
func parseActions(text string) ([]string, error) {
	if len(text) > maxActionList {
		return nil, fmt.Errorf("action list has %d bytes, more than the %d allowed", len(text), maxActionList)
	}
	names := splitNames(text)
	if len(names) > maxActions {
		return nil, fmt.Errorf("action list has %d names, more than the %d allowed", len(names), maxActions)
	}
	return names, nil
}

// splitNames reads names separated by commas or white space, perhaps in brackets, perhaps quoted.
func splitNames(text string) []string {
	text = strings.TrimSpace(text)
	if inner, ok := strings.CutPrefix(text, "["); ok {
		text = strings.TrimSuffix(inner, "]")
	}
	var names []string
	for name := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }) {
		if name = unquote(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

func unquote(s string) string {
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0] {
		return s[1 : len(s)-1]
	}
	return s
}

// checkActionName holds that a name is the plain name of a file: it comes from a payload and becomes part of a path.
func checkActionName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("%q names no file", name)
	case len(name) > maxActionName:
		return fmt.Errorf("name of %d bytes is longer than the %d allowed", len(name), maxActionName)
	case strings.ContainsAny(name, `/\`):
		return fmt.Errorf("%q must be a plain file name without a path", name)
	}
	for _, r := range name {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("%q holds a control character", name)
		}
	}
	return nil
}

// errNoAction says that a directory does not hold the action.
var errNoAction = errors.New("not found")

// findAction returns the path of the first directory's file of that name. The file must be a plain executable one: a
// link could lead anywhere, and one that everybody may write could be anything.
func findAction(name string, dirs []string) (string, error) {
	if err := checkActionName(name); err != nil {
		return "", err
	}
	for _, dir := range dirs {
		info, err := lstatIn(dir, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		path := filepath.Join(dir, name)
		switch mode := info.Mode(); {
		case !mode.IsRegular():
			return "", fmt.Errorf("%s is no plain file", path)
		case mode.Perm()&0o111 == 0:
			return "", fmt.Errorf("%s is not executable", path)
		case mode.Perm()&0o002 != 0:
			return "", fmt.Errorf("%s may be written by everybody", path)
		}
		return path, nil
	}
	return "", fmt.Errorf("%w in %s", errNoAction, strings.Join(dirs, " or "))
}

func lstatIn(dir, name string) (fs.FileInfo, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.Lstat(name)
}

// allowActions gives the owner's execute bit to the files of the unpacked payload that its action list names (wire:
// archives rarely carry it). Names that are no plain file are left alone; carrying them out is refused later.
func allowActions(unpacked *os.Root, names []string) error {
	for _, name := range names {
		if checkActionName(name) != nil {
			continue
		}
		info, err := unpacked.Lstat(name)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if err := unpacked.Chmod(name, 0o700); err != nil {
			return fmt.Errorf("make action %s executable: %w", name, err)
		}
	}
	return nil
}

// runAction carries out one action with one argument, the file that holds the revocation.
func runAction(ctx context.Context, path, argument, workDir, agentID string) (output string, err error) {
	return program{argv: []string{path, argument}, dir: workDir, agentID: agentID, timeout: actionTimeout}.run(ctx)
}
