package verifier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"

	"keylime/internal/api"
	"keylime/internal/jsonapi"
	"keylime/internal/web"
	"keylime/store"
)

// An attestation is shown in three ways: as what is asked for, as what came, and, to administrators, with its verdict.

// requested is the answer to capabilities.
func requested(at store.Attestation) api.Attestation {
	out := outline(at)
	out.EvidenceRequested = make([]api.EvidenceItem, len(at.Items))
	for i, item := range at.Items {
		out.EvidenceRequested[i] = api.EvidenceItem{Class: item.Class, Type: item.Type, Chosen: item.Chosen}
	}
	return out
}

// acknowledged is the answer to evidence, with the data as it came. The agent is not told what came of it.
func acknowledged(at store.Attestation, data []json.RawMessage) api.Attestation {
	out := outline(at)
	out.Stage = string(store.EvaluatingEvidence)
	out.Evidence = evidenceItems(at)
	for i := range data {
		out.Evidence[i].Data = data[i]
	}
	return out
}

// onRecord is what administrators see.
func onRecord(at store.Attestation) api.Attestation {
	out := outline(at)
	out.Evidence = evidenceItems(at)
	out.Evaluation = string(at.Evaluation)
	out.FailureReason, out.EventID = at.FailureReason, at.EventID
	if json.Valid([]byte(at.Context)) {
		out.EventContext = json.RawMessage(at.Context)
	}
	out.Completed = api.PushTime(at.Completed)
	return out
}

func outline(at store.Attestation) api.Attestation {
	return api.Attestation{
		Stage:            string(at.Stage),
		System:           api.SystemInfo{BootTime: api.PushTime(at.BootTime)},
		Received:         api.PushTime(at.Received),
		Expires:          api.PushTime(at.Expires),
		EvidenceReceived: api.PushTime(at.Evidence),
	}
}

func evidenceItems(at store.Attestation) []api.EvidenceItem {
	items := make([]api.EvidenceItem, len(at.Items))
	for i, item := range at.Items {
		items[i] = api.EvidenceItem{Class: item.Class, Type: item.Type, Capabilities: item.Capabilities, Chosen: item.Chosen, Data: item.Data}
	}
	return items
}

// attestation answers GET …/attestations/:index and …/latest.
func (c *calls) attestation(ctx context.Context, r *web.Request) (any, error) {
	id, index := r.Param("id"), indexOf(r)
	if _, err := c.known(ctx, id); err != nil {
		return nil, err
	}
	at, err := c.read(ctx, id, index)
	if err != nil {
		return nil, err
	}
	self := attestationPath(r, at.Index)
	return web.Document{Code: http.StatusOK, Type: api.JSONAPIType, Body: document(onRecord(at), self, self, nil)}, nil
}

func (c *calls) read(ctx context.Context, id, index string) (at store.Attestation, err error) {
	if index == latestIndex {
		at, err = c.store.LatestAttestation(ctx, id)
	} else {
		n, bad := strconv.ParseUint(index, 10, 64)
		if bad != nil {
			return at, noAttestation(id, index)
		}
		at, err = c.store.Attestation(ctx, id, n)
	}
	if errors.Is(err, store.ErrNotFound) {
		return at, noAttestation(id, index)
	}
	return at, err
}

// known returns an agent of this verifier, whatever its mode.
func (c *calls) known(ctx context.Context, id string) (store.Agent, error) {
	a, err := c.store.Agent(ctx, id)
	if errors.Is(err, store.ErrNotFound) || err == nil && a.Spec.VerifierID != c.verifierID {
		return a, noAgent(id)
	}
	return a, err
}

// list answers GET …/attestations, the newest first: page[size] of them at most, with an index below page[before]. A page
// ends earlier when it would be too large.
func (c *calls) list(ctx context.Context, r *web.Request) (any, error) {
	id := r.Param("id")
	if _, err := c.known(ctx, id); err != nil {
		return nil, err
	}
	before, err := jsonapi.PageNumber(r.Query, "page[before]", math.MaxUint64)
	if err != nil {
		return nil, err
	}
	size, err := jsonapi.PageNumber(r.Query, "page[size]", defaultPage)
	if err != nil {
		return nil, err
	}
	size = min(max(size, 1), maxPage)
	page := api.List[api.Attestation]{
		Data: []api.Resource[api.Attestation]{}, Links: &api.Links{Self: attestationsPath(r)}, JSONAPI: jsonapi.Version(),
	}
	bytes := 0
	for uint64(len(page.Data)) < size {
		some, err := c.store.Attestations(ctx, id, before, 1)
		if err != nil {
			return nil, err
		}
		if len(some) == 0 {
			break
		}
		at := some[0]
		if bytes += sizeOf(at); bytes > maxPageBytes && len(page.Data) > 0 {
			break
		}
		before = at.Index
		page.Data = append(page.Data, resource(onRecord(at), attestationPath(r, at.Index)))
	}
	more, err := c.store.Attestations(ctx, id, before, 1)
	if err != nil {
		return nil, err
	}
	if len(more) > 0 && len(page.Data) > 0 {
		query := url.Values{"page[before]": {strconv.FormatUint(before, 10)}, "page[size]": {strconv.FormatUint(size, 10)}}
		page.Links.Next = attestationsPath(r) + "?" + query.Encode()
	}
	return web.Document{Code: http.StatusOK, Type: api.JSONAPIType, Body: page}, nil
}

func sizeOf(at store.Attestation) (n int) {
	for _, item := range at.Items {
		n += len(item.Capabilities) + len(item.Chosen) + len(item.Data)
	}
	return n + len(at.Context)
}

// document wraps one attestation.
func document(at api.Attestation, self, path string, meta *api.Meta) api.Document[api.Attestation] {
	return api.Document[api.Attestation]{
		Data: resource(at, self), Meta: meta, Links: &api.Links{Self: path}, JSONAPI: jsonapi.Version(),
	}
}

func resource(at api.Attestation, self string) api.Resource[api.Attestation] {
	return api.Resource[api.Attestation]{Type: api.TypeAttestation, Attributes: at, Links: &api.Links{Self: self}}
}

// attestationsPath is where an agent's attestations are, in the version of the request.
func attestationsPath(r *web.Request) string {
	return "/v" + api.PushVersion + "/agents/" + r.Param("id") + "/attestations"
}

func attestationPath(r *web.Request, index uint64) string {
	return attestationsPath(r) + "/" + strconv.FormatUint(index, 10)
}

// indexOf is the attestation that a path names: a route without an index is that of the latest.
func indexOf(r *web.Request) string {
	if index := r.Param("index"); index != "" {
		return index
	}
	return latestIndex
}

func noAgent(id string) error {
	return jsonapi.Deny(http.StatusNotFound, "not_found", fmt.Sprintf("No enrolled agent with ID '%s'.", id))
}

func noAttestation(id, index string) error {
	if index == latestIndex {
		return jsonapi.Deny(http.StatusNotFound, "not_found", fmt.Sprintf("No attestation exists for agent '%s'.", id))
	}
	return jsonapi.Deny(http.StatusNotFound, "not_found", fmt.Sprintf("No attestation %s exists for agent '%s'.", clip(index), id))
}
