package policytool

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"keylime/internal/fleet"
	"keylime/internal/policy"
	"keylime/internal/recorded"
	"keylime/tpm"
)

// runtimeText is a policy with some of its parts; the others are empty.
func runtimeText(t testing.TB, parts map[string]any) string {
	t.Helper()
	whole := map[string]any{
		"meta": map[string]any{"version": 1, "generator": 3}, "release": 0, "digests": map[string]any{}, "excludes": []string{}, "keyrings": map[string]any{},
		"ima": map[string]any{"ignored_keyrings": []string{}, "log_hash_alg": "sha1", "dm_policy": nil}, "ima-buf": map[string]any{}, "verification-keys": "",
	}
	for name, part := range parts {
		whole[name] = part
	}
	text, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

type digests map[string][]string

// rawSum is the digest of sum, in binary. Tests give it to a file of a name.
func rawSum(name string) []byte {
	s := sha256.Sum256([]byte(name))
	return s[:]
}

// exitCode is that of a command's error.
func exitCode(err error) int {
	var coded interface{ ExitCode() int }
	switch {
	case err == nil:
		return 0
	case errors.As(err, &coded):
		return coded.ExitCode()
	}
	return 1
}

func TestDiff(t *testing.T) {
	t.Parallel()
	a, b, c := sum("a"), sum("b"), sum("c")
	old := file(t, "old", runtimeText(t, map[string]any{
		"digests":  digests{"/same": {a, b}, "/dropped": {a}, "/changed": {a, b}},
		"excludes": []string{"/tmp/", "/var/"}, "ima-buf": digests{"x": {a}}, "release": 1,
	}))
	next := file(t, "new", runtimeText(t, map[string]any{
		"digests":  digests{"/same": {b, a, a}, "/added": {c}, "/changed": {a, c}},
		"excludes": []string{"/run/", "/tmp/"}, "keyrings": digests{".ima": {b}}, "ima-buf": digests{"x": {a}},
	}))
	out, errs, err := tool(t, "diff", old, next)
	want := strings.Join([]string{
		"digests + /added " + c,
		"digests - /changed " + b,
		"digests + /changed " + c,
		"digests - /dropped " + a,
		"keyrings + .ima " + b,
		"excludes - /var/",
		"excludes + /run/",
		"1 files added, 1 dropped, 1 changed\n",
	}, "\n")
	if out != want || errs != "" || exitCode(err) != 1 || err.Error() != "" {
		t.Errorf("%v, messages %q, got\n%s\nwant\n%s", err, errs, out, want)
	}

	out, _, err = tool(t, "diff", "--json", old, next)
	var got struct {
		Equal   bool
		Digests struct {
			Added, Removed digests
			Changed        map[string]struct{ Added, Removed []string }
		}
		Excludes struct{ Added, Removed []string }
	}
	if jsonErr := json.Unmarshal([]byte(out), &got); jsonErr != nil || exitCode(err) != 1 {
		t.Fatalf("%v, %v: %s", jsonErr, err, out)
	}
	if got.Equal || !reflect.DeepEqual(got.Digests.Added, digests{"/added": {c}}) || !reflect.DeepEqual(got.Digests.Removed, digests{"/dropped": {a}}) ||
		len(got.Digests.Changed) != 1 || got.Digests.Changed["/changed"].Added[0] != c || got.Digests.Changed["/changed"].Removed[0] != b ||
		!reflect.DeepEqual(got.Excludes.Removed, []string{"/var/"}) {
		t.Errorf("got %s", out)
	}
}

func TestDiffOfEqualPolicies(t *testing.T) {
	t.Parallel()
	text := runtimeText(t, map[string]any{"digests": digests{"/a": {sum("a"), sum("b")}}})
	other := runtimeText(t, map[string]any{"digests": digests{"/a": {sum("b"), sum("a")}}, "release": 7})
	if out, _, err := tool(t, "diff", file(t, "a", text), file(t, "b", other)); err != nil || out != "no difference\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestAnalysingRefuses(t *testing.T) {
	t.Parallel()
	good := file(t, "good", runtimeText(t, nil))
	bad := file(t, "bad", `{"digests": {}}`)
	other := file(t, "other", runtimeText(t, map[string]any{"ima": map[string]any{"ignored_keyrings": []string{}, "log_hash_alg": "sha256", "dm_policy": nil}}))
	list := file(t, "list", "10 ab ima-ng sha1:00 /x\n")
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"diff " + good, 2, "want two policies"},
		{"diff " + good + " " + bad, 1, "'meta' is a required property"},
		{"diff " + good + " /nonexistent", 1, "no such file"},
		{"diff --yaml " + good, 2, "unrecognized arguments: --yaml"},
		{"merge " + good, 2, "want two policies or more"},
		{"merge " + good + " " + other, 1, "log_hash_alg is sha256, that of the others sha1"},
		{"test " + good, 2, "nothing to judge"},
		{"test --log " + list, 2, "want one runtime policy"},
		{"test " + good + " --log " + list + " --pcr 10=ab", 1, "want BANK:N=HEX"},
		{"test " + good + " --log " + list + " --pcr sha256:24=ab", 1, "not a number from 0 to 23"},
		{"test " + good + " --log " + list + " --pcr sha256:10=ab", 1, "want 64 hexadecimal digits"},
		{"test " + good + " --log " + list + " --quote " + list + " --pcr sha1:10=ab", 1, "not both"},
		{"test " + good + " --log " + list + " --nonce x", 1, "give --quote FILE"},
		{"test " + good + " --log " + list + " --quote " + list, 1, "quote is not of the form"},
		{"test " + good + " --log " + list + " --mb-policy " + good, 2, "--mb-policy needs --mb-log"},
		{"explain " + good, 2, "give --path PATH or --log FILE"},
		{"explain " + good + " --path /x --digest xyz", 2, "not hexadecimal"},
		{"explain " + good + " --log " + list + " --digest ab", 2, "--digest is for --path"},
		{"learn --log " + list, 2, "give --quote FILE"},
		{"learn --pcr sha1:10=" + strings.Repeat("ab", 20), 2, "required: --log"},
		{"learn --log " + good + " --pcr sha1:10=" + strings.Repeat("ab", 20), 1, "does not begin as a measurement list"},
		{"eventlog", 2, "want one event log"},
		{"eventlog " + list, 1, "event 0"},
	} {
		out, _, err := tool(t, strings.Fields(c.args)...)
		if exitCode(err) != c.code || err == nil || !strings.Contains(err.Error(), c.want) || out != "" {
			t.Errorf("%s: exit code %d, %v, want %d, %s; printed %q", c.args, exitCode(err), err, c.code, c.want, out)
		}
	}
}

func TestMerge(t *testing.T) {
	t.Parallel()
	a, b := sum("a"), sum("b")
	one := file(t, "one", runtimeText(t, map[string]any{"digests": digests{"/x": {a}, "/y": {a}}, "excludes": []string{"/tmp/"}, "keyrings": digests{".ima": {a}}}))
	two := file(t, "two", runtimeText(t, map[string]any{"digests": digests{"/x": {b, a}}, "excludes": []string{"/tmp/", "/run/"}, "keyrings": digests{".ima": {b}},
		"ima-buf": digests{"z": {b}}}))
	out, errs, err := tool(t, "merge", one, two)
	if err != nil || errs != "" {
		t.Fatalf("%v, messages %q", err, errs)
	}
	want := file(t, "want", runtimeText(t, map[string]any{"digests": digests{"/x": {a, b}, "/y": {a}}, "excludes": []string{"/tmp/", "/run/"},
		"keyrings": digests{".ima": {a, b}}, "ima-buf": digests{"z": {b}}}))
	if out, _, err := tool(t, "diff", file(t, "merged", out), want); err != nil {
		t.Errorf("the result differs from what is wanted:\n%s", out)
	}
}

func TestMergeJoinsKeys(t *testing.T) {
	t.Parallel()
	var files []string
	for _, name := range []string{"a", "b"} {
		soft, err := fleet.NewSoftTPM(rand.Reader, "ecc256")
		if err != nil {
			t.Fatal(err)
		}
		public, err := tpm.ParsePublic(soft.AKPublic())
		if err != nil {
			t.Fatal(err)
		}
		key, err := policy.NewPublicKey(public.Key())
		if err != nil {
			t.Fatal(err)
		}
		out, errs, err := tool(t, "convert", "-a", file(t, "list", sum(name)+" /"+name+"\n"), "-v", file(t, "key.pem", key.PEM()), "-o", "-")
		if err != nil {
			t.Fatalf("%v %s", err, errs)
		}
		files = append(files, file(t, name, out))
	}
	merged, _, err := tool(t, "merge", files[0], files[1])
	if err != nil {
		t.Fatal(err)
	}
	out, _, err := tool(t, "diff", files[0], file(t, "merged", merged))
	if exitCode(err) != 1 || strings.Count(out, "verification-keys + 0x") != 1 || strings.Contains(out, " - ") || !strings.Contains(out, "digests + /b ") {
		t.Errorf("%v: the merged policy has, over the first:\n%s", err, out)
	}
}

// evidence is a machine's list, quote and AK in files.
type evidence struct {
	list, quote, ak string
	pcr10           string // in hex
	soft            *fleet.SoftTPM
}

// newEvidence measures files; those of beyond are in the list, but not in the quote.
func newEvidence(t *testing.T, names []string, beyond ...string) evidence {
	t.Helper()
	soft, err := fleet.NewSoftTPM(rand.Reader, "ecc256")
	if err != nil {
		t.Fatal(err)
	}
	list, err := fleet.NewMeasured(soft)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if _, err := list.Add(name, rawSum(name)); err != nil {
			t.Fatal(err)
		}
	}
	quote, err := soft.Quote([]byte("nonce"), tpm.MaskOf(tpm.PCRIma), tpm.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range beyond {
		list.Log(name, rawSum(name))
	}
	text, _ := list.From(0)
	return evidence{
		list: file(t, "list", string(text)), quote: file(t, "answer", `{"code": 200, "status": "Success", "results": {"quote": "`+quote.String()+`", "hash_alg": "sha256"}}`),
		ak: file(t, "ak", base64.StdEncoding.EncodeToString(soft.AKPublic())), pcr10: hex.EncodeToString(soft.PCR(tpm.SHA256, tpm.PCRIma)), soft: soft,
	}
}

// bootAggregate is that of a machine whose PCRs are zeros.
func bootAggregate() string {
	s := sha256.Sum256(make([]byte, 10*sha256.Size))
	return hex.EncodeToString(s[:])
}

func TestDryRun(t *testing.T) {
	t.Parallel()
	e := newEvidence(t, []string{"/usr/bin/a", "/usr/bin/evil", "/usr/bin/b"}, "/usr/bin/late")
	listed := digests{"boot_aggregate": {bootAggregate()}, "/usr/bin/a": {sum("/usr/bin/a")}, "/usr/bin/b": {sum("other")}, "/usr/bin/late": {sum("/usr/bin/late")}}
	p := file(t, "policy", runtimeText(t, map[string]any{"digests": listed}))
	const twoFailures = "ima.validation.ima-ng.not_in_allowlist,ima.validation.ima-ng.runtime_policy_hash"
	for name, c := range map[string]struct {
		args, events, note string
	}{
		"list alone":          {"", twoFailures, "PCR 10 is not given"},
		"PCR":                 {"--pcr sha256:10=" + e.pcr10, twoFailures, ""},
		"PCR of another list": {"--pcr sha256:10=" + strings.Repeat("ab", 32), twoFailures + ",ima.pcr_mismatch", ""},
		"quote":               {"--quote " + e.quote, twoFailures, "signature was not verified"},
		"quote and AK":        {"--quote " + e.quote + " --ak " + e.ak, twoFailures, "any nonce was accepted"},
		"quote, AK and nonce": {"--quote " + e.quote + " --ak " + e.ak + " --nonce nonce", twoFailures, ""},
		"other PCRs":          {"--pcr sha256:10=" + e.pcr10 + ` --tpm_policy {"7":["` + strings.Repeat("ab", 32) + `"]}`, "pcr_validation.missing_pcrs," + twoFailures, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, errs, err := tool(t, append([]string{"test", p, "--log", e.list, "--json"}, strings.Fields(c.args)...)...)
			var got map[string]json.RawMessage
			if jsonErr := json.Unmarshal([]byte(out), &got); jsonErr != nil || len(got) != 3 || exitCode(err) != 1 {
				t.Fatalf("%v, %v: %s", jsonErr, err, out)
			}
			var failures []struct {
				EventID  string `json:"event_id"`
				Severity string
				Context  map[string]any
			}
			if err := json.Unmarshal(got["failures"], &failures); err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, f := range failures {
				ids = append(ids, f.EventID)
				if f.Severity != "emergency" || len(f.Context) == 0 {
					t.Errorf("failure %+v", f)
				}
			}
			if strings.Join(ids, ",") != c.events || string(got["verdict"]) != `"fail"` || string(got["entries"]) != "5" {
				t.Errorf("got %s, want %s", out, c.events)
			}
			if c.note == "" != (errs == "") || !strings.Contains(errs, c.note) {
				t.Errorf("notes %q, want %q", errs, c.note)
			}
		})
	}
}

func TestDryRunPasses(t *testing.T) {
	t.Parallel()
	e := newEvidence(t, []string{"/usr/bin/a", "/tmp/b"})
	p := file(t, "policy", runtimeText(t, map[string]any{"digests": digests{"boot_aggregate": {bootAggregate()}, "/usr/bin/a": {sum("/usr/bin/a")}}, "excludes": []string{"/tmp/"}}))
	out, errs, err := tool(t, "test", p, "--log", e.list, "--quote", e.quote, "--ak", e.ak, "--nonce", "nonce", "--json")
	if want := "{\n  \"verdict\": \"pass\",\n  \"entries\": 3,\n  \"failures\": []\n}\n"; err != nil || out != want || errs != "" {
		t.Errorf("%v, messages %q, got %s", err, errs, out)
	}
	if out, _, err := tool(t, "test", p, "--log", e.list, "--pcr", "sha256:10="+e.pcr10); err != nil || !strings.HasPrefix(out, "pass: 3 entries, 3 of them covered by PCR 10, 0 failures\n") {
		t.Errorf("%v, got %s", err, out)
	}
}

// A quote that is verified must be good: nothing is judged by one that is not.
func TestDryRunRefusesForgedQuotes(t *testing.T) {
	t.Parallel()
	e, other := newEvidence(t, []string{"/a"}), newEvidence(t, []string{"/a"})
	p := file(t, "policy", runtimeText(t, map[string]any{"excludes": []string{""}}))
	for name, args := range map[string][]string{
		"another AK":    {"--quote", e.quote, "--ak", other.ak},
		"another nonce": {"--quote", e.quote, "--ak", e.ak, "--nonce", "fresh"},
		"no AK":         {"--quote", e.quote, "--ak", e.list},
	} {
		if out, _, err := tool(t, append([]string{"test", p, "--log", e.list}, args...)...); exitCode(err) != 1 || err.Error() == "" || out != "" {
			t.Errorf("%s: %v, printed %q", name, err, out)
		}
	}
}

func TestDryRunOfBoots(t *testing.T) {
	t.Parallel()
	chain, other := fleet.NewBootChain("1"), fleet.NewBootChain("2")
	bootLog := file(t, "log", string(chain.Log(tpm.SHA256).Bytes()))
	p := file(t, "policy", runtimeText(t, nil))
	for _, c := range []struct{ reference, engine, want string }{
		{chain.Reference(), "example", "pass: 0 entries"},
		{other.Reference(), "example", "measured_boot.policy_example"},
		{chain.Reference(), "reject-all", "measured_boot.policy_reject-all"},
	} {
		out, _, err := tool(t, "test", p, "--mb-log", bootLog, "--mb-policy", file(t, "reference", c.reference), "--mb-engine", c.engine)
		if !strings.Contains(out, c.want) || (err == nil) != strings.HasPrefix(c.want, "pass") {
			t.Errorf("%s: %v, got %s", c.want, err, out)
		}
	}
	// A PCR that the log does not explain.
	out, _, err := tool(t, "test", p, "--mb-log", bootLog, "--mb-policy", file(t, "reference", chain.Reference()), "--pcr", "sha256:4="+strings.Repeat("ab", 32))
	if exitCode(err) != 1 || !strings.Contains(out, "measured_boot.invalid_pcr_4") {
		t.Errorf("%v, got %s", err, out)
	}
}

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

func TestEventLog(t *testing.T) {
	t.Parallel()
	soft, err := fleet.NewSoftTPM(rand.Reader, "ecc256")
	if err != nil {
		t.Fatal(err)
	}
	log := fleet.NewBootChain("1").Log(tpm.SHA1, tpm.SHA256)
	if err := log.Boot(soft); err != nil {
		t.Fatal(err)
	}
	name := file(t, "log", string(log.Bytes()))
	out, _, err := tool(t, "eventlog", "--json", name)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]json.RawMessage
	var pcrs map[string]map[string]string
	var events []struct {
		EventNum, PCRIndex int
		EventType          string
	}
	if err := errors.Join(json.Unmarshal([]byte(out), &got), json.Unmarshal(got["pcrs"], &pcrs), json.Unmarshal(got["events"], &events)); err != nil || len(got) != 2 {
		t.Fatalf("%v: %s", err, out)
	}
	for _, bank := range []tpm.Hash{tpm.SHA1, tpm.SHA256} {
		if len(pcrs[bank.String()]) < 8 {
			t.Errorf("bank %v: %v", bank, pcrs[bank.String()])
		}
		for pcr, value := range pcrs[bank.String()] {
			var n int
			if _, err := fmt.Sscan(pcr, &n); err != nil || value != hex.EncodeToString(soft.PCR(bank, n)) {
				t.Errorf("bank %v, PCR %s: %s, the TPM has %x", bank, pcr, value, soft.PCR(bank, n))
			}
		}
	}
	out, _, err = tool(t, "eventlog", name)
	if err != nil || strings.Count(out, "  PCR ") < len(events) || len(events) < 10 || !strings.Contains(out, "EV_SEPARATOR") || !strings.Contains(out, "bound") {
		t.Errorf("%v, %d events\n%s", err, len(events), out)
	}
}
