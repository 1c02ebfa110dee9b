package tenant

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"time"

	"keylime/internal/api"
)

func attestationFlags() flagSet {
	return flagSet{
		{"index", nil, "show the attestation with this `NUMBER`", func(o *options) any { return &o.index }},
		{"latest", nil, "show the latest one", func(o *options) any { return &o.latest }},
	}
}

// attestations shows what the verifier kept of an agent that calls in.
func attestations(ctx context.Context, t *tenant, o *options) (report, error) {
	if o.latest && o.index != "" {
		return nil, usage("choose one", "--index and --latest cannot be specified at the same time")
	}
	if _, err := t.verifierVersion(ctx); err != nil { // a verifier that is not there is said so in the usual words
		return nil, err
	}
	if o.latest {
		o.index = "latest"
	}
	h := history{agent: o.agent}
	if o.index != "" {
		one, err := t.verifier.client.Attestation(ctx, o.agent, o.index)
		if err != nil {
			return nil, t.noAttestations(o.agent, err)
		}
		h.list = []api.AttestationRecord{one}
		return h, nil
	}
	var err error
	if h.list, err = t.allAttestations(ctx, o.agent); api.IsStatus(err, http.StatusInternalServerError) {
		// A verifier of another make may fail to list what it shows one by one.
		if one, failed := t.verifier.client.Attestation(ctx, o.agent, "latest"); failed == nil {
			t.warn("%v fails to list attestations: this is the latest; --index NUMBER shows others", t.verifier.peer)
			h.list, err = []api.AttestationRecord{one}, nil
		}
	}
	if err != nil {
		return nil, t.noAttestations(o.agent, err)
	}
	return h, nil
}

// allAttestations follows the pages of an agent's attestations. What was asked for and delivered is dropped: of many
// attestations it is much.
func (t *tenant) allAttestations(ctx context.Context, agent string) (all []api.AttestationRecord, err error) {
	for page, more := "", true; more; more = page != "" {
		list, next, err := t.verifier.client.Attestations(ctx, agent, page)
		if err != nil {
			return nil, err
		}
		for _, a := range list {
			if n := len(all); n > 0 && a.Index >= all[n-1].Index {
				return nil, fmt.Errorf("%w: attestation %d is listed after %d", api.ErrMalformed, a.Index, all[n-1].Index)
			}
			a.Evidence, a.EvidenceRequested = nil, nil
			all = append(all, a)
		}
		if len(list) == 0 {
			break
		}
		page = next
	}
	return all, nil
}

func (t *tenant) noAttestations(agent string, err error) error {
	if notFound(err) {
		return failure(exitNotFound, "`keylime tenant status -u "+agent+"` shows whether it is enrolled, and whether it calls in; agents that are asked have no such history",
			"%v keeps no such attestation of agent %s: %w", t.verifier.peer, agent, brief{err})
	}
	return asking(t.verifier.peer, "ask for the attestations of agent "+agent, err)
}

// history is some attestations of an agent.
type history struct {
	agent string
	list  []api.AttestationRecord
}

func (h history) people(s *screen) {
	if len(h.list) == 0 {
		s.line("agent %s has not attested yet", h.agent)
		return
	}
	for _, a := range h.list {
		verdict := cmp.Or(a.Evaluation, "not shown")
		s.line("%6d  %s  %s  %s", a.Index, pushTime(a), s.paint(evaluationTint(a.Evaluation), fmt.Sprintf("%-7s", clean(verdict))), clean(what(a)))
	}
}

// pushTime is when the evidence came, or else when it was asked for.
func pushTime(a api.AttestationRecord) string {
	text := cmp.Or(a.EvidenceReceived, a.Received)
	if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return at.UTC().Format(time.RFC3339)
	}
	return clean(text)
}

func evaluationTint(evaluation string) tint {
	switch evaluation {
	case "pass":
		return good
	case "fail":
		return bad
	}
	return unsure
}

// what is the rest of an attestation's line.
func what(a api.AttestationRecord) string {
	switch {
	case a.EventID != "":
		return a.EventID
	case a.FailureReason != "":
		return a.FailureReason
	case a.Stage == "awaiting_evidence":
		return "evidence was asked for and has not come"
	}
	return ""
}

func (h history) program() any {
	type one struct {
		Index uint64 `json:"index"`
		api.Attestation
	}
	out := struct {
		Agent        string `json:"agent_id"`
		Attestations []one  `json:"attestations"`
	}{h.agent, []one{}}
	for _, a := range h.list {
		out.Attestations = append(out.Attestations, one{a.Index, a.Attestation})
	}
	return out
}

// upstream's tenant has no such command: its lines are those for people.
func (h history) upstream(j *journal) {
	for _, a := range h.list {
		j.info("Attestation %d of agent %s: %s %s", a.Index, h.agent, cmp.Or(a.Evaluation, a.Stage), what(a))
	}
}
