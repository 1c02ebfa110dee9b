package policy

import (
	"encoding/base64"
	"strings"
	"testing"

	"keylime/internal/recorded"
	"keylime/internal/uefi"
	"keylime/tpm"
)

// believed parses a log and takes its word, as tools do.
func believed(t testing.TB, raw []byte) uefi.Proven {
	t.Helper()
	log, err := uefi.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	p, err := uefi.Believe(log, tpm.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func compiledBoot(t testing.TB, engine, text string) *Boot {
	t.Helper()
	b, err := CompileBoot(engine, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRecordedBootsAcceptThemselves holds the engines to logs of real machines and the reference states made of them.
func TestRecordedBootsAcceptThemselves(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		file             string
		example, relaxed string // part of the reason; "" accepts
	}{
		{"rhel-secureboot.bin", "", ""},
		{"centos-vm-secureboot.b64", "", ""},
		{"vm-no-secureboot.bin", "", ""},
		{"fedora-vm-secureboot.bin", "", ""},
		{"physical-locality3.bin", "event 1 (PCR 0, EV_NO_ACTION): test was already run once", ""},
	} {
		t.Run(c.file, func(t *testing.T) {
			t.Parallel()
			raw := recorded.File(t, "uefi/"+c.file)
			if strings.HasSuffix(c.file, ".b64") {
				raw, _ = base64.StdEncoding.DecodeString(strings.ReplaceAll(string(raw), "\n", ""))
			}
			p := believed(t, raw)
			reference, err := BootReference(p, BootReferenceOptions{WithoutSecureBoot: true, FirmwarePrograms: true})
			if err != nil {
				t.Fatal(err)
			}
			for engine, want := range map[string]string{BootExample: c.example, BootExampleRelaxed: c.relaxed} {
				got := compiledBoot(t, engine, string(reference)).Judge(p)
				if want == "" && got != "" || !strings.Contains(got, want) {
					t.Errorf("%s: %q, want %q", engine, got, want)
				}
			}
		})
	}
}
