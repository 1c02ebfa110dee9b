package verifier

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"keylime/internal/api"
	"keylime/internal/recorded"
)

// differs says where our answer to a recorded request is another on purpose: the status, and why.
var differs = map[string]struct {
	status int // 0 = not sent
	why    string
}{
	"083": {307, "the root leads to API 3.0, which answers"},
	"086": {200, "the root of a version names it"},
	"087": {200, "the root of a version names it"},
	"088": {200, "the root of a version names it"},
	"089": {200, "the root of a version names it"},
	"106": {400, "an exclude pattern that is none is refused at upload"},
	"107": {400, "so is a tpm_policy that is none"},
	"108": {404, "so the agent was not added"},
	"112": {201, "nor was its policy"},
	"120": {200, "policies of API 3.0 are served"},
	"121": {200, "policies of API 3.0 are served"},
	"135": {200, "agents are served in API 3.0, too"},
}

// otherText are the requests whose answer says the same in other words.
var otherText = map[string]string{
	"084": "versions served", "085": "versions served", "093": "versions served",
	"099": "what is wrong with the JSON", "104": "what is wrong with the JSON",
}

// TestProbes sends what a client with a taste for the unusual sent to the Python verifier, and compares the answers.
func TestProbes(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, fastConfig(t), openStore(t))
	v.mode = api.ModePull // as the recorded one
	base, admin := v.serve(t)
	anybody := clientWith(t)
	files, err := filepath.Glob(filepath.Join(recorded.Dir(t), "wire", "probe", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		number := filepath.Base(f)[:3]
		if number < "083" || number > "151" {
			continue // the registrar's, and the agent's
		}
		e := recorded.Read(t, "wire/probe/"+filepath.Base(f))
		client := admin
		if !e.ClientCert {
			client = anybody
		}
		d, ok := differs[number]
		switch {
		case ok:
			if status := send(t, base, client, e); status != d.status {
				t.Errorf("%s: answered %d, want %d: %s", e.Name, status, d.status, d.why)
			}
		case otherText[number] != "":
			if status := send(t, base, client, e); status != e.Response.Status {
				t.Errorf("%s: answered %d, recorded %d", e.Name, status, e.Response.Status)
			}
		default:
			replay(t, base, client, e, nil)
		}
	}
}

// send sends a recorded request and returns the status of the answer.
func send(t *testing.T, base string, client *http.Client, e recorded.Exchange) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), e.Request.Method, base+e.Request.Path, strings.NewReader(e.Request.Body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}
