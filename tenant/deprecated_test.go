package tenant

import (
	"encoding/base64"
	"strings"
	"testing"

	"keylime/ima"
	"keylime/internal/policy"
)

// Allow lists, exclude lists and keys, as scripts still give them, say what a runtime policy would.
func TestDeprecatedFlags(t *testing.T) {
	t.Parallel()
	var notes strings.Builder
	tn := &tenant{notes: &notes}
	digest := strings.Repeat("ab", 32)
	allow := writeFile(t, "allow.txt", digest+"  /bin/sh\n"+digest+"  %keyring:.ima\nnonsense\n")
	exclude := writeFile(t, "exclude.txt", "# comment\n/tmp/.*\n")
	key := writeFile(t, "key.pem", "-----BEGIN PUBLIC KEY-----\n"+
		"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2sdz2igXsyiPPfoRoXZbirIXKlya\nNoOrB+GLd/pFIa0/1G2EhHjueQiFQBRMFQsFlmbAB3T8mq5Y3VkXE4mpJA==\n-----END PUBLIC KEY-----\n")

	a, err := tn.appraisal(t.Context(), &options{allowlist: allow, exclude: exclude, imaKeys: []string{key, key}})
	if err != nil || a.tpmPolicy != `{"mask": "0x400"}` {
		t.Fatalf("%+v, %v", a, err)
	}
	text, err := base64.StdEncoding.DecodeString(a.runtimePolicy)
	if err != nil {
		t.Fatal(err)
	}
	r, err := policy.CompileRuntime(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if f := r.File([]byte("/tmp/x"), nil); f.Reason != policy.Accepted || len(r.File([]byte("/bin/sh"), nil).Expected()) != 1 {
		t.Errorf("%s", text)
	}
	if keys, unusable, err := ima.ParseKeyring(a.imaKeyring); err != nil || len(unusable) > 0 || len(keys.Keys()) != 1 {
		t.Errorf("keyring %s: %v, %v", a.imaKeyring, unusable, err)
	}
	for _, want := range []string{"--allowlist is deprecated", "line 3 is not a digest and a path: nonsense"} {
		if !strings.Contains(notes.String(), want) {
			t.Errorf("notes lack %q:\n%s", want, &notes)
		}
	}

	a, err = tn.appraisal(t.Context(), &options{imaKeys: []string{key}})
	if err != nil || a.tpmPolicy != `{"mask": "0x400"}` || a.runtimePolicy != "" {
		t.Errorf("keys alone: %+v, %v", a, err)
	}
	for _, c := range []struct {
		o     options
		wrong string
	}{
		{options{allowlist: allow + "x"}, "no such file"},
		{options{allowlist: allow, exclude: exclude + "x"}, "no such file"},
		{options{allowlist: writeFile(t, "a", "{}")}, `neither "hashes" nor lines`},
		{options{allowlist: writeFile(t, "a", "abc /x")}, "does not match"},
		{options{imaKeys: []string{key + "x"}}, "no such file"},
		{options{imaKeys: []string{allow}}, "neither a certificate nor a key"},
	} {
		if _, err := tn.appraisal(t.Context(), &c.o); err == nil || !strings.Contains(err.Error(), c.wrong) || exitCode(err) != exitFailed {
			t.Errorf("%+v: %v", c.o, err)
		}
	}
}

func TestDeprecatedFlagsThatAreNotSupported(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"-c add --exclude e":                                  "--exclude cannot be used without an --allowlist",
		"-c add --allowlist a --runtime-policy p":             "cannot be specified at the same time",
		"-c add --allowlist-url u":                            "--allowlist-url is not supported",
		"-c add --signature-verification-key-url u":           "URLs and PGP signatures",
		"-c add --signature-verification-key-sig s":           "URLs and PGP signatures",
		"-c add --allowlist a --exclude e":                    "",
		"-c add --signature-verification-key k --allowlist a": "",
	} {
		_, o, err := parseUpstream(strings.Fields(line))
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		err = o.checkRetired()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", line, err)
		}
	}
}
