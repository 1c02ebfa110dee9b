package policytool

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"keylime/internal/policy"
	"keylime/internal/recorded"
)

func TestReferenceStatesOfRecordedBoots(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		log, flags, holds string
		wrong             string // "": a reference state is made
	}{
		{"rhel-secureboot.bin", "", `"0x219b8b53c54951cd07a580622e384391bbd9e113448a12ad319903fcafb81e79"`, ""},
		{"fedora-vm-secureboot.bin", "", `"0xb7aa67ab83a8ebe76393e0cf8ba25f9e7b5dc734740cf87e68640f391c207732"`, ""},
		{"vm-no-secureboot.bin", "-i", `"0x5f5457bd9d68d9e1c6443c16b6c416be9531f3bca4754a30f5cfdf8038ce01a2"`, ""},
		{"vm-no-secureboot.bin", "", "", "the event log has secure boot disabled, but -i flag was not set"},
		{"bogus.bin", "", "", "bogus.bin"},
	} {
		args := append([]string{"create", "measured-boot", "-e", filepath.Join(recorded.Dir(t), "uefi", c.log)}, strings.Fields(c.flags)...)
		out, _, err := tool(t, args...)
		if c.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), c.wrong) || out != "" {
				t.Errorf("%s: got %v, want an error with %q; printed %q", c.log, err, c.wrong, out)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.log, err)
			continue
		}
		if !strings.Contains(out, c.holds) {
			t.Errorf("%s: %s is not in %s", c.log, c.holds, out)
		}
		if _, err := policy.CompileBoot(policy.BootExample, []byte(out)); err != nil || !json.Valid([]byte(out)) {
			t.Errorf("%s: not a measured-boot policy: %v", c.log, err)
		}
	}
}

func TestSecureBootNeedsNoFlag(t *testing.T) {
	t.Parallel()
	_, errs, err := tool(t, "create", "measured-boot", "-i", "-e", filepath.Join(recorded.Dir(t), "uefi", "rhel-secureboot.bin"))
	if err != nil || !strings.Contains(errs, "-i/--without-secureboot is ignored") {
		t.Errorf("%v, messages %q", err, errs)
	}
	if _, _, err := tool(t, "create", "measured-boot"); err == nil || !strings.Contains(err.Error(), "required: -e/--eventlog-file") {
		t.Errorf("without a log: %v", err)
	}
}
