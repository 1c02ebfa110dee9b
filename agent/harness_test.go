package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/internal/pki"
	"keylime/internal/swtpm"
	"keylime/tpm"
	"keylime/tpm/device"
)

// machine is a machine with a software TPM, on which the agent under test is started.
type machine struct {
	t         *testing.T
	tpm       *swtpm.Server
	cfg       Config
	log       *logBuffer
	registrar *testRegistrar
	ca        *pki.CA
	caDir     string
}

// newMachine has a TPM of its own with ECC keys, which it makes faster than RSA keys.
func newMachine(t *testing.T) *machine {
	t.Helper()
	m := newMachineIn(t, t.TempDir())
	m.cfg.TPMEncryptionAlg, m.cfg.TPMSigningAlg = "ecc256", "ecdsa"
	return m
}

// newRSAMachine has the TPM keys that Keylime's agents have by default.
func newRSAMachine(t *testing.T) *machine {
	t.Helper()
	return newMachineIn(t, t.TempDir())
}

// newMachineIn has its working directory in dir.
func newMachineIn(t *testing.T, dir string) *machine {
	t.Helper()
	needRoot(t) // the secure directory is mounted
	m := &machine{t: t, tpm: startTPM(t), log: &logBuffer{}, registrar: newTestRegistrar(t)}
	shared := made(t)
	m.ca, m.caDir = shared.ca, shared.caDir
	writeFile(t, filepath.Join(dir, "payload-private.pem"), shared.payloadKey, 0o600)
	host, port := m.registrar.address(t)
	cfg, _, err := config.LoadAgent(config.Sources{Root: dir, Environ: []string{
		"KEYLIME_DIR=" + dir, "KEYLIME_AGENT_RUN_AS=", "KEYLIME_AGENT_REVOCATION_ACTIONS_DIR=" + filepath.Join(dir, "actions"),
		"KEYLIME_AGENT_IMA_ML_PATH=" + filepath.Join(dir, "ima.log"), "KEYLIME_AGENT_MEASUREDBOOT_ML_PATH=" + filepath.Join(dir, "boot.log"),
		"KEYLIME_AGENT_REGISTRAR_IP=" + host, "KEYLIME_AGENT_REGISTRAR_PORT=" + strconv.Itoa(port),
		"KEYLIME_AGENT_TRUSTED_CLIENT_CA=" + filepath.Join(m.caDir, "cacert.crt"),
		"KEYLIME_AGENT_EXPONENTIAL_BACKOFF_INITIAL_DELAY=1", "KEYLIME_AGENT_EXPONENTIAL_BACKOFF_MAX_DELAY=10",
	}})
	if err != nil {
		t.Fatal(err)
	}
	m.cfg = Config{Agent: cfg, TCTI: m.tpm.TCTI()}
	return m
}

func (m *machine) path(name string) string { return filepath.Join(m.cfg.KeylimeDir, name) }

// adminTLS are client settings with a certificate of the machine's CA; the server's certificate is for the caller to
// check.
func (m *machine) adminTLS(name string) *tls.Config {
	m.t.Helper()
	settings, err := pki.ClientTLS(pki.ClientFiles{
		CertFile: filepath.Join(m.caDir, name+"-cert.crt"), KeyFile: filepath.Join(m.caDir, name+"-private.pem"),
		ServerCAs: m.cfg.TrustedClientCA,
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return settings
}

// running is a started agent with a client that has an administrator's certificate and pins the agent's.
type running struct {
	*machine
	base   string
	client *http.Client
	admin  *api.AgentClient
	ak     *tpm.Public
	cancel context.CancelFunc
	result chan error
}

// start starts the agent and waits until it is registered. The agent ends with the test at the latest.
func (m *machine) start() *running {
	m.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	m.cfg.Listener = listener
	m.cfg.ContactPort = listener.Addr().(*net.TCPAddr).Port
	ctx, cancel := context.WithCancel(context.WithoutCancel(m.t.Context()))
	r := &running{machine: m, client: &http.Client{}, cancel: cancel, result: make(chan error, 1)}
	before := m.registrar.activations()
	go func() { r.result <- Run(ctx, m.cfg, zerolog.New(m.log)) }()
	m.t.Cleanup(func() {
		r.stop()
		listener.Close()
	})
	waitFor(m.t, "the agent to register", func() bool {
		select {
		case err := <-r.result:
			r.result <- err
			m.t.Fatalf("agent ended: %v\n%s", err, m.log)
		default:
		}
		return m.registrar.activations() > before
	})
	r.connect(listener.Addr().String())
	return r
}

// connect makes the client of an agent that has registered.
func (r *running) connect(address string) {
	r.t.Helper()
	request := r.registrar.last()
	r.ak = publicOf(r.t, *request.AIKTPM)
	scheme := "http"
	transport := &http.Transport{}
	if *request.MTLSCert != "disabled" {
		var err error
		scheme = "https"
		if transport.TLSClientConfig, err = pki.PinnedClient(r.adminTLS("client"), *request.MTLSCert); err != nil {
			r.t.Fatal(err)
		}
	}
	r.client = &http.Client{Transport: transport, Timeout: time.Minute}
	r.t.Cleanup(transport.CloseIdleConnections)
	r.base = scheme + "://" + address
	r.admin = api.NewAgent(r.base, r.client)
}

// stop ends the agent and returns what Run returned.
func (r *running) stop() error {
	r.t.Helper()
	if r.result == nil {
		return nil
	}
	r.client.CloseIdleConnections()
	r.cancel()
	select {
	case err := <-r.result:
		r.result = nil
		if err != nil {
			r.t.Errorf("agent ended with %v\n%s", err, r.log)
		}
		return err
	case <-time.After(30 * time.Second):
		r.t.Fatalf("agent does not end\n%s", r.log)
		return nil
	}
}

// get requests a path and returns status and body.
func (r *running) get(path string) (int, string) { return r.do(http.MethodGet, path, "", "") }

func (r *running) post(path, body string) (int, string) {
	return r.do(http.MethodPost, path, "application/json", body)
}

func (r *running) do(method, path, contentType, body string) (int, string) {
	r.t.Helper()
	request, err := http.NewRequestWithContext(r.t.Context(), method, r.base+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := r.client.Do(request)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	return response.StatusCode, string(text)
}

func publicOf(t testing.TB, text string) *tpm.Public {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	public, err := tpm.ParsePublic(raw)
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// logBuffer keeps the agent's log lines.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// testRegistrar is the least of a registrar: it makes and checks challenges and remembers what it was sent. A test
// may put answers before that.
type testRegistrar struct {
	server *httptest.Server

	mu        sync.Mutex
	answers   []func(w http.ResponseWriter) // given to the next requests instead
	requests  []string                      // method and path of each
	bodies    []json.RawMessage             // of registrations
	challenge []byte
	active    int
}

func newTestRegistrar(t testing.TB) *testRegistrar {
	r := &testRegistrar{}
	r.server = httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(r.server.Close)
	return r
}

func (r *testRegistrar) address(t testing.TB) (host string, port int) {
	t.Helper()
	addr := r.server.Listener.Addr().(*net.TCPAddr)
	return addr.IP.String(), addr.Port
}

func (r *testRegistrar) activations() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.active
}

func (r *testRegistrar) last() (request api.RegisterRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := json.Unmarshal(r.bodies[len(r.bodies)-1], &request); err != nil {
		panic(err)
	}
	return request
}

// answer puts an answer before the ordinary ones.
func (r *testRegistrar) answer(code int, header, value, body string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers = append(r.answers, func(w http.ResponseWriter) {
		if header != "" {
			w.Header().Set(header, value)
		}
		w.WriteHeader(code)
		io.WriteString(w, body)
	})
}

func (r *testRegistrar) serve(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, request.Method+" "+request.URL.Path)
	if len(r.answers) > 0 {
		r.answers[0](w)
		r.answers = r.answers[1:]
		return
	}
	var results any = struct{}{}
	code := 200
	switch {
	case request.URL.Path == "/version":
		results = api.Version{Current: "2.6", Supported: []string{"1.0", "2.0", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "3.0"}}
	case request.Method == http.MethodPost:
		results, code = r.register(request)
	case request.Method == http.MethodPut:
		var body api.ActivateRequest
		id := request.URL.Path[strings.LastIndex(request.URL.Path, "/")+1:]
		want := hex.EncodeToString(authTag([]byte(base64.StdEncoding.EncodeToString(r.challenge)), id))
		if json.NewDecoder(request.Body).Decode(&body) != nil || body.AuthTag != want {
			code = 400
		} else {
			r.active++
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(map[string]any{"code": code, "status": "Success", "results": results})
}

func (r *testRegistrar) register(request *http.Request) (any, int) {
	text, _ := io.ReadAll(request.Body)
	var body api.RegisterRequest
	if json.Unmarshal(text, &body) != nil || request.Header.Get("Content-Type") != "application/json" {
		return nil, 400
	}
	r.bodies = append(r.bodies, text)
	ek, err := decodePublic(*body.EKTPM)
	if err != nil {
		return nil, 400
	}
	ak, err := decodePublic(*body.AIKTPM)
	if err != nil || ak.CheckAK() != nil {
		return nil, 400
	}
	r.challenge = []byte(rand.Text()[:26] + "ABCDEF")
	blob, err := tpm.MakeCredential(rand.Reader, ek, ak.Name(), r.challenge)
	if err != nil {
		return nil, 500
	}
	return api.RegisterResults{Blob: base64.StdEncoding.EncodeToString(blob)}, 200
}

func decodePublic(text string) (*tpm.Public, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, err
	}
	return tpm.ParsePublic(raw)
}

// measure starts an IMA list on the machine's TPM.
func (m *machine) measure() *swtpm.List {
	m.t.Helper()
	list, err := m.tpm.InitList(m.t.Context(), m.cfg.IMAMLPath)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { list.Close() })
	return list
}

// extend extends a PCR as another program would.
func (m *machine) extend(pcr int, digest []byte) {
	m.t.Helper()
	other, err := device.Open(m.t.Context(), m.tpm.TCTI())
	if err != nil {
		m.t.Fatal(err)
	}
	defer other.Close()
	if err := other.ExtendPCR(m.t.Context(), pcr, map[tpm.Hash][]byte{tpm.SHA256: digest}); err != nil {
		m.t.Fatal(err)
	}
}

func testLogger(m *machine) zerolog.Logger { return zerolog.New(m.log) }

// paths are method and path of each request so far.
func (r *testRegistrar) paths() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}
