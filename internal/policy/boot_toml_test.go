package policy

import (
	"reflect"
	"strings"
	"testing"
)

const tomlRules = `# A unified kernel image, started by systemd-boot
keylime_boot_rules = 1
relevant_pcrs = [4, 7]

[[events]]
pcrs = [4, 7]
types = ["EV_SEPARATOR"]
test = { separator = true }

[[events]]
pcrs = [4]
types = ["EV_EFI_BOOT_SERVICES_APPLICATION"]
comment = "only these images"
test.and = [{ digest = { ref = "images" } }, { collect = "started" }]

[finally]
test.fields.started.tuple = [{ accept = true }]

[[reference.images]]
sha256 = "0x9e1f8d6f0a3b7c5d2e4f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5"
`

const jsonRules = `{"keylime_boot_rules": 1, "relevant_pcrs": [4, 7], "events": [
	{"pcrs": [4, 7], "types": ["EV_SEPARATOR"], "test": {"separator": true}},
	{"pcrs": [4], "types": ["EV_EFI_BOOT_SERVICES_APPLICATION"], "comment": "only these images",
	 "test": {"and": [{"digest": {"ref": "images"}}, {"collect": "started"}]}}],
	"finally": {"test": {"fields": {"started": {"tuple": [{"accept": true}]}}}},
	"reference": {"images": [{"sha256": "0x9e1f8d6f0a3b7c5d2e4f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5"}]}}`

// A document in TOML says what it says in JSON.
func TestRulesInTOML(t *testing.T) {
	t.Parallel()
	fromTOML, err := CompileBoot(BootAcceptAll, []byte(tomlRules))
	if err != nil {
		t.Fatal(err)
	}
	fromJSON, err := CompileBoot(BootAcceptAll, []byte(jsonRules))
	if err != nil {
		t.Fatal(err)
	}
	if fromTOML.Engine() != BootRules || fromTOML.Mask() != fromJSON.Mask() {
		t.Errorf("engine %s, mask %v; want %s, %v", fromTOML.Engine(), fromTOML.Mask(), BootRules, fromJSON.Mask())
	}
	got, want := fromTOML.Explain(), fromJSON.Explain()
	if len(got) != len(want) {
		t.Fatalf("%d rules, want %d", len(got), len(want))
	}
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("rule %d is %+v, want %+v", i, got[i], want[i])
		}
	}
}

func TestBadRulesInTOML(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"keylime_boot_rules = ":                                           "TOML: ",
		"keylime_boot_rules = 1\nkeylime_boot_rules = 1":                  "already been defined",
		"keylime_boot_rules = 1\nevent = []":                              `"event" is not a field`,
		"keylime_boot_rules = 1\nx = " + strings.Repeat("[", 100):         "more than 64 brackets are open",
		"keylime_boot_rules = 1\n#" + strings.Repeat("x", maxBootTOML):    "write the document in JSON",
		"keylime_boot_rules = 1\nevents = [2026-01-01T00:00:00Z]":         "events[0]",
		"keylime_boot_rules = 1\nevents = []\nrelevant_pcrs = [1.5, inf]": "TOML: ",
	} {
		if _, err := CompileBoot(BootAcceptAll, []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
}
