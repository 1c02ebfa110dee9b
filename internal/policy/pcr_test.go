package policy

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keylime/tpm"
)

// NT-31: what a tpm_policy's text means, and what of it is refused.
func TestPCRPolicyIsNormalised(t *testing.T) {
	t.Parallel()
	sha1, sha256 := strings.Repeat("ab", 20), strings.Repeat("cd", 32)
	for _, c := range []struct {
		name, text  string
		mask        tpm.Mask
		constrained tpm.Mask
		digests     []string // of PCR 22
	}{
		{"empty", `{}`, 0, 0, []string{}},
		{"as the tenant sends it without a policy", `{"mask":"0x0"}`, 0, 0, []string{}},
		{"mask alone", `{"mask": "0x400"}`, 0x400, 0, []string{}},
		{"mask without prefix", `{"mask":"400"}`, 0x400, 0, []string{}},
		{"one digest", `{"22":"` + sha1 + `","mask":"0x400000"}`, 1 << 22, 1 << 22, []string{sha1}},
		{"without mask", `{"22":["` + sha1 + `"]}`, 1 << 22, 1 << 22, []string{sha1}},
		{"several banks", `{"22":["` + sha1 + `","` + sha256 + `"]}`, 1 << 22, 1 << 22, []string{sha1, sha256}},
		{"upper case and prefix", `{"22":"0x` + strings.ToUpper(sha1) + `"}`, 1 << 22, 1 << 22, []string{sha1}},
		{"mask covers more", `{"22":"` + sha1 + `","mask":"0xffffff"}`, 0xffffff, 1 << 22, []string{sha1}},
		{"mask before", `{"mask":"0x400001","0":"` + sha1 + `","22":"` + sha1 + `"}`, 0x400001, 0x400001, []string{sha1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, err := ParsePCR(c.text)
			if err != nil {
				t.Fatal(err)
			}
			if p.Mask() != c.mask || p.Constrained() != c.constrained {
				t.Errorf("mask %v, constrained %v; want %v, %v", p.Mask(), p.Constrained(), c.mask, c.constrained)
			}
			if n := p.Narrowed(); n.Mask() != c.constrained || n.Digest() != p.Digest() || p.Mask() != c.mask {
				t.Errorf("narrowed to %v, want %v; itself %v", n.Mask(), c.constrained, p.Mask())
			}
			if diff := cmp.Diff(c.digests, p.Digests(22)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPCRPolicyRefuses(t *testing.T) {
	t.Parallel()
	digest := strings.Repeat("ab", 32)
	for _, c := range []struct{ name, text, want string }{
		{"nothing", ``, "tpm_policy: byte 0: want an object"},
		{"null", `null`, "tpm_policy: byte 0: want an object"},
		{"list", `[]`, "tpm_policy: byte 0: want an object"},
		{"Python literal", `{'mask':'0x0'}`, "tpm_policy: byte 1: want a string"},
		{"data after it", `{} {}`, "tpm_policy: byte 3: data after the value"},
		{"same PCR twice", `{"1":"` + digest + `","1":"` + digest + `"}`, `tpm_policy: byte 72: name "1" stands twice in one object`},
		{"PCR 24", `{"24":"` + digest + `"}`, "tpm_policy: Invalid tpm policy pcr number: 24"},
		{"negative PCR", `{"-1":"` + digest + `"}`, "tpm_policy: Invalid tpm policy pcr number: -1"},
		{"leading zero", `{"01":"` + digest + `"}`, "tpm_policy: Invalid tpm policy pcr number: 01"},
		{"word", `{"pcr":"` + digest + `"}`, "tpm_policy: Invalid tpm policy pcr number: pcr"},
		{"PCR 10", `{"10":"` + digest + `"}`, "tpm_policy: Invalid allowlist PCR number 10, this PCR is used for IMA."},
		{"PCR 16", `{"16":"` + digest + `"}`, "tpm_policy: Invalid allowlist PCR number 16, keylime uses this PCR to bind data."},
		{"no digest", `{"1":[]}`, "tpm_policy: PCR 1: the list of digests is empty; no value could ever match"},
		{"null digest", `{"1":null}`, "tpm_policy: byte 5: want a string"},
		{"number", `{"1":[5]}`, "tpm_policy: byte 6: want a string"},
		{"not hex", `{"1":"xx"}`, `tpm_policy: PCR 1: digest "xx" is not hexadecimal`},
		{"length", `{"1":"abcd"}`, `tpm_policy: PCR 1: digest "abcd" has 2 bytes; want 20, 32, 48 or 64`},
		{"mask lacks a PCR", `{"1":"` + digest + `","mask":"0x1"}`, "tpm_policy: mask 0x1 lacks PCRs [1], for which the policy has digests"},
		{"mask a number", `{"mask":1}`, "tpm_policy: byte 8: want a string"},
		{"mask empty", `{"mask":""}`, `tpm_policy: PCR mask "": want 0x and 1 to 8 hex digits`},
		{"mask beyond the TPM", `{"mask":"0x1000000"}`, `tpm_policy: PCR mask "0x1000000": a TPM has PCRs 0 to 23`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := ParsePCR(c.text)
			var e *Error
			if !errors.As(err, &e) || e.Text != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
	if _, err := ParsePCR(strings.Repeat(" ", maxPCRBytes+1)); err == nil {
		t.Error("a text without end is accepted")
	}
}

// NT-31: a digest of another bank's length matches nothing.
func TestPCRAllowsOnlyEqualDigests(t *testing.T) {
	t.Parallel()
	p, err := ParsePCR(`{"1":["` + strings.Repeat("ab", 20) + `","` + strings.Repeat("cd", 32) + `"]}`)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		pcr   int
		value string
		want  bool
	}{
		{1, strings.Repeat("\xab", 20), true},
		{1, strings.Repeat("\xcd", 32), true},
		{1, strings.Repeat("\xab", 32), false},
		{1, strings.Repeat("\xab", 19), false},
		{1, "", false},
		{2, strings.Repeat("\xab", 20), false},
	} {
		if got := p.Allows(c.pcr, []byte(c.value)); got != c.want {
			t.Errorf("PCR %d, %x: %v", c.pcr, c.value, got)
		}
	}
}

// FuzzParsePCR: no text panics, and the mask of an accepted one covers its digests.
func FuzzParsePCR(f *testing.F) {
	f.Add(`{"22":["` + strings.Repeat("ab", 32) + `"],"mask":"0x400000"}`)
	f.Add(`{"mask":"0x400"}`)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePCR(text)
		if err != nil {
			return
		}
		if p.Constrained()&^p.Mask() != 0 || p.Constrained().Has(tpm.PCRIma) || p.Constrained().Has(tpm.PCRData) {
			t.Fatalf("%q: mask %v, digests for %v", text, p.Mask(), p.Constrained())
		}
	})
}
