package policytool

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"keylime/internal/fleet"
	"keylime/internal/policy"
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

// dmPolicy accepts devices with verity.
const dmPolicy = `{"version": 1, "match_on": "uuid", "rules": {"root": {
	"required": true, "device_resume_required": true, "device_rename": {"valid_name": "test", "valid_uuid": "CRYPT-VERITY-1"},
	"device_remove": {"allow_removal": false}, "allow_clear": false,
	"table_load": {"allow_multiple_loads": false, "name": "test", "uuid": "CRYPT-VERITY-.*", "major": 253, "minor": null, "minor_count": 1,
		"num_targets": 1, "targets": [{"target_index": 0, "target_name": "linear", "target_version": "1", "device_name": "254:2", "start": 0}]}}}}`

// A dm_policy is compared and tried out, and never lost on the way into another policy.
func TestDevicePolicies(t *testing.T) {
	t.Parallel()
	e := newEvidence(t, nil)
	parts := map[string]any{"digests": digests{"boot_aggregate": {bootAggregate()}}}
	plain := file(t, "plain", runtimeText(t, parts))
	parts["ima"] = map[string]any{"ignored_keyrings": []string{}, "log_hash_alg": "sha1", "dm_policy": json.RawMessage(dmPolicy)}
	devices := file(t, "devices", runtimeText(t, parts))
	if out, _, err := tool(t, "diff", plain, devices); exitCode(err) != 1 || !strings.HasPrefix(out, "dm_policy + ") {
		t.Errorf("%v: %s", err, out)
	}
	for _, args := range [][]string{{"merge", plain, devices}, {"learn", "--log", e.list, "--pcr", "sha256:10=" + e.pcr10, "-B", devices}} {
		if out, _, err := tool(t, args...); err == nil || !strings.Contains(err.Error(), "has a dm_policy") || out != "" {
			t.Errorf("%s: %v, printed %q", args[0], err, out)
		}
	}
	if _, errs, err := tool(t, "test", plain, "--log", e.list, "--pcr", "sha256:10="+e.pcr10); err != nil || errs != "" {
		t.Errorf("without: %v, %s", err, errs)
	}
	// The policy requires a device, and the machine has none.
	out, errs, err := tool(t, "test", devices, "--log", e.list, "--pcr", "sha256:10="+e.pcr10)
	if exitCode(err) != 1 || !strings.Contains(out, "ima.validation.dm.") || !strings.Contains(errs, "enable_dm_policy") {
		t.Errorf("with: %v, %s%s", err, out, errs)
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
