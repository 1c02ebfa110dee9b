package tenant

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"

	"keylime/internal/api"
	"keylime/tpm"
)

// admitCaller is what takes the place of asking an agent that calls in: what is registered is looked at, and the
// verifier is asked whether it can do what is wanted, before anything is handed over.
func (t *tenant) admitCaller(ctx context.Context, e *enrolment) error {
	r := e.machine
	if cert := r.record.MTLSCert; cert != nil && *cert != "" && *cert != withoutTLS {
		t.warn("agent %s registered as one that listens: --push-model has it attested only once it runs with --push", r.agent)
	}
	if err := t.acceptsAK(r); err != nil {
		return failure(exitUntrusted, "if it is strong enough for you, add it to "+err.option+" of [tenant]", "attestation key of agent %s: %w", r.agent, err)
	}
	if e.delivery.payload == "" {
		return nil
	}
	err := t.verifier.client.CanLeavePayload(ctx, r.agent)
	if errors.Is(err, api.ErrNoPayloads) {
		return failure(exitFailed, "leave the payload out, or use a verifier of this release (mode = both or push)", "%v: %w; agent %s was not enrolled", t.verifier.peer, err, r.agent)
	}
	return asking(t.verifier.peer, "ask whether it takes a payload for agent "+r.agent, err)
}

// checkModel refuses to add an agent that is to be asked at a verifier that asks none.
func (t *tenant) checkModel(ctx context.Context, o *options) error {
	if o.pushModel {
		return nil
	}
	if _, err := t.verifierVersion(ctx); err != nil {
		return err
	}
	if t.verifier.gone {
		return failure(exitFailed, "add the agent with --push-model and run it with --push, or use a verifier with mode = both or pull",
			"%v takes only agents that call in", t.verifier.peer)
	}
	return nil
}

// acceptsAK holds the AK's algorithms to the configuration; nil when they are accepted.
func (t *tenant) acceptsAK(r *registration) *notAccepted {
	accept, hash := t.accepted(), r.ak.SchemeHash().String()
	switch {
	case !slices.Contains(accept.hash, hash):
		return &notAccepted{"hash", hash, "accept_tpm_hash_algs"}
	case !slices.Contains(accept.sign, r.ak.SignAlg()):
		return &notAccepted{"signing", r.ak.SignAlg(), "accept_tpm_signing_algs"}
	}
	return nil
}

// leavePayload leaves the payload of an agent that calls in at the verifier. Its key's half U is sealed so that only
// the TPM with the EK whose certificate was checked opens it, and only for the AK that the verifier was told; the
// other half, V, is the verifier's to release.
func (t *tenant) leavePayload(ctx context.Context, e *enrolment) error {
	keys := e.delivery.keys
	if e.agent.client != nil || keys == nil || e.delivery.payload == "" {
		return nil
	}
	sealed, err := tpm.MakeCredential(t.random, e.machine.ek, e.machine.ak.Name(), keys.u)
	if err != nil {
		return err
	}
	err = t.verifier.client.LeavePayload(ctx, e.machine.agent, api.Payload{
		SealedU: base64.StdEncoding.EncodeToString(sealed),
		Tag:     keys.mac(e.machine.agent),
		Data:    e.delivery.payload,
	})
	if err != nil {
		t.warn("agent %s is enrolled and attested, but without its payload; `keylime tenant update` with the same flags leaves it", e.machine.agent)
	}
	return asking(t.verifier.peer, "leave the payload for agent "+e.machine.agent, err)
}
