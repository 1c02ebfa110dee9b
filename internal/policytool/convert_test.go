package policytool

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"keylime/internal/recorded"
)

func TestConvertMakesAValidPolicy(t *testing.T) {
	t.Parallel()
	list := file(t, "list", sha256Of1+" /a\n"+sha1Of1+" %keyring:.ima\nalone\n")
	excludes := file(t, "excludes", "# comment\n/tmp\n\n")
	out, errs, err := tool(t, "convert", "-a", list, "-e", excludes, "-o", "-")
	if err != nil {
		t.Fatal(err, errs)
	}
	p := parsed(t, []byte(out))
	if p.Meta.Generator != 3 || !slices.Equal(p.Digests["/a"], []string{sha256Of1}) || len(p.Keyrings[".ima"]) != 1 || !slices.Equal(p.Excludes, []string{"/tmp"}) {
		t.Errorf("converted to %s", out)
	}
	if !strings.HasPrefix(out, `{"meta": {"version": 1, `) {
		t.Errorf("not in Python's notation: %.50s", out)
	}
}

func TestConvertAddsTheKeysThatFollow(t *testing.T) {
	t.Parallel()
	keys := filepath.Join(recorded.Dir(t), "policy", "keys")
	out, _, err := tool(t, "convert", "-r", file(t, "policy", validPolicy), "-v", filepath.Join(keys, "rsa2048pub.pem"), filepath.Join(keys, "secp256k1.pem"), "-o", "-")
	if err != nil || !strings.Contains(parsed(t, []byte(out)).Keys, `"keyids": [4081397027, 1394556965]`) {
		t.Errorf("%v: %s", err, out)
	}
}

func TestConvertRefuses(t *testing.T) {
	t.Parallel()
	good := file(t, "policy", validPolicy)
	for _, c := range []struct{ line, wrong string }{
		{"", "either --allowlist or --runtime_policy is required"},
		{"-a x -r y -o z", "cannot convert both"},
		{"-r " + good, "an output file is required"},
		{"-a " + good + " -o -", "it is a runtime policy already"},
		{"-r " + good + " -o - --frob x", "unrecognized arguments: --frob x"},
		{"-a " + file(t, "bad", "zz /a") + " -o -", "the policy would not be valid"},
		{"-r " + file(t, "bad", "[]") + " -o -", "convert "},
	} {
		if out, _, err := tool(t, append([]string{"convert"}, strings.Fields(c.line)...)...); err == nil || !strings.Contains(err.Error(), c.wrong) || out != "" {
			t.Errorf("%s: got %v, want an error with %q; printed %q", c.line, err, c.wrong, out)
		}
	}
}
