package policytool

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// peerTool is upstream's keylime-policy. KEYLIME_PEER_VENV names a virtual environment that has it; it works for root alone.
func peerTool(t testing.TB) string {
	t.Helper()
	venv := os.Getenv("KEYLIME_PEER_VENV")
	switch {
	case venv == "":
		t.Skip("KEYLIME_PEER_VENV does not name a virtual environment with Keylime's Python code")
	case os.Getuid() != 0:
		t.Skip("upstream's policy tool runs as root only")
	}
	return filepath.Join(venv, "bin", "keylime-policy")
}

// peerPolicy runs upstream's `create runtime`.
func peerPolicy(t testing.TB, args ...string) (policyFile, error) {
	t.Helper()
	output := filepath.Join(t.TempDir(), "policy.json")
	cmd := exec.Command(peerTool(t), append([]string{"create", "runtime", "-o", output}, args...)...)
	cmd.Dir = t.TempDir()
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Run(); err != nil {
		return policyFile{}, fmt.Errorf("%w: %s", err, errs.String())
	}
	text, err := os.ReadFile(output)
	if err != nil {
		t.Fatal(err, errs.String())
	}
	return parsed(t, text), nil
}

// TestPoliciesAreUpstreams: upstream's tool makes the same policy, or refuses as well.
func TestPoliciesAreUpstreams(t *testing.T) {
	t.Parallel()
	peerTool(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	root := randomTree(t, rand.New(rand.NewPCG(seed, 1)))
	boot := bootDir(t, map[string][]byte{
		"initrd.img-1": concat(microcode, zeros(300), gzipped(t, archive(member{name: "init", content: "1"}, member{name: "a b"},
			member{name: "hard1", inode: 7, links: 2}, member{name: "hard2", content: "same", inode: 7, links: 2}))),
		"initramfs-2": gzipped(t, archive(member{name: "only", content: "2"})),
	})
	base := file(t, "base", `{"digests": {"/usr/x": ["`+sha256Of1+`"]}, "excludes": ["b", "a"], "keyrings": {".k": ["`+sha1Of1+`"]},
		"ima": {"log_hash_alg": "sha256", "ignored_keyrings": ["z"]}}`)
	list := file(t, "list", sha256Of2+"  /usr/x\n"+sha256Of1+"  /a b c\nalone\n\n")
	excludes := file(t, "excludes", " /tmp/.*\n\n/var(/.*)?$\n")
	measurements := file(t, "ima", "10 "+sha1Of1+" ima-ng sha256:"+sha256Of2+" boot_aggregate\n10 "+sha1Of1+" ima-sig sha256:"+sha256Of1+" /usr/x 00\n"+
		"10 "+sha1Of1+" ima-buf sha256:"+sha256Of1+" critical 00ff\n")
	cases := map[string][]string{ // few: upstream's tool takes a second to start
		"tree":            {"--rootfs", root, "--algo", "sha1"},
		"list and tree":   {"-m", measurements, "--rootfs", root, "-s", root + "/usr/lib," + root + "/opt,/somewhere"},
		"all lists":       {"-p", base, "-a", list, "-e", excludes, "-m", measurements, "-k", "-b", "--ignored-keyrings", "a"},
		"bad exclude":     {"-e", file(t, "bad", "ok\n(\n")},
		"other algorithm": {"--algo", "sha1", "-a", list, "--rootfs", root},
	}
	if _, err := exec.LookPath("cpio"); err == nil { // upstream's tool needs it
		cases["RAM disks"] = []string{"--ramdisk-dir", boot}
	}
	for name, args := range cases {
		want, refused := peerPolicy(t, args...)
		out, _, err := tool(t, append([]string{"create", "runtime"}, args...)...)
		if (err == nil) != (refused == nil) {
			t.Errorf("%s: error %v, upstream's %v", name, err, refused)
			continue
		}
		if err != nil {
			continue
		}
		got := parsed(t, []byte(out))
		got.Meta.Timestamp, want.Meta.Timestamp = "", "" // the time of making
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: (-upstream's +ours)\n%s", name, diff)
		}
	}
}

// randomTree is a tree with what trees have: directories to leave out, links, spaces, empty and large files.
func randomTree(t testing.TB, random *rand.Rand) string {
	t.Helper()
	dirs := []string{"usr", "usr/bin", "usr/lib/x y", "opt", "var", "home/tmp", "tmp", "boot", "é"}
	files := map[string]string{"usr/link": "-> bin", "opt/out": "-> /etc", "usr/empty/": ""}
	for i := range 200 {
		content := make([]byte, random.IntN(3)*random.IntN(100_000))
		for j := range content {
			content[j] = byte(random.Uint32())
		}
		files[fmt.Sprintf("%s/%d %c", dirs[random.IntN(len(dirs))], i, 'a'+rune(random.IntN(26)))] = string(content)
	}
	return grow(t, files)
}

// TestSignedPoliciesAreUpstreams: each verifies what the other signs, and signs the same bytes under the same key id.
func TestSignedPoliciesAreUpstreams(t *testing.T) {
	t.Parallel()
	peer := peerTool(t)
	in, dir := file(t, "policy", validPolicy), t.TempDir()
	key, theirs := filepath.Join(dir, "key.pem"), filepath.Join(dir, "signed.json")
	cmd := exec.Command(peer, "sign", "runtime", "-r", in, "-p", key, "-o", theirs)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	if _, _, err := tool(t, "verify-signature", "-k", publicOf(t, key), theirs); err != nil {
		t.Errorf("upstream's signature: %v", err)
	}
	text, err := os.ReadFile(theirs)
	if err != nil {
		t.Fatal(err)
	}
	ours, _, err := tool(t, "sign", "runtime", "-r", in, "-k", key)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := signedPayload(t, []byte(ours)), signedPayload(t, text); got != want {
		t.Errorf("signed\n%s\nupstream's\n%s", got, want)
	}
	if !bytes.Contains([]byte(ours), keyID(t, text)) {
		t.Errorf("the key's id is not that of upstream's, %s", keyID(t, text))
	}
}

func keyID(t testing.TB, envelope []byte) []byte {
	t.Helper()
	var e struct{ Signatures []struct{ KeyID string } }
	if err := json.Unmarshal(envelope, &e); err != nil || len(e.Signatures) != 1 {
		t.Fatalf("%v in %s", err, envelope)
	}
	return []byte(e.Signatures[0].KeyID)
}

// usage is what a run of a program took.
type usage struct {
	elapsed time.Duration
	peak    int64 // bytes resident
}

func measureRun(t testing.TB, program string, args ...string) usage {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir = t.TempDir()
	begun := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
	took := usage{elapsed: time.Since(begun)}
	if r, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		took.peak = int64(r.Maxrss) << 10
	}
	return took
}

// BenchmarkCreateRuntime makes a policy of a tree with this tool and with upstream's in turn, and reports files/s, peak
// memory, and both against upstream's. KEYLIME_BENCH_ROOTFS names another tree than /usr/share.
func BenchmarkCreateRuntime(b *testing.B) {
	peer := peerTool(b)
	root := os.Getenv("KEYLIME_BENCH_ROOTFS")
	if root == "" {
		root = "/usr/share"
	}
	dir := b.TempDir()
	program := filepath.Join(dir, "keylime")
	build := exec.Command("go", "build", "-o", program, "keylime")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	output := filepath.Join(dir, "policy.json")
	measureRun(b, program, "policy", "create", "runtime", "--rootfs", root, "-o", output) // files are in memory for both
	var ours, theirs usage
	for b.Loop() {
		o := measureRun(b, program, "policy", "create", "runtime", "--rootfs", root, "-o", output)
		p := measureRun(b, peer, "create", "runtime", "--rootfs", root, "-o", output+".peer")
		ours = usage{ours.elapsed + o.elapsed, max(ours.peak, o.peak)}
		theirs = usage{theirs.elapsed + p.elapsed, max(theirs.peak, p.peak)}
	}
	text, err := os.ReadFile(output)
	if err != nil {
		b.Fatal(err)
	}
	files := float64(len(parsed(b, text).Digests) * b.N)
	b.ReportMetric(files/ours.elapsed.Seconds(), "files/s")
	b.ReportMetric(theirs.elapsed.Seconds()/ours.elapsed.Seconds(), "x-upstream's-rate")
	b.ReportMetric(float64(ours.peak)/1e6, "MB")
	b.ReportMetric(float64(ours.peak)/float64(theirs.peak), "x-upstream's-memory")
	b.ReportMetric(float64(runtime.GOMAXPROCS(0)), "cpus")
}
