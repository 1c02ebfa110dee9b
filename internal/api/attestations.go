package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"keylime/internal/strictjson"
)

// What administrators do at a verifier about agents that call in: JSON:API documents of API 3.0.

// ErrNoPayloads says that a verifier takes no payloads for agents that call in.
var ErrNoPayloads = errors.New("the verifier takes no payloads for agents that call in")

// CanLeavePayload asks whether the verifier takes payloads for agents that call in. The path that agents fetch them
// from is closed to administrators where there is one, and unknown elsewhere. The error is ErrNoPayloads, or says
// that the verifier did not answer.
func (c *VerifierClient) CanLeavePayload(ctx context.Context, id string) error {
	_, err := c.raw(ctx, request{method: http.MethodGet, path: payloadPath(id), kind: JSONAPIType})
	var answer *Error
	if err != nil && !errors.As(err, &answer) || answer != nil && (answer.Status >= 500 || answer.Status == http.StatusTooManyRequests) {
		return err
	}
	if answer != nil && (answer.Status == http.StatusForbidden || answer.Status == http.StatusUnauthorized) {
		return nil
	}
	return ErrNoPayloads
}

// LeavePayload leaves a payload for an enrolled agent, in place of the one before.
func (c *VerifierClient) LeavePayload(ctx context.Context, id string, p Payload) error {
	r := request{method: http.MethodPut, path: payloadPath(id), kind: JSONAPIType}
	r.body = Document[Payload]{Data: Resource[Payload]{Type: TypePayload, Attributes: p}}
	_, err := c.raw(ctx, r)
	return err
}

func payloadPath(id string) string { return path("v"+PushVersion, "agents", id, "payload") }

// AttestationRecord is one attestation as a verifier shows it to administrators.
type AttestationRecord struct {
	Index uint64
	Attestation
}

// Attestation returns one attestation of an agent, the one with that index or, with "latest", the last.
func (c *VerifierClient) Attestation(ctx context.Context, id, index string) (AttestationRecord, error) {
	r := request{method: http.MethodGet, path: path("v"+PushVersion, "agents", id, "attestations", index), kind: JSONAPIType, limit: largeAnswer}
	text, err := c.raw(ctx, r)
	if err != nil {
		return AttestationRecord{}, err
	}
	list, _, err := decodeAttestations(text)
	if err == nil && len(list) != 1 {
		err = fmt.Errorf("%d attestations, want one", len(list))
	}
	if err != nil {
		return AttestationRecord{}, fmt.Errorf("%s %s: %w: %w", r.method, c.base+r.path, ErrMalformed, err)
	}
	return list[0], nil
}

// Attestations returns a page of an agent's attestations, the newest first, and the query of the next page, "" after
// the last. page is "" for the first.
func (c *VerifierClient) Attestations(ctx context.Context, id, page string) (list []AttestationRecord, next string, err error) {
	r := request{method: http.MethodGet, path: path("v"+PushVersion, "agents", id, "attestations"), query: page, kind: JSONAPIType, limit: largeAnswer}
	text, err := c.raw(ctx, r)
	if err != nil {
		return nil, "", err
	}
	if list, next, err = decodeAttestations(text); err != nil {
		return nil, "", fmt.Errorf("%s %s: %w: %w", r.method, c.base+r.path, ErrMalformed, err)
	}
	return list, next, nil
}

// decodeAttestations reads a document with one attestation or a list of them. Their indices are the ends of their
// links: they have no ids (wire).
func decodeAttestations(text string) (list []AttestationRecord, next string, err error) {
	var d struct {
		Data  json.RawMessage `json:"data"`
		Links Links           `json:"links"`
	}
	if err := strictjson.Unmarshal([]byte(text), maxDepth, &d); err != nil {
		return nil, "", err
	}
	var resources []Resource[Attestation]
	switch data := bytes.TrimSpace(d.Data); {
	case len(data) == 0:
		return nil, "", errors.New("no data")
	case data[0] == '[':
		err = json.Unmarshal(data, &resources)
	default:
		resources = make([]Resource[Attestation], 1)
		err = json.Unmarshal(data, &resources[0])
	}
	if err != nil {
		return nil, "", err
	}
	for _, r := range resources {
		if r.Type != TypeAttestation {
			return nil, "", fmt.Errorf("a resource of type %.50q", r.Type)
		}
		list = append(list, AttestationRecord{indexOf(r.Links), r.Attributes})
	}
	if d.Links.Next != "" {
		u, err := url.Parse(d.Links.Next)
		if err != nil {
			return nil, "", err
		}
		next = u.RawQuery
	}
	return list, next, nil
}

func indexOf(l *Links) uint64 {
	if l == nil {
		return 0
	}
	n, _ := strconv.ParseUint(l.Self[strings.LastIndexByte(l.Self, '/')+1:], 10, 64)
	return n
}

// raw sends a request and returns the answer's body.
func (c caller) raw(ctx context.Context, r request) (string, error) {
	rsp, err := c.send(ctx, c.http, r)
	if err != nil {
		return "", err
	}
	defer rsp.Body.Close()
	return c.read(r, rsp)
}
