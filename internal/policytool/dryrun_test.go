package policytool

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"keylime/internal/fleet"
	"keylime/tpm"
)

// evidence is a machine's list, quote and AK in files.
type evidence struct {
	list, quote, ak string
	pcr10           string // in hex
}

// newEvidence measures files; those of beyond are in the list, but not in the quote.
func newEvidence(t *testing.T, names []string, beyond ...string) evidence {
	t.Helper()
	soft, err := fleet.NewSoftTPM(rand.Reader, "ecc256")
	if err != nil {
		t.Fatal(err)
	}
	list, err := fleet.NewMeasured(soft)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if _, err := list.Add(name, rawSum(name)); err != nil {
			t.Fatal(err)
		}
	}
	quote, err := soft.Quote([]byte("nonce"), tpm.MaskOf(tpm.PCRIma), tpm.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range beyond {
		list.Log(name, rawSum(name))
	}
	text, _ := list.From(0)
	return evidence{
		list: file(t, "list", string(text)), quote: file(t, "answer", `{"code": 200, "status": "Success", "results": {"quote": "`+quote.String()+`", "hash_alg": "sha256"}}`),
		ak: file(t, "ak", base64.StdEncoding.EncodeToString(soft.AKPublic())), pcr10: hex.EncodeToString(soft.PCR(tpm.SHA256, tpm.PCRIma)),
	}
}

// bootAggregate is that of a machine whose PCRs are zeros.
func bootAggregate() string {
	s := sha256.Sum256(make([]byte, 10*sha256.Size))
	return hex.EncodeToString(s[:])
}

func TestDryRun(t *testing.T) {
	t.Parallel()
	e := newEvidence(t, []string{"/usr/bin/a", "/usr/bin/evil", "/usr/bin/b"}, "/usr/bin/late")
	listed := digests{"boot_aggregate": {bootAggregate()}, "/usr/bin/a": {sum("/usr/bin/a")}, "/usr/bin/b": {sum("other")}, "/usr/bin/late": {sum("/usr/bin/late")}}
	p := file(t, "policy", runtimeText(t, map[string]any{"digests": listed}))
	const twoFailures = "ima.validation.ima-ng.not_in_allowlist,ima.validation.ima-ng.runtime_policy_hash"
	for name, c := range map[string]struct {
		args, events, note string
	}{
		"list alone":          {"", twoFailures, "PCR 10 is not given"},
		"PCR":                 {"--pcr sha256:10=" + e.pcr10, twoFailures, ""},
		"PCR of another list": {"--pcr sha256:10=" + strings.Repeat("ab", 32), twoFailures + ",ima.pcr_mismatch", ""},
		"quote":               {"--quote " + e.quote, twoFailures, "signature was not verified"},
		"quote and AK":        {"--quote " + e.quote + " --ak " + e.ak, twoFailures, "any nonce was accepted"},
		"quote, AK and nonce": {"--quote " + e.quote + " --ak " + e.ak + " --nonce nonce", twoFailures, ""},
		"other PCRs":          {"--pcr sha256:10=" + e.pcr10 + ` --tpm_policy {"7":["` + strings.Repeat("ab", 32) + `"]}`, "pcr_validation.missing_pcrs," + twoFailures, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, errs, err := tool(t, append([]string{"test", p, "--log", e.list, "--json"}, strings.Fields(c.args)...)...)
			var got map[string]json.RawMessage
			if jsonErr := json.Unmarshal([]byte(out), &got); jsonErr != nil || len(got) != 3 || exitCode(err) != 1 {
				t.Fatalf("%v, %v: %s", jsonErr, err, out)
			}
			var failures []struct {
				EventID  string `json:"event_id"`
				Severity string
				Context  map[string]any
			}
			if err := json.Unmarshal(got["failures"], &failures); err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, f := range failures {
				ids = append(ids, f.EventID)
				if f.Severity != "emergency" || len(f.Context) == 0 {
					t.Errorf("failure %+v", f)
				}
			}
			if strings.Join(ids, ",") != c.events || string(got["verdict"]) != `"fail"` || string(got["entries"]) != "5" {
				t.Errorf("got %s, want %s", out, c.events)
			}
			if c.note == "" != (errs == "") || !strings.Contains(errs, c.note) {
				t.Errorf("notes %q, want %q", errs, c.note)
			}
		})
	}
}

func TestDryRunPasses(t *testing.T) {
	t.Parallel()
	e := newEvidence(t, []string{"/usr/bin/a", "/tmp/b"})
	p := file(t, "policy", runtimeText(t, map[string]any{"digests": digests{"boot_aggregate": {bootAggregate()}, "/usr/bin/a": {sum("/usr/bin/a")}}, "excludes": []string{"/tmp/"}}))
	out, errs, err := tool(t, "test", p, "--log", e.list, "--quote", e.quote, "--ak", e.ak, "--nonce", "nonce", "--json")
	if want := "{\n  \"verdict\": \"pass\",\n  \"entries\": 3,\n  \"failures\": []\n}\n"; err != nil || out != want || errs != "" {
		t.Errorf("%v, messages %q, got %s", err, errs, out)
	}
	if out, _, err := tool(t, "test", p, "--log", e.list, "--pcr", "sha256:10="+e.pcr10); err != nil || !strings.HasPrefix(out, "pass: 3 entries, 3 of them covered by PCR 10, 0 failures\n") {
		t.Errorf("%v, got %s", err, out)
	}
}

// A quote that is verified must be good: nothing is judged by one that is not.
func TestDryRunRefusesForgedQuotes(t *testing.T) {
	t.Parallel()
	e, other := newEvidence(t, []string{"/a"}), newEvidence(t, []string{"/a"})
	p := file(t, "policy", runtimeText(t, map[string]any{"excludes": []string{""}}))
	for name, args := range map[string][]string{
		"another AK":    {"--quote", e.quote, "--ak", other.ak},
		"another nonce": {"--quote", e.quote, "--ak", e.ak, "--nonce", "fresh"},
		"no AK":         {"--quote", e.quote, "--ak", e.list},
	} {
		if out, _, err := tool(t, append([]string{"test", p, "--log", e.list}, args...)...); exitCode(err) != 1 || err.Error() == "" || out != "" {
			t.Errorf("%s: %v, printed %q", name, err, out)
		}
	}
}

func TestDryRunOfBoots(t *testing.T) {
	t.Parallel()
	chain, other := fleet.NewBootChain("1"), fleet.NewBootChain("2")
	bootLog := file(t, "log", string(chain.Log(tpm.SHA256).Bytes()))
	p := file(t, "policy", runtimeText(t, nil))
	for _, c := range []struct{ reference, engine, want string }{
		{chain.Reference(), "example", "pass: 0 entries"},
		{other.Reference(), "example", "measured_boot.policy_example"},
		{chain.Reference(), "reject-all", "measured_boot.policy_reject-all"},
	} {
		out, _, err := tool(t, "test", p, "--mb-log", bootLog, "--mb-policy", file(t, "reference", c.reference), "--mb-engine", c.engine)
		if !strings.Contains(out, c.want) || (err == nil) != strings.HasPrefix(c.want, "pass") {
			t.Errorf("%s: %v, got %s", c.want, err, out)
		}
	}
	// A PCR that the log does not explain.
	out, _, err := tool(t, "test", p, "--mb-log", bootLog, "--mb-policy", file(t, "reference", chain.Reference()), "--pcr", "sha256:4="+strings.Repeat("ab", 32))
	if exitCode(err) != 1 || !strings.Contains(out, "measured_boot.invalid_pcr_4") {
		t.Errorf("%v, got %s", err, out)
	}
}
