package tenant

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"keylime/internal/api"
	"keylime/internal/python"
)

// stageUpdate replaces a runtime policy whose present text goes on to count for a while.
func stageUpdate(ctx context.Context, t *tenant, o *options) (report, error) {
	k := runtimePolicies()
	name, err := k.theName(o)
	if err != nil {
		return nil, err
	}
	duration, err := o.stageDuration()
	if err != nil {
		return nil, err
	}
	proposed, key, err := t.proposal(ctx, o)
	if err != nil {
		return nil, err
	}
	body := api.RuntimePolicyStage{ProposedPolicy: &proposed, RuntimePolicyKey: &key, Seconds: int64(duration / time.Second)}
	return k.run(ctx, t, name, func(ctx context.Context, c *api.VerifierClient, v, name string) (policyReport, error) {
		w, err := c.StageRuntimePolicy(ctx, v, name, body)
		return policyReport{
			did:    "updated; until " + w.Until.Local().Format(time.RFC1123) + " what it replaces is accepted as well",
			answer: answer{http.StatusCreated, "Created", w},
		}, err
	})
}

func (o *options) stageDuration() (time.Duration, error) {
	if o.stageFor == "" {
		return 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(o.stageFor)
	if err != nil || d < time.Second {
		return 0, usage("write it as 90m or 24h", "--for %s: no length of time", clean(o.stageFor))
	}
	return d, nil
}

// proposal is the new version of a runtime policy that the options name, and the key that it is signed with; base64.
func (t *tenant) proposal(ctx context.Context, o *options) (text, key string, err error) {
	content, signer, err := t.runtimePolicy(ctx, o)
	if err == nil && content == nil {
		err = usage("give --runtime-policy FILE or --runtime-policy-url URL", "no runtime policy given")
	}
	return base64.StdEncoding.EncodeToString(content), base64.StdEncoding.EncodeToString(signer), err
}

// checkPolicy asks how the agents that use a runtime policy would fare by a proposed text.
func checkPolicy(ctx context.Context, t *tenant, o *options) (report, error) {
	k := runtimePolicies()
	name, err := k.theName(o)
	if err != nil {
		return nil, err
	}
	proposed, key, err := t.proposal(ctx, o)
	if err != nil {
		return nil, err
	}
	v, err := t.verifierVersion(ctx)
	if err != nil {
		return nil, err
	}
	r := checkReport{name: name, agents: []api.AgentCheck{}}
	body := api.RuntimePolicyCheck{ProposedPolicy: &proposed, RuntimePolicyKey: &key}
	err = t.verifier.client.CheckRuntimePolicy(ctx, v, name, body, func(a api.AgentCheck) error {
		r.agents = append(r.agents, a)
		return nil
	})
	if err != nil {
		return nil, k.explain(t, name, err)
	}
	slices.SortFunc(r.agents, func(a, b api.AgentCheck) int { return strings.Compare(a.Agent, b.Agent) })
	return r, r.verdict()
}

// checkReport is how agents would fare.
type checkReport struct {
	name   string
	agents []api.AgentCheck
}

func (r checkReport) count(verdict string) int {
	n := 0
	for _, a := range r.agents {
		if a.Verdict == verdict {
			n++
		}
	}
	return n
}

// verdict is an error unless every agent would pass. One that does not answer is no reason to believe that it would.
func (r checkReport) verdict() error {
	switch failing, silent := r.count(api.CheckFail), r.count(api.CheckUnreachable); {
	case failing > 0:
		return failure(exitFailed, "nothing was changed; add what they have to the proposed policy, or bring them up to date", "%d of %d agents would fail by the proposed policy", failing, len(r.agents))
	case silent > 0:
		return failure(exitUnreachable, "nothing was changed; check again when they are there", "%d of %d agents did not show what they measured", silent, len(r.agents))
	}
	return nil
}

func (r checkReport) people(s *screen) {
	for _, a := range r.agents {
		switch a.Verdict {
		case api.CheckPass:
		case api.CheckFail:
			s.line("%s %s: %d failures in %d entries (attested now: %s)", clean(a.Agent), s.paint(bad, "would fail"), a.Total, a.Entries, clean(a.Status))
			for _, f := range a.Failures {
				s.line("  %s %s", clean(f.EventID), clean(whatFailed(f.Context)))
			}
		default:
			s.line("%s %s: %s", clean(a.Agent), s.paint(unsure, "unreachable"), clean(a.Detail))
		}
	}
	s.line("%d agents use %s: %d would pass, %d would fail, %d unreachable", len(r.agents), r.name,
		r.count(api.CheckPass), r.count(api.CheckFail), r.count(api.CheckUnreachable))
}

// whatFailed is a failure's context in a line: what was measured, and what it had to be.
func whatFailed(context json.RawMessage) string {
	var c struct {
		Message, Path, Got string
		Expected           []string
	}
	if json.Unmarshal(context, &c) != nil || c.Message == "" {
		return string(context)
	}
	text := c.Message
	if c.Path != "" {
		text += " " + c.Path
	}
	if c.Got != "" {
		text += ", got " + c.Got
	}
	if len(c.Expected) > 0 {
		text += ", expected " + strings.Join(c.Expected, " or ")
	}
	return text
}

func (r checkReport) program() any {
	return struct {
		Name        string           `json:"name"`
		Pass        int              `json:"pass"`
		Fail        int              `json:"fail"`
		Unreachable int              `json:"unreachable"`
		Agents      []api.AgentCheck `json:"agents"`
	}{r.name, r.count(api.CheckPass), r.count(api.CheckFail), r.count(api.CheckUnreachable), r.agents}
}

// upstream has no such command; the report is the same as JSON's.
func (r checkReport) upstream(j *journal) {
	j.bare(python.JSON.Of(r.program()))
}
