package policytool

import (
	"bytes"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"keylime/internal/policytool/collect"
	"keylime/internal/recorded"
)

func TestAlgorithmIsThatOfTheInputs(t *testing.T) {
	t.Parallel()
	option := func(alg collect.Algorithm) claim { return claim{source: "--algo option", alg: alg} }
	list := func(alg collect.Algorithm) claim { return claim{source: "IMA measurement list", alg: alg} }
	base := func(size int) claim { return claimOf("base policy", size) }
	allow := func(size int) claim { return claimOf("allowlist", size) }
	const differs, unknown = "does not match the previously set", "Invalid digest algorithm found in the "
	for _, c := range []struct {
		name   string
		claims []claim
		want   collect.Algorithm
		says   string
	}{
		{"nothing", nil, collect.SHA256, "default"},
		{"empty inputs", []claim{option(""), base(0), allow(0)}, collect.SHA256, "default"},
		{"option", []claim{option(collect.SHA1)}, collect.SHA1, "'sha1' obtained from the --algo option"},
		{"base", []claim{option(""), base(48)}, collect.SHA384, "'sha384' obtained from the base policy"},
		{"all the same", []claim{option(collect.SHA512), base(64), allow(64), list(collect.SHA512)}, collect.SHA512, ""},
		// HARDEN 17: 32 bytes are SHA-256 unless something says SM3.
		{"32 bytes", []claim{base(32), allow(32)}, collect.SHA256, ""},
		{"32 bytes and the option", []claim{option(collect.SHA256), base(32)}, collect.SHA256, ""},
		{"32 bytes and SM3 before", []claim{option(collect.SM3), base(32)}, collect.SM3, ""},
		{"32 bytes and SM3 behind", []claim{base(32), allow(32), list(collect.SM3)}, collect.SM3, "'sm3_256' obtained from the IMA measurement list"},
		{"SHA-256 and SM3", []claim{option(collect.SHA256), list(collect.SM3)}, "", differs},
		{"32 bytes, SHA-256 and SM3", []claim{option(collect.SHA256), base(32), list(collect.SM3)}, "", differs},
		{"base and list differ", []claim{base(20), allow(32)}, "", "the allowlist does not match the previously set 'sha1'"},
		{"unknown size", []claim{base(29)}, "", unknown + "base policy"},
		{"unknown first line", []claim{allow(32), {source: "IMA measurement list", unknown: true}}, "", unknown + "IMA measurement list"},
	} {
		var messages bytes.Buffer
		got, err := chooseAlgorithm(c.claims, zerolog.New(&messages))
		if got != c.want || (err != nil) != (c.want == "") || !strings.Contains(messages.String(), c.says) {
			t.Errorf("%s: %q, %v, messages %s", c.name, got, err, &messages)
		}
	}
}

// TestRecordedAlgorithms tries every pair of recorded policies, allow lists and measurement lists.
func TestRecordedAlgorithms(t *testing.T) {
	t.Parallel()
	dir := recorded.Dir(t)
	algorithms := []string{"sha1", "sha256", "sha384", "sha512", "sm3_256", "unknown"}
	same := func(a, b string) bool { return a == b && a != "unknown" }
	for _, a := range algorithms {
		for _, b := range algorithms {
			_, _, err := tool(t, "create", "runtime", "-a", dir+"/policy/create-runtime/allowlist-"+a, "-m", dir+"/ima/ima-log-"+b)
			// An allow list with digests of 32 bytes may be SHA-256's or SM3's.
			fits := same(a, b) || a == "sha256" && b == "sm3_256" || a == "sm3_256" && b == "sha256"
			if (err == nil) != fits {
				t.Errorf("allow list %s, measurement list %s: %v", a, b, err)
			}
			_, _, err = tool(t, "create", "runtime", "-p", dir+"/policy/create-runtime/policy-"+a, "-m", dir+"/ima/ima-log-"+b)
			if a != "unknown" && (err == nil) != fits {
				t.Errorf("base policy %s, measurement list %s: %v", a, b, err)
			}
		}
	}
}
