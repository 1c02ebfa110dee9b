package api_test

import (
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"keylime/internal/api"
	"keylime/internal/recorded"
)

// sameJSON reports whether two texts have the same content.
func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y any
	if err := json.Unmarshal(a, &x); err != nil {
		t.Fatalf("%.80q: %v", a, err)
	}
	if err := json.Unmarshal(b, &y); err != nil {
		t.Fatalf("%.80q: %v", b, err)
	}
	return reflect.DeepEqual(x, y)
}

// Recorded messages of other implementations lose nothing on the way through our types.
func TestRecordedMessagesRoundTrip(t *testing.T) {
	t.Parallel()
	compared := map[string]int{}
	for _, life := range []string{"pull", "cert", "ecc", "mb"} {
		for _, e := range recorded.Glob(t, "wire/"+life+"/*.json") {
			roundTrip(t, e.Name, requestTypeOf(e), []byte(e.Request.Body), compared)
			var env api.Envelope
			if e.Response.Status == 200 && json.Unmarshal([]byte(e.Response.Body), &env) == nil {
				roundTrip(t, e.Name, resultTypeOf(e, env.Results), env.Results, compared)
			}
		}
	}
	for _, kind := range []string{
		"*api.RegisterRequest", "*api.RegisterResults", "*api.ActivateRequest", "*api.RegistrarAgent", "*api.RegistrarAgents", "*api.Version",
		"*api.EnrolRequest", "*api.VerifierAgent", "*api.VerifierAgents", "*api.UKey", "*api.VKey", "*api.Notification",
		"*api.QuoteResults", "*api.KeyVerify", "*api.AgentVersion",
	} {
		if compared[kind] == 0 {
			t.Errorf("no recorded message is a %s: %v", kind, compared)
		}
	}
}

func roundTrip(t *testing.T, name string, into any, text []byte, compared map[string]int) {
	t.Helper()
	if into == nil || len(text) == 0 {
		return
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	again, err := json.Marshal(into)
	if err != nil {
		t.Fatal(err)
	}
	compared[reflect.TypeOf(into).String()]++
	if !sameJSON(t, text, again) {
		t.Errorf("%s as %T:\n%s\ncame out as\n%s", name, into, text, again)
	}
}

// requestTypeOf and resultTypeOf are what a recorded exchange carries; nil = nothing of the API.
func requestTypeOf(e recorded.Exchange) any {
	path, body := e.Request.Path, e.Request.Body
	switch e.Request.Method {
	case http.MethodPut:
		if body != "" {
			return new(api.ActivateRequest)
		}
	case http.MethodPost:
		switch {
		case strings.HasSuffix(path, "/keys/ukey"):
			return new(api.UKey)
		case strings.HasSuffix(path, "/keys/vkey"):
			return new(api.VKey)
		case strings.HasSuffix(path, "/notifications/revocation"), path == "/revoked":
			return new(api.Notification)
		case strings.Contains(body, `"cloudagent_ip"`):
			return new(api.EnrolRequest)
		case strings.Contains(body, `"aik_tpm"`):
			return new(api.RegisterRequest)
		}
	}
	return nil
}

func resultTypeOf(e recorded.Exchange, results []byte) any {
	if strings.Contains(e.Request.Path, "bulk=") {
		return new(map[string]api.VerifierAgent)
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(results, &members) != nil {
		return nil
	}
	for member, into := range map[string]any{
		"quote": new(api.QuoteResults), "hmac": new(api.KeyVerify), "current_version": new(api.Version),
		"supported_version": new(api.AgentVersion), "regcount": new(api.RegistrarAgent), "blob": new(api.RegisterResults),
		"operational_state": new(api.VerifierAgent),
	} {
		if _, ok := members[member]; ok {
			return into
		}
	}
	switch list := string(members["uuids"]); {
	case strings.Contains(list, "[["):
		return new(api.VerifierAgents)
	case list != "":
		return new(api.RegistrarAgents)
	}
	return nil
}

// The clients' requests are, byte for byte, those of the recorded verifier, and they take the recorded agents' answers.
func TestRecordedAgentsAnswerOurClients(t *testing.T) {
	t.Parallel()
	for _, life := range []string{"pull", "cert", "ecc", "mb"} {
		for _, e := range recorded.Glob(t, "wire/"+life+"/*-verifier-*_quotes_integrity.json") {
			s := serving(t, func(w http.ResponseWriter, r *http.Request) {
				if r.RequestURI != e.Request.Path {
					t.Errorf("%s: asked for %s, recorded %s", e.Name, r.RequestURI, e.Request.Path)
				}
				w.WriteHeader(e.Response.Status)
				_, _ = io.WriteString(w, e.Response.Body)
			})
			_, query, _ := strings.Cut(e.Request.Path, "?")
			var r api.IntegrityRequest
			for _, pair := range strings.Split(query, "&") {
				name, value, _ := strings.Cut(pair, "=")
				switch name {
				case "nonce":
					r.Nonce = value
				case "mask":
					r.Mask = value
				case "partial":
					r.Partial = value == "1"
				case "ima_ml_entry":
					if err := json.Unmarshal([]byte(value), &r.Entry); err != nil {
						t.Fatal(err)
					}
				}
			}
			got, err := api.NewAgent(s.URL, s.Client()).IntegrityQuote(t.Context(), "2.6", r)
			if err != nil {
				t.Fatalf("%s: %v", e.Name, err)
			}
			var want struct{ Results api.QuoteResults }
			if err := json.Unmarshal([]byte(e.Response.Body), &want); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want.Results) {
				t.Errorf("%s: decoded %+v, want %+v", e.Name, got, want.Results)
			}
		}
	}
}
