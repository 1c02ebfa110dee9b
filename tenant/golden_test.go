package tenant

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keylime/internal/recorded"
)

// life is a recorded life of an agent between upstream's roles, played again: registrar and verifier give the
// recorded answers, the agent is the stage's own (its quotes must be fresh).
type life struct {
	*stage
	name string
}

func replay(t *testing.T, name string) *life {
	t.Helper()
	recorded.Dir(t)
	alg := "rsa2048"
	if name == "ecc" {
		alg = "ecc256"
	}
	l := &life{newStage(t, alg), name}
	answers := func(s *scripted, request, file string) { l.answers(t, s, request, file) }
	answers(l.registrar, "GET /version", "003-tenant-GET-version.json")
	answers(l.verifier, "GET /version", "003-tenant-GET-version.json")
	answers(l.agent, "GET /version", "005-tenant-GET-version.json")
	answers(l.verifier, "POST /v2.6/agents/"+l.id, "008-tenant-POST-v2.6_agents_ID.json")
	answers(l.verifier, "GET /v2.6/agents/"+l.id, "009-tenant-GET-v2.6_agents_ID.json")
	answers(l.verifier, "GET /v2.6/agents", "018-tenant-GET-v2.6_agents.json")
	answers(l.registrar, "GET /v2.6/agents", "019-tenant-GET-v2.6_agents.json")
	answers(l.verifier, "DELETE /v2.6/agents/"+l.id, "025-tenant-DELETE-v2.6_agents_ID.json")
	answers(l.verifier, "DELETE /v2.6/allowlists/demo-policy", "026-tenant-DELETE-v2.6_allowlists_demo_policy.json")
	answers(l.registrar, "DELETE /v2.6/agents/"+l.id, "027-tenant-DELETE-v2.6_agents_ID.json")
	return l
}

// answers has a server give a recorded answer.
func (l *life) answers(t *testing.T, s *scripted, request, file string) {
	t.Helper()
	e := recorded.Read(t, "wire/"+l.name+"/"+file)
	s.on(request, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(e.Response.Status)
		io.WriteString(w, l.here(e.Response.Body))
	})
}

// here puts the stage's ports in the place of the recorded ones.
func (l *life) here(text string) string {
	return strings.NewReplacer("18881", strconv.Itoa(l.verifier.port()), "18891", strconv.Itoa(l.registrar.port()), "18882", strconv.Itoa(l.agent.port())).Replace(text)
}

// run carries out a command line of keylime_tenant.
func (l *life) run(t *testing.T, line string) (string, error) {
	t.Helper()
	command, o, err := parseUpstream(strings.Fields(line))
	if err != nil {
		t.Fatal(err)
	}
	c, err := upstreamCommand(command)
	if err != nil {
		t.Fatal(err)
	}
	set := map[string]string{"ACCEPT_TPM_SIGNING_ALGS": "['ecschnorr', 'rsassa']"} // as that tenant was configured
	if l.name == "ecc" {
		set["ACCEPT_TPM_SIGNING_ALGS"] = "['ecschnorr', 'rsassa', 'ecdsa']"
	}
	tn := l.tenant(t, io.Discard, set)
	r, err := c.run(t.Context(), tn, &o)
	var out strings.Builder
	if r != nil {
		if werr := write(&out, "upstream", false, tn.now(), r); werr != nil {
			t.Fatal(werr)
		}
	}
	return out.String(), err
}

// TestRequestsAreUpstreams holds that each request of `add` has the method, path, query and body of the one that
// Keylime's tenant sent for the same command line.
func TestRequestsAreUpstreams(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"pull", "cert", "ecc"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := replay(t, name)
			policyFile := writeFile(t, "policy.json", string(recorded.File(t, "wire/"+name+"/state/policy.json")))
			line := fmt.Sprintf("-c add -u %s -t 127.0.0.1 -tp %d -v 127.0.0.1 --runtime-policy %s --runtime-policy-name demo-policy --verify",
				l.id, l.agent.port(), policyFile)
			if name == "cert" {
				line += " --cert " + t.TempDir() + "/ca"
			} else {
				line += " -f " + writeFile(t, "secret.txt", "the secret payload\n")
			}
			l.verifier.on("POST /v2.6/agents/"+l.id, func(w http.ResponseWriter, r *http.Request) { l.enrol(w, r) })
			if _, err := l.run(t, line); err != nil {
				t.Fatal(err)
			}
			l.compare(t, l.registrar, "004-tenant-GET-v2.6_agents_ID.json")
			l.compare(t, l.agent, "005-tenant-GET-version.json")
			l.compare(t, l.agent, "006-tenant-GET-v2.6_quotes_identity.json")
			l.compare(t, l.agent, "007-tenant-POST-v2.6_keys_ukey.json")
			l.compare(t, l.verifier, "008-tenant-POST-v2.6_agents_ID.json")
			l.compare(t, l.verifier, "009-tenant-GET-v2.6_agents_ID.json")
			l.compare(t, l.agent, "014-tenant-GET-v2.6_keys_verify.json")
		})
	}
}

// fresh are the members of bodies that differ from run to run; all others must be equal.
var fresh = map[string]bool{
	"encrypted_key": true, "auth_tag": true, "payload": true, "v": true, "ak_tpm": true, "mtls_cert": true, "revocation_key": true,
}

// compare finds the request that is the recorded one's like, and compares the two.
func (l *life) compare(t *testing.T, s *scripted, file string) {
	t.Helper()
	want := recorded.Read(t, "wire/"+l.name+"/"+file).Request
	wantURL, err := url.Parse(want.Path)
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range s.seen {
		u, err := url.Parse(got.path)
		if err != nil {
			t.Fatal(err)
		}
		if got.method != want.Method || u.Path != wantURL.Path {
			continue
		}
		var gotKeys, wantKeys []string
		for key, value := range u.Query() {
			gotKeys = append(gotKeys, key)
			if !regexp.MustCompile(`^[A-Za-z0-9]{16,64}$`).MatchString(value[0]) {
				t.Errorf("%s: %s=%s is not what agents accept", file, key, value[0])
			}
		}
		for key := range wantURL.Query() {
			wantKeys = append(wantKeys, key)
		}
		if diff := cmp.Diff(wantKeys, gotKeys); diff != "" {
			t.Errorf("%s: query (-want +got)\n%s", file, diff)
		}
		if got.header.Get("Authorization") != "" {
			t.Errorf("%s: sent with Authorization", file)
		}
		l.compareBodies(t, file, want.JSON, got.body)
		return
	}
	t.Errorf("%s: no request like it among %v", file, s.asked())
}

func (l *life) compareBodies(t *testing.T, file string, want, got []byte) {
	t.Helper()
	if len(want) == 0 || string(want) == "null" {
		if len(got) != 0 {
			t.Errorf("%s: sent with a body: %s", file, got)
		}
		return
	}
	var w, g map[string]any
	if err := json.Unmarshal([]byte(l.here(string(want))), &w); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(got, &g); err != nil {
		t.Fatal(err)
	}
	for key, value := range w {
		mine, ok := g[key]
		switch {
		case !ok:
			t.Errorf("%s: lacks %s", file, key)
		case reflect.TypeOf(mine) != reflect.TypeOf(value):
			t.Errorf("%s: %s is a %T, want a %T", file, key, mine, value)
		case !fresh[key] && !reflect.DeepEqual(mine, value):
			t.Errorf("%s: %s is %.300v, want %.300v", file, key, mine, value)
		case fresh[key] && key != "payload" && len(fmt.Sprint(mine)) == 0 != (len(fmt.Sprint(value)) == 0):
			t.Errorf("%s: %s is %.300v, want %.300v", file, key, mine, value)
		}
	}
	for key := range g {
		if _, ok := w[key]; !ok && key != "attestation_mode" { // which upstream's verifier has from its configuration
			t.Errorf("%s: has %s, which upstream does not send", file, key)
		}
	}
}

// TestLinesAreUpstreams holds that each command prints the lines that keylime_tenant printed when it got the same
// answers. The key share is not shown.
func TestLinesAreUpstreams(t *testing.T) {
	t.Parallel()
	l := replay(t, "pull")
	record := recorded.Read(t, "wire/pull/004-tenant-GET-v2.6_agents_ID.json").Response.Body
	l.registrar.on("GET /v2.6/agents/"+l.id, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, l.here(record)) })
	for _, c := range []struct{ line, log, status string }{
		{"-c regstatus -u " + l.id, "tenant-regstatus.log", ""},
		{"-c cvstatus -u " + l.id, "tenant-cvstatus.log", "017"},
		{"-c cvstatus -u " + l.id, "tenant-cvstatus-failed.log", "024"},
		{"-c cvlist", "tenant-cvlist.log", ""},
		{"-c reglist", "tenant-reglist.log", ""},
		{"-c deleteruntimepolicy --runtime-policy-name demo-policy", "tenant-delpol.log", ""},
		{"-c delete -u " + l.id, "tenant-delete.log", "024"},
		{"-c regdelete -u " + l.id, "tenant-regdelete.log", ""},
	} {
		if c.status != "" {
			body := recorded.Read(t, "wire/pull/"+c.status+"-tenant-GET-v2.6_agents_ID.json").Response.Body
			l.verifier.on("GET /v2.6/agents/"+l.id, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, l.here(body)) })
			if c.log == "tenant-cvstatus.log" { // the log is of a round later
				body = strings.ReplaceAll(strings.ReplaceAll(body, `"attestation_count": 5`, `"attestation_count": 6`), "1795470480", "1795470482")
			}
		}
		got, err := l.run(t, c.line)
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		want := resultLines(l.here(string(recorded.File(t, "wire/pull/state/"+c.log))))
		if diff := cmp.Diff(want, resultLines(got)); diff != "" {
			t.Errorf("%s: (-keylime_tenant +ours)\n%s", c.line, diff)
		}
	}
}

var (
	logPrefix = regexp.MustCompile(`^[0-9-]{10} [0-9:]{8}\.[0-9]{3} - `)
	keyShare  = regexp.MustCompile(`"v": "[^"]*"`)
	// startUp are lines about how keylime_tenant starts, and its dependencies' warnings.
	startUp = regexp.MustCompile(`^(INFO:|SITE/|  warnings)|keylime\.config|configuration upgrade templates|client TLS|option for tenant|TLS is enabled|Using default UUID|Using API version`)
)

// resultLines are the lines of an output, without times and what is said at every start.
func resultLines(output string) []string {
	var lines []string
	for _, line := range strings.Split(output, "\n") {
		if line == "" || startUp.MatchString(line) {
			continue
		}
		lines = append(lines, keyShare.ReplaceAllString(logPrefix.ReplaceAllString(line, ""), `"v": null`))
	}
	return lines
}

// TestBulkInfoIsUpstreams: the log of bulkinfo has the answer in it.
func TestBulkInfoIsUpstreams(t *testing.T) {
	t.Parallel()
	l := replay(t, "pull")
	want := resultLines(l.here(string(recorded.File(t, "wire/pull/state/tenant-bulkinfo.log"))))
	answer := strings.Replace(want[len(want)-1], `"Get Quote"`, "3", 1)
	l.verifier.on("GET /v2.6/agents", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "bulk=True&verifier=" {
			t.Errorf("query %q", r.URL.RawQuery)
		}
		fmt.Fprintf(w, `{"code": 200, "status": "Success", "results": %s}`, answer)
	})
	got, err := l.run(t, "-c bulkinfo")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, resultLines(got)); diff != "" {
		t.Errorf("(-keylime_tenant +ours)\n%s", diff)
	}
}
