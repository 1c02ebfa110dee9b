package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestActionListsAreReadInAnyForm(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"":                           nil,
		" \n":                        nil,
		"[]":                         nil,
		"one":                        {"one"},
		"one,two":                    {"one", "two"},
		"one\ntwo\n":                 {"one", "two"},
		"one, two\r\n\tthree":        {"one", "two", "three"},
		"[one, two]":                 {"one", "two"},
		`["one", 'two', three]`:      {"one", "two", "three"},
		"local_action_a.sh , , b.py": {"local_action_a.sh", "b.py"},
		`"`:                          {`"`},
	} {
		got, err := parseActions(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
	for _, text := range []string{strings.Repeat("a ", maxActions+1), strings.Repeat("a", maxActionList+1)} {
		if _, err := parseActions(text); err == nil {
			t.Errorf("list of %d bytes accepted", len(text))
		}
	}
}

// FuzzParseActions: a name that is accepted for running is a plain file name.
func FuzzParseActions(f *testing.F) {
	f.Add("[a, b]\n../c '/d'")
	f.Fuzz(func(t *testing.T, text string) {
		names, err := parseActions(text)
		if err != nil {
			return
		}
		for _, name := range names {
			if checkActionName(name) == nil && (filepath.Base(name) != name || !filepath.IsLocal(name)) {
				t.Errorf("%q accepted", name)
			}
		}
	})
}

// writeFile makes a file with exactly this mode.
func writeFile(t testing.TB, name, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
	return name
}

// NT-63: names and kinds of files
func TestOnlyPlainExecutableFilesAreActions(t *testing.T) {
	t.Parallel()
	installed, unpacked := t.TempDir(), t.TempDir()
	writeFile(t, filepath.Join(installed, "both"), "#!/bin/sh\n", 0o755)
	writeFile(t, filepath.Join(unpacked, "both"), "#!/bin/sh\n", 0o700)
	writeFile(t, filepath.Join(unpacked, "payload"), "#!/bin/sh\n", 0o700)
	writeFile(t, filepath.Join(unpacked, "plain"), "#!/bin/sh\n", 0o600)
	writeFile(t, filepath.Join(unpacked, "open"), "#!/bin/sh\n", 0o777)
	if err := os.Symlink("/bin/sh", filepath.Join(unpacked, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(unpacked, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	dirs := []string{installed, unpacked}
	for name, want := range map[string]string{"both": filepath.Join(installed, "both"), "payload": filepath.Join(unpacked, "payload")} {
		if got, err := findAction(name, dirs); err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, want)
		}
	}
	for name, want := range map[string]string{
		"../../bin/sh":           "plain file name",
		"/bin/sh":                "plain file name",
		`a\b`:                    "plain file name",
		"..":                     "names no file",
		"":                       "names no file",
		"a\x00b":                 "control character",
		"a\x1b[2Jb":              "control character",
		strings.Repeat("a", 200): "longer than",
		"link":                   "no plain file",
		"dir":                    "no plain file",
		"plain":                  "not executable",
		"open":                   "written by everybody",
		"missing":                "not found",
	} {
		if got, err := findAction(name, dirs); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q, %v; want an error with %q", name, got, err, want)
		}
	}
	if _, err := findAction("both", []string{filepath.Join(installed, "nowhere"), unpacked}); err != nil {
		t.Errorf("a missing directory hides the next: %v", err)
	}
}

func TestListedActionsBecomeExecutable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	outside := writeFile(t, filepath.Join(t.TempDir(), "outside"), "", 0o600)
	for _, name := range []string{"a", "b", "c"} {
		writeFile(t, filepath.Join(dir, name), "", 0o600)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	names := []string{"a", "c", "link", "missing", "../outside", outside}
	if err := allowActions(root, names); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, name := range []string{"a", "b", "c"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		got[name] = fmt.Sprintf("%o", info.Mode().Perm())
	}
	if diff := cmp.Diff(map[string]string{"a": "700", "b": "600", "c": "700"}, got); diff != "" {
		t.Error(diff)
	}
	if info, err := os.Stat(outside); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("changed a file outside: %v, %v", info.Mode(), err)
	}
}
