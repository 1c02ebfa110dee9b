package tenant

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keylime/internal/recorded"
)

// replayCalls is replay for the recorded life of an agent that calls in.
func replayCalls(t *testing.T) *life {
	t.Helper()
	recorded.Dir(t)
	l := &life{newCallingStage(t, "rsa2048"), "push"}
	l.answers(t, l.registrar, "GET /version", "006-tenant-GET-version.json")
	l.answers(t, l.verifier, "GET /version", "009-tenant-GET-version.json")
	l.answers(t, l.verifier, "GET /v2.6/agents/"+l.id, "011-tenant-GET-v2.6_agents_ID.json")
	l.answers(t, l.verifier, "GET /v2.6/agents", "023-tenant-GET-v2.6_agents.json")
	l.answers(t, l.verifier, "DELETE /v2.6/agents/"+l.id, "033-tenant-DELETE-v2.6_agents_ID.json")
	return l
}

// TestRequestsForCallingAgentsAreUpstreams, but for the member that tells a verifier with mode = both which it is.
func TestRequestsForCallingAgentsAreUpstreams(t *testing.T) {
	t.Parallel()
	l := replayCalls(t)
	var mode any
	l.verifier.on("POST /v2.6/agents/"+l.id, func(w http.ResponseWriter, r *http.Request) {
		l.enrol(w, r)
		mode = l.enrolment["attestation_mode"]
		l.answers(t, l.verifier, "GET /v2.6/agents/"+l.id, "011-tenant-GET-v2.6_agents_ID.json")
	})
	policyFile := writeFile(t, "policy.json", string(recorded.File(t, "wire/push/state/policy.json")))
	out, err := l.run(t, fmt.Sprintf("-c add --push-model -u %s -v 127.0.0.1 --runtime-policy %s --runtime-policy-name demo-policy", l.id, policyFile))
	if err != nil {
		t.Fatal(err)
	}
	l.compare(t, l.registrar, "008-tenant-GET-v2.6_agents_ID.json")
	l.compare(t, l.verifier, "010-tenant-POST-v2.6_agents_ID.json")
	l.compare(t, l.verifier, "011-tenant-GET-v2.6_agents_ID.json")
	if mode != "push" {
		t.Errorf("attestation_mode is %v", mode)
	}
	if l.verifier.was("GET " + l.payloadPath()) {
		t.Error("asked for payloads that nobody leaves")
	}
	_, want, _ := strings.Cut(l.here(string(recorded.File(t, "wire/push/state/tenant-add.log"))), "Agent Info from")
	if diff := cmp.Diff(resultLines("Agent Info from"+want), resultLines(out[strings.Index(out, "Agent Info from"):])); diff != "" {
		t.Errorf("(-keylime_tenant +ours)\n%s", diff)
	}
}

// TestLinesOnCallingAgentsAreUpstreams is TestLinesAreUpstreams for agents that call in.
func TestLinesOnCallingAgentsAreUpstreams(t *testing.T) {
	t.Parallel()
	l := replayCalls(t)
	for _, c := range []struct{ line, log, status string }{
		{"-c cvstatus -u " + l.id, "tenant-cvstatus.log", "022"},
		{"-c cvstatus -u " + l.id, "tenant-cvstatus-failed.log", "032"},
		{"-c cvlist", "tenant-cvlist.log", "032"},
		{"-c delete -u " + l.id, "tenant-delete.log", "032"},
	} {
		l.answers(t, l.verifier, "GET /v2.6/agents/"+l.id, c.status+"-tenant-GET-v2.6_agents_ID.json")
		got, err := l.run(t, c.line)
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		want := resultLines(l.here(string(recorded.File(t, "wire/push/state/"+c.log))))
		if diff := cmp.Diff(want, resultLines(got)); diff != "" {
			t.Errorf("%s: (-keylime_tenant +ours)\n%s", c.line, diff)
		}
	}
}

// TestUnexplainedFailures: upstream's verifier keeps no event about agents that call in; the operator is told so.
func TestUnexplainedFailures(t *testing.T) {
	t.Parallel()
	l := replayCalls(t)
	failed := recorded.Read(t, "wire/push/032-tenant-GET-v2.6_agents_ID.json").Response.Body
	for status, want := range map[string][]string{
		"FAIL":    {"attestation    FAIL (calls in)", "failure        the verifier does not tell which; its log does", "keylime tenant delete"},
		"TIMEOUT": {"attestation    TIMEOUT (calls in)", "failure        it has not attested for 10s"},
		"PASS":    {"attestation    PASS (calls in)"},
	} {
		l.verifier.on("GET /v2.6/agents/"+l.id, document(200, strings.Replace(failed, `"FAIL"`, `"`+status+`"`, 1)))
		r, err := statusOf(false, true)(t.Context(), l.tenant(t, &strings.Builder{}, nil), &options{agent: l.id})
		if err != nil {
			t.Fatal(err)
		}
		s := &screen{out: &strings.Builder{}}
		r.people(s)
		for _, text := range want {
			if !strings.Contains(s.out.String(), text) {
				t.Errorf("%s: lacks %q:\n%s", status, text, s.out)
			}
		}
		if status == "PASS" && strings.Contains(s.out.String(), "failure") {
			t.Errorf("%s:\n%s", status, s.out)
		}
	}
}
