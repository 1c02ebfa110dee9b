package differential

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"keylime/internal/policy"
)

// patternCase is patterns and names that they may match.
type patternCase struct {
	Kind     string   `json:"kind"`
	Patterns []string `json:"patterns"`
	Pattern  string   `json:"pattern"`
	Names    []string `json:"names"`
}

func sortedNames(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }

var (
	atoms = []string{
		"a", "b", "/", "/tmp", "é", "日", ".", "-", "_", "]", "}", "{", ",", " ", "#", "~", "@", "=", "&", "<", ">",
		"[a-z]", "[^/]", "[]a]", "[^]a]", "[a-]", "[-a]", `[\w.]`, `[\d-]`, `[^\s]`, "[[:alpha:]]", "[&&]", `[\]]`, `[\\]`, "[é-ü]", "[日本]", "[z-a]", "[", "[]",
		`\d`, `\D`, `\w`, `\W`, `\s`, `\S`, `\.`, `\/`, `\-`, `\_`, `\[`, `\\`, `\t`, `\n`, `\x41`, `\101`, `\0`, `\u00e9`, `\q`, `\z`, `\pL`, `\Q`, `\A`, `\Z`, "^", "$",
		"(a)", "(?:a|b)", "(?P<n>a)", "(?#note)", "(a|)", "()", "(", ")", "(?i)", "(?i:A)", "(?s:.)", "(?x: a )", "|",
		"(?=a)", "(?!a)", "(?<=a)", "(?<!a)", "(?>a)", `\1`,
	}
	repeats = []string{"*", "+", "?", "*?", "+?", "{2}", "{,2}", "{1,}", "{0,2}", "{2,1}", "{a}", "{}", "{,}", "**", "++", "{2}{3}"}
	names   = []string{
		"", "a", "b", "ab", "aab", "abab", "A", "/", "/tmp", "/tmp/a", "/tmp/b.c", "/tmpfoo", "/var/tmp/a", "é", "É", "日", "日本", "٣", "3", "a3", "a b", " ", "\t",
		"a-b", "a_b", "]", "[", "{", "{a}", "a{2}", "}", `\`, `a\b`, ".", "..", "&&", "#", "Z", "z", "aA", "alpha", ":", "n", "note", "q", "pL", "Q",
	}
)

// pattern is a random one.
func (w *world) pattern() string {
	if w.chance(20) {
		return pick(w, excludePool)
	}
	var b strings.Builder
	for range 1 + w.random.IntN(4) {
		b.WriteString(pick(w, atoms))
		if w.chance(30) {
			b.WriteString(pick(w, repeats))
		}
	}
	return b.String()
}

// The row "exclude patterns" of docs/compatibility.md: what RE2 cannot express is refused, and each pattern must be valid
// on its own, at upload.
const (
	unsupported = "is not supported"
	misformed   = "Exclude list regex is misformatted"
)

func compileExcludes(t *testing.T, patterns ...string) (*policy.Runtime, error) {
	t.Helper()
	return policy.CompileRuntime([]byte(marshal(t, map[string]any{
		"meta": map[string]any{"version": 1, "generator": 2}, "release": 0, "digests": map[string]any{}, "excludes": patterns, "keyrings": map[string]any{},
		"ima": map[string]any{"ignored_keyrings": []string{}, "log_hash_alg": "sha1", "dm_policy": nil}, "ima-buf": map[string]any{}, "verification-keys": "",
	})))
}

func compareExcludes(t *testing.T, p *peer, seed uint64, count int) {
	w := newWorld(t, seed)
	var cases []patternCase
	for range count {
		c := patternCase{Kind: "excludes", Patterns: []string{w.pattern()}, Names: names}
		for w.chance(30) {
			c.Patterns = append(c.Patterns, w.pattern())
		}
		p.ask(t, c)
		cases = append(cases, c)
	}
	valid := 0
	for _, c := range cases {
		var theirs []bool
		p.answer(t, &theirs)
		runtime, err := compileExcludes(t, c.Patterns...)
		switch {
		case err != nil && strings.Contains(err.Error(), unsupported):
		case (err == nil) != (theirs != nil):
			t.Errorf("excludes %q: here %v, the peer matches %v", c.Patterns, err, theirs)
		case err == nil:
			valid++
			for i, name := range names {
				if ours := runtime.File([]byte(name), nil).Reason == policy.Accepted; ours != theirs[i] {
					t.Errorf("excludes %q, name %q: matches %v here, %v at the peer", c.Patterns, name, ours, theirs[i])
				}
			}
		}
	}
	t.Logf("%d of %d lists of patterns are valid", valid, count)
	if valid < count/4 {
		t.Errorf("%d of %d lists of patterns are valid: the cases say little", valid, count)
	}
}

var eventPatterns = []string{
	".*", "", "ima", `ima\..*`, `ima\.validation\..*`, `.*not_in_allowlist`, "pcr_validation.invalid_pcr_[0-9]+", `qoute_validation\.(no_pubkey|quote_validation)`,
	`measured_boot\..*`, "[a-z]+", `(?i:IMA)\..*`, `ima\.[^.]*`, `.+\.invalid_pcr_1?[0-5]`, "(", "*", `\w+\.\w+`, `ima\.pcr_mismatch|ima`,
}

// compareSeverities: the patterns of severity rules must match whole event ids.
func compareSeverities(t *testing.T, p *peer, seed uint64, count int) {
	w := newWorld(t, seed)
	ids := []string{
		"ima.validation.ima-ng.not_in_allowlist", "ima.validation.ima-ng.runtime_policy_hash", "ima.pcr_mismatch", "ima.validation.ima_hash", "pcr_validation.invalid_pcr_0",
		"pcr_validation.invalid_pcr_15", "qoute_validation.no_pubkey", "qoute_validation.quote_validation", "measured_boot.policy", "internal.verifier.exception",
	}
	var cases []patternCase
	for range count {
		c := patternCase{Kind: "severity", Pattern: pick(w, eventPatterns), Names: ids}
		if w.chance(50) {
			c.Pattern = regexp.QuoteMeta(pick(w, ids)[:1+w.random.IntN(8)]) + pick(w, []string{"", ".*", `\w*`, "[^.]*", `(\..*)?`}) + pick(w, repeats)
		}
		p.ask(t, c)
		cases = append(cases, c)
	}
	for _, c := range cases {
		var theirs []bool
		p.answer(t, &theirs)
		labels, err := policy.NewLabels([]string{"low", "high"}, []policy.SeverityRule{{EventID: c.Pattern, Label: "low"}})
		switch {
		case err != nil && strings.Contains(err.Error(), unsupported):
		case (err == nil) != (theirs != nil):
			t.Errorf("severity rule %q: here %v, the peer matches %v", c.Pattern, err, theirs)
		case err == nil:
			for i, id := range ids {
				if ours := labels.For(id, true).Label == "low"; ours != theirs[i] {
					t.Errorf("severity rule %q, event %q: matches %v here, %v at the peer", c.Pattern, id, ours, theirs[i])
				}
			}
		}
	}
}
