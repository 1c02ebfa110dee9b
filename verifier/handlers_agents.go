package verifier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"keylime/internal/api"
	"keylime/internal/policy"
	"keylime/internal/web"
	"keylime/store"
	"keylime/tpm"
)

// The texts of errors are part of the REST API: tenants and scripts look for them.
const (
	textBadID       = "agent_id not not valid"
	textNoAgent     = "agent id not found"
	textOtherAgent  = "agent id associated to this verifier"
	textException   = "Exception error: "
	textNoRow       = textException + "No row was found when one was required"
	textNoBody      = "Expected non zero content length"
	textNoAgentCert = "mTLS certificate for agent is required!"
)

// refuse is an answer with the given status and text.
func refuse(code int, format string, args ...any) error {
	return &web.Error{Code: code, Msg: fmt.Sprintf(format, args...)}
}

// exception is how a request that cannot be processed is answered.
func exception(err error) error {
	return &web.Error{Code: http.StatusBadRequest, Msg: textException + err.Error(), Err: err}
}

// enrol adds an agent, and the policies that came with it, and starts attesting it.
func (v *Verifier) enrol(ctx context.Context, id string, body []byte) error {
	if len(body) == 0 {
		return refuse(http.StatusBadRequest, textNoBody)
	}
	req, err := parseEnrolment(body, enrolKeys)
	if err != nil {
		return exception(err)
	}
	return v.enrolAs(ctx, id, req)
}

// enrolAs adds the agent that a request describes.
func (v *Verifier) enrolAs(ctx context.Context, id string, req api.EnrolRequest) error {
	push, err := v.modeOf(req)
	if err != nil {
		return exception(err)
	}
	if cert := text(req.MTLSCert, ""); !push && v.cfg.EnableAgentMTLS && (cert == "" || cert == mtlsDisabled) {
		return refuse(http.StatusBadRequest, textNoAgentCert)
	}
	runtime, err := v.runtimePolicyFor(ctx, id, req)
	if err != nil {
		return err
	}
	if _, err := v.store.Agent(ctx, id); !errors.Is(err, store.ErrNotFound) {
		if err != nil && !errors.Is(err, store.ErrDamaged) {
			return err
		}
		return refuse(http.StatusConflict, "Agent of uuid %s already exists. Please use delete or update.", id)
	}
	defaults := v.enrolDefaults()
	defaults.push = push
	agent, err := specFromAPI(id, req, defaults)
	if err != nil {
		return exception(err)
	}
	if err := v.acceptChosen(ctx, runtime, text(req.RuntimePolicyKey, "")); err != nil {
		return err
	}
	measuredBoot, err := v.mbPolicyFor(ctx, id, req)
	if err != nil {
		return err
	}
	if agent.Spec.PCRPolicy, err = v.pcrPolicyFor(ctx, req); err != nil {
		return err
	}
	agent.Spec.RuntimePolicy, agent.Spec.MeasuredBootPolicy = runtime.name, measuredBoot.name
	if err := v.store.AddAgent(ctx, agent, append(runtime.create(), measuredBoot.create()...)...); err != nil {
		return addError(id, err)
	}
	v.scheduler.wake()
	v.logEnrolment(ctx, agent)
	return nil
}

// addError rates what AddAgent says when somebody else was faster than our look at what exists.
func addError(id string, err error) error {
	switch {
	case errors.Is(err, store.ErrExists), errors.Is(err, store.ErrNotFound):
		return &web.Error{Code: http.StatusConflict, Msg: fmt.Sprintf("Agent %s was not added: %v. Look again and retry.", id, err), Err: err}
	case errors.Is(err, store.ErrTooLarge), errors.Is(err, store.ErrInvalid):
		return exception(err)
	}
	return err
}

// chosenPolicy is the policy that an enrolment names, and its text when it is to be created.
type chosenPolicy struct {
	kind     store.PolicyKind
	name     string
	text     []byte
	isNew    bool
	existing store.Policy // runtime policies: the head of what there is
	accepted store.Policy // runtime policies: what is to be created
}

func (c chosenPolicy) create() []store.Policy {
	switch {
	case !c.isNew:
		return nil
	case c.kind == store.RuntimePolicy:
		return []store.Policy{c.accepted}
	}
	return []store.Policy{newPolicy(c.kind, c.name, c.text)}
}

// runtimePolicyFor finds or makes the runtime policy of an enrolment: an existing one by name, a new one by name and
// text, a text of the agent's own under the agent's id, or, with neither, the empty policy under the agent's id.
func (v *Verifier) runtimePolicyFor(ctx context.Context, id string, req api.EnrolRequest) (*chosenPolicy, error) {
	content, err := decodePolicy(*req.RuntimePolicy)
	if err != nil {
		return nil, exception(fmt.Errorf("runtime_policy: %w", err))
	}
	c := &chosenPolicy{kind: store.RuntimePolicy, name: text(req.RuntimePolicyName, ""), text: content}
	named := c.name != ""
	if !named {
		c.name = id
		if len(content) == 0 {
			c.text = []byte(policy.EmptyRuntime)
		}
	} else if err := checkPolicyName(c.name); err != nil {
		return nil, exception(err)
	}
	c.existing, err = v.store.PolicyHead(ctx, store.RuntimePolicy, c.name)
	switch {
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return nil, err
	case err != nil:
		c.isNew = true
		if named && len(content) == 0 {
			return nil, refuse(http.StatusNotFound, "Could not find IMA policy with name %s!", c.name)
		}
	case named && len(content) > 0, !named && c.existing.Digest != store.DigestOf(c.text):
		// A policy left over under the agent's id is used again only when it is this very text.
		return nil, refuse(http.StatusConflict,
			"IMA policy with name %s already exists. Please use a different name or delete the allowlist from the verifier.", c.name)
	}
	return c, nil
}

// acceptChosen checks a new runtime policy's text, or that one there is may still be used.
func (v *Verifier) acceptChosen(ctx context.Context, c *chosenPolicy, key string) (err error) {
	if !c.isNew {
		return v.signers.checkStored(ctx, c.existing)
	}
	c.accepted, _, err = v.acceptRuntime(ctx, c.name, c.text, key)
	return err
}

// mbPolicyFor finds or makes the measured-boot policy of an enrolment, by the same rules; without text and name there is
// none.
func (v *Verifier) mbPolicyFor(ctx context.Context, id string, req api.EnrolRequest) (chosenPolicy, error) {
	c := chosenPolicy{kind: store.MeasuredBootPolicy, name: text(req.MBPolicyName, ""), text: []byte(text(req.MBPolicy, ""))}
	named := c.name != ""
	switch {
	case !named && len(c.text) == 0:
		return c, nil
	case !named:
		c.name = id
	default:
		if err := checkPolicyName(c.name); err != nil {
			return c, exception(err)
		}
	}
	if _, err := policy.CompileBoot(v.cfg.MeasuredBootEngine, c.text); err != nil {
		return c, policyError(err)
	}
	existing, err := v.store.PolicyHead(ctx, store.MeasuredBootPolicy, c.name)
	switch {
	case errors.Is(err, store.ErrNotFound) && len(c.text) == 0:
		return c, refuse(http.StatusNotFound, "Could not find mb_policy with name %s!", c.name)
	case errors.Is(err, store.ErrNotFound):
		c.isNew = true
	case err != nil:
		return c, err
	case named && len(c.text) > 0, !named && existing.Digest != store.DigestOf(c.text):
		// A policy left over under the agent's id is used again only when it is this very text.
		return c, refuse(http.StatusConflict,
			"mb_policy with name %s already exists. Please use a different name or delete the mb_policy from the verifier.", c.name)
	}
	return c, nil
}

// logEnrolment says what the agent will be held to; nothing beyond its identity deserves a warning.
func (v *Verifier) logEnrolment(ctx context.Context, a store.Agent) {
	view := v.view(ctx, a)
	e := v.log.Info()
	if len(view.appraises) == 0 {
		e = v.log.Warn()
	}
	e.Str("agent", a.ID).Strs("appraises", view.appraises).Str("runtime_policy", a.Spec.RuntimePolicy).Msg("Agent enrolled")
}

// agent answers GET /agents/:id. hideV leaves out the payload's key share.
func (v *Verifier) agent(ctx context.Context, id string, hideV bool) (api.VerifierAgent, error) {
	a, err := v.store.Agent(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return api.VerifierAgent{}, refuse(http.StatusNotFound, textNoAgent)
	}
	if err != nil {
		return api.VerifierAgent{}, err
	}
	view := v.view(ctx, a)
	view.hideV = hideV
	return agentToAPI(a, view), nil
}

// view looks up what a status shows beside the record. A policy that cannot be read is shown as none.
func (v *Verifier) view(ctx context.Context, a store.Agent) statusView {
	view := statusView{interval: v.cfg.QuoteInterval, appraises: []string{}}
	pcrs, err := v.policies.pcr(ctx, a.Spec)
	if err != nil {
		return view
	}
	if pcrs.Constrained() != 0 {
		view.appraises = append(view.appraises, "tpm_policy")
	}
	runtime, err := v.policies.runtime(ctx, a.Spec.RuntimePolicy, time.Now())
	if err != nil {
		return view
	}
	if head, err := v.store.PolicyHead(ctx, store.RuntimePolicy, a.Spec.RuntimePolicy); err == nil {
		view.window = window(head, time.Now())
	}
	view.generator = runtime.Generator()
	keys, err := v.policies.keyring(a.Spec.IMAKeyring, time.Now())
	if err != nil {
		return view
	}
	if set := (policy.Set{Runtime: runtime, PCR: pcrs, Keyring: keys}); set.Mask().Has(tpm.PCRIma) {
		view.appraises = append(view.appraises, "runtime_policy")
	}
	if boot, err := v.policies.boot(ctx, a.Spec.MeasuredBootPolicy, time.Now()); err == nil && boot != nil {
		view.appraises = append(view.appraises, "mb_policy")
	}
	return view
}

// eachAgent calls f with every agent of a verifier ("" = of all), until f fails.
func (v *Verifier) eachAgent(ctx context.Context, verifierID string, f func(store.Agent) error) error {
	after := ""
	for {
		page, err := v.store.Agents(ctx, store.Filter{VerifierID: verifierID}, after, listPage)
		if err != nil {
			return fmt.Errorf("list agents: %w", err)
		}
		for _, a := range page {
			after = a.ID
			if err := f(a); err != nil {
				return err
			}
		}
		if len(page) < listPage {
			return nil
		}
	}
}

// agents answers GET /agents.
func (v *Verifier) agents(ctx context.Context, verifierID string) (api.VerifierAgents, error) {
	out := api.VerifierAgents{UUIDs: [][]string{}}
	err := v.eachAgent(ctx, verifierID, func(a store.Agent) error {
		out.UUIDs = append(out.UUIDs, []string{a.ID})
		return nil
	})
	return out, err
}

// bulk writes what GET /agents?bulk=… answers: an object of id and status.
func (v *Verifier) bulk(ctx context.Context, verifierID string, hideV bool, w io.Writer) error {
	before := ""
	if _, err := io.WriteString(w, "{"); err != nil {
		return err
	}
	err := v.eachAgent(ctx, verifierID, func(a store.Agent) error {
		view := v.view(ctx, a)
		view.hideV = hideV
		status, err := json.Marshal(agentToAPI(a, view))
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "%s%q:%s", before, a.ID, status) // ids need no escapes
		before = ","
		return err
	})
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, "}")
	return err
}

// deleteAgent removes an agent at once. A round in flight finds its lease gone and leaves no trace.
func (v *Verifier) deleteAgent(ctx context.Context, id string) error {
	a, err := v.store.Agent(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return refuse(http.StatusNotFound, textNoAgent)
	case errors.Is(err, store.ErrDamaged): // deleting mends it
	case err != nil:
		return err
	case a.Spec.VerifierID != v.cfg.UUID:
		return refuse(http.StatusNotFound, textOtherAgent)
	}
	if err := v.store.DeleteAgent(ctx, id); errors.Is(err, store.ErrNotFound) {
		return refuse(http.StatusNotFound, textNoAgent)
	} else if err != nil {
		return err
	}
	v.log.Info().Str("agent", id).Msg("Agent deleted")
	return nil
}

// stopAgent ends polling until the agent is reactivated.
func (v *Verifier) stopAgent(ctx context.Context, id string) error {
	if err := v.own(ctx, id); err != nil {
		return noRow(err)
	}
	if err := v.store.StopAgent(ctx, id); err != nil {
		return noRow(err)
	}
	v.log.Info().Str("agent", id).Msg("Agent stopped")
	return nil
}

// reactivateAgent starts an agent over, whatever state it is in.
func (v *Verifier) reactivateAgent(ctx context.Context, id string) error {
	if err := v.own(ctx, id); err != nil {
		return noRow(err)
	}
	if err := v.store.ReactivateAgent(ctx, id, time.Now().UTC()); err != nil {
		return noRow(err)
	}
	v.scheduler.wake()
	v.log.Info().Str("agent", id).Msg("Agent reactivated")
	return nil
}

// own checks that an agent exists and is this verifier's. ErrNotFound.
func (v *Verifier) own(ctx context.Context, id string) error {
	a, err := v.store.Agent(ctx, id)
	if err == nil && a.Spec.VerifierID != v.cfg.UUID {
		err = store.ErrNotFound
	}
	return err
}

func noRow(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return refuse(http.StatusBadRequest, textNoRow)
	}
	return err
}
