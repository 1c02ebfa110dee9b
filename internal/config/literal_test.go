package config

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestParseLiteral(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]any{
		`[]`:                             []any{},
		`['a', "b"]`:                     []any{"a", "b"},
		"['a',\n 'b' , ]":                []any{"a", "b"},
		`('a', 'b')`:                     []any{"a", "b"},
		`[1, -2, 1.5, 1e3]`:              []any{int64(1), int64(-2), 1.5, 1000.0},
		`[True, False, None]`:            []any{true, false, nil},
		`[true, false, null]`:            []any{true, false, nil},
		`['it\'s', "say \"x\"", "it's"]`: []any{"it's", `say "x"`, "it's"},
		`['\n\t\\\x41\u00e9\101']`:       []any{"\n\t\\A\u00e9A"},
		`['\xe9']`:                       []any{"\u00e9"},
		`['.*\.ima\d+']`:                 []any{`.*\.ima\d+`},
		"['a\\\nb']":                     []any{"ab"},
		`[['a'], {'k': 'v', "n": 1,}]`:   []any{[]any{"a"}, map[string]any{"k": "v", "n": int64(1)}},
		`[{"event_id": ".*", "severity_label" : "emergency"}]`: []any{map[string]any{"event_id": ".*", "severity_label": "emergency"}},
	} {
		got, err := parseLiteral(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", text, d)
		}
	}
}

func TestParseLiteralRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`['a'`:                       "comma or ] is missing",
		`['a' 'b']`:                  "comma or ] is missing",
		`['a]`:                       "is not closed",
		"['a\nb']":                   "is not closed",
		`[a]`:                        "neither a number nor between quotes",
		`['a'] x`:                    "follows the list",
		`[,]`:                        "a value is missing",
		`{1: 2}`:                     "cannot be a key",
		`{'a' 2}`:                    "colon is missing",
		`{'a': 1 'b'}`:               "comma or } is missing",
		`{'a': 1, 'a': 2}`:           "stands twice",
		``:                           "a value is missing",
		strings.Repeat("[", 100_000): "nested more than",
	} {
		if _, err := parseLiteral(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: error %v, want %q", text, err, want)
		}
	}
}

func TestListForms(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		raw    any
		spaces bool
		want   []string
	}{
		{`['agent', "webhook"]`, false, []string{"agent", "webhook"}},
		{`[agent]`, false, []string{"agent"}},
		{`[agent, webhook]`, false, []string{"agent", "webhook"}},
		{`["agent", "webhook"]`, false, []string{"agent", "webhook"}},
		{`agent, webhook`, false, []string{"agent", "webhook"}},
		{`[' agent ']`, false, []string{"agent"}},
		{`[]`, false, nil},
		{``, false, nil},
		{`["a.crt", /b.crt]`, true, []string{"a.crt", "/b.crt"}},
		{`default`, true, []string{"default"}},
		{`"default"`, true, []string{"default"}},
		{`a.crt b.crt`, true, []string{"a.crt", "b.crt"}},
		{`"a.crt, b.crt"`, true, []string{"a.crt", "b.crt"}},
		{`a b, c`, false, []string{"a b", "c"}},
		{`"a b.crt", 'c.crt'`, true, []string{"a b.crt", "c.crt"}},
		{"a.crt\nb.crt", true, []string{"a.crt", "b.crt"}},
		{[]any{"a", " b"}, false, []string{"a", "b"}},
	} {
		var got []string
		if err := (&listValue{p: &got, spaces: tc.spaces}).set(tc.raw); err != nil {
			t.Errorf("%v: %v", tc.raw, err)
		} else if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%v: %s", tc.raw, d)
		}
	}
	for _, bad := range []any{`['a'`, `[1]`, int64(1), []any{int64(1)}, `[{'a': 'b'}]`} {
		got := []string{"kept"}
		if err := (&listValue{p: &got}).set(bad); err == nil || got[0] != "kept" {
			t.Errorf("%v: error %v, value %v", bad, err, got)
		}
	}
}

func FuzzParseLiteral(f *testing.F) {
	for _, s := range []string{`['a', "b"]`, `[{"event_id": ".*"}]`, `('\x41\u00e9',)`, `[1, 2.5, True, None]`, `[[[]]]`, `'\`, `["\ud800"]`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := parseLiteral(s)
		if err != nil || !utf8.ValidString(s) { // files that are not UTF-8 are refused before
			return
		}
		list, ok := v.([]any)
		if !ok {
			return
		}
		// What was read as a list of strings is read again the same from its TOML text, which is a literal too.
		var first, second []string
		if (&listValue{p: &first}).setArray(list) != nil {
			return
		}
		if err := (&listValue{p: &second}).set((&listValue{p: &first}).toml()); err != nil || cmp.Diff(first, second) != "" {
			t.Errorf("%q read again as %q, %v", first, second, err)
		}
	})
}
