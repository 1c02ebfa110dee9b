package fleet

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"keylime/internal/api"
)

// PushAgent is an attester that calls a verifier, made of none of the agent's code: a software TPM, its logs, and a
// client of API 3.0. What it gives can be forged before it is sent. It is not safe for concurrent use.
type PushAgent struct {
	ID     string
	TPM    *SoftTPM
	List   *Measured // what IMA measured since boot
	Boot   *BootLog  // nil = firmware kept none
	Booted time.Time // what it says it booted at, in whole seconds

	// Extensions and NoticeSeen are what it asks for beyond the wire, and the last notice that it took.
	Extensions []string
	NoticeSeen uint64
	// Forge, unless nil, may change the evidence.
	Forge func(items []api.EvidenceItem)

	base   string // the verifier's URL, without a path
	client *http.Client
	token  string
}

// NewPushAgent makes an attester after its first boot, which calls the verifier at a URL by a client that trusts it.
func NewPushAgent(id string, t *SoftTPM, verifier string, client *http.Client) (*PushAgent, error) {
	a := &PushAgent{
		ID: id, TPM: t, Booted: time.Now().Truncate(time.Second).UTC(),
		base: strings.TrimSuffix(verifier, "/"), client: client,
	}
	var err error
	a.List, err = NewMeasured(t)
	return a, err
}

// Reboot has the machine boot some time after it booted last: PCRs and measurement list start anew. With a log, that
// is what firmware measures.
func (a *PushAgent) Reboot(after time.Duration, boot *BootLog) (err error) {
	if a.Boot = boot; boot == nil {
		a.TPM.Reset()
	} else if err := boot.Boot(a.TPM); err != nil {
		return err
	}
	a.Booted = a.Booted.Add(after)
	a.List, err = NewMeasured(a.TPM)
	return err
}

// Attest makes one attestation, with a session that it opens when it has none or the verifier no longer takes it. An
// attestation that the verifier took says nothing of the verdict.
func (a *PushAgent) Attest(ctx context.Context) (api.Meta, error) {
	if a.token == "" {
		if err := a.OpenSession(ctx); err != nil {
			return api.Meta{}, err
		}
	}
	location, requested, err := a.Open(ctx)
	if StatusOf(err) == http.StatusUnauthorized {
		if err = a.OpenSession(ctx); err == nil {
			location, requested, err = a.Open(ctx)
		}
	}
	if err != nil {
		return api.Meta{}, err
	}
	items, err := a.Collect(requested)
	if err != nil {
		return api.Meta{}, err
	}
	return a.Deliver(ctx, location, items)
}

// Open starts an attestation: it says what it can give, and returns where to deliver what is wanted of it.
func (a *PushAgent) Open(ctx context.Context) (location string, requested []api.EvidenceItem, err error) {
	request, err := a.Capabilities()
	if err != nil {
		return "", nil, err
	}
	var answer api.Document[api.Attestation]
	header, err := a.send(ctx, http.MethodPost, a.path("attestations"), http.StatusCreated, document(api.TypeAttestation, request), &answer)
	if err != nil {
		return "", nil, err
	}
	return header.Get("Location"), answer.Data.Attributes.EvidenceRequested, nil
}

// Deliver sends evidence, and returns what the verifier says beside its acknowledgement.
func (a *PushAgent) Deliver(ctx context.Context, location string, items []api.EvidenceItem) (api.Meta, error) {
	var answer api.Document[api.Attestation]
	body := document(api.TypeAttestation, api.AttestationEvidence{Collected: items})
	if _, err := a.send(ctx, http.MethodPatch, location, http.StatusAccepted, body, &answer); err != nil {
		return api.Meta{}, err
	}
	if answer.Meta == nil || answer.Meta.SecondsToNext == nil {
		return api.Meta{}, errors.New("the verifier does not say when to attest next")
	}
	return *answer.Meta, nil
}

// Payload fetches what a tenant left for it.
func (a *PushAgent) Payload(ctx context.Context) (api.Payload, error) {
	var answer api.Document[api.Payload]
	_, err := a.send(ctx, http.MethodGet, a.path("payload"), http.StatusOK, nil, &answer)
	return answer.Data.Attributes, err
}
