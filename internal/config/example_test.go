package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write keylime.toml.example and the reference in docs anew")

const (
	exampleFile = "../../keylime.toml.example"
	docsFile    = "../../docs/configuration.md"
	marker      = "<!-- What follows is written by `go test ./internal/config -update`. -->\n"
)

func sprint(format string, v any) string { return fmt.Sprintf(format, v) }

func jsonText(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestExampleFileIsCurrent(t *testing.T) {
	var want bytes.Buffer
	if err := WriteExample(&want); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(exampleFile, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want.String(), string(got)); d != "" {
		t.Errorf("run `go test ./internal/config -update`: %s", d)
	}
}

// The example decodes strictly, sets every option of every role, and equals the defaults.
func TestExampleEqualsDefaults(t *testing.T) {
	t.Parallel()
	none, example := Sources{Root: t.TempDir()}, Sources{Root: t.TempDir(), File: exampleFile}
	check := func(role string, load func(Sources) (any, Report, error)) {
		t.Helper()
		want, _, err := load(none)
		if err != nil {
			t.Fatal(err)
		}
		got, rep, err := load(example)
		if err != nil {
			t.Errorf("%s: %v", role, err)
			return
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", role, d)
		}
		for _, s := range rep.Settings {
			if s.Source == "default" {
				t.Errorf("%s: the example lacks %s", role, s.Name)
			}
		}
	}
	check("verifier", func(s Sources) (any, Report, error) { v, r, err := LoadVerifier(s); return v, r, err })
	check("registrar", func(s Sources) (any, Report, error) { v, r, err := LoadRegistrar(s); return v, r, err })
	check("tenant", func(s Sources) (any, Report, error) { v, r, err := LoadTenant(s); return v, r, err })
	check("agent", func(s Sources) (any, Report, error) { v, r, err := LoadAgent(s); return v, r, err })
	check("ca", func(s Sources) (any, Report, error) { v, r, err := LoadCA(s); return v, r, err })
	check("logging", func(s Sources) (any, Report, error) { v, r, err := LoadLogging(s); return v, r, err })
	check("server", func(s Sources) (any, Report, error) { v, r, err := LoadServer(s); return v, r, err })
}

func TestReferenceIsCurrent(t *testing.T) {
	text, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	prose, got, ok := strings.Cut(string(text), marker)
	if !ok {
		t.Fatalf("%s lacks the line %q", docsFile, marker)
	}
	var want bytes.Buffer
	if err := WriteReference(&want); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(docsFile, []byte(prose+marker+"\n"+want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff("\n"+want.String(), got); d != "" {
		t.Errorf("run `go test ./internal/config -update`: %s", d)
	}
}

// What `config show` prints is a keylime.toml again: it loads to the same settings.
func TestShowRoundTrips(t *testing.T) {
	t.Parallel()
	src := machine(t, nil, "KEYLIME_VERIFIER_UUID=a \"b\" \\ \t c", "KEYLIME_VERIFIER_QUOTE_INTERVAL=0.25", "KEYLIME_VERIFIER_REVOCATIONS_WEBHOOK_URL=https://h.example/")
	want, rep, err := LoadVerifier(src)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "shown.toml")
	var b bytes.Buffer
	if err := rep.Show(&b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "quote_interval = 0.25  # environment KEYLIME_VERIFIER_QUOTE_INTERVAL\n") {
		t.Errorf("no source shown:\n%s", b.String())
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	got, _, err := LoadVerifier(Sources{File: path})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func ExampleLoadVerifier() {
	v, report, err := LoadVerifier(Sources{Root: "/nonexistent", Environ: []string{"KEYLIME_VERIFIER_QUOTE_INTERVAL=10"}})
	fmt.Println(v.QuoteInterval, v.Port, report.Warnings, err)
	_, _, err = LoadVerifier(Sources{Root: "/nonexistent", Environ: []string{"KEYLIME_VERIFIER_PORT=https"}})
	fmt.Println(err)
	// Output:
	// 10s 8881 [] <nil>
	// environment KEYLIME_VERIFIER_PORT: option port: "https" is not a whole number; it takes a whole number from 0 to 65535
}
