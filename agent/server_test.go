package agent

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strings"
	"testing"

	"keylime/internal/recorded"
	"keylime/internal/web"
	"keylime/tpm"
)

// The agent answers each recorded probe as it was answered then: status, texts, and the shape of results.
func TestProbesAreAnsweredAsRecorded(t *testing.T) {
	t.Parallel()
	probes := recorded.Glob(t, "wire/probe/*-agent-*.json")
	m := newRSAMachine(t)
	writeList(t, m.cfg.IMAMLPath, 23)
	writeFile(t, m.cfg.MeasuredBootMLPath, "", 0o600)
	if err := os.Remove(m.cfg.MeasuredBootMLPath); err != nil {
		t.Fatal(err)
	}
	r := m.start()
	asked := 0
	for _, probe := range probes {
		if !probe.ClientCert {
			continue // the handshake failed; see TestClientsWithoutTheRightCertificateAreRefused
		}
		asked++
		r.compare(probe)
	}
	if asked < 25 {
		t.Errorf("only %d probes", asked)
	}
}

// shape names the members of a JSON value and their types; short strings of the wire's vocabulary stay.
func shape(t *testing.T, text []byte) string {
	t.Helper()
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	var describe func(any) string
	describe = func(value any) string {
		switch v := value.(type) {
		case map[string]any:
			var members []string
			for name, member := range v {
				what := describe(member)
				if text, ok := member.(string); ok && strings.HasSuffix(name, "_alg") {
					what = text
				}
				members = append(members, name+":"+what)
			}
			sort.Strings(members)
			return "{" + strings.Join(members, " ") + "}"
		case nil:
			return "null"
		}
		return fmt.Sprintf("%T", value)
	}
	return describe(value)
}

// writeList makes an IMA list of some lines.
func writeList(t testing.TB, name string, lines int) {
	t.Helper()
	var text bytes.Buffer
	for i := range lines {
		fmt.Fprintf(&text, "10 %040x ima-ng sha256:%064x /usr/lib/good/file%05d.so\n", i, i, i)
	}
	writeFile(t, name, text.String(), 0o600)
}

// Requests recorded from verifier and tenant get answers of the recorded shape.
func TestRecordedRequestsGetTheRecordedShape(t *testing.T) {
	t.Parallel()
	for keys, folders := range map[string][]string{"rsa": {"pull", "cert"}, "ecc": {"ecc"}} {
		t.Run(keys, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			if keys == "rsa" {
				m = newRSAMachine(t)
			}
			writeList(t, m.cfg.IMAMLPath, 23)
			r := m.start()
			asked := 0
			for _, folder := range folders {
				for _, pattern := range []string{"005-tenant-GET-version", "*_quotes_*", "*_notifications_revocation"} {
					for _, e := range recorded.Glob(t, "wire/"+folder+"/"+pattern+".json") {
						asked++
						r.compare(e)
					}
				}
			}
			if asked < 8*len(folders) {
				t.Errorf("only %d requests", asked)
			}
		})
	}
}

// compare sends a recorded request: a refusal must be the recorded one to the letter, an answer have its shape.
func (r *running) compare(e recorded.Exchange) {
	r.t.Helper()
	contentType := ""
	for _, header := range e.Request.Headers {
		if header[0] == "Content-Type" {
			contentType = header[1]
		}
	}
	status, text := r.do(e.Request.Method, e.Request.Path, contentType, e.Request.Body)
	got, want := text, e.Response.Body
	if status == 200 {
		got, want = shape(r.t, []byte(text)), shape(r.t, []byte(e.Response.Body))
	}
	if status != e.Response.Status || got != want {
		r.t.Errorf("%s: %s answered %d\n%s, want %d\n%s", e.Name, e.Request.Path, status, got, e.Response.Status, want)
	}
}

// The registration has the members and types of a recorded one.
func TestRegistrationHasTheRecordedShape(t *testing.T) {
	t.Parallel()
	m := newRSAMachine(t)
	r := m.start()
	want := recorded.Read(t, "wire/pull/001-to-registrar-POST-v2.6_agents_ID.json")
	if got, want := shape(t, m.registrar.bodies[0]), shape(t, want.Request.JSON); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var request, recordedBody struct {
		EKCert string `json:"ekcert"`
		AK     string `json:"aik_tpm"`
		EK     string `json:"ek_tpm"`
	}
	if err := json.Unmarshal(m.registrar.bodies[0], &request); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(want.Request.JSON, &recordedBody); err != nil {
		t.Fatal(err)
	}
	// Up to the modulus, keys of the same kind have the same public area.
	if request.AK[:32] != recordedBody.AK[:32] || request.EK[:80] != recordedBody.EK[:80] {
		t.Errorf("templates differ:\n%s\n%s\n%s\n%s", request.AK[:40], recordedBody.AK[:40], request.EK[:100], recordedBody.EK[:100])
	}
	if !strings.HasPrefix(request.EKCert, "-----BEGIN CERTIFICATE-----\n") {
		t.Errorf("ekcert is %.60q", request.EKCert)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
}

// What recorded probes do not hold. NT-41, NT-57, NT-60, NT-66 and the boundaries of each parameter.
func TestRefusals(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	r := m.start()
	long := strings.Repeat("a", maxNonce+1)
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/v2.6/quotes/identity?nonce=" + long[1:], "", 200, "quote"},
		{"GET", "/v2.6/quotes/identity?nonce=" + long, "", 400, "Nonce is too long (max size 64): " + long},
		{"GET", "/v2.6/quotes/identity?nonce=", "", 400, "strictly alphanumeric"},
		{"GET", "/v2.6/quotes/identity?nonce=%C3%BC", "", 400, "strictly alphanumeric"},
		{"GET", "/v2.6/quotes/identity?nonce=%ff", "", 400, "strictly alphanumeric"},
		{"GET", "/v2.6/quotes/identity?nonce=a&nonce=b", "", 400, "duplicate field `nonce`"},
		{"GET", "/v2.6/quotes/identity?nonce=a;b", "", 400, "malformed"},
		{"GET", "/v2.6/quotes/identity?nonce=%zz", "", 400, "malformed"},
		{"GET", "/v2.6/quotes/integrity?nonce=a&mask=0x&partial=1", "", 400, "hex encoded 32-bit integer: 0x"},
		{"GET", "/v2.6/quotes/integrity?nonce=a&mask=zz&partial=1", "", 400, "hex encoded 32-bit integer: zz"},
		{"GET", "/v2.6/quotes/integrity?nonce=a&mask=0x10000000000000000&partial=1", "", 400, "hex encoded 32-bit integer"},
		{"GET", "/v2.6/quotes/integrity?nonce=a&mask=0x1000000&partial=1", "", 400, "hex encoded 32-bit integer"},
		{"GET", "/v2.6/quotes/integrity?nonce=a&mask=0x400", "", 400, "missing field `partial`"},
		{"GET", "/v2.6/quotes/integrity?nonce=a&mask=0x400&partial=", "", 400, "uri must contain key 'partial'"},
		{"GET", "/v2.6/quotes/integrity?nonce=a&mask=0x400&partial=2", "", 400, "uri must contain key 'partial'"},
		{"GET", "/v2.6/quotes/integrity?nonce=a&mask=400&partial=1&ima_ml_entry=x", "", 200, "quote"},

		{"GET", "/v2.6/keys/verify?challenge=", "", 400, "No challenge provided."},
		{"GET", "/v2.6/keys/verify?challenge=a-b", "", 400, "strictly alphanumeric"},
		{"GET", "/v2.6/keys/verify?challenge=" + strings.Repeat("a", maxChallenge+1), "", 400, "too long"},
		{"GET", "/v2.6/keys/verify?challenge=abc", "", 400, "Bootstrap key not yet available."},

		{"GET", "/v2.1/agent/info", "", 400, "Not Implemented"},
		{"GET", "/v2.2/agent/info", "", 200, "agent_uuid"},
		{"GET", "/v1.0/quotes/identity?nonce=a", "", 400, "API version not supported: v1.0"},
		{"GET", "/v2.7/quotes/identity?nonce=a", "", 400, "API version not supported: v2.7"},
		{"GET", "/v3.0/", "", 400, "API version not supported: v3.0"},
		{"GET", "/v2/quotes/identity?nonce=a", "", 400, "Not Implemented: Use /2.1"},
		{"GET", "/v2.6.1/quotes/identity?nonce=a", "", 400, "Not Implemented: Use /2.1"},
		{"POST", "/nowhere", "{}", 400, "Not Implemented: Use /2.1"},
		{"DELETE", "/nowhere", "", 405, "Not Implemented: Use /2.1"},
		{"GET", "/v2.6/keys/nokey", "", 400, "Not Implemented: Use /agent"},
		{"PUT", "/v2.6/keys/nokey", "", 405, "Not Implemented: Use /agent"},
		{"GET", "/v2.6", "", 400, "Not Implemented"},
		{"POST", "/version", "{}", 405, ""},

		// NT-57: a path is a list of segments, nothing is cleaned.
		{"GET", "/v2.6/keys/pubkey/", "", 200, "PUBLIC KEY"},
		{"GET", "/v2.6/keys/%70ubkey", "", 200, "PUBLIC KEY"},
		{"GET", "/v2.6%2fkeys/pubkey", "", 400, "Not Implemented"},
		{"GET", "/v2.6/keys/../keys/pubkey", "", 400, "Not Implemented"},
		{"GET", "/v2.6/keys/%2e%2e/keys/pubkey", "", 400, "Not Implemented"},
		{"GET", "/V2.6/keys/pubkey", "", 400, "Not Implemented"},
		{"GET", "/v2.6/KEYS/pubkey", "", 400, "Not Implemented"},

		{"POST", "/v2.6/keys/ukey", `[]`, 400, "Json deserialize error"},
		{"POST", "/v2.6/keys/ukey", `{"auth_tag":"00"`, 400, "Json deserialize error"},
		{"POST", "/v2.6/keys/ukey", `{"auth_tag":"00"}`, 400, "missing field `encrypted_key` at line 1 column 17"},
		{"POST", "/v2.6/keys/ukey", "{\"auth_tag\":\n\"00\"}\n", 400, "missing field `encrypted_key` at line 2 column 5"},
		{"POST", "/v2.6/keys/ukey", `{"auth_tag":1,"encrypted_key":"AAAA"}`, 400, "Json deserialize error"},
		{"POST", "/v2.6/keys/ukey", `{"auth_tag":null,"encrypted_key":"AAAA"}`, 400, "missing field `auth_tag`"},
		{"POST", "/v2.6/keys/ukey", `{"Auth_Tag":"00","encrypted_key":"AAAA"}`, 400, "missing field `auth_tag`"},
		{"POST", "/v2.6/keys/ukey", `{"auth_tag":"00","auth_tag":"00","encrypted_key":"AAAA"}`, 400, "Json deserialize error"},
		{"POST", "/v2.6/keys/ukey", `{"auth_tag":"00","encrypted_key":"AAAA"} {}`, 400, "Json deserialize error"},
		{"POST", "/v2.6/keys/ukey", `{"x":` + strings.Repeat("[", 1000), 400, "Json deserialize error"},
		{"POST", "/v2.6/keys/ukey", `{"auth_tag":"zz","encrypted_key":"AAAA"}`, 400, "Failed to decrypt"},
		{"POST", "/v2.6/keys/vkey", `{"encrypted_key":"!"}`, 400, "base64"},
		{"POST", "/v2.6/keys/vkey", `{"encrypted_key":"` + strings.Repeat("A", maxBody) + `"}`, 413, "the body is larger than"},
		{"POST", "/v2.6/notifications/revocation", `{"msg":"{}"}`, 400, "missing field `signature`"},
		{"POST", "/v2.6/notifications/revocation", `{"msg":"` + strings.Repeat("A", 10<<20) + `"}`, 413, "the body is larger than"}, // NT-62
	} {
		status, text := r.do(c.method, c.path, "application/json", c.body)
		if status != c.status || !strings.Contains(text, c.want) {
			t.Errorf("%s %.80s %.60s: %d %.200s, want %d with %q", c.method, c.path, c.body, status, text, c.status, c.want)
		}
	}
	for _, contentType := range []string{"", "text/plain", "application/jsonx", "application/x-www-form-urlencoded"} {
		if status, text := r.do("POST", "/v2.6/keys/vkey", contentType, `{"encrypted_key":"AAAA"}`); status != 400 || !strings.Contains(text, "Content type error") {
			t.Errorf("content type %q: %d %s", contentType, status, text)
		}
	}
	if status, text := r.do("POST", "/v2.6/keys/vkey", "application/json; charset=utf-8", `{"encrypted_key":"AAAA"}`); status != 400 || !strings.Contains(text, "Failed to decrypt") {
		t.Errorf("content type with parameter: %d %s", status, text)
	}
}

// NT-60: what decrypts but is no share, or has no proper tag, changes nothing.
func TestMalformedSharesAreRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	r := m.start()
	key, err := r.admin.PubKey(t.Context(), "2.6")
	if err != nil {
		t.Fatal(err)
	}
	tag := strings.Repeat("0", 96)
	post := func(path string, fields map[string]string) (int, string) {
		body, _ := json.Marshal(fields)
		return r.post(path, string(body))
	}
	for _, size := range []int{0, 15, 17, 31, 33, 64} {
		sealed := seal(t, key.PubKey, make([]byte, size))
		if status, text := post("/v2.6/keys/ukey", map[string]string{"encrypted_key": sealed, "auth_tag": tag}); status != 400 {
			t.Errorf("U of %d bytes: %d %s", size, status, text)
		}
		if status, text := post("/v2.6/keys/vkey", map[string]string{"encrypted_key": sealed}); status != 400 {
			t.Errorf("V of %d bytes: %d %s", size, status, text)
		}
	}
	sealed := seal(t, key.PubKey, make([]byte, 32))
	for _, bad := range []string{"", tag[2:], tag + "00", strings.Repeat("z", 96)} {
		if status, text := post("/v2.6/keys/ukey", map[string]string{"encrypted_key": sealed, "auth_tag": bad}); status != 400 {
			t.Errorf("tag %q: %d %s", bad, status, text)
		}
	}
	if status, text := r.get("/v2.6/keys/verify?challenge=abc"); status != 400 || !strings.Contains(text, "not yet available") {
		t.Errorf("a key was derived: %d %s", status, text)
	}
}

// NT-61 over the wire.
func TestReplayedDeliveryIsRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	r := m.start()
	key, err := r.admin.PubKey(t.Context(), "2.6")
	if err != nil {
		t.Fatal(err)
	}
	u, v := shares(exampleKey(), "", "")
	payload := sealPayload(t, exampleKey(), makeZip(t, zipEntry{"autorun.sh", 0o755, "#!/bin/sh\necho ran >> " + m.path("ran") + "\n"}))
	uBody, _ := json.Marshal(map[string]string{"encrypted_key": seal(t, key.PubKey, u.u), "auth_tag": fmt.Sprintf("%x", u.tag), "payload": payload})
	vBody, _ := json.Marshal(map[string]string{"encrypted_key": seal(t, key.PubKey, v.v)})
	for i, want := range []int{200, 200, 400, 200, 200, 400} {
		path, body := "/v2.6/keys/ukey", uBody
		if i == 1 || i == 3 || i == 4 {
			path, body = "/v2.6/keys/vkey", vBody
		}
		if status, text := r.post(path, string(body)); status != want {
			t.Errorf("request %d: %d %s, want %d", i, status, text, want)
		}
	}
	waitFor(t, "the script", func() bool { return strings.Contains(m.log.String(), "payload script ended") })
	if got := read(t, m.path("ran")); got != "ran\n" {
		t.Errorf("script ran as %q", got)
	}
	if !strings.Contains(m.log.String(), "replayed key share refused") {
		t.Error("the replay is not in the log")
	}
}

// NT-40: compressed bodies are not unpacked.
func TestCompressedBodyIsRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	r := m.start()
	var bomb bytes.Buffer
	w := gzip.NewWriter(&bomb)
	for range 64 {
		w.Write(make([]byte, 1<<20))
	}
	w.Close()
	request, err := http.NewRequest("POST", r.base+"/v2.6/keys/vkey", &bomb)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Content-Encoding", "gzip")
	response, err := r.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusUnsupportedMediaType {
		t.Errorf("got %s", response.Status)
	}
}

func TestVersionsCanBeLimited(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.cfg.APIVersions = "[2.3, 2.1, 9.9]"
	r := m.start()
	if status, text := r.get("/version"); status != 200 || !strings.Contains(text, `"supported_version":"2.3","supported_versions":["2.1","2.3"]`) {
		t.Errorf("%d %s", status, text)
	}
	if status, text := r.get("/v2.6/quotes/identity?nonce=a"); status != 400 || !strings.Contains(text, "API version not supported: v2.6") {
		t.Errorf("%d %s", status, text)
	}
	if status, text := r.get("/v2/x"); status != 400 || !strings.Contains(text, "Use /2.1, /2.3 or /version interfaces") {
		t.Errorf("%d %s", status, text)
	}
	if !strings.Contains(m.log.String(), "9.9") {
		t.Error("the unknown version is not in the log")
	}
}

// FuzzQuery: whatever stands in a query, it is refused or means what it says.
func FuzzQuery(f *testing.F) {
	f.Add("nonce=abc&mask=0x400&partial=0&ima_ml_entry=0")
	f.Add("nonce=%41&mask=fff&partial=1")
	f.Add("nonce=a&nonce=b;c=%zz")
	f.Fuzz(func(t *testing.T, raw string) {
		values, err := url.ParseQuery(raw)
		if err != nil {
			return
		}
		q, err := readQuery(&web.Request{Query: values})
		if err != nil {
			return
		}
		want, err := readIntegrity(q)
		if err != nil {
			return
		}
		if len(want.nonce) == 0 || len(want.nonce) > maxNonce || strings.ContainsFunc(want.nonce, notAlphanumeric) {
			t.Errorf("nonce %q accepted", want.nonce)
		}
		if want.mask&^(1<<24-1) != 0 || want.mask != tpm.MaskOf(want.mask.PCRs()...) {
			t.Errorf("mask %v accepted", want.mask)
		}
	})
}

// FuzzFields: members that are read are those that encoding/json reads, and nothing makes the reader panic.
func FuzzFields(f *testing.F) {
	f.Add(`{"auth_tag":"00","encrypted_key":"AA\u0041A","payload":null,"other":[1,{"a":2}]}`)
	f.Add(`{}`)
	f.Fuzz(func(t *testing.T, body string) {
		fields, err := decodeFields(body, []string{"auth_tag", "encrypted_key", "payload"})
		if err != nil {
			return
		}
		var reference map[string]any
		if err := json.Unmarshal([]byte(body), &reference); err != nil {
			t.Fatalf("accepted %q, which is no object: %v", body, err)
		}
		for name, value := range fields {
			if reference[name] != value {
				t.Errorf("%s is %q, want %v", name, value, reference[name])
			}
		}
	})
}
