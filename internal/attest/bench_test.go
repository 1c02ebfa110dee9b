package attest

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"keylime/internal/fleet"
	"keylime/internal/policy"
	"keylime/tpm"
)

// BenchmarkRound is a round of an idle machine: RSA-2048 AK, no new IMA entry. Its reference is one RSA-2048 verification.
func BenchmarkRound(b *testing.B) {
	m := newMachineOf(b, fleet.Model{Alg: "rsa2048"})
	m.play(b, "measure(100) round")
	in := m.answer(b)

	key := m.ak.Key().(*rsa.PublicKey)
	digest := sha256.Sum256(in.Evidence.Quote.Attest)
	signature := in.Evidence.Quote.Signature[6:]
	reference := measure(b, func() error {
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature)
	})
	b.ReportAllocs()
	for b.Loop() {
		out, err := Verify(in)
		if err != nil || !out.Verdict.Pass() {
			b.Fatal(err, out.Verdict)
		}
	}
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(reference), "x-rsa-verify")
}

// BenchmarkAppraise is the appraisal of 100,000 entries against a policy of 100,000 files with 20 excludes. Its reference
// is the hashing that the entries need: their template hash in SHA-1, their digest in SHA-256 and the extension of PCR 10.
func BenchmarkAppraise(b *testing.B) {
	for _, c := range []struct {
		name     string
		excluded int // of 100 entries
	}{
		{"listed", 0},
		{"excluded=10%", 10},
		{"excluded=100%", 100},
	} {
		b.Run(c.name, func(b *testing.B) { benchmarkAppraise(b, 100_000, c.excluded) })
	}
}

var benchExcludes = []string{
	`/tmp/.*`, `/var/tmp/.*`, `/var/log/.*`, `/var/lib/docker/.*`, `/var/lib/containers/.*`, `/run/.*`, `/dev/shm/.*`,
	`/home/[^/]+/\.cache/.*`, `/root/\.cache/.*`, `/sys/.*`, `/proc/.*`, `/snap/[a-z0-9-]+/\d+/.*`, `(/.*)?/__pycache__/.*`,
	`/opt/vendor/(a|b|c)/tmp`, `/usr/share/mime/.*`, `/etc/ld\.so\.cache$`, `.*\.pyc$`, `/lib/modules/.*/modules\..*`,
	`/var/cache/(apt|dnf|yum)/.*`, `/boot/efi/.*`,
}

func benchmarkAppraise(b *testing.B, entries, excluded int) {
	list, runtime, m := benchList(b, entries, excluded)
	in := m.answer(b)
	in.Evidence.IMA, in.Evidence.IMAEntry = list, 0
	in.Challenge.Entry, in.State = 0, State{}
	in.Policy = set(b, runtime, `{"mask":"0x400"}`)

	reference := measure(b, func() error { return hashAll(list) })
	b.SetBytes(int64(len(list)))
	b.ReportAllocs()
	for b.Loop() {
		out, err := Verify(in)
		if err != nil || !out.Verdict.Pass() || out.Stats.Proven != entries {
			b.Fatal(err, out.Verdict, out.Stats)
		}
	}
	perRun := float64(b.Elapsed()) / float64(b.N)
	b.ReportMetric(perRun/float64(entries), "ns/entry")
	b.ReportMetric(perRun/float64(reference), "x-hashing")
}

// benchList makes a list, the policy that it meets and a machine with that list in PCR 10.
func benchList(b *testing.B, entries, excluded int) ([]byte, *policy.Runtime, *machine) {
	b.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	m := newMachineOf(b, fleet.Model{Alg: "rsa2048"})
	m.tpm.Reset()
	var list bytes.Buffer
	var digests strings.Builder
	for i := range entries {
		dirs := []string{"/usr/bin", "/usr/lib/x86_64-linux-gnu", "/usr/lib/python3/dist-packages/pkg", "/usr/share/perl5"}
		path := fmt.Sprintf("%s/name%x-%d.so", dirs[random.IntN(len(dirs))], random.Uint32(), i)
		listed := true
		if random.IntN(100) < excluded {
			path, listed = "/var/lib/containers"+path, false
		}
		entry := fleet.Measurement{Path: path, Digest: fileDigest(path)}
		if !listed {
			path = fmt.Sprintf("/usr/bin/other%d", i)
		}
		fmt.Fprintf(&digests, `%s"%s":["%x"]`, comma(i), path, fileDigest(path))
		list.WriteString(entry.Line() + "\n")
		if err := m.tpm.Extend(tpm.PCRIma, entry.Extends(tpm.SHA256)); err != nil {
			b.Fatal(err)
		}
	}
	excludes := ""
	for i, p := range benchExcludes {
		excludes += fmt.Sprintf("%s%q", comma(i), p)
	}
	text := strings.Replace(policy.EmptyRuntime, `"digests":{}`, `"digests":{`+digests.String()+`}`, 1)
	text = strings.Replace(text, `"excludes":[]`, `"excludes":[`+excludes+`]`, 1)
	text = strings.Replace(text, `"generator":1`, `"generator":2`, 1)
	runtime, err := policy.CompileRuntime([]byte(text))
	if err != nil {
		b.Fatal(err)
	}
	return list.Bytes(), runtime, m
}

func comma(i int) string {
	if i == 0 {
		return ""
	}
	return ","
}

// hashAll does for each line of ima-ng entries the hashing that nobody can do without, on data of the same size.
func hashAll(list []byte) error {
	var data [512]byte
	var pair [64]byte
	for _, line := range bytes.Split(bytes.TrimSuffix(list, []byte("\n")), []byte("\n")) {
		name := len(line) - bytes.LastIndexByte(line, ' ') - 1
		template := data[:4+8+32+4+name+1]
		binary.LittleEndian.PutUint32(template, uint32(name))
		sum1 := sha1.Sum(template)
		sum := sha256.Sum256(template)
		copy(pair[32:], sum[:])
		run := sha256.Sum256(pair[:])
		copy(pair[:32], run[:])
		data[0] ^= sum1[0]
	}
	return nil
}

// measure is the time that f takes, the fastest of several series of runs.
func measure(b *testing.B, f func() error) time.Duration {
	b.Helper()
	best := time.Duration(1<<63 - 1)
	for range 5 {
		runs := 0
		start := time.Now()
		for time.Since(start) < 20*time.Millisecond {
			if err := f(); err != nil {
				b.Fatal(err)
			}
			runs++
		}
		best = min(best, time.Since(start)/time.Duration(runs))
	}
	return best
}
