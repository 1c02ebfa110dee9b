package tenant

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"keylime/internal/api"
	"keylime/internal/policy"
)

// addresses are where registrar and verifier were asked, for the lines that name them.
type addresses struct {
	registrarHost, verifierHost string
	registrarPort, verifierPort int
}

func (t *tenant) addresses() addresses {
	return addresses{t.registrar.host, t.verifier.host, t.registrar.port, t.verifier.port}
}

// verifierStatus asks the verifier for one agent.
func (t *tenant) verifierStatus(ctx context.Context, agent string) (*api.VerifierAgent, error) {
	v, err := t.verifierVersion(ctx)
	if err != nil {
		return nil, err
	}
	status, err := t.verifier.client.Agent(ctx, v, agent)
	if notFound(err) {
		return nil, failure(exitNotFound, "enrol it with `keylime tenant add -u "+agent+"`; `keylime tenant cvlist` shows who is",
			"agent %s is not enrolled at verifier %s", agent, t.verifier.addr)
	}
	if err != nil {
		return nil, asking(t.verifier.peer, "ask for agent "+agent, err)
	}
	status.V = nil // half of the payload key: of no use to people, and not to be seen
	return &status, nil
}

// statusOf makes a command that reports on one agent from registrar, verifier or both.
func statusOf(registrar, verifier bool) func(context.Context, *tenant, *options) (report, error) {
	return func(ctx context.Context, t *tenant, o *options) (report, error) {
		r := agentReport{agent: o.agent, at: t.addresses(), push: o.pushModel}
		if registrar {
			record, err := t.lookup(ctx, o.agent)
			if exitCode(err) == exitNotFound {
				r.unregistered = true
				return r, err
			}
			if err != nil {
				return nil, err
			}
			r.registrar = &record
		}
		if verifier {
			status, err := t.verifierStatus(ctx, o.agent)
			if err != nil {
				return r.orNothing(), err
			}
			r.verifier = status
		}
		return r, nil
	}
}

// agentReport is one agent as registrar and verifier see it; a part that was not asked for, or is not there, is nil.
type agentReport struct {
	agent        string
	registrar    *api.RegistrarAgent
	verifier     *api.VerifierAgent
	unregistered bool
	push         bool // upstream's lines leave the state out
	at           addresses
}

// orNothing is nil when the report has nothing to say.
func (r agentReport) orNothing() report {
	if r.registrar == nil && r.verifier == nil {
		return nil
	}
	return r
}

// stateLabels are the names of operational states, by number, as upstream prints them.
var stateLabels = [...]string{
	"Registered", "Start", "Saved", "Get Quote", "Get Quote (retry)", "Provide V", "Provide V (retry)",
	"Failed", "Terminated", "Invalid Quote", "Tenant Quote Failed",
}

const stateStopped = 10 // after a failed --verify

func stateLabel(state int) string {
	if state < 0 || state >= len(stateLabels) {
		return fmt.Sprintf("State %d", state)
	}
	return stateLabels[state]
}

// verdictTint colours an attestation status.
func verdictTint(status string) tint {
	switch status {
	case "PASS":
		return good
	case "FAIL", "TIMEOUT":
		return bad
	}
	return unsure
}

func (r agentReport) people(s *screen) {
	if r.orNothing() == nil {
		return
	}
	s.field("agent", r.agent)
	if r.registrar != nil {
		r.peopleRegistrar(s)
	}
	if r.verifier != nil {
		r.peopleVerifier(s)
	}
}

func (r agentReport) peopleRegistrar(s *screen) {
	reg := r.registrar
	times := "once"
	if reg.RegCount > 1 {
		times = fmt.Sprintf("%d times", reg.RegCount)
	}
	s.field("registered", times+", "+certificateNote(reg))
	if reg.IP != nil && reg.Port != nil {
		s.field("contact", clean(fmt.Sprintf("%s port %d", *reg.IP, *reg.Port)))
	}
}

func certificateNote(reg *api.RegistrarAgent) string {
	ek := "no EK certificate"
	if reg.EKCert != nil && *reg.EKCert != "" {
		ek = "with EK certificate"
	}
	if reg.MTLSCert == nil || *reg.MTLSCert == withoutTLS {
		return ek + ", no TLS"
	}
	return ek
}

func (r agentReport) peopleVerifier(s *screen) {
	v := r.verifier
	s.tinted("attestation", verdictTint(v.AttestationStatus), clean(v.AttestationStatus)+" ("+strings.ToLower(r.state())+")")
	s.field("good quotes", fmt.Sprintf("%d, last %s; one every %s", v.AttestationCount, s.ago(v.LastSuccess), clean(v.AttestationPeriod)))
	if v.HashAlg != "" {
		s.field("algorithms", clean(v.HashAlg+", "+v.EncAlg+", "+v.SignAlg))
	}
	s.field("policies", clean(policySummary(v)))
	s.field("verifier", clean(fmt.Sprintf("%s at %s port %d", v.VerifierID, v.VerifierIP, v.VerifierPort)))
	switch {
	case v.LastEventID != nil && *v.LastEventID != "":
		r.peopleEvent(s)
	case r.callsIn():
		r.peopleUnexplained(s)
	}
}

// callsIn reports whether the agent is not asked, but calls. Verifiers of another make say so only in that they show
// no address.
func (r agentReport) callsIn() bool {
	v := r.verifier
	return r.push || v.AttestationMode == api.ModePush || v.AttestationMode == "" && v.IP == nil && v.Port == nil
}

// state is the operational state in words. That of an agent that calls in says only whether it was stopped.
func (r agentReport) state() string {
	state := r.verifier.OperationalState
	switch {
	case !r.callsIn():
		return stateLabel(state)
	case state == stateStopped:
		return "Stopped"
	}
	return "Calls in"
}

// shortDigest names the version of a policy, "" when it is not known.
func shortDigest(digest string) string {
	if len(digest) < 12 {
		return ""
	}
	return " (sha256 " + digest[:12] + "...)"
}

// policySummary says what the agent is held to. An agent that is held to nothing passes, so that must be seen.
func policySummary(v *api.VerifierAgent) string {
	var parts []string
	if judgedByRuntimePolicy(v) {
		name := "runtime policy"
		if v.RuntimePolicyName != "" {
			name += " " + v.RuntimePolicyName
		}
		name += shortDigest(v.RuntimePolicyDigest)
		if w := v.RuntimePolicyWindow; w != nil {
			name += " or, until " + w.Until.UTC().Format(time.RFC3339) + ", what it replaces" + shortDigest(w.PreviousDigest)
		}
		parts = append(parts, name)
	}
	if v.HasMBRefstate != 0 {
		parts = append(parts, "measured boot")
	}
	if pcrs, err := policy.ParsePCR(v.TPMPolicy); err == nil && pcrs.Constrained() != 0 {
		parts = append(parts, fmt.Sprintf("digests of PCRs %v", pcrs.Constrained().PCRs()))
	}
	if v.TPMPolicyName != "" {
		parts = append(parts, "PCR policy "+v.TPMPolicyName+shortDigest(v.TPMPolicyDigest))
	}
	if len(parts) == 0 {
		return "none: only the TPM's identity is checked"
	}
	return strings.Join(parts, ", ")
}

// judgedByRuntimePolicy: a verifier that does not say by what it judges shows it as has_runtime_policy.
func judgedByRuntimePolicy(v *api.VerifierAgent) bool {
	if v.Appraises != nil {
		return slices.Contains(v.Appraises, "runtime_policy")
	}
	return v.HasRuntimePolicy != 0
}

// program is the shape of all reports on one agent.
func (r agentReport) program() any { return r.json() }

type agentJSON struct {
	Agent     string              `json:"agent_id"`
	Registrar *api.RegistrarAgent `json:"registrar,omitempty"`
	Verifier  *verifierJSON       `json:"verifier,omitempty"`
}

// verifierJSON is the verifier's answer, with the state's name beside its number.
type verifierJSON struct {
	State string `json:"state"`
	api.VerifierAgent
}

func (r agentReport) json() agentJSON {
	j := agentJSON{Agent: r.agent, Registrar: r.registrar}
	if r.verifier != nil {
		j.Verifier = &verifierJSON{r.state(), *r.verifier}
	}
	return j
}
