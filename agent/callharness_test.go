package agent

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/store/bolt"
	"keylime/verifier"
)

// callee is a verifier, with the means of an administrator.
type callee struct {
	t     *testing.T
	cfg   config.Verifier
	url   string
	http  *http.Client // of an administrator
	admin *api.VerifierClient
	log   *logBuffer
	stop  func()
}

// verifier starts a verifier with its own store, of which settings are options as NAME=VALUE.
func (m *machine) verifier(settings ...string) *callee {
	m.t.Helper()
	dir := m.t.TempDir()
	env := []string{
		"KEYLIME_DIR=" + dir, "KEYLIME_VERIFIER_TLS_DIR=" + m.caDir, "KEYLIME_VERIFIER_TRUSTED_CLIENT_CA=" + filepath.Join(m.caDir, "cacert.crt"),
		"KEYLIME_VERIFIER_TRUSTED_SERVER_CA=" + filepath.Join(m.caDir, "cacert.crt"), "KEYLIME_VERIFIER_QUOTE_INTERVAL=1",
		"KEYLIME_VERIFIER_SESSION_CREATE_RATE_LIMIT_PER_AGENT=1000", "KEYLIME_VERIFIER_SESSION_CREATE_RATE_LIMIT_PER_IP=1000",
		"KEYLIME_VERIFIER_PORT=" + strconv.Itoa(freePort(m.t)),
	}
	for _, s := range settings {
		env = append(env, "KEYLIME_VERIFIER_"+s)
	}
	cfg, _, err := config.LoadVerifier(config.Sources{Root: dir, Environ: env})
	if err != nil {
		m.t.Fatal(err)
	}
	v := &callee{
		t: m.t, cfg: cfg, url: api.URL("https", "127.0.0.1", cfg.Port), log: &logBuffer{},
		http: &http.Client{Transport: &http.Transport{TLSClientConfig: m.adminTLS("client"), DisableKeepAlives: true}, Timeout: 20 * time.Second},
	}
	v.admin = api.NewVerifier(v.url, v.http)
	v.start()
	m.t.Cleanup(func() { v.stop() })
	return v
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// start starts the verifier, or starts it again after stop with what it knew.
func (v *callee) start() {
	v.t.Helper()
	db, err := bolt.Open(v.cfg.Store, bolt.Options{Log: zerolog.Nop()})
	if err != nil {
		v.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(v.t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- verifier.Run(ctx, v.cfg, config.CA{}, db, zerolog.New(v.log)) }()
	stopped := false
	v.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			v.t.Error(err)
		}
		if err := db.Close(); err != nil {
			v.t.Error(err)
		}
	}
	waitFor(v.t, "the verifier to listen", func() bool {
		c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(v.cfg.Port)))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// status is what the verifier says of an agent.
func (v *callee) status(id string) api.VerifierAgent {
	v.t.Helper()
	a, err := v.admin.Agent(v.t.Context(), "2.6", id)
	if err != nil {
		v.t.Fatal(err)
	}
	return a
}

// passes waits until an agent has passed so many more times.
func (v *callee) passes(id string, more int) {
	v.t.Helper()
	want := v.status(id).AttestationCount + more
	waitFor(v.t, "attestations that pass", func() bool {
		a := v.status(id)
		if a.AttestationStatus == "FAIL" {
			v.t.Fatalf("attestation failed: %s %s", *a.LastEventID, a.LastEventContext)
		}
		return a.AttestationCount >= want
	})
}

// calling sets the machine up to call verifiers.
func (m *machine) calling(urls ...string) {
	m.cfg.Push = true
	m.cfg.Calling.VerifierURLs = urls
	m.cfg.Calling.VerifierCAs = []string{filepath.Join(m.caDir, "cacert.crt")}
	m.cfg.Calling.Interval = 100 * time.Millisecond
}

// caller starts the agent, which calls, and waits until it is registered.
func (m *machine) caller() *running {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(m.t.Context()))
	r := &running{machine: m, client: &http.Client{}, cancel: cancel, result: make(chan error, 1)}
	before := m.registrar.activations()
	go func() { r.result <- Run(ctx, m.cfg, zerolog.New(m.log)) }()
	m.t.Cleanup(func() { r.stop() })
	waitFor(m.t, "the agent to register", func() bool { return m.registrar.activations() > before || len(r.result) > 0 })
	if len(r.result) > 0 {
		err := <-r.result
		r.result <- err
		m.t.Fatalf("agent ended: %v\n%s", err, m.log)
	}
	return r
}

// goodFile is measured as itself, and what policies allow.
const goodFile = "/usr/bin/good"

// enrolment is what a tenant sends for the agent that registered: it may measure its boot aggregate and the good file.
func (m *machine) enrolment() api.EnrolRequest {
	m.t.Helper()
	digests := map[string][]string{goodFile: {fmt.Sprintf("%x", sha256.Sum256([]byte(goodFile)))}}
	first, _, _ := strings.Cut(read(m.t, m.cfg.IMAMLPath), "\n")
	fields := strings.Fields(first)
	_, digest, _ := strings.Cut(fields[3], ":")
	digests[fields[4]] = []string{digest}
	text, err := json.Marshal(map[string]any{
		"meta": map[string]any{"version": 1, "generator": 3}, "release": 0, "digests": digests, "excludes": []string{}, "keyrings": map[string]any{},
		"ima":     map[string]any{"ignored_keyrings": []string{}, "log_hash_alg": "sha1", "dm_policy": nil},
		"ima-buf": map[string]any{}, "verification-keys": "",
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return api.EnrolRequest{
		AgentPort: json.RawMessage("null"), VerifierPort: json.RawMessage("null"), TPMPolicy: new(`{"mask":"0x400"}`),
		RuntimePolicy: new(base64.StdEncoding.EncodeToString(text)), RuntimePolicyName: new(""), RuntimePolicyKey: new(""),
		MBPolicyName: new(""), IMAVerificationKey: new(""), Metadata: new("{}"), RevocationKey: new(""),
		AcceptHash: []string{"sha256", "sha384"}, AcceptEnc: []string{"ecc", "rsa"}, AcceptSign: []string{"ecdsa", "rsassa"},
		AKTPM: m.registrar.last().AIKTPM, MTLSCert: m.registrar.last().MTLSCert, SupportedVersion: new("3.0"),
	}
}

// enrol enrols the agent.
func (v *callee) enrol(id string, r api.EnrolRequest) {
	v.t.Helper()
	if err := v.admin.AddAgent(v.t.Context(), "2.6", id, r); err != nil {
		v.t.Fatal(err)
	}
}

// logged counts the lines of the agent's log with a text.
func (m *machine) logged(text string) int { return strings.Count(m.log.String(), text) }

// attestations lists an agent's attestations, the newest first.
func (v *callee) attestations(id string) []api.Attestation {
	v.t.Helper()
	rsp, err := v.http.Get(v.url + "/v3.0/agents/" + id + "/attestations")
	if err != nil {
		v.t.Fatal(err)
	}
	defer rsp.Body.Close()
	var list api.List[api.Attestation]
	if err := json.NewDecoder(rsp.Body).Decode(&list); err != nil || rsp.StatusCode != http.StatusOK {
		v.t.Fatalf("list of attestations: %d %v", rsp.StatusCode, err)
	}
	all := make([]api.Attestation, len(list.Data))
	for i, r := range list.Data {
		all[i] = r.Attributes
	}
	return slices.Clip(all)
}
