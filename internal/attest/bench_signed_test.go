package attest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"testing"

	"keylime/ima"
)

// BenchmarkAppraiseSigned is the appraisal of files that no policy lists and that are signed. Its reference is the bare
// verification of the signatures. With a cache it is the appraisal of the next machine with the same files; the metric
// x-verify says then what the cache spares.
func BenchmarkAppraiseSigned(b *testing.B) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		signer crypto.Signer
		verify func(digest, signature []byte) bool
	}{
		{"rsa2048", rsaKey, func(digest, signature []byte) bool {
			return rsa.VerifyPKCS1v15(&rsaKey.PublicKey, crypto.SHA256, digest, signature) == nil
		}},
		{"p256", ecKey, func(digest, signature []byte) bool { return ecdsa.VerifyASN1(&ecKey.PublicKey, digest, signature) }},
	} {
		b.Run(c.name, func(b *testing.B) { benchmarkSigned(b, c.signer, c.verify, nil) })
		b.Run(c.name+"/cached", func(b *testing.B) { benchmarkSigned(b, c.signer, c.verify, ima.NewSignatureCache(10_000)) })
	}
}

func benchmarkSigned(b *testing.B, signer crypto.Signer, verify func(digest, signature []byte) bool, known *ima.SignatureCache) {
	const entries = 1000
	spki, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		b.Fatal(err)
	}
	key, err := ima.ParseKey(spki)
	if err != nil {
		b.Fatal(err)
	}
	k := newKernel(b)
	k.policy = keyPolicy(b, "", "", "", ima.NewKeyring(key))
	k.policy.Signatures = known
	digests, signatures := make([][]byte, entries), make([][]byte, entries)
	for i := range entries {
		path := fmt.Sprintf("/usr/lib/signed%d.so", i)
		digests[i] = fileDigest(path)
		if signatures[i], err = signer.Sign(rand.Reader, digests[i], crypto.SHA256); err != nil {
			b.Fatal(err)
		}
		attribute := binary.BigEndian.AppendUint32([]byte{3, 2, 4}, key.ID())
		attribute = append(binary.BigEndian.AppendUint16(attribute, uint16(len(signatures[i]))), signatures[i]...)
		k.signed(b, path, digests[i], attribute)
	}
	in := k.answer(b)
	in.Evidence.IMA, in.Evidence.IMAEntry = append(bytes.Join(lines(k.list), []byte("\n")), '\n'), 0
	reference := measure(b, func() error {
		for i := range entries {
			if !verify(digests[i], signatures[i]) {
				return fmt.Errorf("signature %d", i)
			}
		}
		return nil
	})
	b.ReportAllocs()
	for b.Loop() {
		out, err := Verify(in)
		if err != nil || !out.Verdict.Pass() || out.Stats.Proven != entries {
			b.Fatal(err, out.Verdict, out.Stats)
		}
	}
	perRun := float64(b.Elapsed()) / float64(b.N)
	b.ReportMetric(perRun/entries, "ns/entry")
	b.ReportMetric(perRun/float64(reference), "x-verify")
}

func lines(list []string) [][]byte {
	out := make([][]byte, len(list))
	for i, l := range list {
		out[i] = []byte(l)
	}
	return out
}

// Learned keys cost the rounds of an idle machine nothing: they are read when a signature asks for them.
func TestIdleRoundsDoNotReadKeyrings(t *testing.T) {
	k := newKernel(t)
	vendor := newFileSigner(t)
	k.policy = keyPolicy(t, listsKey(".ima", vendor), "", "", nil)
	k.load(t, ".ima", vendor)
	expect(t, k.goOn(t), "pass")
	idle := func(s State) float64 {
		in := k.answer(t)
		in.State = s
		in.Evidence.IMA, in.Evidence.IMAEntry = nil, k.state.NextEntry
		return testing.AllocsPerRun(20, func() {
			if out, err := Verify(in); err != nil || !out.Verdict.Pass() {
				t.Fatal(err, out.Verdict)
			}
		})
	}
	without := k.state
	without.Keyrings = nil
	if a, b := idle(k.state), idle(without); a != b {
		t.Errorf("%v allocations with learned keys, %v without", a, b)
	}
}
