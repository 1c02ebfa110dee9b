package tenant

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keylime/internal/api"
)

func shown(t testing.TB, format string, colour bool, r report) string {
	t.Helper()
	var out strings.Builder
	if err := write(&out, format, colour, time.Unix(1_800_000_000, 0), r); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func failedAgent(event, context string) agentReport {
	severity := 6
	return agentReport{agent: "A", verifier: &api.VerifierAgent{
		OperationalState: 9, IP: new("192.0.2.7"), Port: new(9002), TPMPolicy: `{"22": ["` + strings.Repeat("aa", 32) + `"], "mask": "0x400400"}`, HasRuntimePolicy: 1, VerifierID: "default", VerifierIP: "192.0.2.1", VerifierPort: 8881,
		HashAlg: "sha256", EncAlg: "rsa2048", SignAlg: "rsassa", SeverityLevel: &severity, LastEventID: &event,
		AttestationCount: 12, LastSuccess: 1_799_999_997, AttestationStatus: "FAIL", AttestationPeriod: "2s",
		LastEventContext: json.RawMessage(context), RuntimePolicyName: "production", RuntimePolicyDigest: strings.Repeat("ab", 32),
	}}
}

func TestStatusTellsWhichFileFailed(t *testing.T) {
	t.Parallel()
	got := shown(t, "table", false, failedAgent("ima.validation.ima-ng.runtime_policy_hash",
		`{"message": "Hash for file not found in runtime policy", "path": "/usr/bin/evil", "got": "c0ffee", "expected": ["aa11", "bb22"], "line": 23}`))
	want := `agent          A
attestation    FAIL (invalid quote)
good quotes    12, last 3 s ago; one every 2s
algorithms     sha256, rsa2048, rsassa
policies       runtime policy production (sha256 abababababab...), digests of PCRs [22]
verifier       default at 192.0.2.1 port 8881
failure        ima.validation.ima-ng.runtime_policy_hash
  file         /usr/bin/evil
  reason       Hash for file not found in runtime policy
  expected     aa11
               bb22
  got          c0ffee
  log line     23
next           if the file is meant to be there, correct the policy with ` + "`keylime tenant runtime-policy update`," + `
               then ` + "`keylime tenant reactivate -u A`" + `
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestStatusOfWhatOtherVerifiersSay(t *testing.T) {
	t.Parallel()
	r := failedAgent("ima.validation.ima-ng.not_in_allowlist", "")
	r.verifier.RuntimePolicyName, r.verifier.RuntimePolicyDigest, r.verifier.LastEventContext = "", "", nil
	got := shown(t, "table", false, r)
	if !strings.Contains(got, "failure        ima.validation.ima-ng.not_in_allowlist\nnext ") || !strings.Contains(got, "policies       runtime policy, digests") {
		t.Errorf("without a context:\n%s", got)
	}
	for _, context := range []string{"null", "[]", "{", `"text"`, `{"got": {"deep": [1]}}`, `{"expected": []}`} {
		r.verifier.LastEventContext = json.RawMessage(context)
		if got := shown(t, "table", false, r); !strings.Contains(got, "FAIL") {
			t.Errorf("context %s:\n%s", context, got)
		}
	}
}

// TestAgentsCannotWriteToTheTerminal: paths and names come from agents and strangers (CVE-2022-23949).
func TestAgentsCannotWriteToTheTerminal(t *testing.T) {
	t.Parallel()
	evil := "/tmp/\x1b[2J\x1b]0;owned\a\r\nfailure \u202etxt.exe\u0085"
	path, err := json.Marshal(map[string]any{"path": evil, "got": evil, "expected": []string{evil}})
	if err != nil {
		t.Fatal(err)
	}
	r := failedAgent(evil, string(path))
	r.verifier.VerifierID, r.verifier.HashAlg, r.verifier.AttestationStatus, r.verifier.RuntimePolicyName = evil, evil, evil, evil
	host, port := evil, 9002
	r.registrar = &api.RegistrarAgent{IP: &host, Port: &port}
	for name, text := range map[string]string{
		"status": shown(t, "table", false, r),
		"bulk":   shown(t, "table", false, roster{agents: []agentReport{r}}),
		"ids":    shown(t, "table", false, ids{list: []string{evil}}),
	} {
		if i := strings.IndexFunc(text, func(r rune) bool { return r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 || r == '\u202e' }); i >= 0 {
			t.Errorf("%s: %q reaches the terminal", name, text[i])
		}
		if strings.Contains(text, "\nfailure \\") || strings.Count(text, "\nfailure ") > 1 {
			t.Errorf("%s: a line was forged:\n%s", name, text)
		}
	}
}

func TestColoursOnlyWhereTheyAreWanted(t *testing.T) {
	t.Parallel()
	r := roster{agents: []agentReport{failedAgent("x", "{}")}}
	if got := shown(t, "table", false, r); strings.Contains(got, "\x1b") {
		t.Errorf("colours without being asked: %q", got)
	}
	plain := shown(t, "table", false, r)
	coloured := shown(t, "table", true, r)
	if !strings.Contains(coloured, "\x1b[31;1mFAIL") {
		t.Errorf("a failure is not red: %q", coloured)
	}
	for _, code := range []string{"\x1b[31;1m", "\x1b[2m", "\x1b[0m"} {
		coloured = strings.ReplaceAll(coloured, code, "")
	}
	if coloured != plain {
		t.Errorf("colours move columns:\n%s\n%s", plain, coloured)
	}
	var notATerminal strings.Builder
	if terminal(&notATerminal, func(string) string { return "" }) {
		t.Error("a buffer is taken for a terminal")
	}
}

func TestKeyShareIsNeverShown(t *testing.T) {
	t.Parallel()
	s := newStage(t, "ecc256")
	v := "c2VjcmV0IHNoYXJlIG9mIHRoZSBwYXlsb2FkIGtleSE="
	status := failedAgent("x", "{}").verifier
	status.V = &v
	s.verifier.on("GET /v2.6/agents/"+s.id, results(status))
	s.verifier.on("GET /v2.6/agents", results(map[string]any{s.id: status}))
	tn := s.tenant(t, &strings.Builder{}, nil)
	for name, run := range map[string]func() (report, error){
		"cvstatus": func() (report, error) { return statusOf(false, true)(t.Context(), tn, &options{agent: s.id}) },
		"bulkinfo": func() (report, error) { return bulkInfo(t.Context(), tn, &options{}) },
	} {
		r, err := run()
		if err != nil {
			t.Fatal(err)
		}
		for _, format := range []string{"table", "json", "upstream"} {
			if strings.Contains(shown(t, format, false, r), v) {
				t.Errorf("%s shows it as %s", name, format)
			}
		}
	}
}
