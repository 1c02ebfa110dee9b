package policytool

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"keylime/internal/fleet"
	"keylime/internal/policy"
)

const ownBootRules = `{
  "keylime_boot_rules": 1,
  "relevant_pcrs": [4],
  "events": [
    {"pcrs": [4], "types": ["EV_SEPARATOR"], "test": {"separator": true}},
    {"pcrs": [4], "types": ["EV_EFI_BOOT_SERVICES_APPLICATION"], "comment": "only what was built here", "test": {"collect": "started"}}
  ],
  "finally": {"comment": "one image was started", "test": {"fields": {"started": {"tuple": [{"accept": true}]}}}}
}`

func TestExplainMeasuredBootPolicy(t *testing.T) {
	t.Parallel()
	own := file(t, "own", ownBootRules)
	reference := file(t, "reference", fleet.NewBootChain("1").Reference())
	for _, c := range []struct {
		policy, engine string
		want           []string // lines
	}{
		{own, policy.BootExample, []string{
			"PCR 4 EV_SEPARATOR\n  {\"separator\":true}\n", // no comment: the test itself
			"PCR 4 EV_EFI_BOOT_SERVICES_APPLICATION\n  only what was built here\n",
			"all events together\n  one image was started\n",
		}},
		{reference, policy.BootRejectAll, []string{"No boot is accepted."}},
		{reference, policy.BootAcceptAll, []string{"PCR 0, 1, 2", "what it says is not judged"}},
		{file(t, "nothing", "{}"), policy.BootExample, []string{"the policy asks for nothing"}},
	} {
		out, _, err := tool(t, "explain", c.policy, "--mb-engine", c.engine)
		if err != nil {
			t.Errorf("%s: %v", c.engine, err)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", c.engine, want, out)
			}
		}
	}
}

// TestExplainListsEveryBuiltInRule: what is shown is what the policy is compiled to, in order.
func TestExplainListsEveryBuiltInRule(t *testing.T) {
	t.Parallel()
	reference := fleet.NewBootChain("1").Reference()
	compiled, err := policy.CompileBoot(policy.BootExampleRelaxed, []byte(reference))
	if err != nil {
		t.Fatal(err)
	}
	out, _, err := tool(t, "explain", file(t, "reference", reference), "--mb-engine", policy.BootExampleRelaxed, "--json")
	var got []bootRule
	if err != nil || json.Unmarshal([]byte(out), &got) != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	same := slices.EqualFunc(got, compiled.Explain(), func(a bootRule, b policy.BootRule) bool {
		return slices.Equal(a.PCRs, b.PCRs) && slices.Equal(a.Type, b.Types) && a.Text == b.Comment
	})
	if len(got) == 0 || !same {
		t.Errorf("shown are %d rules:\n%s", len(got), out)
	}
}

func TestExplainRefusesMixedQuestions(t *testing.T) {
	t.Parallel()
	p := file(t, "policy", ownBootRules)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{p, "--mb-engine", "example", "--path", "/usr/bin/a"}, 2, "are for runtime policies"},
		{[]string{"--mb-engine", "example"}, 2, "one measured-boot policy"},
		{[]string{p, "--mb-engine", "exmaple"}, 1, `"exmaple" is unknown`},
		{[]string{file(t, "bad", `{"keylime_boot_rules": 2}`), "--mb-engine", "example"}, 1, "keylime_boot_rules"},
	} {
		_, _, err := tool(t, append([]string{"explain"}, c.args...)...)
		if err == nil || !strings.Contains(err.Error(), c.want) || exitCode(err) != c.code {
			t.Errorf("%q: got %v (%d), want %d with %q", c.args, err, exitCode(err), c.code, c.want)
		}
	}
}
