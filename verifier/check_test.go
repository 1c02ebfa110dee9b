package verifier

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"keylime/internal/api"
	"keylime/store"
)

func checkBody(text string) api.RuntimePolicyCheck {
	encoded := base64.StdEncoding.EncodeToString([]byte(text))
	return api.RuntimePolicyCheck{ProposedPolicy: &encoded}
}

// A proposed policy is checked against what agents can prove now, from the first entry of their lists, and nothing of it
// is left behind.
func TestProposedPolicyIsChecked(t *testing.T) {
	t.Parallel()
	v := startVerifier(t, fastConfig(t), openStore(t))
	base, admin := v.serve(t)
	old := startAgent(t, "old")
	present := old.runtimePolicy("/usr/bin/v1", "/usr/bin/v2")
	proposed := old.runtimePolicy("/usr/bin/v2")
	if err := v.addRuntimePolicy(t.Context(), "p", upload(present)); err != nil {
		t.Fatal(err)
	}
	name, mask := "p", `{"mask": "0x400"}`
	agents := map[string]*testAgent{"old": old}
	for _, id := range []string{"new", "gone", "hostile", "stopped", "other-version"} {
		agents[id] = startAgent(t, id)
	}
	older := "2.3"
	agents["other-version"].speak(older)
	for id, a := range agents {
		file := "/usr/bin/v2"
		if id == "old" {
			file = "/usr/bin/v1"
		}
		a.measure(t, file)
		req := a.enrolment("")
		req.RuntimePolicyName, req.TPMPolicy = &name, &mask
		if id == "other-version" {
			req.SupportedVersion = &older
		}
		v.add(t, a, req)
	}
	foreign := startAgent(t, "foreign") // uses another policy
	v.add(t, foreign, foreign.enrolment(foreign.runtimePolicy()))
	for id := range agents {
		v.passes(t, id, 2)
	}
	if err := v.stopAgent(t.Context(), "stopped"); err != nil {
		t.Fatal(err)
	}
	v.stop() // from here on, whoever asks an agent is the check
	before := map[string]string{}
	for id := range agents {
		a, err := v.store.Agent(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		before[id] = fmt.Sprintf("%+v", a)
	}
	hangUp := func(w http.ResponseWriter, _ *http.Request) bool {
		if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
			c.Close()
		}
		return true
	}
	agents["gone"].become(hangUp)
	agents["hostile"].become(func(w http.ResponseWriter, _ *http.Request) bool {
		replyOK(w, map[string]any{"quote": "rAAAA:AAAA:AAAA", "hash_alg": "sha256"})
		return true
	})
	agents["other-version"].speak("2.6")

	got := map[string]api.AgentCheck{}
	err := api.NewVerifier(base, admin).CheckRuntimePolicy(t.Context(), "2.6", "p", checkBody(proposed), func(c api.AgentCheck) error {
		got[c.Agent] = c
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"old": "fail", "new": "pass", "gone": "unreachable", "hostile": "fail", "stopped": "pass", "other-version": "pass"}
	for id, verdict := range want {
		if got[id].Verdict != verdict {
			t.Errorf("%s: %s, want %s", id, encode(t, got[id]), verdict)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d agents were checked, want %d", len(got), len(want))
	}
	if f := got["old"]; f.Total != 1 || len(f.Failures) != 1 || f.Failures[0].EventID != "ima.validation.ima-ng.not_in_allowlist" ||
		!strings.Contains(string(f.Failures[0].Context), "/usr/bin/v1") || f.Status != "PASS" || f.Entries != 2 {
		t.Errorf("%s", encode(t, f))
	}
	if got["stopped"].Status != "FAIL" || got["gone"].Detail == "" {
		t.Errorf("%s %s", encode(t, got["stopped"]), encode(t, got["gone"]))
	}
	for id := range agents {
		a, err := v.store.Agent(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if after := fmt.Sprintf("%+v", a); after != before[id] {
			t.Errorf("%s: the check left\n%s, before it was\n%s", id, after, before[id])
		}
	}
	if p, err := v.store.Policy(t.Context(), store.RuntimePolicy, "p"); err != nil || string(p.Text) != present {
		t.Errorf("the check changed the policy: %v", err)
	}
}

func TestChecksAreRefused(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	v := newVerifier(t, fastConfig(t), openStore(t))
	base, admin := v.serve(t)
	if err := v.addRuntimePolicy(t.Context(), "p", upload(agent.runtimePolicy())); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, body string
		status     int
		text       string
	}{
		{"p", "{}", 400, "'proposed_policy'"},
		{"p", string(upload(agent.runtimePolicy())), 400, "'proposed_policy'"},
		{"p", string(encode(t, checkBody("{}"))), 400, "Runtime policy is malformatted"},
		{"nosuch", string(encode(t, checkBody(agent.runtimePolicy()))), 404, "Runtime policy nosuch not found"},
	} {
		status, answer := request(t, admin, "POST", base+"/v2.6/allowlists/"+c.name+"/check", c.body)
		if status != c.status || !strings.Contains(statusText(answer), c.text) {
			t.Errorf("%s %.60s: answered %d %s, want %d %s", c.name, c.body, status, answer, c.status, c.text)
		}
	}
	none := func(a api.AgentCheck) error { return fmt.Errorf("%s uses the policy", a.Agent) }
	if err := api.NewVerifier(base, admin).CheckRuntimePolicy(t.Context(), "2.6", "p", checkBody(agent.runtimePolicy()), none); err != nil {
		t.Error(err)
	}
	err := api.NewVerifier(base, admin).CheckRuntimePolicy(t.Context(), "2.6", "nosuch", checkBody(agent.runtimePolicy()), none)
	if !api.IsStatus(err, http.StatusNotFound) {
		t.Errorf("%v", err)
	}
}

// Many agents, fewer slots, and one that does not answer: every other one is reported, and the checks end.
func TestChecksShareTheirSlots(t *testing.T) {
	t.Parallel()
	cfg := fastConfig(t)
	cfg.RequestTimeout /= 10
	v := newVerifier(t, cfg, openStore(t))
	v.checks = make(chan struct{}, 2)
	agent := startAgent(t, "shared")
	text := agent.runtimePolicy()
	if err := v.addRuntimePolicy(t.Context(), "p", upload(text)); err != nil {
		t.Fatal(err)
	}
	silent := startAgent(t, "silent")
	silent.become(func(_ http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		return true
	})
	name, mask := "p", `{"mask": "0x400"}`
	for i := range 20 {
		a := agent
		if i == 3 {
			a = silent
		}
		req := a.enrolment("")
		req.RuntimePolicyName, req.TPMPolicy = &name, &mask
		if err := v.enrol(t.Context(), fmt.Sprintf("a%02d", i), encode(t, req)); err != nil {
			t.Fatal(err)
		}
	}
	base, admin := v.serve(t)
	verdicts := map[string]int{}
	err := api.NewVerifier(base, admin).CheckRuntimePolicy(t.Context(), "2.6", "p", checkBody(text), func(c api.AgentCheck) error {
		verdicts[c.Verdict]++
		return nil
	})
	if err != nil || verdicts["pass"] != 19 || verdicts["unreachable"] != 1 {
		t.Errorf("%v, %v", verdicts, err)
	}
	if len(v.checks) != 0 {
		t.Errorf("%d slots are still taken", len(v.checks))
	}
}
