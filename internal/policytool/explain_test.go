package policytool

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keylime/internal/recorded"
)

func TestExplainPath(t *testing.T) {
	t.Parallel()
	p := file(t, "policy", runtimeText(t, map[string]any{
		"digests": digests{
			"/usr/bin/tool": {sum("tool")}, "/opt/bin/tool": {sum("old tool")}, "/usr/lib/libx.so.1.2.3": {sum("lib")}, "/usr/bin/zebra": {sum("zebra")},
		},
		"excludes": []string{"tmp/cache", "/var/log/.*\\.gz$", "/VAR/SPOOL", "/run/user/1000/"},
	}))
	for _, c := range []struct {
		args, verdict string
		want          []string // lines
	}{
		{"--path /usr/bin/tool", accepted, []string{"known digest:    " + sum("tool")}},
		{"--path /usr/bin/tool --digest " + sum("tool"), accepted, []string{"the digest is listed for the path"}},
		{"--path /usr/bin/tool --digest " + sum("old tool"), refused, []string{"with other digests", "known digest:    " + sum("tool"), "digest is of:    /opt/bin/tool", "nearest path:    /opt/bin/tool (with this digest)"}},
		{"--path /usr/sbin/tool --digest " + sum("tool"), refused, []string{"not listed", "nearest path:    /usr/bin/tool (with this digest)", "digest is of:    /usr/bin/tool"}},
		{"--path /usr/lib/libx.so.1.2.4", refused, []string{"nearest path:    /usr/lib/libx.so.1.2.3"}},
		{"--path /tmp/cache/x", refused, []string{"nearly excluded: tmp/cache: it matches from character 2 on"}},
		{"--path /var/log/a.gz.part", refused, []string{"it matches the beginning, but asks for the end"}},
		{"--path /var/log/a.gz", accepted, []string{"excluded by:     /var/log/.*\\.gz$"}},
		{"--path /var/spool/x", refused, []string{"nearly excluded: /VAR/SPOOL: it matches but for upper and lower case"}},
		{"--path /run/user/1001/x", refused, []string{`nearly excluded: /run/user/1000/: the path begins as it does, with "/run/user/100"`}},
	} {
		out, _, err := tool(t, append([]string{"explain", p}, strings.Fields(c.args)...)...)
		if (err == nil) != (c.verdict == accepted) || !strings.Contains(out, ": "+c.verdict) {
			t.Errorf("%s: %v\n%s", c.args, err, out)
		}
		for _, line := range c.want {
			if !strings.Contains(out, line) {
				t.Errorf("%s: no line %q in\n%s", c.args, line, out)
			}
		}
	}
}

func TestExplainList(t *testing.T) {
	t.Parallel()
	e := newEvidence(t, []string{"/usr/bin/a", "/usr/bin/b"})
	lines, err := os.ReadFile(e.list)
	if err != nil {
		t.Fatal(err)
	}
	list := file(t, "list", string(lines)+"garbage\n")
	p := file(t, "policy", runtimeText(t, map[string]any{"digests": digests{"boot_aggregate": {bootAggregate()}, "/bin/b": {sum("/usr/bin/b")}, "/usr/bin/a": {sum("/usr/bin/a")}}}))
	out, _, err := tool(t, "explain", p, "--log", list, "--json")
	var got []explanation
	if jsonErr := json.Unmarshal([]byte(out), &got); jsonErr != nil || exitCode(err) != 1 || len(got) != 2 {
		t.Fatalf("%v, %v: %s", jsonErr, err, out)
	}
	if b := got[0]; b.Line != 3 || b.Name != "/usr/bin/b" || b.EventID != "ima.validation.ima-ng.not_in_allowlist" || len(b.Nearest) == 0 || b.Nearest[0] != (nearPath{"/bin/b", true}) {
		t.Errorf("got %+v", b)
	}
	if bad := got[1]; bad.Line != 4 || bad.EventID != "ima.parser.entry" || !strings.Contains(bad.Reason, "the line is no entry") {
		t.Errorf("got %+v", bad)
	}
}

func TestLearn(t *testing.T) {
	t.Parallel()
	e := newEvidence(t, []string{"/usr/bin/a", "/tmp/x", "/usr/bin/known"}, "/usr/bin/late")
	base := file(t, "base", runtimeText(t, map[string]any{"digests": digests{"/usr/bin/known": {sum("/usr/bin/known")}}}))
	out, errs, err := tool(t, "learn", "--log", e.list, "--quote", e.quote, "--ak", e.ak, "--nonce", "nonce", "-B", base, "-e", file(t, "excludes", "/tmp/\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := file(t, "want", runtimeText(t, map[string]any{
		"digests":  digests{"boot_aggregate": {bootAggregate()}, "/usr/bin/a": {sum("/usr/bin/a")}, "/usr/bin/known": {sum("/usr/bin/known")}},
		"excludes": []string{"/tmp/"},
	}))
	learned := file(t, "learned", out)
	if out, _, err := tool(t, "diff", want, learned); err != nil {
		t.Errorf("the result differs from what is wanted:\n%s", out)
	}
	if !strings.Contains(errs, "4 entries are proven, 2 of them new; 1 after them are not") {
		t.Errorf("messages %q", errs)
	}
	// What was learned accepts what it was learned from, and not what the quote does not prove.
	out, _, err = tool(t, "explain", learned, "--log", e.list)
	if exitCode(err) != 1 || strings.Count(out, "refused") != 1 || !strings.Contains(out, "/usr/bin/late: refused") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestLearnRefusesUnprovenLists(t *testing.T) {
	t.Parallel()
	e := newEvidence(t, []string{"/usr/bin/a", "/usr/bin/b"})
	text, err := os.ReadFile(e.list)
	if err != nil {
		t.Fatal(err)
	}
	forged := file(t, "forged", strings.Replace(string(text), "/usr/bin/b", "/usr/bin/c", 1))
	relabelled := append(bytes.Repeat([]byte("10 "+strings.Repeat("ab", 20)), 1), text[len("10 ")+40:]...)
	for name, c := range map[string]struct{ list, want string }{
		"another file":        {forged, "nothing of it is proven"},
		"wrong template hash": {file(t, "relabelled", string(relabelled)), "line 1: its template hash is not that of its data"},
	} {
		out, _, err := tool(t, "learn", "--log", c.list, "--pcr", "sha256:10="+e.pcr10)
		if err == nil || !strings.Contains(err.Error(), c.want) || out != "" {
			t.Errorf("%s: %v, printed %q", name, err, out)
		}
	}
}

func TestLearnRecordedList(t *testing.T) {
	t.Parallel()
	list := filepath.Join(recorded.Dir(t), "ima", "boot-826-ima-ng-sha1")
	out, _, err := tool(t, "learn", "--log", list, "--pcr", "sha1:10=82231c67a69da98dc5b3aa10f6343d33109225fc")
	if err != nil {
		t.Fatal(err)
	}
	if out, _, err := tool(t, "test", file(t, "learned", out), "--log", list); err != nil || !strings.HasPrefix(out, "pass: 826 entries") {
		t.Errorf("%v\n%s", err, out)
	}
}
