package tenant

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"keylime/internal/api"
	"keylime/internal/python"
)

// ids is a list of agents.
type ids struct {
	list     []string
	verifier bool // the verifier's list; else the registrar's
	at       addresses
}

func listEnrolled(ctx context.Context, t *tenant, o *options) (report, error) {
	v, err := t.verifierVersion(ctx)
	if err != nil {
		return nil, err
	}
	list, err := t.verifier.client.Agents(ctx, v, o.verifierID)
	if err != nil {
		return nil, asking(t.verifier.peer, "list agents", err)
	}
	flat := make([]string, 0, len(list.UUIDs))
	for _, one := range list.UUIDs {
		flat = append(flat, one...)
	}
	return ids{flat, true, t.addresses()}, nil
}

func listRegistered(ctx context.Context, t *tenant, _ *options) (report, error) {
	v, err := t.registrarVersion(ctx)
	if err != nil {
		return nil, err
	}
	list, err := t.registrar.client.Agents(ctx, v)
	if err != nil {
		return nil, asking(t.registrar.peer, "list agents", err)
	}
	return ids{list.UUIDs, false, t.addresses()}, nil
}

func (l ids) people(s *screen) {
	for _, id := range l.list {
		s.line("%s", clean(id))
	}
}

func (l ids) program() any {
	return struct {
		Agents []string `json:"agents"`
	}{append([]string{}, l.list...)}
}

func (l ids) upstream(j *journal) {
	if !l.verifier {
		results := map[string][]string{"uuids": append([]string{}, l.list...)}
		j.info("From registrar %s port %d retrieved %s\n", l.at.registrarHost, l.at.registrarPort, python.JSON.Of(answer{200, "Success", results}))
		j.info("Agent list from %s retrieved: ", l.at.registrarTitle())
		j.bare(python.JSON.Of(results))
		return
	}
	nested := make([][]string, 0, len(l.list))
	for _, id := range l.list {
		nested = append(nested, []string{id})
	}
	results := map[string][][]string{"uuids": nested}
	j.info("From verifier %s port %d retrieved: \"%s\"\n", l.at.verifierHost, l.at.verifierPort, python.Repr.Of(answer{200, "Success", results}))
	j.info("Agent list from %s retrieved: ", l.at.verifierTitle())
	j.bare(python.JSON.Of(results))
}

// roster is the status of all agents of a verifier.
type roster struct {
	agents []agentReport // in order of their ids
	at     addresses
}

func bulkInfo(ctx context.Context, t *tenant, o *options) (report, error) {
	v, err := t.verifierVersion(ctx)
	if err != nil {
		return nil, err
	}
	all, err := t.verifier.client.BulkAgents(ctx, v, o.verifierID)
	if err != nil {
		return nil, asking(t.verifier.peer, "ask for all agents", err)
	}
	f := roster{at: t.addresses()}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		var status api.VerifierAgent
		if err := json.Unmarshal(all[id], &status); err != nil {
			return nil, failure(exitFailed, "its version may not be one that this tenant speaks", "%v: status of agent %s: %w", t.verifier.peer, clean(id), err)
		}
		status.V = nil
		f.agents = append(f.agents, agentReport{agent: id, verifier: &status, at: f.at})
	}
	return f, nil
}

func (f roster) people(s *screen) {
	rows := make([][]cell, 0, len(f.agents))
	for _, a := range f.agents {
		v := a.verifier
		event := ""
		if v.LastEventID != nil {
			event = *v.LastEventID
		}
		rows = append(rows, []cell{
			{clean(a.agent), plain},
			{clean(v.AttestationStatus), verdictTint(v.AttestationStatus)},
			{a.state(), plain},
			{fmt.Sprint(v.AttestationCount), plain},
			{s.ago(v.LastSuccess), plain},
			{clean(event), plain},
		})
	}
	s.table([]string{"agent", "attestation", "state", "good quotes", "last", "last failure"}, rows)
}

func (f roster) program() any {
	list := make([]agentJSON, 0, len(f.agents))
	for _, a := range f.agents {
		list = append(list, a.json())
	}
	return struct {
		Agents []agentJSON `json:"agents"`
	}{list}
}

func (f roster) upstream(j *journal) {
	info := map[string]json.RawMessage{}
	for _, a := range f.agents {
		info[a.agent] = upstreamStatus(a.verifier, false)
	}
	j.info("Bulk Agent Info:")
	j.bare(python.JSON.Of(info))
}
