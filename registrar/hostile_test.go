package registrar

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"go.etcd.io/bbolt"

	"keylime/internal/api"
	"keylime/store/bolt"
)

// send sends a body as it is, and returns status and body of the answer.
func send(t testing.TB, hc *http.Client, method, target, contentType, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	rsp, err := hc.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer rsp.Body.Close()
	answer, err := io.ReadAll(rsp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return rsp.StatusCode, string(answer)
}

func jsonOf(t testing.TB, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// NT-10, NT-11
func TestInvalidIDsAreRefused(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	hc := httpClient(t, s.tls)
	body := jsonOf(t, newMachine(t, "x").request())
	for _, id := range []string{
		"a%0d%0aSUCCESS", "a%0aSUCCESS", "a%00", "a%1b%5b31m", "%e2%80%aegnip", "a%2fb", "%2e%2e", "%2E", "a%20b", "%c3%a9",
		"a%5cb", "a%27--", strings.Repeat("a", 81), strings.Repeat("a", 10_000),
	} {
		for _, method := range []string{"POST", "PUT", "GET", "DELETE"} {
			if code, answer := send(t, hc, method, s.secure+"/v2.6/agents/"+id, "application/json", body); code != 400 && code != 404 {
				t.Errorf("%s of %.30q = %d %s", method, id, code, answer)
			}
		}
	}
	for _, id := range []string{"", ".", "..", "a/b", "a\nb", "a\x1b[31m", "\u202egnip", strings.Repeat("a", 81)} {
		req := newMachine(t, "x").request()
		req.AgentID = &id
		if code, answer := send(t, hc, "POST", s.plain+"/v2.6/agents", "application/json", jsonOf(t, req)); code != 400 {
			t.Errorf("id %.30q in the body = %d %s", id, code, answer)
		}
	}
	if list, err := s.admin.Agents(t.Context(), "2.6"); err != nil || len(list.UUIDs) != 0 {
		t.Errorf("stored: %q, %v", list.UUIDs, err)
	}
	for _, c := range []byte(strings.ReplaceAll(s.log.String(), "\n", "")) {
		if c < 0x20 || c > 0x7e {
			t.Fatalf("the log has the byte %#x", c)
		}
	}
}

// NT-13
func TestContactAddresses(t *testing.T) {
	t.Parallel()
	for ip, ok := range map[string]bool{
		"192.0.2.1": true, "2001:db8::1": true, "127.0.0.1": true, "::1": true, "::ffff:192.0.2.1": true,
		"host.example": true, "host-1.example.": true, "a_b": true, "": true,
		"169.254.169.254": false, "::ffff:169.254.169.254": false, "fe80::1": false, "fe80::1%eth0": false, "2001:db8::1%eth0": false,
		"0.0.0.0": false, "::": false, "224.0.0.1": false, "ff02::1": false, "255.255.255.255": false,
		"host name": false, "host\n": false, "host/path": false, "user@host": false, "host:80": false, "[::1]": false,
		"999.1.1.1": false, "1.2.3": false, "127.1": false, "0x7f000001": true, "a..b": false, ".": false, "-a.example": false,
		strings.Repeat("a.", 130) + "b": false, strings.Repeat("a", 64): false,
	} {
		got, err := contactIP(ip)
		if (err == nil) != ok || ok && got != ip {
			t.Errorf("contactIP(%q) = %q, %v", ip, got, err)
		}
	}
	s := start(t, nil)
	m := newMachine(t, "agent")
	for _, port := range []string{"0", "-1", "65536", `"9002x"`, `"0"`, `" 9002"`, "9002.5", "9e3", `"+9002"`, "true", "[9002]", `{}`, `""`, "1e999", "99999999999999999999"} {
		req := m.request()
		req.Port = json.RawMessage(port)
		s.refused(t, m.id, req, 400)
	}
	for port, want := range map[string]int{"1": 1, "65535": 65535, `"9002"`: 9002, "null": 0} {
		m := newMachine(t, fmt.Sprintf("port-%d", want))
		req := m.request()
		req.Port, req.IP = json.RawMessage(port), nil
		s.register(t, m, req)
		a := s.record(t, m.id)
		if a.IP != nil || (a.Port == nil) != (want == 0) || a.Port != nil && *a.Port != want {
			t.Errorf("port %s is recorded as %v, ip %v", port, a.Port, a.IP)
		}
	}
	req := m.request()
	req.IP = text("169.254.169.254")
	s.refused(t, m.id, req, 400)
}

// NT-41
func TestBodiesThatAreNoRegistration(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	hc := httpClient(t, nil)
	m := newMachine(t, "agent")
	good := jsonOf(t, m.request())
	const js = "application/json"
	tests := []struct {
		name, contentType, body string
		code                    int
		empty                   bool // the answer has no body
	}{
		{"nothing", js, "", 400, false},
		{"no JSON", js, "{not json", 400, true},
		{"array", js, "[]", 400, false},
		{"null", js, "null", 400, false},
		{"no fields", js, "{}", 400, false},
		{"not declared to be JSON", "", good, 400, false},
		{"form", "application/x-www-form-urlencoded", good, 400, false},
		{"name twice", js, good[:len(good)-1] + `,"ip":"192.0.2.1"}`, 400, true},
		{"name in another case", js, good[:len(good)-1] + `,"AIK_TPM":""}`, 400, true},
		{"lone surrogate", js, good[:len(good)-1] + `,"x":"\ud800"}`, 400, true},
		{"garbage after it", js, good + "x", 400, true},
		{"nested 100,000 deep", js, `{"x":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + "}", 400, true},
		{"number for a text", js, `{"aik_tpm":1e999}`, 400, false},
		{"object for a text", js, `{"aik_tpm":{}}`, 400, false},
		{"one byte too many", js, `{"x":"` + strings.Repeat("x", maxRequest) + `"}`, 413, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			code, answer := send(t, hc, "POST", s.plain+"/v2.6/agents/"+m.id, tt.contentType, tt.body)
			if code != tt.code || (answer == "") != tt.empty {
				t.Errorf("%d %s", code, answer)
			}
		})
	}
	for body, want := range map[string]int{`{}`: 400, `{"auth_tag":null}`: 400, `{"auth_tag":5}`: 400, `{"auth_tag":"00","auth_tag":"00"}`: 400, `["00"]`: 400,
		`{"auth_tag":"` + strings.Repeat("0", maxTag) + `"}`: 413} {
		if code, answer := send(t, hc, "PUT", s.plain+"/v2.6/agents/"+m.id, js, body); code != want {
			t.Errorf("PUT %.40s = %d %s", body, code, answer)
		}
	}
	for _, ct := range []string{"application/json; charset=utf-8", "application/vnd.x+json", "APPLICATION/JSON"} {
		if code, answer := send(t, hc, "POST", s.plain+"/v2.6/agents/"+m.id, ct, good); code != 200 {
			t.Errorf("%s = %d %s", ct, code, answer)
		}
	}
}

// NT-40
func TestCompressedBodiesAreRefused(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	req, err := http.NewRequest("POST", s.plain+"/v2.6/agents/agent", strings.NewReader("\x1f\x8b\x08"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Content-Encoding", "gzip")
	rsp, err := httpClient(t, nil).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	rsp.Body.Close()
	if rsp.StatusCode != 415 {
		t.Errorf("status %d", rsp.StatusCode)
	}
}

// NT-52, NT-57
func TestAdministrationNeedsACertificate(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	m := newMachine(t, "agent")
	s.register(t, m, m.request())
	settings := s.tls.Clone()
	settings.Certificates, settings.ClientSessionCache = nil, nil
	nobody, admin := httpClient(t, settings), httpClient(t, s.tls)
	for _, path := range []string{"/v2.6/agents", "/v2.6/agents/", "/v2/agents/agent", "/v2.0/agents/agent/", "/v3/agents", "/v3.0/agents/agent"} {
		for method, code := range map[string]int{"GET": 403, "DELETE": 403, "HEAD": 405, "OPTIONS": 405, "TRACE": 405, "PATCH": 405} {
			if method == "DELETE" && !strings.Contains(path, "agent/") && !strings.HasSuffix(path, "/agent") {
				code = 405
			}
			got, answer := send(t, nobody, method, s.secure+path, "", "")
			if got != code || strings.Contains(answer, "ek_tpm") || strings.Contains(answer, "uuids") {
				t.Errorf("%s %s = %d %s, want %d", method, path, got, answer, code)
			}
			if code == 403 {
				code = 400 // plain HTTP
			}
			if got, answer := send(t, nobody, method, s.plain+path, "", ""); got != code || answer != "" {
				t.Errorf("plain %s %s = %d %s, want %d", method, path, got, answer, code)
			}
		}
	}
	for _, path := range []string{"//v2.6/agents/", "/v2.6/agents/../agents/agent", "/v2.6/%2e%2e/v2.6/agents", "/V2.6/agents", "/v2.6/agents/%61gent", "/version/../v2.6/agents"} {
		for _, method := range []string{"GET", "DELETE"} {
			req, err := http.NewRequest(method, s.plain+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			rsp, err := nobody.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			rsp.Body.Close()
			if rsp.StatusCode < 400 || rsp.StatusCode > 405 {
				t.Errorf("%s %s = %d", method, path, rsp.StatusCode)
			}
		}
	}
	if code, answer := send(t, admin, "GET", s.secure+"/v2.6/agents/%61gent", "", ""); code != 200 {
		t.Errorf("another spelling of the canonical path = %d %s", code, answer)
	}
	s.record(t, m.id)
}

// NT-55
func TestReadOnlyCertificateChangesNothing(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	m := newMachine(t, "agent")
	s.register(t, m, m.request())
	dir, err := workplace()
	if err != nil {
		t.Fatal(err)
	}
	viewer := api.NewRegistrar(s.secure, httpClient(t, operator(t, dir, "viewer")))
	if _, err := viewer.Agent(t.Context(), "2.6", m.id); err != nil {
		t.Errorf("look: %v", err)
	}
	if err := viewer.Delete(t.Context(), "2.6", m.id); !api.IsStatus(err, 403) {
		t.Errorf("delete: %v", err)
	}
	s.record(t, m.id)
}

// NT-14
func TestDamagedRecordsDoNotStopOthers(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registrar.db")
	db, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := configuration(t, t.TempDir())
	good, bad := newMachine(t, "good"), newMachine(t, "bad")
	open := func() (*Registrar, http.Handler) {
		r, err := New(cfg, db, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		return r, r.Handler()
	}
	_, h := open()
	for _, m := range []*machine{good, bad} {
		if code, _ := registerAt(t, h, m); code != 200 {
			t.Fatalf("register %s = %d", m.id, code)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	damage(t, path, "registration", "bad", []byte("\xff\xfe{\"ID\": 5"))
	if db, err = bolt.Open(path, bolt.Options{}); err != nil {
		t.Fatalf("a damaged record stops the start: %v", err)
	}
	t.Cleanup(func() { _ = db.Close() })
	r, h := open()
	if _, err := r.store.Registered(t.Context(), good.id); err != nil {
		t.Errorf("the good one: %v", err)
	}
	if code, answer := registerAt(t, h, bad); code != 500 || !strings.Contains(answer, "damaged") {
		t.Errorf("the damaged one registers with %d %s", code, answer)
	}
	if err := r.store.Deregister(t.Context(), bad.id); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*machine{good, bad} {
		if code, answer := registerAt(t, h, m); code != 200 {
			t.Errorf("register %s = %d %s", m.id, code, answer)
		}
	}
}

// registerAt registers and activates at a handler, without a network.
func registerAt(t testing.TB, h http.Handler, m *machine) (int, string) {
	t.Helper()
	do := func(method string, body any) *httptest.ResponseRecorder {
		req := httptest.NewRequest(method, "/v2.6/agents/"+m.id, strings.NewReader(jsonOf(t, body)))
		req.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		return w
	}
	w := do("POST", m.request())
	if w.Code != 200 {
		return w.Code, w.Body.String()
	}
	var res struct{ Results api.RegisterResults }
	if err := json.Unmarshal(w.Body.Bytes(), &res); err != nil {
		t.Fatal(err)
	}
	w = do("PUT", api.ActivateRequest{AuthTag: m.tag(t, res.Results.Blob)})
	return w.Code, w.Body.String()
}

// damage overwrites a row of a closed store.
func damage(t testing.TB, path, bucket, key string, row []byte) {
	t.Helper()
	file, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = file.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		if b == nil || b.Get([]byte(key)) == nil {
			return fmt.Errorf("no row %q in %q", key, bucket)
		}
		return b.Put([]byte(key), row)
	})
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// NT-95
func TestClosedStoreIsNotAnAnswerAboutAgents(t *testing.T) {
	t.Parallel()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "registrar.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := configuration(t, t.TempDir())
	r, err := New(cfg, db, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if code, answer := registerAt(t, r.Handler(), newMachine(t, "agent")); code != 503 {
		t.Errorf("register = %d %s, want 503: come back later", code, answer)
	}
}

// NT-46: no body makes the registrar answer with anything but a success or a refusal.
func FuzzRegister(f *testing.F) {
	db, err := bolt.Open(filepath.Join(f.TempDir(), "registrar.db"), bolt.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = db.Close() })
	cfg := configuration(f, f.TempDir())
	r, err := New(cfg, db, zerolog.Nop())
	if err != nil {
		f.Fatal(err)
	}
	h := r.Handler()
	m := newMachine(f, "agent")
	full := m.request()
	full.IAKTPM, full.IDevIDTPM, full.IAKCert, full.IDevIDCert, full.IAKAttest, full.IAKSign =
		b64(m.AKPublic()), b64(m.AKPublic()), text("MAA="), text("MAA="), text("/1RDRw=="), text("AAAA")
	for _, seed := range []string{
		jsonOf(f, m.request()), jsonOf(f, full), `{}`, `null`, `[]`, `{"aik_tpm":null,"port":"1"}`, `{"ekcert":"-----BEGIN CERTIFICATE-----"}`,
		`{"ek_tpm":"0x00","aik_tpm":"AAAA","ip":"::","port":1e5,"mtls_cert":"DISABLED"}`,
	} {
		f.Add("POST", []byte(seed))
	}
	f.Add("PUT", []byte(`{"auth_tag":"00"}`))
	f.Fuzz(func(t *testing.T, method string, body []byte) {
		if method != "PUT" {
			method = "POST"
		}
		req := httptest.NewRequest(method, "/v2.6/agents/agent", bytes.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		switch w.Code {
		case 200, 400, 403, 404, 413, 429:
		default:
			t.Fatalf("%s %q = %d %s", method, body, w.Code, w.Body)
		}
	})
}
