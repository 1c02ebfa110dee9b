package swtpm_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keylime/internal/swtpm"
	"keylime/tpm"
	"keylime/tpm/device"
)

func open(t *testing.T, s *swtpm.Server) *device.TPM {
	t.Helper()
	dev, err := device.Open(t.Context(), s.TCTI())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev
}

func TestStateOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	swtpm.Require(t)
	dir := t.TempDir()
	var keys [2][]byte
	for i := range keys {
		s, err := swtpm.Start(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		ek, err := open(t, s).CreateEK(t.Context(), device.EKOptions{})
		if err != nil {
			t.Fatal(err)
		}
		keys[i] = ek.Public.Bytes()
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(keys[0], keys[1]) {
		t.Error("the EK is another one after a new start")
	}
}

func TestTPMEndsWithItsContext(t *testing.T) {
	t.Parallel()
	swtpm.Require(t)
	ctx, cancel := context.WithCancel(t.Context())
	s, err := swtpm.Start(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	for deadline := time.Now().Add(10 * time.Second); ; {
		dev, err := device.Open(t.Context(), s.TCTI())
		if err != nil {
			return
		}
		dev.Close()
		if time.Now().After(deadline) {
			t.Fatal("the TPM still answers")
		}
	}
}

func TestRestartIsAReboot(t *testing.T) {
	t.Parallel()
	s := swtpm.ForTest(t)
	dev := open(t, s)
	digest := sha256.Sum256(nil)
	if err := dev.ExtendPCR(t.Context(), 4, map[tpm.Hash][]byte{tpm.SHA256: digest[:]}); err != nil {
		t.Fatal(err)
	}
	tcti := s.TCTI()
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.TCTI() != tcti {
		t.Errorf("address changed from %s to %s", tcti, s.TCTI())
	}
	got, err := dev.ReadPCR(t.Context(), tpm.SHA256, 4)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, make([]byte, 32)) {
		t.Errorf("PCR 4 is %x after a reboot", got)
	}
}

func TestEKCertificatesChainToTheStore(t *testing.T) {
	t.Parallel()
	s := swtpm.ForTestECC(t)
	dev := open(t, s)
	pool := x509.NewCertPool()
	files, err := filepath.Glob(filepath.Join(s.CertStore(), "*.pem"))
	if err != nil || len(files) != 2 {
		t.Fatalf("certificate store has %v, %v; want issuer and root", files, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		pool.AppendCertsFromPEM(text)
	}
	for _, alg := range []string{"rsa2048", "ecc256", "ecc384"} {
		ek, err := dev.CreateEK(t.Context(), device.EKOptions{Alg: alg})
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(ek.Cert)
		if err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		// The subject alternative name is critical and a directoryName, which the library leaves to us.
		cert.UnhandledCriticalExtensions = nil
		_, err = cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
}

// The list replays to PCR 10 in every bank until an entry bypasses the TPM.
func TestListMatchesPCR10(t *testing.T) {
	t.Parallel()
	s := swtpm.ForTest(t)
	dev := open(t, s)
	ctx := t.Context()
	file := filepath.Join(t.TempDir(), "ascii_runtime_measurements")
	list, err := s.InitList(ctx, file)
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	digest := sha256.Sum256([]byte("file"))
	for _, path := range []string{"/bin/true", "/usr/bin/with space"} {
		if err := list.Measure(ctx, path, digest[:]); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(lines) != 3 || !strings.HasSuffix(lines[0], " boot_aggregate") {
		t.Fatalf("list is %q", lines)
	}
	for _, bank := range []tpm.Hash{tpm.SHA1, tpm.SHA256, tpm.SHA384} {
		pcr, err := dev.ReadPCR(ctx, bank, tpm.PCRIma)
		if err != nil {
			t.Fatal(err)
		}
		if got := replay(t, bank, lines); !bytes.Equal(got, pcr) {
			t.Errorf("%v: the list replays to %x, PCR 10 is %x", bank, got, pcr)
		}
	}

	if err := list.Log("/tmp/evil", digest[:]); err != nil {
		t.Fatal(err)
	}
	pcr, err := dev.ReadPCR(ctx, tpm.SHA256, tpm.PCRIma)
	if err != nil {
		t.Fatal(err)
	}
	if got := replay(t, tpm.SHA256, lines); !bytes.Equal(got, pcr) {
		t.Error("an entry that was only logged changed PCR 10")
	}
}

// replay computes PCR 10 from ima-ng lines, independently of the writer.
func replay(t *testing.T, bank tpm.Hash, lines []string) []byte {
	t.Helper()
	h := bank.Crypto()
	pcr := make([]byte, h.Size())
	for _, line := range lines {
		f := strings.SplitN(line, " ", 5)
		if len(f) != 5 {
			t.Fatalf("line %q has %d fields", line, len(f))
		}
		digest, err := hex.DecodeString(strings.TrimPrefix(f[3], "sha256:"))
		if err != nil {
			t.Fatal(err)
		}
		data := append([]byte("\x28\x00\x00\x00sha256:\x00"), digest...)
		data = append(data, byte(len(f[4])+1), 0, 0, 0)
		data = append(data, f[4]+"\x00"...)
		d := h.New()
		d.Write(data)
		entry := d.Sum(nil)
		d.Reset()
		d.Write(pcr)
		d.Write(entry)
		pcr = d.Sum(nil)
	}
	return pcr
}
