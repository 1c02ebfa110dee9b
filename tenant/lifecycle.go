package tenant

import (
	"context"
	"net/http"
	"time"

	"keylime/internal/api"
)

// remove ends an agent's enrolment and waits until it is gone. An agent that is not enrolled is no error.
func (t *tenant) remove(ctx context.Context, o *options) (*removal, error) {
	r := &removal{agent: o.agent, at: t.addresses()}
	if !o.noVerifierCheck {
		status, err := t.verifierStatus(ctx, o.agent)
		if exitCode(err) == exitNotFound {
			return r, nil
		}
		if err != nil {
			return nil, err
		}
		r.before = status
	}
	v, err := t.verifierVersion(ctx)
	if err != nil {
		return nil, err
	}
	code, err := t.verifier.client.DeleteAgent(ctx, v, o.agent)
	switch {
	case notFound(err):
		return r, nil
	case err != nil:
		return nil, asking(t.verifier.peer, "delete agent "+o.agent, err)
	case code == http.StatusAccepted:
		err = t.awaitRemoval(ctx, o.agent)
	}
	r.removed = err == nil
	return r, err
}

// awaitRemoval waits for the verifier to finish the round in flight and drop the agent.
func (t *tenant) awaitRemoval(ctx context.Context, agent string) error {
	gone, err := t.patience.poll(ctx, func() (bool, error) {
		_, err := t.verifierStatus(ctx, agent)
		if exitCode(err) == exitNotFound {
			return true, nil
		}
		return false, err
	}, func(left time.Duration) {
		t.note("agent %s: waiting up to %v for the verifier to drop it", agent, left.Round(time.Second))
	})
	if err == nil && !gone {
		err = failure(exitFailed, "ask again with `keylime tenant cvstatus`; a verifier that was restarted may need `keylime tenant delete` once more", "%v still has agent %s", t.verifier.peer, agent)
	}
	return err
}

func deleteAgent(ctx context.Context, t *tenant, o *options) (report, error) {
	r, err := t.remove(ctx, o)
	if r == nil {
		return nil, err
	}
	return r, err
}

// reactivate has the verifier attest a failed agent again.
func reactivate(ctx context.Context, t *tenant, o *options) (report, error) {
	r := reactivation{agent: o.agent, at: t.addresses()}
	if !o.noVerifierCheck {
		status, err := t.verifierStatus(ctx, o.agent)
		if err != nil {
			return nil, err
		}
		r.calls = agentReport{verifier: status}.callsIn()
		switch {
		case status.OperationalState == stateStopped:
			t.warn("agent %s was stopped; a verifier of another make may keep it so: then delete and add it", o.agent)
		case r.calls && status.AttestationMode == "" && status.AttestationStatus == "FAIL":
			t.warn("agent %s failed; a verifier of another make may keep that in mind: then delete and add it", o.agent)
		}
	}
	v, err := t.verifierVersion(ctx)
	if err != nil {
		return nil, err
	}
	if err := t.verifier.client.Reactivate(ctx, v, o.agent); err != nil {
		return nil, asking(t.verifier.peer, "reactivate agent "+o.agent, err)
	}
	return r, nil
}

// deregister removes an agent from the registrar. One that is not there is no error.
func deregister(ctx context.Context, t *tenant, o *options) (report, error) {
	v, err := t.registrarVersion(ctx)
	if err != nil {
		return nil, err
	}
	err = t.registrar.client.Delete(ctx, v, o.agent)
	if err != nil && !notFound(err) {
		return nil, asking(t.registrar.peer, "remove agent "+o.agent, err)
	}
	return deregistration{agent: o.agent, removed: err == nil}, nil
}

// removal is what `delete` did.
type removal struct {
	agent   string
	removed bool
	before  *api.VerifierAgent
	at      addresses
}

func (r *removal) people(s *screen) {
	if !r.removed {
		s.line("agent %s is not enrolled at the verifier; nothing to delete", r.agent)
		return
	}
	s.line("agent %s deleted from the verifier; it stays registered (`keylime tenant regdelete` removes that too)", r.agent)
}

func (r *removal) program() any {
	return struct {
		Agent   string `json:"agent_id"`
		Deleted bool   `json:"deleted"`
	}{r.agent, r.removed}
}

func (r *removal) upstream(j *journal) {
	if r.before != nil {
		agentReport{agent: r.agent, verifier: r.before, at: r.at}.upstream(j)
	}
	if r.removed {
		j.info("Agent %s deleted from the CV", r.agent)
		return
	}
	j.info("Verifier at %s with Port %d does not have agent %s.", r.at.verifierHost, r.at.verifierPort, r.agent)
}

// reactivation is what `reactivate` did.
type reactivation struct {
	agent string
	calls bool // it is not asked, but calls in
	at    addresses
}

func (r reactivation) people(s *screen) {
	if r.calls {
		s.line("what agent %s failed in is forgotten; it is attested when it calls in", r.agent)
		s.line("`keylime tenant status -u %s` shows how it fares", r.agent)
		return
	}
	s.line("agent %s is attested again from the start; `keylime tenant status -u %s` shows how it fares", r.agent, r.agent)
}

func (r reactivation) program() any {
	return struct {
		Agent       string `json:"agent_id"`
		Reactivated bool   `json:"reactivated"`
	}{r.agent, true}
}

func (r reactivation) upstream(j *journal) {
	j.info("Agent %s re-activated", r.agent)
}

// deregistration is what `regdelete` did.
type deregistration struct {
	agent   string
	removed bool
}

func (d deregistration) people(s *screen) {
	if !d.removed {
		s.line("agent %s is not registered; nothing to remove", d.agent)
		return
	}
	s.line("agent %s removed from the registrar; it registers again when it is restarted", d.agent)
}

func (d deregistration) program() any {
	return struct {
		Agent   string `json:"agent_id"`
		Removed bool   `json:"removed"`
	}{d.agent, d.removed}
}

func (d deregistration) upstream(j *journal) {
	if !d.removed {
		j.log("WARNING", "Status command response: 404 Unexpected response from registrar.")
	}
}
