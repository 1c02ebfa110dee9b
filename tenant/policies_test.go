package tenant

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keylime/internal/config"
	"keylime/internal/policy"
)

func TestTPMPolicies(t *testing.T) {
	t.Parallel()
	a, b := strings.Repeat("a1", 32), strings.Repeat("b2", 32)
	for _, c := range []struct {
		name, text        string
		ima, measuredBoot bool
		want              string
	}{
		{"nothing", "", false, false, `{"mask": "0x0"}`},
		{"empty", "{}", false, false, `{"mask": "0x0"}`},
		{"runtime policy", "", true, false, `{"mask": "0x400"}`},
		{"measured boot", "", false, true, `{"mask": "0xfbff"}`},
		{"both", "", true, true, `{"mask": "0xffff"}`},
		{"one digest", `{"22": "` + a + `"}`, false, false, `{"22": ["` + a + `"], "mask": "0x400000"}`},
		{"upper case", `{"22": "` + strings.ToUpper(a) + `"}`, false, false, `{"22": ["` + a + `"], "mask": "0x400000"}`}, // NT-31
		{"several", `{"23":["` + a + `","` + b + `"],"15":"` + a + `"}`, true, false, `{"15": ["` + a + `"], "23": ["` + a + `", "` + b + `"], "mask": "0x808400"}`},
	} {
		got, err := tpmPolicy(c.text, c.ima, c.measuredBoot)
		if err != nil || got != c.want {
			t.Errorf("%s: got %s, %v, want %s", c.name, got, err, c.want)
		}
		if _, err := policy.ParsePCR(got); err != nil {
			t.Errorf("%s: the verifier would refuse it: %v", c.name, err)
		}
	}
}

func TestTPMPoliciesRefused(t *testing.T) {
	t.Parallel()
	digest := strings.Repeat("a1", 32)
	for _, c := range []struct {
		name, text        string
		ima, measuredBoot bool
		wrong             string
	}{
		{"PCR of IMA", `{"10":"` + digest + `"}`, false, false, "10"},
		{"PCR of the transport key", `{"16":"` + digest + `"}`, false, false, "16"},
		{"PCR 24", `{"24":"` + digest + `"}`, false, false, `"24"`},
		{"no number", `{"x":"` + digest + `"}`, false, false, `"x"`},
		{"a mask of one's own", `{"mask":"0x1"}`, false, false, `"mask"`},
		{"explained by measured boot", `{"7":"` + digest + `"}`, false, true, "measured-boot policy"},
		{"no hex", `{"22":"zz"}`, false, false, "hexadecimal"},
		{"more JSON in a digest", `{"22":"aa\"], \"5\": [\"bb"}`, false, false, "hexadecimal"},
		{"length of no bank", `{"22":"abcd"}`, false, false, "2 bytes"}, // NT-31
		{"empty list", `{"22":[]}`, false, false, "22"},                 // NT-31
		{"no object", `[]`, false, false, ""},
		{"no JSON", `{"22":`, false, false, ""},
		{"twice", `{"22":"` + digest + `","22":"` + digest + `"}`, false, false, "22"},
		{"more after it", `{} x`, false, false, ""},
	} {
		got, err := tpmPolicy(c.text, c.ima, c.measuredBoot)
		if err == nil || !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: got %s, %v, want an error with %q", c.name, got, err, c.wrong)
		}
	}
}

// FuzzTPMPolicy: whatever is typed, what is sent is a policy that the verifier can read.
func FuzzTPMPolicy(f *testing.F) {
	for _, text := range []string{"{}", `{"22":"` + strings.Repeat("a1", 32) + `"}`, `{"0":["` + strings.Repeat("0", 40) + `"]}`, `{"22":"aa\"]"}`, `{"10":"aa"}`} {
		f.Add(text, true, false)
	}
	f.Fuzz(func(t *testing.T, text string, ima, measuredBoot bool) {
		got, err := tpmPolicy(text, ima, measuredBoot)
		if err != nil {
			return
		}
		p, err := policy.ParsePCR(got)
		if err != nil {
			t.Fatalf("%q becomes %q: %v", text, got, err)
		}
		if ima && !p.Mask().Has(10) {
			t.Errorf("%q becomes %q, without PCR 10", text, got)
		}
	})
}

// writeFile writes a file into a new directory of the test and returns its path.
func writeFile(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const goodPolicy = `{"meta":{"version":1,"generator":3},"release":0,"digests":{"/bin/sh":["` +
	`e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"excludes":["/tmp/.*"],"keyrings":{},` +
	`"ima":{"ignored_keyrings":[],"log_hash_alg":"sha1","dm_policy":null},"ima-buf":{},"verification-keys":""}`

func TestAppraisals(t *testing.T) {
	t.Parallel()
	tn := &tenant{cfg: config.Tenant{}, notes: &strings.Builder{}}
	file, boot := writeFile(t, "policy.json", goodPolicy), writeFile(t, "boot.json", `{"has_secureboot": true}`)
	tn.cfg.MBRefState = boot
	sum := sha256.Sum256([]byte(goodPolicy))

	a, err := tn.appraisal(t.Context(), &options{})
	if err != nil || a != (appraisal{tpmPolicy: `{"mask": "0x0"}`}) {
		t.Errorf("no policies: %+v, %v", a, err)
	}
	a, err = tn.appraisal(t.Context(), &options{runtimePolicy: file, runtimePolicyChecksum: strings.ToUpper(hex.EncodeToString(sum[:]))})
	if err != nil || a.runtimePolicy != base64.StdEncoding.EncodeToString([]byte(goodPolicy)) || a.tpmPolicy != `{"mask": "0x400"}` {
		t.Errorf("a runtime policy: %+v, %v", a, err)
	}
	a, err = tn.appraisal(t.Context(), &options{runtimePolicyName: "production", mbPolicy: "default"})
	if err != nil || a.runtimePolicy != "" || a.runtimePolicyName != "production" || a.tpmPolicy != `{"mask": "0xffff"}` || *a.mbPolicy != `{"has_secureboot": true}` {
		t.Errorf("a policy by name, and one for measured boot: %+v, %v", a, err)
	}
	for _, c := range []struct {
		name  string
		o     options
		wrong string
		code  int
	}{
		{"checksum of another", options{runtimePolicy: file, runtimePolicyChecksum: strings.Repeat("0", 64)}, "expected 0000", exitUntrusted},
		{"not there", options{runtimePolicy: file + "x"}, "no such file", exitFailed},
		{"no policy", options{runtimePolicy: writeFile(t, "p", `{"a":1}`)}, "malformatted", exitFailed},
		{"no JSON", options{runtimePolicy: writeFile(t, "p", `{`)}, "JSON", exitFailed},
		{"signed by nobody", options{runtimePolicy: writeFile(t, "p", `{"payload":"e30=","payloadType":"x","signatures":[]}`)}, "no signature", exitFailed},
		{"an exclude that is no pattern", options{runtimePolicy: writeFile(t, "p", strings.Replace(goodPolicy, "/tmp/.*", "*(", 1))}, "*(", exitFailed}, // NT-37
		{"a name that is a path", options{runtimePolicyName: "../x"}, "no name of a policy", exitUsage},                                                 // NT-92
		{"measured boot, no JSON", options{mbPolicy: writeFile(t, "p", `x`)}, "not JSON", exitFailed},
	} {
		_, err := tn.appraisal(t.Context(), &c.o)
		if err == nil || !strings.Contains(err.Error(), c.wrong) || exitCode(err) != c.code {
			t.Errorf("%s: got %v (exit %d), want an error with %q and exit %d", c.name, err, exitCode(err), c.wrong, c.code)
		}
	}
}
