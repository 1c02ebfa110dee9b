package tenant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"keylime/internal/api"
	"keylime/internal/python"
)

// policyKind is one of the kinds of named policies that a verifier keeps. Its functions are the calls for them.
type policyKind struct {
	title    string // for messages
	command  string // the native command
	nameFlag string
	shown    string // what keylime_tenant says before the answer to show
	listed   string // and before the answer to list

	name   func(*options) *string                                        // where the command line has it
	upload func(ctx context.Context, t *tenant, o *options) (any, error) // the body for add and update
	add    func(ctx context.Context, c *api.VerifierClient, v, name string, body any) error
	update func(ctx context.Context, c *api.VerifierClient, v, name string, body any) error
	get    func(ctx context.Context, c *api.VerifierClient, v, name string) (any, error)
	list   func(ctx context.Context, c *api.VerifierClient, v string) (names []string, results any, err error)
	remove func(ctx context.Context, c *api.VerifierClient, v, name string) error
}

func runtimePolicies() policyKind {
	return policyKind{
		title: "runtime policy", command: "runtime-policy", nameFlag: "--runtime-policy-name",
		shown: "Show allowlist command response", listed: "list command response",
		name: func(o *options) *string { return &o.runtimePolicyName },
		upload: func(ctx context.Context, t *tenant, o *options) (any, error) {
			text, key, err := t.proposal(ctx, o)
			mask := `{"mask": "0x400"}`
			return api.RuntimePolicyUpload{RuntimePolicy: &text, RuntimePolicyKey: &key, TPMPolicy: &mask}, err
		},
		add: func(ctx context.Context, c *api.VerifierClient, v, name string, body any) error {
			return c.AddRuntimePolicy(ctx, v, name, body.(api.RuntimePolicyUpload))
		},
		update: func(ctx context.Context, c *api.VerifierClient, v, name string, body any) error {
			return c.UpdateRuntimePolicy(ctx, v, name, body.(api.RuntimePolicyUpload))
		},
		get: func(ctx context.Context, c *api.VerifierClient, v, name string) (any, error) {
			return c.RuntimePolicy(ctx, v, name)
		},
		list: func(ctx context.Context, c *api.VerifierClient, v string) ([]string, any, error) {
			n, err := c.RuntimePolicies(ctx, v)
			return n.Names, n, err
		},
		remove: func(ctx context.Context, c *api.VerifierClient, v, name string) error {
			return c.DeleteRuntimePolicy(ctx, v, name)
		},
	}
}

func measuredBootPolicies() policyKind {
	return policyKind{
		title: "measured-boot policy", command: "mb-policy", nameFlag: "--mb-policy-name",
		shown: "showmbpolicy command response", listed: "listmbpolicy command response",
		name: func(o *options) *string { return &o.mbPolicyName },
		upload: func(_ context.Context, t *tenant, o *options) (any, error) {
			if o.mbPolicy == "" {
				return nil, usage("give --mb-policy FILE", "no measured-boot policy given")
			}
			text, err := t.mbPolicy(o.mbPolicy)
			return api.MBPolicyUpload{MBPolicy: text}, err
		},
		add: func(ctx context.Context, c *api.VerifierClient, v, name string, body any) error {
			return c.AddMBPolicy(ctx, v, name, body.(api.MBPolicyUpload))
		},
		update: func(ctx context.Context, c *api.VerifierClient, v, name string, body any) error {
			return c.UpdateMBPolicy(ctx, v, name, body.(api.MBPolicyUpload))
		},
		get: func(ctx context.Context, c *api.VerifierClient, v, name string) (any, error) {
			return c.MBPolicy(ctx, v, name)
		},
		list: func(ctx context.Context, c *api.VerifierClient, v string) ([]string, any, error) {
			n, err := c.MBPolicies(ctx, v)
			return n.Names, n, err
		},
		remove: func(ctx context.Context, c *api.VerifierClient, v, name string) error {
			return c.DeleteMBPolicy(ctx, v, name)
		},
	}
}

// pcrPolicies are an extension: upstream's verifier has none.
func pcrPolicies() policyKind {
	return policyKind{
		title: "PCR policy", command: "pcr-policy", nameFlag: "--pcr-policy-name",
		shown: "showpcrpolicy command response", listed: "listpcrpolicy command response",
		name: func(o *options) *string { return &o.pcrPolicyName },
		upload: func(_ context.Context, _ *tenant, o *options) (any, error) {
			if o.pcrPolicy == "" {
				return nil, usage("give --pcr-policy FILE", "no PCR policy given")
			}
			text, err := pcrPolicy(o.pcrPolicy)
			return api.PCRPolicyUpload{TPMPolicy: &text}, err
		},
		add: func(ctx context.Context, c *api.VerifierClient, v, name string, body any) error {
			return c.AddPCRPolicy(ctx, v, name, body.(api.PCRPolicyUpload))
		},
		update: func(ctx context.Context, c *api.VerifierClient, v, name string, body any) error {
			return c.UpdatePCRPolicy(ctx, v, name, body.(api.PCRPolicyUpload))
		},
		get: func(ctx context.Context, c *api.VerifierClient, v, name string) (any, error) {
			return c.PCRPolicy(ctx, v, name)
		},
		list: func(ctx context.Context, c *api.VerifierClient, v string) ([]string, any, error) {
			n, err := c.PCRPolicies(ctx, v)
			return n.Names, n, err
		},
		remove: func(ctx context.Context, c *api.VerifierClient, v, name string) error {
			return c.DeletePCRPolicy(ctx, v, name)
		},
	}
}

// named is an action on policies, at a verifier that speaks version v.
type named func(ctx context.Context, c *api.VerifierClient, v, name string) (policyReport, error)

// theName is the policy that a command is about.
func (k policyKind) theName(o *options) (string, error) {
	name := *k.name(o)
	if name == "" {
		return "", usage("give "+k.nameFlag+"; `keylime tenant "+k.command+" list` shows the names there are", "no %s named", k.title)
	}
	if !api.ValidPolicyName(name) {
		return "", badPolicyName(k.nameFlag, name)
	}
	return name, nil
}

// run carries out an action. A refusal by the verifier is reported as well, for upstream prints its text.
func (k policyKind) run(ctx context.Context, t *tenant, name string, action named) (report, error) {
	v, err := t.verifierVersion(ctx)
	if err != nil {
		return nil, err
	}
	r, err := action(ctx, t.verifier.client, v, name)
	r.kind, r.name = k, name
	var refused *api.Error
	if errors.As(err, &refused) {
		r.answer = answer{refused.Status, refused.Message, struct{}{}}
		return r, k.explain(t, name, err)
	}
	if err != nil {
		return nil, asking(t.verifier.peer, k.about(name), err)
	}
	return r, nil
}

func (k policyKind) explain(t *tenant, name string, err error) error {
	switch {
	case notFound(err):
		return failure(exitNotFound, "`keylime tenant "+k.command+" list` shows the policies there are, `… add` makes one", "%v: %s %s: %w", t.verifier.peer, k.title, name, brief{err})
	case api.IsStatus(err, http.StatusConflict):
		return failure(exitFailed, "a policy that exists is changed with `keylime tenant "+k.command+" update`; one in use can be deleted when its agents are", "%v: %s %s: %w", t.verifier.peer, k.title, name, brief{err})
	}
	return asking(t.verifier.peer, k.about(name), err)
}

func (k policyKind) about(name string) string { return strings.TrimSpace(k.title + " " + name) }

// uploads makes a command that sends a policy's text.
func (k policyKind) uploads(did string, send func(ctx context.Context, c *api.VerifierClient, v, name string, body any) error) func(context.Context, *tenant, *options) (report, error) {
	return func(ctx context.Context, t *tenant, o *options) (report, error) {
		name, err := k.theName(o)
		if err != nil {
			return nil, err
		}
		body, err := k.upload(ctx, t, o)
		if err != nil {
			return nil, err
		}
		return k.run(ctx, t, name, func(ctx context.Context, c *api.VerifierClient, v, name string) (policyReport, error) {
			return policyReport{did: did, answer: answer{http.StatusCreated, "Created", struct{}{}}}, send(ctx, c, v, name, body)
		})
	}
}

func (k policyKind) addCommand() func(context.Context, *tenant, *options) (report, error) {
	return k.uploads("added", k.add)
}

func (k policyKind) updateCommand() func(context.Context, *tenant, *options) (report, error) {
	return k.uploads("updated; its agents are judged by it from their next round on", k.update)
}

func (k policyKind) showCommand() func(context.Context, *tenant, *options) (report, error) {
	return func(ctx context.Context, t *tenant, o *options) (report, error) {
		name, err := k.theName(o)
		if err != nil {
			return nil, err
		}
		return k.run(ctx, t, name, func(ctx context.Context, c *api.VerifierClient, v, name string) (policyReport, error) {
			record, err := k.get(ctx, c, v, name)
			return policyReport{headline: k.shown, record: record, answer: answer{http.StatusOK, "Success", record}}, err
		})
	}
}

func (k policyKind) deleteCommand() func(context.Context, *tenant, *options) (report, error) {
	return func(ctx context.Context, t *tenant, o *options) (report, error) {
		name, err := k.theName(o)
		if err != nil {
			return nil, err
		}
		return k.run(ctx, t, name, func(ctx context.Context, c *api.VerifierClient, v, name string) (policyReport, error) {
			return policyReport{did: "deleted"}, k.remove(ctx, c, v, name)
		})
	}
}

func (k policyKind) listCommand() func(context.Context, *tenant, *options) (report, error) {
	return func(ctx context.Context, t *tenant, _ *options) (report, error) {
		return k.run(ctx, t, "", func(ctx context.Context, c *api.VerifierClient, v, _ string) (policyReport, error) {
			list, results, err := k.list(ctx, c, v)
			return policyReport{headline: k.listed, list: append([]string{}, list...), answer: answer{http.StatusOK, "Success", results}}, err
		})
	}
}

// policyReport is the result of a command on policies.
type policyReport struct {
	kind     policyKind
	name     string
	did      string   // add, update, delete
	list     []string // list; not nil then
	record   any      // show
	headline string   // of upstream's output
	answer   answer   // as the wire had it; Code 0 for an answer without body
}

func (p policyReport) refused() bool { return p.answer.Code >= 400 }

func (p policyReport) people(s *screen) {
	switch {
	case p.refused():
	case p.list != nil:
		for _, name := range p.list {
			s.line("%s", clean(name))
		}
	case p.record != nil:
		s.out.WriteString(policyText(p.record)) // byte for byte: it may go to a file, and have a checksum
	default:
		s.line("%s %s %s", p.kind.title, p.name, p.did)
	}
}

// policyText is the policy itself, so that `show` can be written to a file, edited and given to `update`.
func policyText(record any) string {
	switch r := record.(type) {
	case api.RuntimePolicyRecord:
		return r.RuntimePolicy
	case api.PCRPolicyRecord:
		return r.TPMPolicy
	case api.MBPolicyRecord:
		if r.MBPolicy != nil {
			return *r.MBPolicy
		}
	}
	return "null"
}

func (p policyReport) program() any {
	type result struct {
		Name   string          `json:"name,omitempty"`
		Names  *[]string       `json:"policies,omitempty"`
		Policy json.RawMessage `json:"policy,omitempty"`
		Error  string          `json:"error,omitempty"`
	}
	switch {
	case p.refused():
		return result{Name: p.name, Error: p.answer.Status}
	case p.list != nil:
		return result{Names: &p.list}
	case p.record != nil:
		text := policyText(p.record)
		if !json.Valid([]byte(text)) { // a verifier may keep what it does not understand
			quoted, _ := json.Marshal(text)
			text = string(quoted)
		}
		return result{Name: p.name, Policy: json.RawMessage(text)}
	}
	return result{Name: p.name}
}

func (p policyReport) upstream(j *journal) {
	if p.headline != "" {
		j.bare(fmt.Sprintf("%s: %d.", p.headline, p.answer.Code))
	}
	if p.answer.Code == 0 {
		j.bare("{}")
		return
	}
	j.bare(python.Repr.Of(p.answer))
	if p.refused() {
		j.log("ERROR", "%s", python.Repr.Of(p.answer))
	}
}
