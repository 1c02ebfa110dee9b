package tenant

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// one is an attestation as verifiers show it.
func one(index int, evaluation, more string) string {
	return fmt.Sprintf(`{"type":"attestation","attributes":{"stage":"verification_complete","evaluation":%q,"evidence":[{"evidence_class":"log",
		"evidence_type":"ima_log","data":{"entries":"a long list\n"}}],"system_info":{"boot_time":"2026-11-23T20:00:00.000000+00:00"},
		"capabilities_received_at":"2026-11-23T21:49:0%d.5+00:00"%s},"links":{"self":"/3/agents/A/attestations/%d"}}`, evaluation, index, more, index)
}

// TestAttestationsAreRead from what verifiers make of them: pages, single ones, and with other statuses.
func TestAttestationsAreRead(t *testing.T) {
	t.Parallel()
	const path = "GET /v3.0/agents/" + defaultAgent + "/attestations"
	failed := one(1, "fail", `,"event_id":"ima.validation.ima-ng.not_in_allowlist"`)
	for _, c := range []struct {
		name    string
		options options
		answers map[string]http.HandlerFunc
		want    string // lines for people
		note    string
		wrong   string
	}{
		{name: "pages", answers: map[string]http.HandlerFunc{path: func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("page[before]") == "" {
				document(200, `{"data":[`+one(2, "pass", "")+`,`+failed+`],"links":{"self":"x","next":"/v3.0/agents/A/attestations?page[before]=1"}}`)(w, r)
				return
			}
			document(200, `{"data":[`+one(0, "pass", "")+`],"links":{"self":"x"}}`)(w, r)
		}}, want: "     2  2026-11-23T21:49:02Z  pass     \n     1  2026-11-23T21:49:01Z  fail     ima.validation.ima-ng.not_in_allowlist\n     0  2026-11-23T21:49:00Z  pass     \n"},
		{name: "none yet", answers: map[string]http.HandlerFunc{path: document(200, `{"data":[]}`)}, want: "agent " + defaultAgent + " has not attested yet\n"},
		{name: "a list of one that is none, with 201", answers: map[string]http.HandlerFunc{path: document(201, `{"data":`+failed+`}`)},
			want: "     1  2026-11-23T21:49:01Z  fail     ima.validation.ima-ng.not_in_allowlist\n"},
		{name: "no list, but the latest", answers: map[string]http.HandlerFunc{path: document(500, ""), path + "/latest": document(201, `{"data":`+failed+`}`)},
			want: "     1  2026-11-23T21:49:01Z  fail     ima.validation.ima-ng.not_in_allowlist\n", note: "--index NUMBER shows others"},
		{name: "neither", answers: map[string]http.HandlerFunc{path: document(500, "")}, wrong: "its log tells the cause"},
		{name: "by number", options: options{index: "1"}, answers: map[string]http.HandlerFunc{path + "/1": document(201, `{"data":`+failed+`}`)},
			want: "     1  2026-11-23T21:49:01Z  fail     ima.validation.ima-ng.not_in_allowlist\n"},
		{name: "unknown", options: options{latest: true}, wrong: "keeps no such attestation"},
		{name: "in a circle", answers: map[string]http.HandlerFunc{path: document(200, `{"data":[`+failed+`],"links":{"self":"x","next":"/x?page=1"}}`)},
			wrong: "attestation 1 is listed after 1"},
		{name: "another thing", answers: map[string]http.HandlerFunc{path: document(200, `{"data":{"type":"payload","attributes":{}}}`)}, wrong: `a resource of type "payload"`},
		{name: "nothing", answers: map[string]http.HandlerFunc{path: document(200, `{"meta":{}}`)}, wrong: "no data"},
		{name: "a member twice", answers: map[string]http.HandlerFunc{path: document(200, `{"data":[],"data":[]}`)}, wrong: "malformed"},
		{name: "both", options: options{index: "1", latest: true}, wrong: "cannot be specified at the same time"},
	} {
		s := newStage(t, "ecc256")
		for request, answer := range c.answers {
			s.verifier.on(request, answer)
		}
		c.options.agent = s.id
		var notes, out strings.Builder
		r, err := attestations(t.Context(), s.tenant(t, &notes, nil), &c.options)
		if (err != nil) != (c.wrong != "") || !strings.Contains(fmt.Sprint(err), c.wrong) {
			t.Errorf("%s: error %v", c.name, err)
			continue
		}
		if r != nil {
			write(&out, "table", false, time.Now(), r)
		}
		if out.String() != c.want || !strings.Contains(notes.String(), c.note) {
			t.Errorf("%s: got\n%snotes %q", c.name, out.String(), notes.String())
		}
	}
}

// TestWholeAttestationsAreShownAlone: what was delivered is in the JSON of one attestation, and not in a list's.
func TestWholeAttestationsAreShownAlone(t *testing.T) {
	t.Parallel()
	s := newStage(t, "ecc256")
	path := "GET /v3.0/agents/" + s.id + "/attestations"
	s.verifier.on(path, document(200, `{"data":[`+one(3, "pass", "")+`]}`))
	s.verifier.on(path+"/latest", document(200, `{"data":`+one(3, "pass", "")+`}`))
	for latest, want := range map[bool]bool{false: false, true: true} {
		r, err := attestations(t.Context(), s.tenant(t, io.Discard, nil), &options{agent: s.id, latest: latest})
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if err := write(&out, "json", false, time.Now(), r); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(out.String(), "a long list"); got != want || !strings.Contains(out.String(), `"index": 3`) {
			t.Errorf("latest %v: %s", latest, out.String())
		}
	}
}
