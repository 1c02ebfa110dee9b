package verifier

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"keylime/internal/api"
	"keylime/store"
)

// administrator sends requests of API 3.0 with an administrator's certificate.
type administrator struct {
	client *http.Client
	base   string
}

// send sends one request. Without a resource type it has no body.
func (a administrator) send(t *testing.T, method, path, kind, id string, attributes any) response {
	t.Helper()
	if kind == "" {
		return exchange(t, a.client, "", method, a.base+path, nil)
	}
	resource := map[string]any{"type": kind, "attributes": attributes}
	if id != "" {
		resource["id"] = id
	}
	return exchange(t, a.client, "", method, a.base+path, bytes.NewReader(encode(t, map[string]any{"data": resource})))
}

// administered is a verifier, and who administers it.
func administered(t *testing.T) (*testVerifier, administrator) {
	t.Helper()
	v := newVerifier(t, fastConfig(t), openStore(t))
	base, admin := v.serve(t)
	return v, administrator{admin, base}
}

func read[D any](t *testing.T, r response) (d D) {
	t.Helper()
	if err := json.Unmarshal(r.body, &d); err != nil || r.kind != api.JSONAPIType {
		t.Fatalf("%v of type %q: %v", r, r.kind, err)
	}
	return d
}

func TestAgentsAreResources(t *testing.T) {
	t.Parallel()
	v, admin := administered(t)
	agent := startCalling(t, admin.base, "a1")
	full := encode(t, agent.enrolment(agent.policy()))
	var enrolment map[string]any
	if err := json.Unmarshal(full, &enrolment); err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(enrolment, func(_ string, value any) bool { return value == nil }) // what is null may be left out

	r := admin.send(t, "POST", "/v3.0/agents", "agent", "a1", enrolment)
	made := read[api.Document[api.AgentAttributes]](t, r)
	if r.status != 201 || r.location != "/v3.0/agents/a1" || made.Data.ID != "a1" || made.Data.Attributes.AttestationMode != api.ModePush || !made.Data.Attributes.AcceptAttestations {
		t.Fatalf("enrolment: %v at %q", r, r.location)
	}
	agent.login(t)
	if r := agent.attest(t); r.status != 202 {
		t.Fatal(r)
	}
	r = admin.send(t, "GET", "/v3.0/agents/a1", "", "", nil)
	shown := read[api.Document[api.AgentAttributes]](t, r)
	if r.status != 200 || shown.Data.Attributes.AttestationStatus != "PASS" || shown.Links.Self != "/v3.0/agents/a1" {
		t.Errorf("status: %v", r)
	}
	if r := agent.call(t, "GET", "/v3/agents/a1", nil); r.status != 200 || read[api.Document[api.AgentAttributes]](t, r).Data.Attributes.V != nil {
		t.Errorf("the agent's own status: %v", r)
	}
	if r := agent.call(t, "GET", "/v3/agents", nil); r.status != 403 {
		t.Errorf("list for an agent: %v", r)
	}

	for _, accept := range []bool{false, true} {
		r := admin.send(t, "PATCH", "/v3.0/agents/a1", "agent", "a1", map[string]any{"accept_attestations": accept})
		if d := read[api.Document[api.AgentAttributes]](t, r); r.status != 200 || d.Data.Attributes.AcceptAttestations != accept {
			t.Errorf("accept_attestations = %v: %v", accept, r)
		}
		if stopped := v.status(t, "a1").OperationalState == int(store.StateTenantFailed); stopped == accept {
			t.Errorf("accept_attestations = %v, stopped = %v", accept, stopped)
		}
	}
	for _, want := range []int{204, 404} {
		if r := admin.send(t, "DELETE", "/v3.0/agents/a1", "", "", nil); r.status != want {
			t.Errorf("deletion: %v, want %d", r, want)
		}
	}
}

func TestAgentsAreListedInPages(t *testing.T) {
	t.Parallel()
	v, admin := administered(t)
	agent := startCalling(t, admin.base, "")
	var want []string
	for i := range 7 {
		agent.id = fmt.Sprintf("a%d", i)
		v.add(t, agent.asTenant(), agent.enrolment(agent.policy()))
		want = append(want, agent.id)
	}
	var got, sizes []string
	for next := "/v3.0/agents?page%5Bsize%5D=3&filter%5Bverifier_id%5D=" + url.QueryEscape(v.cfg.UUID); next != ""; {
		page := read[api.List[api.AgentAttributes]](t, admin.send(t, "GET", next, "", "", nil))
		for _, a := range page.Data {
			got = append(got, a.ID)
		}
		sizes = append(sizes, fmt.Sprint(len(page.Data)))
		next = page.Links.Next
	}
	if !slices.Equal(got, want) || strings.Join(sizes, " ") != "3 3 1" {
		t.Errorf("%v in pages of %v", got, sizes)
	}
	for path, count := range map[string]int{"/v3.0/agents": 7, "/v3.0/agents?filter%5Bverifier_id%5D=other": 0} {
		r := admin.send(t, "GET", path, "", "", nil)
		if page := read[api.List[api.AgentAttributes]](t, r); page.Data == nil || len(page.Data) != count || page.Links.Next != "" {
			t.Errorf("%s: %v", path, r)
		}
	}
	if r := admin.send(t, "GET", "/v3.0/agents?page%5Bsize%5D=many", "", "", nil); r.status != 400 || r.code() != "invalid_parameter" {
		t.Errorf("%v", r)
	}
}

func TestPoliciesAreResources(t *testing.T) {
	t.Parallel()
	runtime := func(digest string) string {
		return base64.StdEncoding.EncodeToString([]byte(`{"meta":{"version":1,"generator":2},"release":0,"digests":{"/a":["` + digest + `"]},"excludes":[],"keyrings":{},"ima":{"ignored_keyrings":[],"log_hash_alg":"sha1","dm_policy":null},"ima-buf":{},"verification-keys":""}`))
	}
	for _, c := range []struct{ path, kind, attribute, first, second, bad string }{
		{"/v3.0/policies/ima", "ima_policy", "runtime_policy", runtime(strings.Repeat("0", 64)), runtime(strings.Repeat("1", 64)), "e30x"},
		{"/v3.0/refstates/uefi", "uefi_refstate", "mb_policy", "{}", `{"a":1}`, "{"},
	} {
		t.Run(c.kind, func(t *testing.T) {
			t.Parallel()
			_, admin := administered(t)
			text := func() string {
				t.Helper()
				d := read[api.Document[map[string]any]](t, admin.send(t, "GET", c.path+"/p1", "", "", nil))
				if d.Data.ID != "p1" || d.Data.Type != c.kind {
					t.Errorf("%+v", d)
				}
				s, _ := d.Data.Attributes[c.attribute].(string)
				return s
			}
			as := func(value any) map[string]any { return map[string]any{c.attribute: value} }
			plain := func(s string) string { // runtime policies are shown as they are, and uploaded in base64
				if b, err := base64.StdEncoding.DecodeString(s); err == nil && c.kind == "ima_policy" {
					return string(b)
				}
				return s
			}
			for _, step := range []struct {
				method, path, kind, id string
				attributes             any
				status                 int
				code, text             string
			}{
				{"PATCH", "/p1", c.kind, "", as(c.first), 404, "not_found", ""},
				{"POST", "", c.kind, "p1", as(c.first), 201, "", c.first},
				{"POST", "", c.kind, "p1", as(c.second), 409, "conflict", c.first},
				{"POST", "", c.kind, "", as(c.second), 422, "invalid_resource_data", c.first},
				{"POST", "", c.kind, "a/b", as(c.second), 400, "invalid_request", c.first},
				{"POST", "", c.kind, "p2", as(c.bad), 400, "invalid_request", c.first},
				{"POST", "", "agent", "p2", as(c.second), 400, "invalid_request", c.first},
				{"PATCH", "/p1", c.kind, "p2", as(c.second), 409, "conflict", c.first},
				{"PATCH", "/p1", c.kind, "p1", as(c.second), 204, "", c.second},
				{"PATCH", "/p1", c.kind, "", map[string]any{}, 422, "invalid_resource_data", c.second},
				{"PATCH", "/p1", c.kind, "", as(c.bad), 400, "invalid_request", c.second},
			} {
				r := admin.send(t, step.method, c.path+step.path, step.kind, step.id, step.attributes)
				if r.status != step.status || step.code != "" && (r.code() != step.code || strings.Contains(string(r.body), textException)) {
					t.Errorf("%s %s of %s: %v, want %d %s", step.method, step.path, step.id, r, step.status, step.code)
				}
				if r.status == 201 && r.location != c.path+"/p1" {
					t.Errorf("made at %q", r.location)
				}
				if step.text != "" && text() != plain(step.text) {
					t.Errorf("after %s %s: %s", step.method, step.path, text())
				}
			}
			list := read[api.List[api.PolicyName]](t, admin.send(t, "GET", c.path, "", "", nil))
			if len(list.Data) != 1 || list.Data[0].ID != "p1" || list.Data[0].Links.Self != c.path+"/p1" {
				t.Errorf("%+v", list)
			}
			for _, want := range []int{204, 404} {
				if r := admin.send(t, "DELETE", c.path+"/p1", "", "", nil); r.status != want {
					t.Errorf("deletion: %v", r)
				}
			}
			if r := admin.send(t, "GET", c.path+"/p1", "", "", nil); r.status != 404 || r.code() != "not_found" {
				t.Errorf("%v", r)
			}
		})
	}
}

func TestBadResourcesAreRefused(t *testing.T) {
	t.Parallel()
	v, admin := administered(t)
	agent := startCalling(t, admin.base, "a1")
	good := agent.enrolment(agent.policy())
	v.add(t, agent.asTenant(), good)
	foreign, err := v.store.Agent(t.Context(), "a1")
	if err != nil {
		t.Fatal(err)
	}
	foreign.ID, foreign.Spec.VerifierID = "other", "another verifier"
	if err := v.store.AddAgent(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	accept := map[string]any{"accept_attestations": true}
	for name, c := range map[string]struct {
		method, path, kind, id string
		attributes             any
		status                 int
		code, detail           string
	}{
		"there already":       {"POST", "/v3.0/agents", "agent", "a1", good, 409, "conflict", "already exists"},
		"no id":               {"POST", "/v3.0/agents", "agent", "", good, 422, "invalid_resource_data", "Attribute 'id' is required."},
		"id that is none":     {"POST", "/v3.0/agents", "agent", "../a", good, 422, "invalid_resource_data", `"pointer":"/data/id"`},
		"nothing in it":       {"POST", "/v3.0/agents", "agent", "a2", map[string]any{}, 422, "invalid_resource_data", `"pointer":"/data/attributes/tpm_policy"`},
		"no AK":               {"POST", "/v3.0/agents", "agent", "a2", except(asMap(t, good), "ak_tpm", nil), 422, "invalid_resource_data", "Attribute 'ak_tpm' is required."},
		"AK that is none":     {"POST", "/v3.0/agents", "agent", "a2", except(asMap(t, good), "ak_tpm", "AAAA"), 400, "invalid_request", `"detail":"ak_tpm: `},
		"another type":        {"POST", "/v3.0/agents", "session", "a2", good, 400, "invalid_request", "of type 'agent'"},
		"policy that is none": {"POST", "/v3.0/agents", "agent", "a2", except(asMap(t, good), "runtime_policy", "e30x"), 400, "invalid_request", ""},
		"change of a policy":  {"PATCH", "/v3.0/agents/a1", "agent", "a1", map[string]any{"tpm_policy": "{}"}, 422, "invalid_resource_data", "Attribute 'tpm_policy' cannot be changed"},
		"change of nothing":   {"PATCH", "/v3.0/agents/a1", "agent", "a1", map[string]any{}, 422, "invalid_resource_data", "Attribute 'accept_attestations' is required."},
		"change to a text":    {"PATCH", "/v3.0/agents/a1", "agent", "a1", map[string]any{"accept_attestations": "yes"}, 422, "invalid_resource_data", "is of an incorrect type"},
		"change of another":   {"PATCH", "/v3.0/agents/a1", "agent", "a2", accept, 409, "conflict", "not that of the path"},
		"change of nobody":    {"PATCH", "/v3.0/agents/a9", "agent", "", accept, 404, "not_found", "No enrolled agent with ID 'a9'."},
		"another verifier's":  {"PATCH", "/v3.0/agents/other", "agent", "", accept, 404, "not_found", "No enrolled agent with ID 'other'."},
		"nobody":              {"GET", "/v3.0/agents/a9", "", "", nil, 404, "not_found", `"self":"/v3.0/agents/a9"`},
		"bad path":            {"GET", "/v3.0/agents/a%2Fb", "", "", nil, 400, "", ""},
	} {
		r := admin.send(t, c.method, c.path, c.kind, c.id, c.attributes)
		if r.status != c.status || c.code != "" && r.code() != c.code || !strings.Contains(string(r.body), c.detail) {
			t.Errorf("%s: %v, want %d %s with %q", name, r, c.status, c.code, c.detail)
		}
	}
	r := exchange(t, admin.client, "", "POST", admin.base+"/v3.0/agents", strings.NewReader("{}"))
	if r.status != 400 || len(r.body) > 0 {
		t.Errorf("no document: %v", r)
	}
	if status, body := request(t, admin.client, "POST", admin.base+"/v3.0/agents", "{}", "Content-Type", "application/json"); status != 415 || body != "" {
		t.Errorf("another media type: %d %s", status, body)
	}
	if agents, err := v.agents(t.Context(), ""); err != nil || len(agents.UUIDs) != 2 {
		t.Errorf("agents %v, %v", agents, err)
	}
}

// asMap is a value as the JSON object that it encodes to.
func asMap(t *testing.T, v any) (m map[string]any) {
	t.Helper()
	if err := json.Unmarshal(encode(t, v), &m); err != nil {
		t.Fatal(err)
	}
	return m
}
