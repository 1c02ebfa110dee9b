package registrar

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"keylime/internal/api"
	"keylime/internal/recorded"
	"keylime/tpm"
)

// TestRecordedLives registers and activates as the recorded Rust agents did, and answers the recorded Python tenant
// with what it was answered. The activation is computed from the stored challenge, as the recorded TPM is not here.
func TestRecordedLives(t *testing.T) {
	t.Parallel()
	for _, life := range []string{"pull", "cert", "ecc", "mb", "push", "mbpush"} {
		t.Run(life, func(t *testing.T) {
			t.Parallel()
			s := start(t, nil)
			var id string
			for _, e := range recorded.Glob(t, "wire/"+life+"/*registrar-*.json") {
				switch {
				case !strings.HasPrefix(e.Request.Path, "/v2"):
				case e.Request.Method == http.MethodPost:
					id = e.Request.Path[strings.LastIndexByte(e.Request.Path, '/')+1:]
					code, answer := send(t, httpClient(t, nil), e.Request.Method, s.plain+e.Request.Path, "application/json", e.Request.Body)
					if code != e.Response.Status {
						t.Fatalf("%s: %d %s", e.Name, code, answer)
					}
					compareShape(t, e, answer)
					compareBlob(t, e.Response.Body, answer)
				case e.Request.Method == http.MethodPut:
					pending, err := s.db.Pending(t.Context(), id)
					if err != nil {
						t.Fatal(err)
					}
					body := jsonOf(t, api.ActivateRequest{AuthTag: tagOf(pending.Challenge, id)})
					code, answer := send(t, httpClient(t, nil), e.Request.Method, s.plain+e.Request.Path, "application/json", body)
					if code != e.Response.Status || answer != e.Response.Body {
						t.Fatalf("%s: %d %q, want %q", e.Name, code, answer, e.Response.Body)
					}
				}
			}
			if id == "" {
				t.Skip("no registration in this recording")
			}
			compareRecord(t, s, life, id)
		})
	}
}

// compareBlob compares the layout of two credentials: no two have the same content.
func compareBlob(t *testing.T, want, got string) {
	t.Helper()
	var sizes [2][2]int
	for i, text := range []string{want, got} {
		var rsp struct{ Results api.RegisterResults }
		if err := json.Unmarshal([]byte(text), &rsp); err != nil {
			t.Fatal(err)
		}
		blob, err := base64.StdEncoding.DecodeString(rsp.Results.Blob)
		if err != nil {
			t.Fatal(err)
		}
		idObject, secret, err := tpm.ParseCredential(blob)
		if err != nil {
			t.Fatal(err)
		}
		sizes[i] = [2]int{len(idObject), len(secret)}
	}
	if sizes[0] != sizes[1] {
		t.Errorf("credential of %v bytes, recorded %v", sizes[1], sizes[0])
	}
}

// compareRecord compares what the tenant was answered about the agent, value by value.
func compareRecord(t *testing.T, s *site, life, id string) {
	t.Helper()
	admin := httpClient(t, s.tls)
	for _, e := range recorded.Glob(t, "wire/"+life+"/*-tenant-GET-v2*agents_ID.json") {
		if !strings.Contains(e.Response.Body, "regcount") {
			continue // the verifier's answer
		}
		code, answer := send(t, admin, "GET", s.secure+e.Request.Path, "", "")
		if code != 200 {
			t.Fatalf("%d %s", code, answer)
		}
		compareShape(t, e, answer)
		var want, got struct{ Results map[string]any }
		if json.Unmarshal([]byte(e.Response.Body), &want) != nil || json.Unmarshal([]byte(answer), &got) != nil {
			t.Fatal("an answer is no JSON")
		}
		for name, value := range want.Results {
			if fmt.Sprint(got.Results[name]) != fmt.Sprint(value) {
				t.Errorf("%s: %s is %v, recorded %v", e.Name, name, got.Results[name], value)
			}
		}
		return
	}
	t.Logf("no answer of the registrar about %s is recorded in %s", id, life)
}

// compareShape holds that an answer has every member of a recorded one, with a value of the same type.
func compareShape(t *testing.T, e recorded.Exchange, answer string) {
	t.Helper()
	got := shape(t, answer)
	for member, kind := range shape(t, e.Response.Body) {
		if got[member] != kind {
			t.Errorf("%s: %s is %q, recorded %q", e.Name, member, got[member], kind)
		}
	}
}

// shape maps the members of an envelope and of its results to their types.
func shape(t *testing.T, text string) map[string]string {
	t.Helper()
	kinds := map[string]string{}
	if text == "" {
		return kinds
	}
	var members map[string]any
	if err := json.Unmarshal([]byte(text), &members); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	for name, value := range members {
		kinds[name] = fmt.Sprintf("%T", value)
		results, _ := value.(map[string]any)
		for inner, value := range results {
			kinds[name+"."+inner] = fmt.Sprintf("%T", value)
		}
	}
	return kinds
}

// differs are recorded probes that we answer otherwise, with our status and the reason.
var differs = map[string]struct {
	status int
	why    string
}{
	"registrar-get-bad-id":          {400, "an id that no agent can have is said to be one"},
	"registrar-list-v3":             {200, "API 3.0 is served"},
	"078-registrar-register-v3":     {201, "API 3.0 is served"},
	"registrar-register-ip-999111":  {400, "an address with a mistake is refused"},
	"registrar-register-port-0":     {400, "ports are 1 to 65535"},
	"registrar-register-port-70000": {400, "ports are 1 to 65535"},
	"/v3/":                          {200, "the root of a version names it"},
	"/v3.0/":                        {200, "the root of a version names it"},
	"062-registrar-delete-cleanup":  {404, "what was refused is not there to delete"},
	"066-registrar-delete-cleanup":  {404, "what was refused is not there to delete"},
	"068-registrar-delete-cleanup":  {404, "what was refused is not there to delete"},
}

// TestRecordedProbes sends each recorded request to a registrar in the recorded state.
func TestRecordedProbes(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	probes := recorded.Glob(t, "wire/probe/0*-registrar-*.json")
	s.enrolRecorded(t, probes[0])
	withoutCert := s.tls.Clone()
	withoutCert.Certificates, withoutCert.ClientSessionCache = nil, nil
	admin, nobody := httpClient(t, s.tls), httpClient(t, withoutCert)
	for _, e := range probes {
		base, hc := s.plain, nobody
		if strings.HasPrefix(e.Request.URL, "https") {
			base = s.secure
		}
		if e.ClientCert {
			hc = admin
		}
		contentType := ""
		for _, h := range e.Request.Headers {
			if strings.EqualFold(h[0], "Content-Type") {
				contentType = h[1]
			}
		}
		want, known := e.Response.Status, false
		for name, d := range differs {
			if strings.Contains(e.Name, name) || e.Request.Path == name {
				want, known = d.status, true
			}
		}
		code, answer := send(t, hc, e.Request.Method, base+e.Request.Path, contentType, e.Request.Body)
		if code != want {
			t.Errorf("%s: %d %s, want %d", e.Name, code, answer, want)
			continue
		}
		if known || e.Request.Path == "/version" { // we list the versions that we serve
			continue
		}
		if strings.HasPrefix(e.Response.Body, `{"errors"`) {
			answer, e.Response.Body = strings.ReplaceAll(answer, " ", ""), strings.ReplaceAll(e.Response.Body, " ", "")
			if answer != e.Response.Body {
				t.Errorf("%s: %s, recorded %s", e.Name, answer, e.Response.Body)
			}
			continue
		}
		compareShape(t, e, answer)
		if code >= 400 && e.Response.Body != "" && !strings.HasPrefix(status(t, answer), status(t, e.Response.Body)) &&
			!strings.Contains(e.Name, "wrong-tag") {
			t.Errorf("%s: %s, recorded %s", e.Name, answer, e.Response.Body)
		}
	}
}

func status(t *testing.T, text string) string {
	t.Helper()
	var e api.Envelope
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return e.Status
}

// enrolRecorded registers the agent whose record the first probe was answered with.
func (s *site) enrolRecorded(t *testing.T, probe recorded.Exchange) {
	t.Helper()
	var rsp struct{ Results api.RegistrarAgent }
	if err := json.Unmarshal([]byte(probe.Response.Body), &rsp); err != nil {
		t.Fatal(err)
	}
	a := rsp.Results
	req := api.RegisterRequest{EKTPM: &a.EKTPM, AIKTPM: &a.AIKTPM, EKCert: a.EKCert, IP: a.IP, MTLSCert: a.MTLSCert, Port: json.RawMessage(fmt.Sprint(*a.Port))}
	if _, err := s.public.Register(t.Context(), "2.6", a.AgentID, req); err != nil {
		t.Fatal(err)
	}
	pending, err := s.db.Pending(t.Context(), a.AgentID)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.public.Activate(t.Context(), "2.6", a.AgentID, tagOf(pending.Challenge, a.AgentID)); err != nil {
		t.Fatal(err)
	}
}
