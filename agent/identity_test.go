package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keylime/internal/recorded"
	"keylime/tpm"
)

func testSources(t *testing.T) idSources {
	return idSources{
		ekHash: strings.Repeat("ab", 32),
		random: rand.Reader,
		keep:   filepath.Join(t.TempDir(), generatedID),
		fqdn:   func(context.Context) (string, error) { return "node1.example.org", nil },
	}
}

func TestAgentIDOfEachKind(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]string{
		exampleID:       exampleID,
		"rack-7_slot.3": "rack-7_slot.3",
		"hash_ek":       strings.Repeat("ab", 32),
		"hostname":      "node1.example.org",
	} {
		if got, err := resolveID(t.Context(), setting, testSources(t)); err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", setting, got, err, want)
		}
	}
}

// NT-10, NT-11 seen from the agent: it refuses to start with an id that servers refuse.
func TestImpossibleAgentIDsAreErrors(t *testing.T) {
	t.Parallel()
	src := testSources(t)
	for _, setting := range []string{"", ".", "..", "a/b", "a b", "a\nb", "\x1b[2J", "ü", strings.Repeat("a", 81)} {
		if got, err := resolveID(t.Context(), setting, src); err == nil {
			t.Errorf("%q became %q", setting, got)
		}
	}
	src.fqdn = func(context.Context) (string, error) { return "", errors.New("no name") }
	if got, err := resolveID(t.Context(), "hostname", src); err == nil {
		t.Errorf("hostname became %q", got)
	}
}

func TestGeneratedIDIsKeptForThisTPM(t *testing.T) {
	t.Parallel()
	src := testSources(t)
	first, err := resolveID(t.Context(), "generate", src)
	if err != nil || !uuidForm.MatchString(first) || first[14] != '4' || !strings.Contains("89ab", first[19:20]) {
		t.Fatalf("got %q, %v", first, err)
	}
	if again, err := resolveID(t.Context(), "generate", src); err != nil || again != first {
		t.Errorf("second start: %q, %v; want %q", again, err, first)
	}
	if info, err := os.Stat(src.keep); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	src.ekHash = strings.Repeat("cd", 32)
	other, err := resolveID(t.Context(), "generate", src)
	if err != nil || other == first {
		t.Errorf("another TPM got %q, %v", other, err)
	}
	writeFile(t, src.keep, `{"id":`, 0o600)
	if got, err := resolveID(t.Context(), "generate", src); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("damaged file gave %q, %v", got, err)
	}
}

func TestFirmwareUUIDReplacesItsKeyword(t *testing.T) {
	t.Parallel()
	file := writeFile(t, filepath.Join(t.TempDir(), "product_uuid"), strings.ToUpper(exampleID)+"\n", 0o400)
	if got, err := replaceDMI("dmidecode", file); err != nil || got != exampleID {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := replaceDMI("hash_ek", file+"x"); err != nil || got != "hash_ek" {
		t.Errorf("got %q, %v", got, err)
	}
	for _, file := range []string{file + "x", writeFile(t, file+"y", "Not Settable\n", 0o400)} {
		if got, err := replaceDMI("dmidecode", file); err == nil {
			t.Errorf("%s gave %q", file, got)
		}
	}
}

// FuzzParseUUID: what is accepted is in normal form and is accepted again unchanged.
func FuzzParseUUID(f *testing.F) {
	for _, s := range []string{exampleID, "{" + exampleID + "}", "urn:uuid:" + exampleID, "d432fbb3d2f14a979ef775bd81c00000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, ok := parseUUID(s)
		if !ok {
			return
		}
		if again, ok := parseUUID(id); !ok || again != id || !uuidForm.MatchString(id) {
			t.Errorf("%q became %q and then %q", s, id, again)
		}
	})
}

// The hash covers the PEM text that OpenSSL writes for the same key.
func TestEKHashIsOverThePEMText(t *testing.T) {
	t.Parallel()
	for _, folder := range []string{"pull", "ecc"} {
		ek, err := tpm.ParsePublic(recorded.File(t, "wire/"+folder+"/state/ek.tpm2b_public"))
		if err != nil {
			t.Fatal(err)
		}
		want := sha256Hex(recorded.File(t, "wire/"+folder+"/state/ek.pem"))
		if got, err := ekHash(ek); err != nil || got != want {
			t.Errorf("%s: got %s, %v; want %s", folder, got, err, want)
		}
	}
}
