package fleet_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"keylime/internal/fleet"
	"keylime/tpm"
)

func parse(t *testing.T, area []byte) *tpm.Public {
	t.Helper()
	p, err := tpm.ParsePublic(area)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSoftTPMAttestsLikeOne(t *testing.T) {
	t.Parallel()
	for _, alg := range []string{"rsa2048", "ecc256"} {
		t.Run(alg, func(t *testing.T) {
			t.Parallel()
			soft, err := fleet.NewSoftTPM(rand.Reader, alg)
			if err != nil {
				t.Fatal(err)
			}
			ek, ak := parse(t, soft.EKPublic()), parse(t, soft.AKPublic())
			if err := ek.CheckEK(); err != nil {
				t.Error(err)
			}
			if ak.EncAlg() != alg {
				t.Errorf("AK is %s, want %s", ak.EncAlg(), alg)
			}
			soft.BindData("key\n")
			q, err := soft.Quote([]byte("nonce"), tpm.MaskOf(0, 10, 16), tpm.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			pcrs, err := tpm.VerifyQuote(ak, q, tpm.Expected{Nonce: []byte("nonce"), Mask: tpm.MaskOf(0, 10, 16), Hash: tpm.SHA256})
			if err != nil {
				t.Fatal(err)
			}
			if got, ok := pcrs.PCR(16); !ok || !bytes.Equal(got, tpm.DataPCR(tpm.SHA256, "key\n")) {
				t.Errorf("PCR 16 = %x, %v", got, ok)
			}
			if pcrs.Clock() != soft.Clock() {
				t.Errorf("clock %v in the quote, %v in the TPM", pcrs.Clock(), soft.Clock())
			}
		})
	}
}

func TestActivationNeedsBothKeys(t *testing.T) {
	t.Parallel()
	secret := []byte("0123456789abcdefghijklmnopqrstuv")
	for _, alg := range []string{"rsa2048", "ecc256", "ecc384"} {
		t.Run(alg, func(t *testing.T) {
			t.Parallel()
			own, err := fleet.NewSoftTPM(rand.Reader, alg)
			if err != nil {
				t.Fatal(err)
			}
			other, err := fleet.NewSoftTPM(rand.Reader, "ecc256")
			if err != nil {
				t.Fatal(err)
			}
			ek, ak := parse(t, own.EKPublic()), parse(t, own.AKPublic())
			blob, err := tpm.MakeCredential(rand.Reader, ek, ak.Name(), secret)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := own.Activate(blob); err != nil || !bytes.Equal(got, secret) {
				t.Errorf("Activate = %q, %v", got, err)
			}
			if _, err := other.Activate(blob); err == nil {
				t.Error("another TPM activated the credential")
			}
			foreign, err := tpm.MakeCredential(rand.Reader, ek, parse(t, other.AKPublic()).Name(), secret)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := own.Activate(foreign); err == nil {
				t.Error("a credential for another AK was activated")
			}
		})
	}
}

func TestClockFollowsPower(t *testing.T) {
	t.Parallel()
	soft, err := fleet.NewSoftTPM(rand.Reader, "ecc256")
	if err != nil {
		t.Fatal(err)
	}
	start := soft.Clock()
	soft.Advance(time.Second)
	if got := soft.Clock().Clock - start.Clock; got != 1000 {
		t.Errorf("clock advanced by %d ms, want 1000", got)
	}
	if err := soft.Extend(4, map[tpm.Hash][]byte{tpm.SHA256: make([]byte, 32)}); err != nil {
		t.Fatal(err)
	}
	extended := soft.PCR(tpm.SHA256, 4)
	soft.Restart()
	if c := soft.Clock(); c.RestartCount != 1 || c.ResetCount != start.ResetCount {
		t.Errorf("after a resume: %v", c)
	}
	if !bytes.Equal(soft.PCR(tpm.SHA256, 4), extended) {
		t.Error("a resume changed PCR 4")
	}
	soft.Reset()
	if c := soft.Clock(); c.RestartCount != 0 || c.ResetCount != start.ResetCount+1 {
		t.Errorf("after a reboot: %v", c)
	}
	if !bytes.Equal(soft.PCR(tpm.SHA256, 4), make([]byte, 32)) {
		t.Error("PCR 4 outlived a reboot")
	}
}

// The line, the bank's own digest and the resulting PCR 10 of one ima-ng entry.
func TestMeasurementIsTheKernels(t *testing.T) {
	t.Parallel()
	m := fleet.Measurement{Path: "/bin/true", Digest: bytes.Repeat([]byte{0xaa}, 32)}
	wantLine := "10 59df98a1e69c4e522a0ab82a4a073b5c44b5ab5e ima-ng sha256:" + strings.Repeat("aa", 32) + " /bin/true"
	if got := m.Line(); got != wantLine {
		t.Errorf("line %q, want %q", got, wantLine)
	}
	const wantExtend = "36594c09aa1473bed8d0bdd73a94b5e822d05083bbd9d9de1c22089eec3eb6e6"
	if got := hex.EncodeToString(m.Extends(tpm.SHA256)[tpm.SHA256]); got != wantExtend {
		t.Errorf("extends with %s, want %s", got, wantExtend)
	}
	soft, err := fleet.NewSoftTPM(rand.Reader, "ecc256")
	if err != nil {
		t.Fatal(err)
	}
	if err := soft.Extend(tpm.PCRIma, m.Extends(tpm.SHA1, tpm.SHA256, tpm.SHA384)); err != nil {
		t.Fatal(err)
	}
	const wantPCR = "94aefedd1dfa85586625d1229d5d96d2302c9bee9d38707ab15c7c48cc4ba2ca"
	if got := hex.EncodeToString(soft.PCR(tpm.SHA256, tpm.PCRIma)); got != wantPCR {
		t.Errorf("PCR 10 is %s, want %s", got, wantPCR)
	}
}

func TestListIsServedFromAnyEntry(t *testing.T) {
	t.Parallel()
	soft, err := fleet.NewSoftTPM(rand.Reader, "ecc256")
	if err != nil {
		t.Fatal(err)
	}
	m, err := fleet.NewMeasured(soft)
	if err != nil {
		t.Fatal(err)
	}
	line, err := m.Add("/bin/sh", make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		from, first uint64
		lines       int
	}{{0, 0, 2}, {1, 1, 1}, {2, 2, 0}, {3, 0, 2}} {
		list, first := m.From(c.from)
		if n := bytes.Count(list, []byte("\n")); first != c.first || n != c.lines {
			t.Errorf("From(%d): %d lines from %d, want %d from %d", c.from, n, first, c.lines, c.first)
		}
	}
	if list, _ := m.From(1); string(list) != line+"\n" {
		t.Errorf("From(1) = %q, want %q", list, line)
	}
}

func TestMakerIssuesEKCertificates(t *testing.T) {
	t.Parallel()
	now := time.Now()
	maker, err := fleet.NewMaker(rand.Reader, now.Add(-time.Hour), now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	soft, err := fleet.NewSoftTPM(rand.Reader, "ecc256")
	if err != nil {
		t.Fatal(err)
	}
	der, err := maker.Certify(parse(t, soft.EKPublic()), now.Add(-time.Hour), now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(maker.PEM())
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := cert.CheckSignatureFrom(root); err != nil {
		t.Error(err)
	}
	if len(cert.UnknownExtKeyUsage) != 1 || cert.UnknownExtKeyUsage[0].String() != "2.23.133.8.1" {
		t.Errorf("extended key usage %v", cert.UnknownExtKeyUsage)
	}
	if len(cert.UnhandledCriticalExtensions) != 1 || cert.UnhandledCriticalExtensions[0].String() != "2.5.29.17" {
		t.Errorf("unhandled critical extensions %v, want the alternative name", cert.UnhandledCriticalExtensions)
	}
}
