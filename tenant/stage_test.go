package tenant

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/internal/pki"
)

// authority is a directory with a CA and the certificates of a server and an administrator in cv_ca, as a verifier
// makes them. It is made once.
var authority = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "keylime-tenant-test-")
	if err != nil {
		return "", err
	}
	authorityDir = dir
	ca, err := pki.EnsureCA(filepath.Join(dir, "cv_ca"), packer(io.Discard).ca.Options())
	if err == nil {
		err = ca.EnsureLeaf(pki.Leaf{Name: "server", Kind: pki.Server, Hosts: []string{"localhost", "127.0.0.1"}})
	}
	if err == nil {
		err = ca.EnsureLeaf(pki.Leaf{Name: "client", Kind: pki.Client})
	}
	return dir, err
})

// stage is a registrar, a verifier and an agent, each a real HTTPS server whose answers a test may change: peers of
// other makes, and hostile ones.
type stage struct {
	*actor
	registrar, verifier *scripted
	record              api.RegistrarAgent // what the registrar answers
	enrolment           map[string]any     // what the verifier was sent
}

// scripted is a server that remembers what it was asked.
type scripted struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string]http.HandlerFunc // by method and path without query
	seen    []seen
}

type seen struct {
	method, path string // with query
	header       http.Header
	body         []byte
}

func (s *scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.seen = append(s.seen, seen{r.Method, r.URL.RequestURI(), r.Header.Clone(), body})
	h := s.answers[r.Method+" "+strings.TrimSuffix(r.URL.Path, "/")]
	s.mu.Unlock()
	if h == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	h(w, r)
}

// on sets the answer to a request, such as "GET /version".
func (s *scripted) on(request string, h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[request] = h
}

// asked lists the requests so far, "METHOD path?query".
func (s *scripted) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for _, r := range s.seen {
		list = append(list, r.method+" "+r.path)
	}
	return list
}

// was reports whether a request with that method and path prefix came.
func (s *scripted) was(request string) bool {
	for _, r := range s.asked() {
		if strings.HasPrefix(r, request) {
			return true
		}
	}
	return false
}

func (s *scripted) port() int { return s.Listener.Addr().(*net.TCPAddr).Port }

func serve(t testing.TB, settings *tls.Config) *scripted {
	t.Helper()
	s := &scripted{answers: map[string]http.HandlerFunc{}}
	s.Server = httptest.NewUnstartedServer(s)
	s.TLS = settings
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// envelope answers with results, or with a refusal when status is no success.
func envelope(w http.ResponseWriter, status int, text string, results any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"code": status, "status": text, "results": results})
}

func results(v any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { envelope(w, 200, "Success", v) }
}

func refuse(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { envelope(w, status, text, struct{}{}) }
}

// newStage raises the curtain: an agent with a SoftTPM is registered, and everybody is honest.
func newStage(t testing.TB, alg string) *stage {
	t.Helper()
	s := &stage{actor: newActor(t, alg)}
	s.registrar, s.verifier = serve(t, serverTLS(t, s.dir)), serve(t, serverTLS(t, s.dir))
	host, port := "127.0.0.1", s.agent.port()
	s.record = recordOf(s.soft)
	s.record.AgentID, s.record.MTLSCert, s.record.IP, s.record.Port, s.record.RegCount = s.id, &s.cert, &host, &port, 1
	s.playHonestly()
	return s
}

// serverTLS are the settings of a server of the test's CA.
func serverTLS(t testing.TB, dir string) *tls.Config {
	t.Helper()
	ca := filepath.Join(dir, "cv_ca")
	settings, err := pki.ServerTLS(pki.ServerFiles{
		CertFile: filepath.Join(ca, "server-cert.crt"), KeyFile: filepath.Join(ca, "server-private.pem"),
		ClientCAs: []string{filepath.Join(ca, "cacert.crt")}, RequireClient: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return settings
}

func (s *stage) playHonestly() {
	versions := results(map[string]any{"current_version": "2.6", "supported_versions": []string{"1.0", "2.0", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "3.0"}})
	s.registrar.on("GET /version", versions)
	s.verifier.on("GET /version", versions)
	s.registrar.on("GET /v2.6/agents/"+s.id, func(w http.ResponseWriter, r *http.Request) { envelope(w, 200, "Success", s.record) })
	s.verifier.on("POST /v2.6/agents/"+s.id, s.enrol)
	s.verifier.on("PUT /v2.6/agents/"+s.id+"/stop", refuse(200, "Success"))
}

func (s *stage) enrol(w http.ResponseWriter, r *http.Request) {
	var body map[string]any
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		envelope(w, 400, err.Error(), struct{}{})
		return
	}
	s.enrolment = body
	if text, ok := body["v"].(string); ok {
		v, _ := base64.StdEncoding.DecodeString(text)
		s.setShares(nil, v)
	}
	s.verifier.on("GET /v2.6/agents/"+s.id, results(api.VerifierAgent{
		OperationalState: 1, IP: new("127.0.0.1"), Port: new(s.agent.port()), TPMPolicy: fmt.Sprint(body["tpm_policy"]), Metadata: "{}",
		VerifierID: "default", VerifierIP: "127.0.0.1", VerifierPort: s.verifier.port(),
		AttestationStatus: "PENDING", AttestationPeriod: "2s", MaxAttestationDelay: "10s",
	}))
	envelope(w, 200, "Success", struct{}{})
}

// environment is that of a tenant on this stage: options by their upstream names, which set override.
func (s *stage) environment(set map[string]string) []string {
	return environment(s.dir, s.registrar.port(), s.verifier.port(), set)
}

func environment(dir string, registrar, verifier int, set map[string]string) []string {
	all := map[string]string{
		"VERIFIER_PORT": strconv.Itoa(verifier), "REGISTRAR_PORT": strconv.Itoa(registrar),
		"REQUIRE_EK_CERT": "False", "RETRY_INTERVAL": "0.05", "REQUEST_TIMEOUT": "20",
		"ACCEPT_TPM_SIGNING_ALGS": "['rsassa', 'ecdsa']",
	}
	for name, value := range set {
		all[name] = value
	}
	env := []string{"KEYLIME_DIR=" + dir}
	for name, value := range all {
		env = append(env, "KEYLIME_TENANT_"+name+"="+value)
	}
	return env
}

// tenant is one on this stage.
func (s *stage) tenant(t testing.TB, notes io.Writer, set map[string]string) *tenant {
	t.Helper()
	cfg, _, err := config.LoadTenant(config.Sources{Environ: s.environment(set), Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	tn, err := newTenant(cfg, packer(notes).ca, notes)
	if err != nil {
		t.Fatal(err)
	}
	return tn
}
