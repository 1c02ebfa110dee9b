package argparse

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// read parses a line with a handful of flags, and shows what was stored, in order, and what was not a flag.
func read(line string) (stored string, loose []string, err error) {
	var parts []string
	store := func(name string) func(string) error {
		return func(value string) error {
			if value == "bad" {
				return errors.New("not good")
			}
			parts = append(parts, name+"="+value)
			return nil
		}
	}
	flags := []Flag{
		{Spellings: []string{"--output", "-o"}, Store: store("output")},
		{Spellings: []string{"--verbose", "-v"}, Switch: true, Store: store("verbose")},
		{Spellings: []string{"--list", "-m"}, Alone: "/kernel", Store: store("list")},
		{Spellings: []string{"--listing"}, Store: store("listing")},
		{Spellings: []string{"--algo"}, Store: store("algo")},
	}
	loose, err = Parse(strings.Fields(line), flags)
	return strings.Join(parts, " "), loose, err
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ line, stored, loose string }{
		{"", "", ""},
		{"-o x -v", "output=x verbose=", ""},
		{"-ox --output=y --output z", "output=x output=y output=z", ""},
		{"-o=x", "output=x", ""},
		{"--out x --verb", "output=x verbose=", ""},
		{"a -v b", "verbose=", "a b"},
		{"-o -1", "output=-1", ""},
		{"-o -", "output=-", ""},
		{"-- -v", "", "-v"},
		{"--unknown x", "", "--unknown x"},
		// An optional value does not swallow the flag behind it.
		{"-m -v", "list=/kernel verbose=", ""},
		{"-m", "list=/kernel", ""},
		{"-m file", "list=file", ""},
		{"--list=file", "list=file", ""},
		{"--list", "list=/kernel", ""}, // exact, though --listing begins with it
	} {
		stored, loose, err := read(c.line)
		if err != nil || stored != c.stored || !slices.Equal(loose, strings.Fields(c.loose)) {
			t.Errorf("%q: stored %q, loose %q, %v", c.line, stored, loose, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ line, want string }{
		{"-o", "argument -o/--output: expected one argument"},
		{"-o -v", "argument -o/--output: expected one argument"},
		{"--verbose=1", "argument -v/--verbose: ignored explicit argument '1'"},
		{"--lis x", "ambiguous option: --lis could match --list, --listing"},
		{"--algo bad", "argument --algo: not good"},
	} {
		_, _, err := read(c.line)
		var refused Error
		if !errors.As(err, &refused) || err.Error() != c.want {
			t.Errorf("%q: got %v, want %q", c.line, err, c.want)
		}
	}
}

// FuzzParse: no command line panics.
func FuzzParse(f *testing.F) {
	for _, line := range []string{"-o x -v", "--out=", "-m", "--l", "-vx", "-- -", "--="} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		stored, loose, err := read(line)
		again, looseAgain, errAgain := read(line)
		if stored != again || !slices.Equal(loose, looseAgain) || (err == nil) != (errAgain == nil) {
			t.Errorf("%q: read as %q and as %q", line, stored, again)
		}
	})
}
