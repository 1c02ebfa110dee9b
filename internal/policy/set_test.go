package policy

import (
	"testing"

	"keylime/tpm"
)

// No mask switches a runtime policy off: PCR 10 is asked for unless the policy is that of an agent without one.
func TestMaskCoversTheRuntimePolicy(t *testing.T) {
	t.Parallel()
	pcr, err := ParsePCR(`{"mask":"0x1"}`)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, text string
		want       tpm.Mask
	}{
		{"no policy", "", 0x1},
		{"the empty policy", EmptyRuntime, 0x1},
		{"a policy that accepts nothing", with(`"generator":1`, `"generator":3`), 0x401},
		{"a policy of unknown origin", with(`"generator":1`, `"generator":0`), 0x401},
		{"called empty, but with a file", with(`"digests":{}`, `"digests":{"/a":["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]}`), 0x401},
		{"called empty, but with an exclude", with(`"excludes":[]`, `"excludes":["/tmp"]`), 0x401},
	} {
		s := Set{PCR: pcr}
		if c.text != "" {
			s.Runtime = mustCompile(t, c.text)
		}
		if got := s.Mask(); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
