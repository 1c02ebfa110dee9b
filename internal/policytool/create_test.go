package policytool

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"

	"keylime/internal/policy"
	"keylime/internal/recorded"
)

// tool carries out a command line of `keylime policy` and returns what it printed.
func tool(t testing.TB, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	line := strings.Join(args, " ") + " "
	for _, c := range commands() {
		if strings.HasPrefix(line, c.path+" ") {
			var out, errs bytes.Buffer
			err := c.execute(context.Background(), args[len(strings.Fields(c.path)):], &out, &errs)
			return out.String(), errs.String(), err
		}
	}
	t.Fatalf("no command in %q", line)
	return "", "", nil
}

// create runs `create runtime`, which must succeed, and returns the policy. It must be one that a verifier accepts.
func create(t testing.TB, args ...string) policyFile {
	t.Helper()
	out, errs, err := tool(t, append([]string{"create", "runtime"}, args...)...)
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, errs)
	}
	if _, err := policy.CompileRuntime([]byte(out)); err != nil {
		t.Fatalf("%v: the policy is not valid: %v\n%s", args, err, out)
	}
	return parsed(t, []byte(out))
}

// policyFile is a runtime policy as JSON has it.
type policyFile struct {
	Meta struct {
		Version, Generator int
		Timestamp          string
	}
	Release  int
	Digests  map[string][]string
	Excludes []string
	Keyrings map[string][]string
	IMA      struct {
		Ignored []string `json:"ignored_keyrings"`
		LogHash string   `json:"log_hash_alg"`
		DM      any      `json:"dm_policy"`
	}
	Buffers map[string][]string `json:"ima-buf"`
	Keys    string              `json:"verification-keys"`
}

func parsed(t testing.TB, text []byte) (p policyFile) {
	t.Helper()
	if err := json.Unmarshal(text, &p); err != nil {
		t.Fatalf("%v in %.200s", err, text)
	}
	return p
}

// file writes a file of the test and returns its name.
func file(t testing.TB, name, content string) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

const (
	sha1Of1   = "356a192b7913b04c54574d18c28d46e6395428ab"
	sha256Of1 = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
	sha256Of2 = "d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35"
)

func TestPolicyHasTheFormOfUpstreams(t *testing.T) {
	t.Parallel()
	out, _, err := tool(t, "create", "runtime", "-a", file(t, "list", sha256Of1+"  /é b\n"+sha256Of2+" /é b\n"), "--ignored-keyrings", ".ima")
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(out, `"timestamp": "`) + len(`"timestamp": "`)
	stamp := "2024-10-09 18:47:35.306609"
	out = out[:at] + stamp + out[at+len(stamp):]
	want := `{"meta": {"version": 1, "generator": 3, "timestamp": "` + stamp + `"}, "release": 0, "digests": {"/\u00e9_b": ["` + sha256Of1 + `", "` + sha256Of2 +
		`"]}, "excludes": [], "keyrings": {}, "ima": {"ignored_keyrings": [".ima"], "log_hash_alg": "sha1", "dm_policy": null}, "ima-buf": {}, "verification-keys": ""}`
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

func TestInputsAddUp(t *testing.T) {
	t.Parallel()
	base := file(t, "base", `{"digests": {"/a": ["`+sha256Of2+`"]}, "excludes": ["/tmp"], "keyrings": {".ima": ["`+sha1Of1+`"]},
		"ima": {"log_hash_alg": "sha256", "ignored_keyrings": ["one"]}, "unknown": {"x": [1]}, "release": 7}`)
	list := file(t, "list", "\n"+sha256Of1+"  /a\nsha256:"+sha256Of1+"\t/with a space\nalone\n")
	excludes := file(t, "excludes", "  /var/.*  \n\n/tmp\n#not a comment\n")
	measurements := file(t, "ima", strings.Join([]string{
		"10 " + sha1Of1 + " ima-ng sha256:" + sha256Of2 + " boot_aggregate",
		"10 " + sha1Of1 + " ima-sig sha256:" + sha256Of2 + " /b 0302",
		"10 " + sha1Of1 + " ima " + sha1Of1 + " /old-template-is-left-out",
		"10 " + sha1Of1 + " ima-buf sha256:" + sha256Of1 + " critical 00ff",
		"too short",
	}, "\n"))
	got := create(t, "-p", base, "-a", list, "-e", excludes, "-m", measurements, "-b", "--ignored-keyrings", "two")
	if got.Meta.Version != 1 || got.Meta.Generator != 3 || got.Release != 0 {
		t.Errorf("meta %+v, release %d", got.Meta, got.Release)
	}
	got.Meta.Timestamp = ""
	want := got
	want.Digests = map[string][]string{
		"/a": {sha256Of1, sha256Of2}, "/with_a_space": {sha256Of1}, "/b": {sha256Of2}, "boot_aggregate": {sha256Of2},
	}
	want.Excludes = []string{"#not a comment", "/tmp", "/var/.*"}
	want.Keyrings = map[string][]string{".ima": {sha1Of1}}
	want.Buffers = map[string][]string{"critical": {sha256Of1}}
	want.IMA.Ignored = []string{"one", "two"}
	want.IMA.LogHash = "sha256"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestLegacyAllowListHasTheBootAggregateFirst(t *testing.T) {
	t.Parallel()
	list := file(t, "list", sha256Of2+" /z\n"+sha256Of1+" /a\n"+sha256Of1+" boot_aggregate\n")
	out, _, err := tool(t, "create", "runtime", "-a", list, "--show-legacy-allowlist")
	want := sha256Of1 + "  boot_aggregate\n" + sha256Of1 + "  /a\n" + sha256Of2 + "  /z\n"
	if err != nil || out != want {
		t.Errorf("got %v\n%swant\n%s", err, out, want)
	}
}

func TestMeasuredKeysAreToldFromCriticalData(t *testing.T) {
	t.Parallel()
	log := string(recorded.File(t, "ima/ima-buf-11"))
	first := "10 " + sha1Of1 + " ima-ng sha256:" + sha256Of1 + " boot_aggregate\n"
	list := file(t, "ima", first+log)
	got := create(t, "-m", list, "-k", "-b", "--ignored-keyrings", ".ima")
	if len(got.Keyrings) != 1 || len(got.Keyrings[".builtin_trusted_keys"]) != 3 {
		t.Errorf("keyrings %v", got.Keyrings)
	}
	if len(got.Buffers["dm_table_load"]) != 2 || len(got.Buffers["selinux-state"]) != 2 || len(got.Buffers) != 4 {
		t.Errorf("critical data %v", got.Buffers)
	}
	if got := create(t, "-m", list); len(got.Keyrings)+len(got.Buffers) > 0 {
		t.Errorf("taken without being asked for: %v, %v", got.Keyrings, got.Buffers)
	}
	if got := create(t, "-m", list, "-b"); len(got.Keyrings) > 0 || len(got.Buffers) != 4 {
		t.Errorf("with -b alone: keyrings %v, critical data %v", got.Keyrings, got.Buffers)
	}
}

// TestRecordedPoliciesAreMadeAgain: a policy based on a recorded one holds what that holds.
func TestRecordedPoliciesAreMadeAgain(t *testing.T) {
	t.Parallel()
	for _, alg := range []string{"sha1", "sha256", "sha384", "sha512", "sm3_256"} {
		name := filepath.Join(recorded.Dir(t), "policy", "create-runtime", "policy-"+alg)
		want := parsed(t, recorded.File(t, "policy/create-runtime/policy-"+alg))
		got := create(t, "-p", name)
		got.Meta, want.Meta = policyFile{}.Meta, policyFile{}.Meta // the time of making
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", alg, diff)
		}
	}
}

func TestCommandLinesRefused(t *testing.T) {
	t.Parallel()
	list := file(t, "list", sha256Of1+" /a\n")
	for _, c := range []struct {
		line, wrong string
		code        int
	}{
		{"create runtime --max-workers 0", "argument --max-workers: '0' is not a positive integer", 2},
		{"create runtime --max-workers x", "argument --max-workers: 'x' is not a positive integer", 2},
		{"create runtime --algo md5", `unknown digest algorithm "md5": choose one of sha1, sha256, sha384, sha512, sm3_256`, 2},
		{"create runtime --frobnicate", "unrecognized arguments: --frobnicate", 2},
		{"create runtime extra", "unrecognized arguments: extra", 2},
		{"create runtime -a", "argument -a/--allowlist: expected one argument", 2},
		{"create runtime -a /nonexistent", "allow list /nonexistent: open /nonexistent: no such file", 1},
		{"create runtime -p /nonexistent", "base policy /nonexistent: open /nonexistent: no such file", 1},
		{"create runtime -m /nonexistent", "measurement list /nonexistent: does not seem to exist", 1},
		{"create runtime -e /nonexistent", "exclude list /nonexistent: open /nonexistent: no such file", 1},
		{"create runtime --rootfs /nonexistent", "open /nonexistent: no such file or directory: give --rootfs a directory", 1},
		{"create runtime --ramdisk-dir /nonexistent", "give --ramdisk-dir a directory", 1},
		{"create runtime -o /nonexistent/x -a " + list, "/nonexistent/x", 1},
		{"create runtime -a " + file(t, "bad", "zz /a"), `line 1: "zz" is no digest in hexadecimal`, 1},
		{"create runtime -e " + file(t, "bad", "ok\n(x"), "line 2: Bad IMA exclude list rule '(x'", 1},
		{"create runtime -p " + file(t, "bad", "{"), "Runtime policy is not valid JSON!", 1},
		{"create runtime -p " + file(t, "bad", "[]"), "base policy", 1},
		{"create runtime -p " + file(t, "bad", `{"digests": {"/a": ["00"]}}`), `digests: "/a": "00" is no digest`, 1},
		{"create runtime -p " + file(t, "bad", `{"digests": {"/a": 1}}`), `digests: `, 1},
		{"create runtime -p " + file(t, "bad", `{"excludes": ["("]}`), "the policy would not be valid", 1},
		{"create runtime -p " + file(t, "bad", `{"ima": {"log_hash_alg": "md5"}}`), "'md5' is not one of", 1},
		{"create runtime -p " + file(t, "bad", `{"verification-keys": "{}"}`), "'keyids' is a required property", 1},
	} {
		out, _, err := tool(t, strings.Fields(c.line)...)
		if err == nil || !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: got %v, want an error with %q", c.line, err, c.wrong)
			continue
		}
		code := 1
		if coded, ok := err.(interface{ ExitCode() int }); ok {
			code = coded.ExitCode()
		}
		if code != c.code || out != "" {
			t.Errorf("%s: exit code %d, want %d; printed %q", c.line, code, c.code, out)
		}
	}
}

// TestCommandTree goes through package cli, whose state is global: it runs alone.
func TestCommandTree(t *testing.T) {
	for _, c := range []struct{ line, prints, wrong string }{
		{"", "verify-signature", ""},
		{"create", "measured-boot", ""},
		{"create runtime -h", "keylime policy create runtime --rootfs /", ""},
		{"create runtime --rootfs / --help", "--ima-measurement-list", ""},
		{"convert --help", "Exit codes", ""},
		{"create frobnicate", "", `no command "frobnicate"`},
		{"frobnicate", "", `no command "frobnicate"`},
		{"sign runtime", "", "required: -r/--runtime-policy"},
		{"convert -a " + file(t, "list", sha256Of1+" /a") + " -o -", `"/a"`, ""},
	} {
		var out, errs bytes.Buffer
		app := &cli.App{Name: "keylime", Commands: []*cli.Command{Command()}, Writer: &out, ErrWriter: &errs, ExitErrHandler: func(*cli.Context, error) {}}
		err := app.Run(append([]string{"keylime", "policy"}, strings.Fields(c.line)...))
		if c.wrong == "" && (err != nil || !strings.Contains(out.String(), c.prints)) {
			t.Errorf("%q: %v, printed %.300q", c.line, err, &out)
		}
		if c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)) {
			t.Errorf("%q: got %v, want an error with %q", c.line, err, c.wrong)
		}
	}
}

func TestOutputIsReplacedWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	list, output := file(t, "list", sha256Of1+" /a\n"), file(t, "policy", "old")
	if _, _, err := tool(t, "create", "runtime", "-a", "/nonexistent", "-o", output); err == nil {
		t.Fatal("no error")
	}
	if text, _ := os.ReadFile(output); string(text) != "old" {
		t.Errorf("a failure left %q", text)
	}
	out, _, err := tool(t, "create", "runtime", "-a", list, "-o", output)
	if err != nil || out != "" {
		t.Fatal(err, out)
	}
	text, err := os.ReadFile(output)
	if err != nil || parsed(t, text).Digests["/a"] == nil {
		t.Errorf("wrote %q, %v", text, err)
	}
	if left, _ := filepath.Glob(output + "?*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestVerificationKeysAreAddedToThoseOfTheBase(t *testing.T) {
	t.Parallel()
	rsa := filepath.Join(recorded.Dir(t), "policy", "keys", "rsa2048.pem") // private: its public half is taken
	ec := filepath.Join(recorded.Dir(t), "policy", "keys", "secp256k1.pem")
	out, errs, err := tool(t, "create", "runtime", "--add-ima-signature-verification-key", rsa)
	if err != nil {
		t.Fatal(err, errs)
	}
	if keys := parsed(t, []byte(out)).Keys; !strings.HasSuffix(keys, `"keyids": [4081397027]}`) {
		t.Errorf("keys %s", keys)
	}
	base := file(t, "base", out)
	out, errs, err = tool(t, "create", "runtime", "-p", base, "--add-ima-signature-verification-key", ec,
		"--add-ima-signature-verification-key", rsa, "--add-ima-signature-verification-key", file(t, "no", "no key"))
	if err != nil || !strings.Contains(errs, "does not have a supported key") {
		t.Errorf("%v, messages %s", err, errs)
	}
	if keys := parsed(t, []byte(out)).Keys; !strings.HasSuffix(keys, `"keyids": [4081397027, 1394556965]}`) {
		t.Errorf("keys %s", keys)
	}
}
