package policy

import (
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keylime/ima"
	"keylime/internal/recorded"
)

var conversionTime = time.Date(2024, 9, 12, 13, 44, 44, 797331000, time.UTC)

func digits(s string) string {
	sum := sha1.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}

// compiled holds that a conversion is a policy that a verifier takes.
func compiled(t *testing.T, c Converted) *Runtime {
	t.Helper()
	r, err := CompileRuntime(c.Text)
	if err != nil {
		t.Fatalf("%s: %v", c.Text, err)
	}
	return r
}

func accepts(t *testing.T, r *Runtime, path, digest string) bool {
	t.Helper()
	b, err := hex.DecodeString(digest)
	if err != nil {
		t.Fatal(err)
	}
	return r.File([]byte(path), b).Reason == Accepted
}

func TestConvertFlatAllowList(t *testing.T) {
	t.Parallel()
	a, b, c := digits("a"), digits("b"), digits("c")
	text := a + "  /usr/bin/a\n\n" + b + " \t/with space  \r\n" + c + "  /usr/bin/a\nnonsense\n" +
		"sha256:" + strings.ToUpper(b) + c[:24] + " /prefixed\n" + c + "  %keyring:.ima"
	got, err := ConvertAllowList([]byte(text), Additions{Excludes: []byte("# comment\n /tmp/ \n\n/var/.*\\.log\n")}, conversionTime)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"meta": {"version": 1, "generator": 3, "timestamp": "2024-09-12 13:44:44.797331"}, "release": 0, "digests": {` +
		`"/usr/bin/a": ["` + a + `", "` + c + `"], "/with space": ["` + b + `"], "/prefixed": ["` + b + c[:24] + `"]}, ` +
		`"excludes": ["/tmp/", "/var/.*\\.log"], "keyrings": {".ima": ["` + c + `"]}, ` +
		`"ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": null}, "ima-buf": {}, "verification-keys": ""}`
	if string(got.Text) != want {
		t.Errorf("got  %s\nwant %s", got.Text, want)
	}
	if want := []string{"line 5 is not a digest and a path: nonsense"}; !slices.Equal(got.Notes, want) {
		t.Errorf("notes %q", got.Notes)
	}
	compiled(t, got)
}

func TestConvertLegacyAllowList(t *testing.T) {
	t.Parallel()
	a, b := digits("a"), digits("b")
	text := `{"meta": {"version": 5, "generator": "keylime-legacy-format-upgrade"}, "release": "0", "hashes": {"/a": ["sha1:` + a + `"], "boot_aggregate": ["` + b + `"]},
		"keyrings": {".ima": ["` + b + `"]}, "excludes": null, "ima": {"ignored_keyrings": [".x"]}, "unknown": 1}`
	got, err := ConvertAllowList([]byte(strings.Replace(text, `"0"`, `7`, 1)), Additions{}, conversionTime)
	if err != nil {
		t.Fatal(err)
	}
	r := compiled(t, got)
	if !accepts(t, r, "/a", a) || accepts(t, r, "/a", b) || r.Generator() != GeneratorLegacy {
		t.Errorf("%s", got.Text)
	}
	if strings.Contains(string(got.Text), "unknown") || !strings.Contains(string(got.Text), `"release": 7`) {
		t.Errorf("%s", got.Text)
	}
	if n := len(got.Notes); n != 5 { // excludes, ima-buf, verification-keys; log_hash_alg and dm_policy of ima
		t.Errorf("notes %q", got.Notes)
	}
}

func TestConvertAllowListRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		EmptyRuntime: `neither "hashes" nor lines`,
		strings.Replace(EmptyRuntime, `"digests":{}`, `"digests":{"/a":["`+digits("a")+`"]}`, 1): "it is a runtime policy already",
		`{"hashes": {"/a": "x"}}`:               "hashes: ",
		`{"hashes": ["x"]}`:                     "hashes: ",
		`{"hashes": {"/a": []}, "hashes": {}}`:  "allow list: ",
		`{"hashes": {"/a": ["x"]}`:              "allow list: ",
		`[1]`:                                   "allow list: ",
		strings.Repeat("[", 100_000):            "allow list: ",
		`{}`:                                    `neither "hashes" nor lines`,
		`{"hashes": {}, "digests": {}}`:         `neither "hashes" nor lines`,
		`{"hashes": {"/a": ["x"]}, "ima": {,}}`: "allow list: ",
	} {
		if got, err := ConvertAllowList([]byte(text), Additions{}, conversionTime); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %s, %v", text, got.Text, err)
		}
	}
}

func TestUpdateRuntime(t *testing.T) {
	t.Parallel()
	a := digits("a")
	key, err := ima.ParseKey(recorded.File(t, "policy/keys/rsa2048pub.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{`"version": 0, `, `"version": "x", `, ``} {
		old := `{"meta": {` + version + `"generator": 0}, "digests": {"/a": ["` + a + `"]}, "excludes": ["/tmp"], "ima": {"log_hash_alg": "sha256"}}`
		got, err := UpdateRuntime([]byte(old), Additions{Excludes: []byte("/var\n"), Keys: []*ima.Key{key, key}}, conversionTime)
		if err != nil {
			t.Fatal(err)
		}
		r := compiled(t, got)
		if !accepts(t, r, "/a", a) || !accepts(t, r, "/tmp/x", a) || !accepts(t, r, "/var/x", a) || r.Generator() != GeneratorCompatible {
			t.Errorf("%s", got.Text)
		}
		if keys := r.keys.Keys(); len(keys) != 1 || keys[0].ID() != 0xf3452d23 {
			t.Errorf("%d keys in %s", len(keys), got.Text)
		}
	}
}

// A policy of the current version keeps everything that it has, in its order.
func TestUpdateRuntimeOfCurrentVersion(t *testing.T) {
	t.Parallel()
	old := `{"custom": [1.50, {"a": null}], ` + EmptyRuntime[1:]
	got, err := UpdateRuntime([]byte(old), Additions{Excludes: []byte("/b\n")}, conversionTime)
	if err != nil || len(got.Notes) > 0 {
		t.Fatalf("%v %q", err, got.Notes)
	}
	if !strings.HasPrefix(string(got.Text), `{"custom": [1.50, {"a": null}], "meta": {"version":1,"generator":1}`) || !strings.Contains(string(got.Text), `"excludes": ["/b"]`) {
		t.Errorf("%s", got.Text)
	}
	compiled(t, got)
	for text, want := range map[string]string{
		`[]`:                                    "runtime policy: ",
		`{"meta":{"version":1},"excludes":"x"}`: "excludes of the policy",
		`{"meta":{"version":1},"excludes":[],"verification-keys":1}`: "",
	} {
		_, err := UpdateRuntime([]byte(text), Additions{Excludes: []byte("/b")}, conversionTime)
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// The lists of the corpus: each converts, and lists the one file that it has. A digest of no known length makes a policy
// that is refused.
func TestConvertRecordedAllowLists(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(recorded.Dir(t), "policy", "create-runtime", "allowlist-*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no lists: %v", err)
	}
	for _, f := range files {
		text := recorded.File(t, "policy/create-runtime/"+filepath.Base(f))
		got, err := ConvertAllowList(text, Additions{}, conversionTime)
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		if filepath.Base(f) == "allowlist-unknown" {
			if _, err := CompileRuntime(got.Text); err == nil || !strings.Contains(err.Error(), "does not match") {
				t.Errorf("%s: %v", f, err)
			}
			continue
		}
		digest, path, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
		if r := compiled(t, got); !accepts(t, r, strings.TrimSpace(path), digest) {
			t.Errorf("%s: %s", f, got.Text)
		}
	}
}

// Policies of the corpus compile, and those with a prefixed digest say so.
func TestCompileRecordedPolicies(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(recorded.Dir(t), "policy", "create-runtime", "policy-*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no policies: %v", err)
	}
	for _, f := range files {
		if _, err := CompileRuntime(recorded.File(t, "policy/create-runtime/"+filepath.Base(f))); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
	_, err = CompileRuntime(recorded.File(t, "policy/signed/runtime-policy-test.json"))
	if err == nil || !strings.Contains(err.Error(), "'sha256:") {
		t.Errorf("a prefixed digest: %v", err)
	}
}

// FuzzConvert: no text panics, and what comes out is JSON.
func FuzzConvert(f *testing.F) {
	f.Add([]byte(digits("a") + "  /a\n"))
	f.Add([]byte(`{"hashes": {"/a": ["` + digits("a") + `"]}, "ima": {"ignored_keyrings": []}}`))
	f.Add([]byte(EmptyRuntime))
	f.Fuzz(func(t *testing.T, text []byte) {
		more := Additions{Excludes: text}
		for _, convert := range []func([]byte, Additions, time.Time) (Converted, error){ConvertAllowList, UpdateRuntime} {
			if got, err := convert(text, more, conversionTime); err == nil && !json.Valid(got.Text) {
				t.Fatalf("%q became %s", text, got.Text)
			}
		}
	})
}

func ExampleConvertAllowList() {
	list := "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  /usr/bin/test\n"
	c, err := ConvertAllowList([]byte(list), Additions{}, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err := CompileRuntime(c.Text)
	fmt.Println(r.Generator() == GeneratorLegacy, err)
	// Output: true <nil>
}
