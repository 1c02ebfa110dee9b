package policy

import (
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pythonsView is testdata/excludes.json: for each pattern the indices of the names that Python's re.match accepts, or null
// when Python refuses the pattern.
type pythonsView struct {
	Names   []string         `json:"names"`
	Matches map[string][]int `json:"matches"`
}

func readPythonsView(t testing.TB) pythonsView {
	t.Helper()
	text, err := os.ReadFile("testdata/excludes.json")
	if err != nil {
		t.Fatal(err)
	}
	var view pythonsView
	if err := json.Unmarshal(text, &view); err != nil {
		t.Fatal(err)
	}
	return view
}

// unsupported are the constructs that Python knows and we refuse.
var unsupported = regexp.MustCompile(`look-|back-ref|possessive|atomic|conditional|invalid repeat count|bad escape \\N|flags in a group`)

// NT-38: patterns exclude the names that they exclude in Keylime's Python.
func TestExcludesMatchAsPythonDoes(t *testing.T) {
	t.Parallel()
	view := readPythonsView(t)
	compared := 0
	for pattern, want := range view.Matches {
		x, err := compileExcludes([]string{pattern})
		switch {
		case want == nil && err == nil:
			t.Errorf("%q is accepted, Python refuses it", pattern)
			continue
		case want != nil && err != nil && !unsupported.MatchString(err.Error()):
			t.Errorf("%q is refused, Python accepts it: %v", pattern, err)
			continue
		case err != nil:
			continue
		}
		compared++
		matched := make(map[int]bool)
		for _, i := range want {
			matched[i] = true
		}
		for i, name := range view.Names {
			if got := x.match([]byte(name)); got != matched[i] {
				t.Errorf("%q excludes %q: %v, want %v", pattern, name, got, matched[i])
			}
		}
	}
	if compared < 100 {
		t.Errorf("only %d patterns were compared", compared)
	}
}

// NT-37
func TestExcludesNameTheBadPattern(t *testing.T) {
	t.Parallel()
	const advice = " Exclude list regex is misformatted. Please correct the issue and try again."
	for pattern, want := range map[string]string{
		`/a(?!b)`:            `"/a(?!b)": look-ahead is not supported at position 2`,
		`/ä(?<=b)`:           `"/ä(?<=b)": look-behind is not supported at position 2`,
		`(a)\1`:              `"(a)\\1": back-reference is not supported at position 3`,
		`[a`:                 `"[a": unterminated character set at position 0`,
		`a)|(b`:              `"a)|(b": unbalanced parenthesis at position 1`,
		`x*+`:                `"x*+": possessive quantifier is not supported at position 1`,
		`(?i)x`:              `"(?i)x": unknown or global flags in a group at position 0`,
		"a\xff":              `"a\xff": not valid UTF-8 at position 0`,
		`a{1001}`:            "\"a{1001}\": error parsing regexp: invalid repeat count: `{1001}`",
		`((a{100}){100}){9}`: "\"((a{100}){100}){9}\": error parsing regexp: invalid repeat count: `{100}`",
	} {
		_, err := compileExcludes([]string{"/good", pattern, "/other"})
		var e *Error
		if !errors.As(err, &e) || e.Text != want+advice {
			t.Errorf("%q:\ngot  %v\nwant %s", pattern, err, want+advice)
		}
	}
}

// Python joins the patterns into one, in which no group may have the name of another.
func TestGroupNamesAreUniqueAmongExcludes(t *testing.T) {
	t.Parallel()
	if _, err := compileExcludes([]string{"(?P<n>a)", "(?P<m>b)"}); err != nil {
		t.Error(err)
	}
	_, err := compileExcludes([]string{"(?P<n>a)", "x(?P<n>b)"})
	if err == nil || !strings.Contains(err.Error(), `"x(?P<n>b)"`) || !strings.Contains(err.Error(), "used twice at position 1") {
		t.Errorf("got %v", err)
	}
}

func TestExcludesAreBounded(t *testing.T) {
	t.Parallel()
	_, err := compileExcludes([]string{strings.Repeat(`[\W]`, maxPatternBytes/1000)})
	if err == nil || !strings.Contains(err.Error(), "too large an expression at position") {
		t.Errorf("one pattern: got %v", err)
	}
	_, err = compileExcludes(slices.Repeat([]string{strings.Repeat("a", maxPatternBytes)}, 5))
	if err == nil || !strings.Contains(err.Error(), "all patterns together exceed") {
		t.Errorf("many patterns: got %v", err)
	}
	_, err = compileExcludes(slices.Repeat([]string{strings.Repeat(".{1000}", 1000)}, 4))
	if err == nil || !strings.Contains(err.Error(), "all patterns together are too large") {
		t.Errorf("large patterns: got %v", err)
	}
}

// NT-37: time is linear in the name, whatever the pattern.
func TestExcludesTakeLinearTime(t *testing.T) {
	t.Parallel()
	x, err := compileExcludes([]string{`(a+)+$`, `(a|aa)+b`, `(.*)*c`})
	if err != nil {
		t.Fatal(err)
	}
	name := []byte(strings.Repeat("a", 100_000) + "!")
	if x.match(name) {
		t.Error("matches")
	}
}

// FuzzExcludes: no pattern panics, and the shortcut for plain prefixes agrees with the automaton.
func FuzzExcludes(f *testing.F) {
	for _, pattern := range []string{"", "/tmp/.*", "^/tmp$", "(/.*)?/x", "/[^]a-c]{,2}", "/a|b", `.*\.pyc\Z`, "(?P<n>/)+?", "(?=x)", "()$", "/a()$"} {
		f.Add(pattern, "/tmp/x")
	}
	f.Add(`(?i:/T)[\W\d-z]{2,3}?(?#x)\u0041`, "/t--A")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if strings.Contains(name, "\n") || len(pattern) > 100 {
			return // no name holds one
		}
		x, err := compileExcludes([]string{pattern})
		if err != nil {
			return
		}
		translated, err := translatePattern(pattern)
		if err != nil {
			t.Fatal(err)
		}
		want := regexp.MustCompile(`\A(?:` + translated + `)`).MatchString(name)
		if got := x.match([]byte(name)); got != want {
			t.Fatalf("%q excludes %q: %v, its automaton %v", pattern, name, got, want)
		}
	})
}

func TestManyPrefixesAreSearchedRight(t *testing.T) {
	t.Parallel()
	x, err := compileExcludes([]string{"/b", "/a/.*", "/a/b", "/c$", "/bb", "^/d.*$", "/a"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"/a": true, "/a/b/c": true, "/b": true, "/bz": true, "/c": true, "/cc": false, "/dd": true, "/": false, "": false, "/e": false,
	} {
		if got := x.match([]byte(name)); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}

// NT-38: the end of the text that a pattern asks for is never taken for anything else.
func TestEndsOfPatterns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern string
		want    string // of these names, those that it excludes
	}{
		{"()$", ""}, {"(?:)\\Z", ""}, {"/a$", "/a"}, {"/a()$", "/a"}, {"/a()", "/a /ab"}, {"/a.*$", "/a /ab"}, {"/a.*()$", "/a /ab"}, {".*$.*", "/ /a /ab"},
	} {
		x, err := compileExcludes([]string{c.pattern})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, name := range []string{"/", "/a", "/ab"} {
			if x.match([]byte(name)) {
				got = append(got, name)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s excludes %q, want %q", c.pattern, got, c.want)
		}
	}
}

func TestNearMisses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ pattern, name, want string }{
		{"/tmp/", "/tmp/x", ""},
		{"tmp/", "/tmp/x", "it matches from character 2 on"},
		{"x", "/ä/x", "it matches from character 4 on"},
		{"/tmp/.*\\.gz$", "/tmp/a.gz.part", "it matches the beginning"},
		{"/TMP/", "/tmp/x", "it matches but for upper and lower case"},
		{"/lib/modules/5\\.", "/lib/modules/6.1", `the path begins as it does, with "/lib/modules/"`},
		{"/usr/lib", "/usr/bin", ""},
		{"/opt", "/srv", ""},
	} {
		x, err := NewExclude(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := x.NearMiss(c.name); !strings.HasPrefix(got, c.want) || (c.want == "") != (got == "") {
			t.Errorf("%s, %s: got %q, want %q", c.pattern, c.name, got, c.want)
		}
	}
	if _, err := NewExclude("(?=a)"); err == nil {
		t.Error("a look-ahead is accepted")
	}
}
