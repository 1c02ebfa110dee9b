package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"keylime/internal/recorded"
	"keylime/tpm"
)

// with returns the empty policy's text with one part replaced.
func with(part, replacement string) string {
	if !strings.Contains(EmptyRuntime, part) {
		panic("no such part: " + part)
	}
	return strings.Replace(EmptyRuntime, part, replacement, 1)
}

func TestRuntimeViolationsHaveKeylimesTexts(t *testing.T) {
	t.Parallel()
	const malformatted = "Runtime policy is malformatted: "
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", "No IMA policy provided!"},
		{"not JSON", "{", "Runtime policy is not valid JSON! byte 1: want a string"},
		{"array", "[]", malformatted + "[] is not of type 'object'"},
		{"null", "null", malformatted + "None is not of type 'object'"},
		{"empty object", "{}", malformatted + "'meta' is a required property"},
		{"no generator", with(`,"generator":1`, ``), malformatted + "'generator' is a required property"},
		{"version", with(`"version":1`, `"version":-1`), malformatted + "-1 is less than the minimum of 0"},
		{"generator", with(`"generator":1`, `"generator":4`), malformatted + "4 is greater than the maximum of 3"},
		{"boolean for integer", with(`"release":0`, `"release":true`), malformatted + "True is not of type 'integer'"},
		{"fraction for integer", with(`"release":0`, `"release":1.5`), malformatted + "1.5 is not of type 'integer'"},
		{"overflow", with(`"release":0`, `"release":1e999`), malformatted + "1e999 is not of type 'integer'"},
		{"no digests", with(`"digests":{}`, `"digests":{"/a":[]}`), malformatted + "[] should be non-empty ('/a' of digests)"},
		{"digest", with(`"digests":{}`, `"digests":{"/a":["zz"]}`), malformatted + "'zz' does not match '^[0-9a-f]{40,128}$' ('/a' of digests)"},
		{"upper-case digest", with(`"digests":{}`, `"digests":{"/a":["`+strings.Repeat("A", 40)+`"]}`),
			malformatted + "'" + strings.Repeat("A", 40) + "' does not match '^[0-9a-f]{40,128}$' ('/a' of digests)"},
		{"a digest of a key", with(`"keyrings":{}`, `"keyrings":{".ima":[7]}`), malformatted + "7 is not of type 'string' ('.ima' of keyrings)"},
		{"no list", with(`"ima-buf":{}`, `"ima-buf":{"x":{}}`), malformatted + "{} is not of type 'array' ('x' of ima-buf)"},
		{"log hash", with(`"sha1"`, `"sm3_256"`), malformatted + "'sm3_256' is not one of ['sha1', 'sha256', 'sha384', 'sha512']"},
		{"device-mapper policy", with(`"dm_policy":null`, `"dm_policy":{"version": 1}`), malformatted + "{'version': 1} is not of type 'null'"},
		{"excludes", with(`"excludes":[]`, `"excludes":[["a", null]]`), malformatted + "['a', None] is not of type 'string'"},
		{"keys", with(`"verification-keys":""`, `"verification-keys":"[]"`), malformatted + "[] is not of type 'object'"},
		{"keys without ids", with(`"verification-keys":""`, `"verification-keys":"{\"pubkeys\":[]}"`), malformatted + "'keyids' is a required property"},
		{"keys not JSON", with(`"verification-keys":""`, `"verification-keys":"x"`), malformatted + "verification-keys: byte 0: want a value"},
		{"nearest to the root first", `{"digests":{"/a":[]},"meta":{}}`, malformatted + "'release' is a required property"},
		// NT-41
		{"name twice", with(`"release":0`, `"release":0,"release":1`), `Runtime policy is not valid JSON! byte 48: name "release" stands twice in one object`},
		{"path twice", with(`"digests":{}`, `"digests":{"/a":["`+strings.Repeat("a", 64)+`"],"/a":["`+strings.Repeat("b", 64)+`"]}`),
			`Runtime policy is not valid JSON! byte 133: name "/a" stands twice in one object`},
		{"data after the policy", EmptyRuntime + "{}", "Runtime policy is not valid JSON! byte 194: data after the value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := CompileRuntime([]byte(c.text))
			if err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func mustCompile(t testing.TB, text string) *Runtime {
	t.Helper()
	r, err := CompileRuntime([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestEmptyRuntimeAcceptsNothing(t *testing.T) {
	t.Parallel()
	r := mustCompile(t, EmptyRuntime)
	if r.Generator() != GeneratorEmpty || r.LogHash() != tpm.SHA1 {
		t.Errorf("generator %d, log hash %v", r.Generator(), r.LogHash())
	}
	sum := sha256.Sum256([]byte(EmptyRuntime))
	if r.Digest() != hex.EncodeToString(sum[:]) {
		t.Errorf("digest %s", r.Digest())
	}
	key, trusted := r.Key([]byte(".ima"), nil)
	if trusted {
		t.Error("trusts a key")
	}
	for _, f := range []Finding{r.File([]byte("/a"), nil), key, r.Buffer([]byte("x"), nil)} {
		if f.Reason != NotListed {
			t.Errorf("%+v", f)
		}
	}
}

const policyText = `{"meta": {"version": 1.0, "generator": 3, "timestamp": "2024-09-12 13:44:44.797331", "more": [{}]}, "release": 0,
	"digests": {"/a": ["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"],
		"/\u00e9 b": ["cccccccccccccccccccccccccccccccccccccccc"], "/odd": ["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]},
	"excludes": ["/tmp/", "\\.ima", ".*\\.log$"],
	"keyrings": {".ima": ["dddddddddddddddddddddddddddddddddddddddd"]},
	"ima": {"ignored_keyrings": [".builtin"], "log_hash_alg": "sha256", "dm_policy": null, "more": 1},
	"ima-buf": {"selinux-state": ["eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"]},
	"verification-keys": "{\"meta\":{\"version\":1},\"pubkeys\":[\"AA==\"],\"keyids\":[0]}", "more": null}`

func TestRuntimeFindings(t *testing.T) {
	t.Parallel()
	r := mustCompile(t, policyText)
	if r.Generator() != 3 || r.LogHash() != tpm.SHA256 {
		t.Errorf("generator %d, log hash %v", r.Generator(), r.LogHash())
	}
	a20, b32 := bytes.Repeat([]byte{0xaa}, 20), bytes.Repeat([]byte{0xbb}, 32)
	c20, e20 := bytes.Repeat([]byte{0xcc}, 20), bytes.Repeat([]byte{0xee}, 20)
	for _, c := range []struct {
		what   string
		judge  func(name, digest []byte) Finding
		name   string
		digest []byte
		want   Reason
	}{
		{"first digest", r.File, "/a", a20, Accepted},
		{"second digest", r.File, "/a", b32, Accepted},
		{"name beyond ASCII", r.File, "/é b", c20, Accepted},
		{"digest of another file", r.File, "/a", c20, WrongDigest}, // NT-3C
		{"part of a digest", r.File, "/a", a20[:19], WrongDigest},
		{"no digest", r.File, "/a", nil, WrongDigest},
		{"digest of a listed file elsewhere", r.File, "/b", a20, NotListed}, // NT-3C
		{"odd number of digits matches nothing", r.File, "/odd", a20, WrongDigest},
		{"excluded", r.File, "/tmp/x", nil, Accepted},
		{"excluded by its end", r.File, "/var/x.log", nil, Accepted},
		{"excluded though listed otherwise", r.File, "/a.log", nil, Accepted},
		{"buffer", r.Buffer, "selinux-state", e20, Accepted},
		{"other buffer", r.Buffer, "selinux-state", a20, WrongDigest},
		{"unknown buffer", r.Buffer, "dm_table_load", e20, NotListed}, // NT-3D
		{"file's digest for a buffer", r.Buffer, "/a", a20, NotListed},
	} {
		if got := c.judge([]byte(c.name), c.digest); got.Reason != c.want {
			t.Errorf("%s: %v, want %v", c.what, got.Reason, c.want)
		}
	}
	want := []string{strings.Repeat("aa", 20), strings.Repeat("bb", 32)}
	if got := r.File([]byte("/a"), nil).Expected(); !slices.Equal(got, want) {
		t.Errorf("expected digests: %q", got)
	}
	if got := r.File([]byte("/b"), nil).Expected(); len(got) != 0 {
		t.Errorf("expected digests of an unknown file: %q", got)
	}
}

// NT-3B, HARDEN 5: only a listed key is trusted, however the policy came to accept it.
func TestKeysInKeyrings(t *testing.T) {
	t.Parallel()
	listed, other := bytes.Repeat([]byte{0xdd}, 20), bytes.Repeat([]byte{0xaa}, 20)
	all := mustCompile(t, with(`"ignored_keyrings":[]`, `"ignored_keyrings":["*"]`))
	some := mustCompile(t, strings.NewReplacer(`"ignored_keyrings":[]`, `"ignored_keyrings":[".builtin"]`,
		`"keyrings":{}`, `"keyrings":{".ima":["`+strings.Repeat("dd", 20)+`"],".builtin":["`+strings.Repeat("dd", 20)+`"],".tmp":["`+strings.Repeat("dd", 20)+`"]}`,
		`"excludes":[]`, `"excludes":["\\.tmp"]`).Replace(EmptyRuntime))
	for _, c := range []struct {
		what    string
		r       *Runtime
		ring    string
		digest  []byte
		want    Reason
		trusted bool
	}{
		{"listed", some, ".ima", listed, Accepted, true},
		{"other key", some, ".ima", other, WrongDigest, false},
		{"listed for another ring", some, ".evm", listed, NotListed, false},
		{"in an ignored ring", some, ".builtin", other, Accepted, false},
		{"listed, but the ring is ignored", some, ".builtin", listed, Accepted, false},
		{"in an excluded ring", some, ".tmp", other, Accepted, false},
		{"listed, in an excluded ring", some, ".tmp", listed, Accepted, true},
		{"all rings ignored", all, ".any", nil, Accepted, false},
	} {
		if f, trusted := c.r.Key([]byte(c.ring), c.digest); f.Reason != c.want || trusted != c.trusted {
			t.Errorf("%s: %v, trusted %v", c.what, f.Reason, trusted)
		}
	}
	if f := all.Buffer([]byte("any"), nil); f.Reason != NotListed {
		t.Errorf("a buffer is no key: %+v", f)
	}
}

// The compiled policy keeps nothing of the text it was made from.
func TestRuntimeDoesNotAliasItsText(t *testing.T) {
	t.Parallel()
	text := []byte(policyText)
	r, err := CompileRuntime(text)
	if err != nil {
		t.Fatal(err)
	}
	clear(text)
	if f := r.File([]byte("/a"), bytes.Repeat([]byte{0xaa}, 20)); f.Reason != Accepted {
		t.Errorf("%+v after its text was overwritten", f)
	}
}

func TestRuntimeLookUpAllocatesNothing(t *testing.T) {
	r := mustCompile(t, policyText)
	name, digest := []byte("/a"), bytes.Repeat([]byte{0xbb}, 32)
	if n := testing.AllocsPerRun(100, func() { r.File(name, digest) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Policies that other tools wrote.
func TestRecordedPoliciesCompile(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"create-runtime/policy-sha256":           "",
		"create-runtime/policy-sha1":             "",
		"create-runtime/policy-sha512":           "",
		"sign/runtime-policy.json":               "",
		"sign/runtime-policy-empty.json":         "",
		"sign/runtime-policy-bogus.json":         "Runtime policy is not valid JSON!",
		"signed/runtime-policy-test.json":        "does not match '^[0-9a-f]{40,128}$'", // one digest has a prefix
		"signed/runtime-policy-test-signed.json": "does not match '^[0-9a-f]{40,128}$'", // the same in an envelope
	} {
		_, err := CompileRuntime(recorded.File(t, "policy/"+name))
		if got := fmt.Sprint(err); err == nil && want != "" || err != nil && (want == "" || !strings.Contains(got, want)) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// FuzzCompileRuntime: no text panics; what is refused has an *Error; what is accepted is JSON.
func FuzzCompileRuntime(f *testing.F) {
	f.Add([]byte(EmptyRuntime))
	f.Add([]byte(policyText))
	f.Add([]byte(`{"meta":[{"a":null,"b":[true,"'"]}],"excludes":["("]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := CompileRuntime(text)
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Fatalf("%T: %v", err, err)
		}
		if err == nil && (!json.Valid(text) || r.Generator() < 0 || r.Generator() > 3 || !r.LogHash().Valid()) {
			t.Fatalf("%q was accepted: %+v", text, r)
		}
	})
}

// BenchmarkCompileRuntime is the compilation of a policy of 100,000 files. Its reference is json.Valid on the same text.
func BenchmarkCompileRuntime(b *testing.B) {
	var digests strings.Builder
	for i := range 100_000 {
		if i > 0 {
			digests.WriteString(",")
		}
		fmt.Fprintf(&digests, `"/usr/lib/python3/dist-packages/package%d/module.py":["%x"]`, i, sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16)}))
	}
	text := []byte(with(`"digests":{}`, `"digests":{`+digests.String()+`}`))
	start := time.Now()
	for range 5 {
		if !json.Valid(text) {
			b.Fatal("not JSON")
		}
	}
	reference := time.Since(start) / 5
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := CompileRuntime(text); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(reference), "x-json-valid")
}

func ExampleCompileRuntime() {
	_, err := CompileRuntime([]byte(`{"release":0}`))
	fmt.Println(err)
	// Output: Runtime policy is malformatted: 'meta' is a required property
}
