package attest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"keylime/ima"
	"keylime/internal/policy"
	"keylime/tpm"
)

// kernel is a machine whose measurement list tests write line by line, with any template.
type kernel struct {
	*machine
	list []string
}

func newKernel(t testing.TB) *kernel {
	t.Helper()
	m := newMachine(t)
	m.tpm.Reset()
	return &kernel{machine: m}
}

func sized(b []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// extend extends PCR 10 with a template's data, and returns the data's SHA-1.
func (k *kernel) extend(t testing.TB, data []byte) [sha1.Size]byte {
	t.Helper()
	own := sha256.Sum256(data)
	k.extendWith(t, own[:])
	return sha1.Sum(data)
}

func (k *kernel) extendWith(t testing.TB, digest []byte) {
	t.Helper()
	if err := k.tpm.Extend(tpm.PCRIma, map[tpm.Hash][]byte{tpm.SHA256: digest}); err != nil {
		t.Fatal(err)
	}
}

// file measures a file with template ima-ng.
func (k *kernel) file(t testing.TB, path string, digest []byte) {
	t.Helper()
	hash := k.extend(t, digestAndName(digest, path))
	k.list = append(k.list, fmt.Sprintf("10 %x ima-ng sha256:%x %s", hash, digest, path))
}

// signed measures a file with template ima-sig.
func (k *kernel) signed(t testing.TB, path string, digest, signature []byte) {
	t.Helper()
	hash := k.extend(t, append(digestAndName(digest, path), sized(signature)...))
	k.list = append(k.list, fmt.Sprintf("10 %x ima-sig sha256:%x %s %x", hash, digest, path, signature))
}

func digestAndName(digest []byte, name string) []byte {
	return append(sized(append([]byte("sha256:\x00"), digest...)), sized([]byte(name+"\x00"))...)
}

// buffer measures a buffer as having the given digest.
func (k *kernel) buffer(t testing.TB, name string, digest, buffer []byte) {
	t.Helper()
	hash := k.extend(t, append(digestAndName(digest, name), sized(buffer)...))
	k.list = append(k.list, fmt.Sprintf("10 %x ima-buf sha256:%x %s %x", hash, digest, name, buffer))
}

// violation logs that a file could not be measured.
func (k *kernel) violation(t testing.TB, path string) {
	t.Helper()
	k.extendWith(t, bytes.Repeat([]byte{0xFF}, 32))
	zero := make([]byte, 20)
	k.list = append(k.list, fmt.Sprintf("10 %x ima-ng sha1:%x %s", zero, zero, path))
}

// judge runs one round over the whole list.
func (k *kernel) judge(t testing.TB) Outcome {
	t.Helper()
	k.state = State{}
	in := k.answer(t)
	in.Evidence.IMA, in.Evidence.IMAEntry = []byte(strings.Join(k.list, "\n")+"\n"), 0
	return k.verify(t, in)
}

func expect(t testing.TB, out Outcome, want string) {
	t.Helper()
	if got := events(out.Verdict); got != want {
		t.Errorf("got %s, want %s\n%+v", got, want, out.Verdict.Failures)
	}
}

func digestOf(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}

const (
	notListed = "ima.validation.ima-ng.not_in_allowlist"
	wrongHash = "ima.validation.ima-ng.runtime_policy_hash"
	badHash   = "ima.validation.ima_hash"
	badEntry  = "ima.parser.entry"
)

// NT-36, HARDEN 2: the option does what its name says.
func TestViolations(t *testing.T) {
	t.Parallel()
	for ignore, want := range map[bool]string{true: "pass", false: "ima.validation.tomtou"} {
		k := newKernel(t)
		set := *k.policy
		set.IgnoreToMToU = ignore
		k.policy = &set
		k.violation(t, "/usr/bin/not-in-the-policy")
		expect(t, k.judge(t), want)
	}
}

// HARDEN 1: a template hash of ones does not hide an entry, and neither does one of zeros.
func TestForgedTemplateHashes(t *testing.T) {
	t.Parallel()
	for digit, want := range map[string]string{"f": badHash, "0": "ima.pcr_mismatch", "1": badHash} {
		k := newKernel(t)
		k.file(t, "/evil", digestOf(nil))
		k.list[0] = "10 " + strings.Repeat(digit, 40) + k.list[0][43:]
		expect(t, k.judge(t), want)
	}
}

// NT-3C
func TestFilesAndDigestsGoTogether(t *testing.T) {
	t.Parallel()
	one, other := filePath(1), filePath(2)
	for _, c := range []struct {
		name, path string
		digest     []byte
		want       string
	}{
		{"as in the policy", one, fileDigest(one), "pass"},
		{"digest of another file of the policy", one, fileDigest(other), wrongHash},
		{"file of the policy under another path", "/usr/bin/renamed", fileDigest(one), notListed},
		{"path with a suffix", one + "x", fileDigest(one), notListed},
		{"path with a space", one + " x", fileDigest(one), notListed},
	} {
		k := newKernel(t)
		k.file(t, c.path, c.digest)
		expect(t, k.judge(t), c.want)
	}
}

// NT-38: excludes bind at the start of the path.
func TestExcludedPaths(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{"/tmp/x": "pass", "/tmp": notListed, "/var/tmp/x": notListed, "/tmpfoo": notListed} {
		k := newKernel(t)
		k.file(t, path, digestOf(nil))
		expect(t, k.judge(t), want)
	}
}

// Without keyrings a signature decides nothing: the digest does. One that is no signature fails.
func TestSignedFiles(t *testing.T) {
	t.Parallel()
	signature := []byte{3, 2, 4, 0xf3, 0x45, 0x2d, 0x23, 0, 2, 0xaa, 0xbb}
	for _, c := range []struct {
		name, path string
		signature  []byte
		want       string
	}{
		{"none", filePath(1), nil, "pass"},
		{"some", filePath(1), signature, "pass"},
		{"none, not in the policy", "/evil", nil, notListed},
		{"some, not in the policy", "/evil", signature, notListed},                                           // NT-3B
		{"header's length is wrong", filePath(1), signature[:10], "ima.validator.ima-sig.invalid_signature"}, // NT-39
		{"shorter than a header", "/tmp/excluded", signature[:3], "ima.validator.ima-sig.invalid_signature"},
	} {
		k := newKernel(t)
		k.signed(t, c.path, fileDigest(c.path), c.signature)
		out := k.judge(t)
		if got := events(out.Verdict); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

// NT-3D, HARDEN 4: keys and critical data must be in the policy, and their digest must be theirs.
func TestBuffers(t *testing.T) {
	t.Parallel()
	public, _, err := ed25519.GenerateKey(bytes.NewReader(make([]byte, 64)))
	if err != nil {
		t.Fatal(err)
	}
	unsupported, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKIXPublicKey(newMachine(t).ak.Key())
	if err != nil {
		t.Fatal(err)
	}
	otherKey := []byte{0x30, 6, 2, 1, 77, 2, 1, 3} // PKCS#1 with a small modulus
	state := []byte("selinux=1")
	runtime, err := policy.CompileRuntime([]byte(fmt.Sprintf(`{"meta":{"version":1,"generator":2},"release":0,"digests":{"/a":["%[1]x"]},"excludes":["\\.excluded","dm_"],
		"keyrings":{".ima":["%[2]x","%[3]x"]},"ima":{"ignored_keyrings":[".ignored"],"log_hash_alg":"sha1","dm_policy":null},
		"ima-buf":{"selinux-state":["%[1]x"]},"verification-keys":""}`, digestOf(state), digestOf(key), digestOf(unsupported))))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, name string
		digest     []byte // nil: the buffer's
		buffer     []byte
		want       string
	}{
		{"listed data", "selinux-state", nil, state, "pass"},
		{"other data", "selinux-state", nil, []byte("selinux=0"), wrongHash},
		{"HARDEN 4: other data with the listed digest", "selinux-state", digestOf(state), []byte("selinux=0"), badHash},
		{"unknown data", "kexec-cmdline", nil, []byte("ro"), notListed},
		{"excluded data", "dm_table_load", nil, []byte("x"), "pass"},
		{"HARDEN 4: excluded data with another digest", "dm_table_load", digestOf(state), []byte("x"), badHash},
		{"data without content", "selinux-state", nil, nil, wrongHash},
		{"listed key", ".ima", nil, key, "pass"},
		{"other key", ".ima", nil, otherKey, wrongHash},
		{"other key in a ring that an exclude matches", ".excluded", nil, otherKey, "pass"}, // but see HARDEN 5
		{"key in another ring", ".evm", nil, key, notListed},
		{"key in an ignored ring", ".ignored", nil, key, "pass"},
		{"data in an ignored ring", ".ignored", nil, state, notListed},
		{"unsupported key", ".ima", nil, unsupported, "ima.invalid_key"},
	} {
		k := newKernel(t)
		k.policy = set(t, runtime, `{"mask":"0x400"}`)
		digest := c.digest
		if digest == nil {
			digest = digestOf(c.buffer)
		}
		k.buffer(t, c.name, digest, c.buffer)
		if got := events(k.judge(t).Verdict); got != c.want {
			t.Errorf("%s: got %s, want %s", c.what, got, c.want)
		}
	}
}

// The template's name is not part of what is hashed, and ima-sig and ima-buf have the same binary form: a file that is
// passed off as a buffer, or a buffer as a file, is not accepted for that.
func TestRelabelledTemplates(t *testing.T) {
	t.Parallel()
	k := newKernel(t)
	k.signed(t, "/tmp/evil", digestOf([]byte("evil")), []byte("signature"))
	k.list[0] = strings.Replace(k.list[0], "ima-sig", "ima-buf", 1)
	expect(t, k.judge(t), badHash)

	k = newKernel(t)
	k.buffer(t, "selinux-state", digestOf([]byte("off")), []byte("off"))
	k.list[0] = strings.Replace(k.list[0], "ima-buf", "ima-sig", 1)
	expect(t, k.judge(t), "ima.validator.ima-sig.invalid_signature")
}

// NT-39: each malformed line fails, with its number.
func TestMalformedLines(t *testing.T) {
	t.Parallel()
	good := fileDigest(filePath(1))
	for _, c := range []struct{ name, line, want string }{
		{"unknown template", fmt.Sprintf("10 %x ima-ngv2 ima:sha256:%x /a", good[:20], good), badEntry},
		{"odd hex", "10 abc ima-ng sha256:ab /a", badEntry},
		{"buffer without data", fmt.Sprintf("10 %x ima-buf sha256:%x x", good[:20], good), badEntry},
		{"PCR in letters", fmt.Sprintf("PCR %x ima-ng sha256:%x /a", good[:20], good), badEntry},
		{"1 MB", fmt.Sprintf("10 %x ima-ng sha256:%x %s", good[:20], good, strings.Repeat("a", 1<<20)), badEntry},
		{"PCR 11", fmt.Sprintf("11 %x ima-ng sha256:%x %s", good[:20], good, filePath(1)), "ima.validation.ima_pcr"},
		{"not UTF-8", "\xff\xfe", badEntry},
	} {
		k := newKernel(t)
		k.file(t, filePath(1), good)
		k.file(t, filePath(1), good)
		k.list = []string{k.list[0], c.line, k.list[1]}
		out := k.judge(t)
		if got := events(out.Verdict); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
			continue
		}
		context := out.Verdict.Failures[0].Context
		var decoded struct{ Line int }
		if err := json.Unmarshal([]byte(context), &decoded); err != nil || decoded.Line != 2 {
			t.Errorf("%s: context %.200s does not name line 2 (%v)", c.name, context, err)
		}
	}
	k := newKernel(t)
	k.file(t, filePath(1), good)
	k.list[0] += "\r"
	expect(t, k.judge(t), badHash+",ima.pcr_mismatch") // NT-39: CRLF changes the name
}

func TestListIsBounded(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes 256 MB")
	}
	k := newKernel(t)
	in := k.answer(t)
	in.Evidence.IMA, in.Evidence.IMAEntry = make([]byte, ima.MaxList+1), 0
	expect(t, k.verify(t, in), badEntry)
}

// What operators and receivers of revocation messages read.
func TestContextsOfMeasurementFailures(t *testing.T) {
	t.Parallel()
	k := newKernel(t)
	set := *k.policy
	set.IgnoreToMToU = false
	k.policy = &set
	path := filePath(1)
	k.file(t, "/usr/bin/<evil> & \"co\"", digestOf(nil))
	k.file(t, path, digestOf(nil))
	k.file(t, "/bad\xff", digestOf(nil))
	k.violation(t, "/var/log/x")
	k.signed(t, path, fileDigest(path), []byte{3, 2})
	k.buffer(t, "buf", digestOf(nil), []byte("x"))
	k.list = append(k.list, "garbage", "11"+k.list[0][2:])
	k.file(t, path, fileDigest(path))
	last := k.list[8]
	k.list[8] = "10 " + strings.Repeat("ab", 20) + last[43:]
	out := k.judge(t)
	empty := fmt.Sprintf("%x", digestOf(nil))
	want := []string{
		`{"message":"File not found in allowlist: /usr/bin/<evil> & \"co\"","got":"` + empty + `","line":1}`,
		`{"message":"Hash not found in runtime policy","path":"` + path + `","got":"` + empty + `","expected":["` + fmt.Sprintf("%x", fileDigest(path)) + `"],"line":2}`,
		`{"message":"File not found in allowlist: \"/bad\\xff\"","got":"` + empty + `","line":3}`,
		`{"message":"the file changed while it was measured: hash validation was skipped","line":4,"entry":"10 0000000000000000000000000000000000000000 ima-ng sha1:0000000000000000000000000000000000000000 /var/log/x"}`,
		`{"message":"signature could not be validated for file ` + path + `","line":5}`,
		`{"message":"digest is not that of the measured buffer buf","got":"` + empty + `","line":6}`,
		`{"message":"Line was not parsable into a valid IMA entry: want PCR, template hash, template name and template data, with one space between them","line":7,"entry":"garbage"}`,
		`{"message":"IMA PCR is not the configured one","expected":"10","got":"11","line":8}`,
		`{"message":"IMA template hash does not match the calculated hash.","expected":"` + last[3:43] + `","got":"` + strings.Repeat("ab", 20) + `","line":9}`,
	}
	if len(out.Verdict.Failures) != len(want) {
		t.Fatalf("%d failures, want %d: %+v", len(out.Verdict.Failures), len(want), out.Verdict.Failures)
	}
	for i, f := range out.Verdict.Failures {
		if f.Context != want[i] {
			t.Errorf("failure %d, %s:\ngot  %s\nwant %s", i+1, f.EventID, f.Context, want[i])
		}
	}
	if want := (Stats{Entries: 9, Proven: 9, Failures: 9}); out.Stats != want {
		t.Errorf("stats %+v, want %+v", out.Stats, want)
	}
}

// The list's template hashes may be of another algorithm, as the policy says.
func TestLogHashAlgorithm(t *testing.T) {
	t.Parallel()
	k := newKernel(t)
	runtime, err := policy.CompileRuntime([]byte(strings.Replace(policy.EmptyRuntime, `"excludes":[],"keyrings":{},"ima":{"ignored_keyrings":[],"log_hash_alg":"sha1"`,
		`"excludes":["/"],"keyrings":{},"ima":{"ignored_keyrings":[],"log_hash_alg":"sha384"`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	k.policy = set(t, runtime, `{"mask":"0x400"}`)
	path, digest := "/a", digestOf(nil)
	data := digestAndName(digest, path)
	k.extend(t, data)
	k.list = []string{fmt.Sprintf("10 %x ima-ng sha256:%x %s", sha512.Sum384(data), digest, path)}
	expect(t, k.judge(t), "pass")
	k.list = []string{fmt.Sprintf("10 %x ima-ng sha256:%x %s", sha1.Sum(data), digest, path)}
	expect(t, k.judge(t), badHash)
}

// A verdict lists a bounded number of failures, and among them the worst.
func TestFailuresAreCapped(t *testing.T) {
	t.Parallel()
	k := newKernel(t)
	labels, err := policy.NewLabels([]string{"info", "error", "emergency"}, []policy.SeverityRule{
		{EventID: `ima\.validation\.ima-ng\.not_in_allowlist`, Label: "info"},
		{EventID: `ima\.validation\.ima-ng\..*`, Label: "error"},
	})
	if err != nil {
		t.Fatal(err)
	}
	set := *k.policy
	set.Labels = labels
	k.policy = &set
	for i := range MaxFailures + 50 {
		k.file(t, fmt.Sprintf("/evil%d", i), digestOf(nil))
	}
	k.file(t, filePath(1), digestOf(nil)) // error
	k.file(t, filePath(2), digestOf(nil)) // another
	out := k.judge(t)
	worst, _ := out.Verdict.Worst()
	if len(out.Verdict.Failures) != MaxFailures+1 || out.Stats.Failures != MaxFailures+52 || worst.EventID != wrongHash {
		t.Errorf("%d failures listed, %d counted, worst %s", len(out.Verdict.Failures), out.Stats.Failures, worst.EventID)
	}
	if out.Verdict.Final() {
		t.Error("failures below the highest severity end the polling")
	}
	k.list = append(k.list, "garbage") // emergency
	out = k.judge(t)
	if worst, _ := out.Verdict.Worst(); worst.EventID != badEntry || !out.Verdict.Final() {
		t.Errorf("worst is %s, final %v", worst.EventID, out.Verdict.Final())
	}
}
