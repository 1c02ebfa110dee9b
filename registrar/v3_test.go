package registrar

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"keylime/internal/api"
)

// v3 is a client of API 3.0 at one of the registrar's ports.
type v3 struct {
	client *http.Client
	base   string
}

// do sends a request and decodes the answer, a document, into one of the wanted status. kind is the media type of the body,
// a JSON text.
func (c v3) do(t testing.TB, method, path, kind, body string, status int, into any) http.Header {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, c.base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", kind)
	rsp, err := c.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer rsp.Body.Close()
	text, err := io.ReadAll(rsp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if rsp.StatusCode != status {
		t.Fatalf("%s %s: %d %s, want %d", method, path, rsp.StatusCode, text, status)
	}
	if into == nil {
		if len(text) > 0 {
			t.Errorf("%s %s: answered with a body: %s", method, path, text)
		}
		return rsp.Header
	}
	if got := rsp.Header.Get("Content-Type"); got != api.JSONAPIType {
		t.Errorf("%s %s: Content-Type %s", method, path, got)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		t.Fatalf("%s %s: %v: %s", method, path, err, text)
	}
	return rsp.Header
}

func textOf(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func agentDocument(t testing.TB, id string, attributes any) string {
	return textOf(t, api.Document[any]{Data: api.Resource[any]{Type: api.TypeAgent, ID: id, Attributes: attributes}})
}

// TestLifeInAPI3: an agent registers, activates, is shown, listed and deleted. Its requests are documents, or plain objects
// as in API 2.
func TestLifeInAPI3(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	plain, secure := v3{httpClient(t, nil), s.plain}, v3{httpClient(t, s.tls), s.secure}
	for i, form := range []string{"document", "object"} {
		m := newMachine(t, fmt.Sprintf("agent-%d", i))
		kind, body := api.JSONAPIType, agentDocument(t, m.id, m.request())
		if form == "object" {
			flat := m.request()
			flat.AgentID = &m.id
			kind, body = "application/json", textOf(t, flat)
		}
		var challenge api.Document[api.RegisterResults]
		header := plain.do(t, "POST", "/v3.0/agents", kind, body, 201, &challenge)
		if self := "/v3.0/agents/" + m.id; header.Get("Location") != self || challenge.Data.ID != m.id || challenge.Data.Type != "agent" || challenge.Data.Links.Self != self {
			t.Errorf("%s: %v %+v", form, header, challenge)
		}
		var refused api.ErrorDocument
		secure.do(t, "GET", "/v3.0/agents/"+m.id, "", "", 404, &refused)
		if want := fmt.Sprintf("Agent with ID '%s' has not been activated", m.id); refused.Errors[0].Detail != want || refused.Errors[0].Code != "not_found" {
			t.Errorf("%s: %+v", form, refused)
		}
		answer := map[string]string{"auth_tag": m.tag(t, challenge.Data.Attributes.Blob)}
		body = textOf(t, answer)
		if form == "document" {
			body = agentDocument(t, "", answer)
		}
		plain.do(t, "POST", "/v3/agents/"+m.id+"/activate", kind, body, 204, nil)
		var shown api.Document[api.RegistrarAgent]
		secure.do(t, "GET", "/v3.0/agents/"+m.id, "", "", 200, &shown)
		if textOf(t, shown.Data.Attributes) != textOf(t, s.record(t, m.id)) {
			t.Errorf("%s: shown %+v, by API 2 %+v", form, shown.Data.Attributes, s.record(t, m.id))
		}
	}
	secure.do(t, "DELETE", "/v3.0/agents/agent-1", "", "", 204, nil)
	secure.do(t, "DELETE", "/v3.0/agents/agent-1", "", "", 404, new(api.ErrorDocument))
}

// TestListInAPI3 is in pages, and tells who is active.
func TestListInAPI3(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	c := v3{httpClient(t, s.tls), s.secure}
	m := newMachine(t, "")
	for i := range 5 {
		m.id = fmt.Sprintf("agent-%d", i)
		if i == 3 {
			if _, err := s.public.Register(t.Context(), "2.6", m.id, m.request()); err != nil {
				t.Fatal(err)
			}
			continue
		}
		s.register(t, m, m.request())
	}
	var got []string
	pages := 0
	for path := "/v3.0/agents?page[size]=2"; path != ""; pages++ {
		var page api.List[api.RegistrationState]
		c.do(t, "GET", path, "", "", 200, &page)
		for _, a := range page.Data {
			got = append(got, fmt.Sprint(a.ID, " ", a.Attributes.Active))
		}
		path = page.Links.Next
	}
	if want := "[agent-0 true agent-1 true agent-2 true agent-3 false agent-4 true]"; fmt.Sprint(got) != want || pages != 3 {
		t.Errorf("%d pages: %v", pages, got)
	}
	c.do(t, "GET", "/v3.0/agents?page[size]=many", "", "", 400, new(api.ErrorDocument))
}

// TestRefusalsInAPI3 are documents that name the request, or have no body where the format is at fault.
func TestRefusalsInAPI3(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	plain := v3{httpClient(t, nil), s.plain}
	m, impostor := newMachine(t, "agent"), newMachine(t, "agent")
	s.register(t, m, m.request())
	const kind = api.JSONAPIType
	for _, c := range []struct {
		name, path, kind, body string
		status                 int
		detail                 string // "" = no body
	}{
		{"another TPM", "/v3.0/agents", kind, agentDocument(t, m.id, impostor.request()), 403, textIdentity}, // NT-1
		{"no id", "/v3.0/agents", kind, agentDocument(t, "", m.request()), 400, ""},
		{"an id that is none", "/v3.0/agents", kind, agentDocument(t, "../agent", m.request()), 400, textInvalid + ": id:"},
		{"another type", "/v3.0/agents", kind, `{"data":{"type":"session","id":"a","attributes":{}}}`, 400, textInvalid + ": the resource is of type"},
		{"no keys", "/v3.0/agents", kind, `{"data":{"type":"agent","id":"a"}}`, 400, textInvalid},
		{"an attribute of another kind", "/v3.0/agents", kind, `{"data":{"type":"agent","id":"a","attributes":{"ek_tpm":7}}}`, 400, textInvalid},
		{"no document", "/v3.0/agents", kind, `{"agent_id":"a"}`, 400, ""},
		{"no object", "/v3.0/agents", kind, `[]`, 400, ""},
		{"no tag", "/v3.0/agents/agent/activate", kind, agentDocument(t, "", struct{}{}), 400, ""},
		{"nothing to activate", "/v3.0/agents/agent/activate", kind, agentDocument(t, "", map[string]string{"auth_tag": "00"}), 404, "Agent with ID 'agent' not found"},
		{"the id of another", "/v3.0/agents/agent/activate", kind, agentDocument(t, "other", map[string]string{"auth_tag": "00"}), 409, "the resource's id is not that of the path"},
	} {
		if c.detail == "" {
			plain.do(t, "POST", c.path, c.kind, c.body, c.status, nil)
			continue
		}
		var refused api.ErrorDocument
		plain.do(t, "POST", c.path, c.kind, c.body, c.status, &refused)
		if len(refused.Errors) != 1 || !strings.HasPrefix(refused.Errors[0].Detail, c.detail) || refused.Errors[0].Status != fmt.Sprint(c.status) || refused.Links.Self != c.path {
			t.Errorf("%s: %+v", c.name, refused)
		}
	}
	// The routes of API 2 that API 3.0 has not.
	plain.do(t, "POST", "/v3.0/agents/agent", kind, "{}", 405, nil)
	plain.do(t, "PUT", "/v3.0/agents/agent", kind, "{}", 405, nil)
	plain.do(t, "PUT", "/v3.0/agents/agent/activate", kind, "{}", 405, nil)
	for _, path := range []string{"/v3.0/agents", "/v3.0/agents/agent"} { // administration is not for the plain port
		plain.do(t, "GET", path, "", "", 400, nil)
	}
}
