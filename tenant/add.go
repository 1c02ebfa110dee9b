package tenant

import (
	"context"
	"crypto/hmac"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"

	"keylime/internal/api"
)

// enrolment is everything that one `add` or `update` is about.
type enrolment struct {
	appraisal appraisal
	delivery  delivery
	machine   *registration
	agent     *agent
	transport identity
}

// add enrols an agent:
//
//  1. policies and payload are read, checked and encrypted, before anyone is asked for anything;
//  2. the registrar is asked for the agent's keys, once;
//  3. the agent proves with a quote that it speaks for the registered AK, and that its transport key is its own;
//  4. the EK certificate, or the site's script, shows that the EK is of a genuine TPM;
//  5. the agent gets U and the payload, encrypted to the transport key;
//  6. the verifier gets V, the policies and the AK that was checked in 3;
//  7. with --verify, the agent must prove that it has the key.
//
// An agent that calls in (--push-model) is not contacted. Its AK is taken from the registration, and proves itself in
// that nothing else opens U: instead of step 5, U is sealed for EK and AK, and left with the payload at the verifier
// after step 6.
func add(ctx context.Context, t *tenant, o *options) (report, error) {
	e, err := t.admit(ctx, o)
	if err == nil {
		err = t.deliverU(ctx, e)
	}
	if err != nil {
		return nil, err
	}
	return t.enrol(ctx, e, o)
}

// update enrols an agent anew. The old enrolment ends after all that can fail before 6, so that hardly anything is
// left that could leave the agent without one.
func update(ctx context.Context, t *tenant, o *options) (report, error) {
	e, err := t.admit(ctx, o)
	if err == nil {
		err = t.checkNames(ctx, e.appraisal)
	}
	if err == nil {
		err = t.deliverU(ctx, e)
	}
	if err == nil {
		_, err = t.remove(ctx, o)
	}
	if err != nil {
		return nil, err
	}
	r, err := t.enrol(ctx, e, o)
	if err != nil && r == nil {
		t.warn("agent %s is not attested now: its old enrolment ended, and the new one failed", o.agent)
	}
	return r, err
}

// admit is steps 1 to 4: an error leaves everything as it was.
func (t *tenant) admit(ctx context.Context, o *options) (e *enrolment, err error) {
	e = &enrolment{}
	if e.appraisal, err = t.appraisal(ctx, o); err != nil {
		return nil, err
	}
	if e.appraisal.demandsNothing() {
		t.warn("no policy is given: the verifier will check the identity of the agent's TPM, and nothing that runs on the machine")
	}
	if e.delivery, err = t.prepareDelivery(o); err != nil {
		return nil, err
	}
	if e.machine, err = t.registered(ctx, o.agent); err != nil {
		return nil, err
	}
	if err := t.checkModel(ctx, o); err != nil {
		return nil, err
	}
	if e.agent, err = t.reach(ctx, e.machine, o); err != nil {
		return nil, err
	}
	if o.pushModel {
		err = t.admitCaller(ctx, e)
	} else {
		e.transport, err = t.proveIdentity(ctx, e.machine, e.agent)
	}
	if err != nil {
		return nil, err
	}
	return e, t.checkEK(ctx, e.machine)
}

// enrol is steps 6 and 7. The report is there as soon as the verifier has the agent, even with an error.
func (t *tenant) enrol(ctx context.Context, e *enrolment, o *options) (report, error) {
	if err := t.enrolAtVerifier(ctx, e, o); err != nil {
		return nil, err
	}
	if err := t.leavePayload(ctx, e); err != nil {
		return nil, err
	}
	status, err := t.confirm(ctx, e.machine.agent)
	if err != nil {
		return nil, err
	}
	r := &enrolled{agentReport: agentReport{agent: e.machine.agent, verifier: status, at: t.addresses(), push: o.pushModel}, contact: e.agent.peer.addr}
	if o.verify {
		err = t.verifyKey(ctx, e)
		r.verified = err == nil
	}
	return r, err
}

// deliverU sends the agent its share of the key, and the payload, if there is a key to deliver.
func (t *tenant) deliverU(ctx context.Context, e *enrolment) error {
	if e.delivery.keys == nil || e.agent.client == nil { // which an agent that calls in has not
		return nil
	}
	encrypted, err := e.delivery.keys.encryptU(t.random, e.transport.transport)
	if err != nil {
		return err
	}
	u := api.UKey{EncryptedKey: encrypted, AuthTag: e.delivery.keys.mac(e.machine.agent)}
	if e.delivery.payload != "" {
		u.Payload = &e.delivery.payload
	}
	return asking(e.agent.peer, "deliver key and payload", e.agent.client.UKey(ctx, e.agent.version, u))
}

func (t *tenant) enrolAtVerifier(ctx context.Context, e *enrolment, o *options) error {
	v, err := t.verifierVersion(ctx)
	if err != nil {
		return err
	}
	err = t.verifier.client.AddAgent(ctx, v, e.machine.agent, t.enrolRequest(e, o))
	switch {
	case api.IsStatus(err, http.StatusConflict):
		return failure(exitFailed, "if the agent is enrolled already, use `keylime tenant update`; if the policy exists, update it with `keylime tenant runtime-policy update` and name it here without --runtime-policy", "%v: enrol agent %s: %w", t.verifier.peer, e.machine.agent, brief{err})
	case notFound(err):
		return failure(exitNotFound, "`keylime tenant runtime-policy list` shows the policies there are", "%v: enrol agent %s: %w", t.verifier.peer, e.machine.agent, brief{err})
	}
	return asking(t.verifier.peer, "enrol agent "+e.machine.agent, err)
}

// enrolRequest is what the verifier is told.
func (t *tenant) enrolRequest(e *enrolment, o *options) api.EnrolRequest {
	host := e.agent.host
	if o.verifiersViewOfHost != "" {
		host = o.verifiersViewOfHost
	}
	req := api.EnrolRequest{
		AgentIP: &host, AgentPort: e.agent.port,
		VerifierIP: &t.verifier.host, VerifierPort: json.RawMessage(strconv.Quote(strconv.Itoa(t.verifier.port))),
		TPMPolicy:     &e.appraisal.tpmPolicy,
		RuntimePolicy: &e.appraisal.runtimePolicy, RuntimePolicyName: &e.appraisal.runtimePolicyName, RuntimePolicyKey: &e.appraisal.runtimePolicyKey,
		TPMPolicyName: orNil(e.appraisal.pcrPolicyName),
		MBPolicy:      e.appraisal.mbPolicy, MBPolicyName: &e.appraisal.mbPolicyName,
		IMAVerificationKey: &e.appraisal.imaKeyring,
		Metadata:           &e.delivery.metadata,
		RevocationKey:      &e.delivery.revocationKey,
		AcceptHash:         t.cfg.AcceptTPMHashAlgs, AcceptEnc: t.cfg.AcceptTPMEncryptionAlgs, AcceptSign: t.cfg.AcceptTPMSigningAlgs,
		AKTPM: &e.machine.record.AIKTPM, MTLSCert: e.machine.record.MTLSCert,
		SupportedVersion: &e.agent.version,
	}
	if o.pushModel {
		req.AttestationMode = new(api.ModePush)
	}
	if e.delivery.keys != nil {
		v := base64.StdEncoding.EncodeToString(e.delivery.keys.v)
		req.V = &v
	}
	return req
}

// orNil keeps what upstream does not know out of requests that do without it.
func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// confirm waits until the verifier shows the agent.
func (t *tenant) confirm(ctx context.Context, agent string) (*api.VerifierAgent, error) {
	var status *api.VerifierAgent
	there, err := t.patience.poll(ctx, func() (bool, error) {
		var err error
		status, err = t.verifierStatus(ctx, agent)
		if exitCode(err) == exitNotFound {
			return false, nil
		}
		return err == nil, err
	}, func(time.Duration) {})
	if err == nil && !there {
		err = failure(exitFailed, "its log tells the cause", "%v accepted agent %s, but does not show it", t.verifier.peer, agent)
	}
	return status, err
}

// verifyKey challenges the agent to prove that it has K. An agent that cannot is stopped at the verifier.
func (t *tenant) verifyKey(ctx context.Context, e *enrolment) error {
	challenge, err := randomText(t.random, nonceLength)
	if err != nil {
		return err
	}
	want := []byte(e.delivery.keys.mac(challenge))
	proven, err := t.patience.poll(ctx, func() (bool, error) {
		answer, err := e.agent.client.KeyVerify(ctx, e.agent.version, challenge)
		if err != nil {
			// The agent has no key until V arrives, and may be restarting. Both pass, or the patience ends.
			if api.IsStatus(err, http.StatusBadRequest) || temporary(err) {
				return false, nil
			}
			return false, asking(e.agent.peer, "ask for proof of the key", err)
		}
		return hmac.Equal([]byte(answer.HMAC), want), nil
	}, func(left time.Duration) {
		t.note("agent %s: waiting up to %v for the key to arrive (Ctrl-C stops waiting)", e.machine.agent, left.Round(time.Second))
	})
	if err == nil && !proven {
		err = failure(exitUntrusted, "its log says why; `keylime tenant status` whether the verifier could attest it. Then delete and add it again", "agent %s did not derive the key from its shares", e.machine.agent)
	}
	if err != nil && ctx.Err() == nil {
		t.stop(ctx, e.machine.agent)
	}
	return err
}

// stop ends the attestation of an agent that failed --verify.
func (t *tenant) stop(ctx context.Context, agent string) {
	v, err := t.verifierVersion(ctx)
	if err == nil {
		err = t.verifier.client.Stop(ctx, v, agent)
	}
	if err != nil {
		t.warn("agent %s could not be stopped at the verifier: %v", agent, err)
		return
	}
	t.note("agent %s stopped at the verifier", agent)
}

// checkNames refuses an update that would create a policy under a name that is taken: the verifier would say so only
// after the old enrolment ended.
func (t *tenant) checkNames(ctx context.Context, a appraisal) error {
	v, err := t.verifierVersion(ctx)
	if err != nil {
		return err
	}
	if a.runtimePolicy != "" && a.runtimePolicyName != "" {
		names, err := t.verifier.client.RuntimePolicies(ctx, v)
		if err != nil {
			return asking(t.verifier.peer, "list runtime policies", err)
		}
		if slices.Contains(names.Names, a.runtimePolicyName) {
			return failure(exitFailed, "update it with `keylime tenant runtime-policy update`, and name it here without --runtime-policy", "runtime policy %s exists already; the agent is unchanged", a.runtimePolicyName)
		}
	}
	if a.mbPolicy != nil && a.mbPolicyName != "" {
		names, err := t.verifier.client.MBPolicies(ctx, v)
		if err != nil {
			return asking(t.verifier.peer, "list measured-boot policies", err)
		}
		if slices.Contains(names.Names, a.mbPolicyName) {
			return failure(exitFailed, "update it with `keylime tenant mb-policy update`, and name it here without --mb-policy", "measured-boot policy %s exists already; the agent is unchanged", a.mbPolicyName)
		}
	}
	return nil
}

// enrolled is the report of `add` and `update`.
type enrolled struct {
	agentReport
	contact  string
	verified bool
}

func (e *enrolled) people(s *screen) {
	if e.push {
		s.line("agent %s enrolled at verifier %s:%d; it is attested when it calls in", e.agent, e.at.verifierHost, e.at.verifierPort)
		s.line("`keylime tenant status -u %s` shows how it fares", e.agent)
		return
	}
	s.line("agent %s (%s) enrolled at verifier %s:%d", e.agent, clean(e.contact), e.at.verifierHost, e.at.verifierPort)
	if e.verified {
		s.line("%s", s.paint(good, "the agent has the key"))
	}
	s.line("`keylime tenant status -u %s` shows how it fares", e.agent)
}

func (e *enrolled) program() any {
	return struct {
		agentJSON
		Verified bool `json:"key_verified"`
	}{e.json(), e.verified}
}

func (e *enrolled) upstream(j *journal) {
	e.agentReport.upstream(j)
	j.info("Agent %s (%s) added to %s after 0 tries", e.agent, e.contact, e.at.verifierTitle())
	if e.verified {
		j.info("Successful key derivation for Agent %s (%s)", e.agent, e.contact)
	}
}
