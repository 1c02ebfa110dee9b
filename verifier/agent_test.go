package verifier

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/fleet"
	"keylime/internal/pki"
	"keylime/tpm"
)

// testAgent is an attester that tests own: a software TPM and a measurement list behind the pull API, over mutual
// TLS. hostile, when set, may answer a request in its place.
type testAgent struct {
	id      string
	tpm     *fleet.SoftTPM
	list    *fleet.Measured
	boot    *fleet.BootLog // nil: nothing is measured at boot
	bank    tpm.Hash
	enc     string
	sign    string
	certPEM string
	host    string
	port    int

	mu       sync.Mutex
	key      *rsa.PrivateKey // transport key
	keyPEM   string
	versions []string
	hostile  func(w http.ResponseWriter, r *http.Request) bool
	requests []string // method, path and query of each
	bodies   []string
	v        [][]byte // decrypted
	told     []api.Notification
	conns    map[string]bool // remote addresses seen
}

// quietLog is for servers of tests, whose clients misbehave on purpose.
var quietLog = log.New(io.Discard, "", 0)

// transportKeys are made once: a test needs at most two that differ.
var transportKeys = [2]func() *rsa.PrivateKey{sync.OnceValue(makeKey), sync.OnceValue(makeKey)}

func makeKey() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
}

// startAgent serves a new attester on loopback until the test ends.
func startAgent(t testing.TB, id string) *testAgent {
	t.Helper()
	soft, err := fleet.NewSoftTPM(rand.Reader, "ecc256")
	if err != nil {
		t.Fatal(err)
	}
	list, err := fleet.NewMeasured(soft)
	if err != nil {
		t.Fatal(err)
	}
	a := &testAgent{
		id: id, tpm: soft, list: list, bank: tpm.SHA256, enc: "ecc256", sign: "ecdsa",
		versions: slices.Clone(api.AgentVersions), conns: map[string]bool{},
	}
	a.newKey(0)
	a.serve(t, http.HandlerFunc(a.route))
	return a
}

// serve listens with a self-signed certificate and wants client certificates of the test CA.
func (a *testAgent) serve(t testing.TB, h http.Handler) {
	t.Helper()
	certPEM, keyPEM, err := pki.SelfSigned(a.id, []string{"127.0.0.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = quietLog
	srv.TLS = &tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    testCA(t).pool,
		MinVersion:   tls.VersionTLS12,
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	a.certPEM = string(certPEM)
	a.at(srv)
}

// servePlain serves the agent in plain HTTP beside its TLS, and has it be found there.
func (a *testAgent) servePlain(t testing.TB) {
	srv := httptest.NewServer(http.HandlerFunc(a.route))
	t.Cleanup(srv.Close)
	a.at(srv)
}

// at notes where the agent is.
func (a *testAgent) at(srv *httptest.Server) {
	addr := srv.Listener.Addr().(*net.TCPAddr)
	a.host, a.port = addr.IP.String(), addr.Port
}

// newKey replaces the transport key, as a reinstalled agent does.
func (a *testAgent) newKey(n int) {
	key := transportKeys[n]()
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		panic(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.key, a.keyPEM = key, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// become sets what answers instead of the agent; nil restores it.
func (a *testAgent) become(hostile func(w http.ResponseWriter, r *http.Request) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hostile = hostile
}

// speak sets the API versions served.
func (a *testAgent) speak(versions ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.versions = versions
}

func (a *testAgent) route(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	a.mu.Lock()
	a.requests = append(a.requests, r.Method+" "+r.URL.RequestURI())
	a.bodies = append(a.bodies, string(body))
	a.conns[r.RemoteAddr] = true
	hostile, versions := a.hostile, a.versions
	a.mu.Unlock()
	if hostile != nil && hostile(w, r) {
		return
	}
	if r.URL.Path == "/version" {
		replyOK(w, api.AgentVersion{Supported: versions[len(versions)-1], List: versions})
		return
	}
	version, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v"), "/")
	if !slices.Contains(versions, version) {
		reply(w, http.StatusBadRequest, "API version not supported: v"+version, struct{}{})
		return
	}
	switch r.Method + " " + path {
	case "GET quotes/integrity":
		a.quote(w, r)
	case "POST keys/vkey":
		a.takeV(w, body)
	case "POST notifications/revocation":
		a.takeNotification(w, body)
	default:
		reply(w, http.StatusNotFound, "no such resource", struct{}{})
	}
}

func (a *testAgent) quote(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	mask, err := tpm.ParseMask(q.Get("mask"))
	if err != nil {
		reply(w, http.StatusBadRequest, err.Error(), struct{}{})
		return
	}
	entry, _ := strconv.ParseUint(q.Get("ima_ml_entry"), 10, 64)
	results, err := a.evidence(q.Get("nonce"), mask, q.Get("partial") == "0", entry)
	if err != nil {
		reply(w, http.StatusInternalServerError, err.Error(), struct{}{})
		return
	}
	replyOK(w, results)
}

// evidence is what a genuine agent answers.
func (a *testAgent) evidence(nonce string, mask tpm.Mask, withKey bool, entry uint64) (api.QuoteResults, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	keyPEM := a.keyPEM
	a.tpm.BindData(keyPEM)
	quote, err := a.tpm.Quote([]byte(nonce), mask.With(tpm.PCRData), a.bank)
	if err != nil {
		return api.QuoteResults{}, err
	}
	list, first := a.list.From(entry)
	text := string(list)
	results := api.QuoteResults{
		Quote: quote.String(), HashAlg: a.bank.String(), EncAlg: a.enc, SignAlg: a.sign,
		IMA: &text, IMAEntry: &first,
	}
	if a.boot != nil {
		log := base64.StdEncoding.EncodeToString(a.boot.Bytes())
		results.BootLog = &log
	}
	if withKey {
		results.PubKey = &keyPEM
	}
	return results, nil
}

func (a *testAgent) takeV(w http.ResponseWriter, body []byte) {
	var key api.VKey
	_ = json.Unmarshal(body, &key)
	encrypted, _ := base64.StdEncoding.DecodeString(key.EncryptedKey)
	a.mu.Lock()
	defer a.mu.Unlock()
	v, err := rsa.DecryptOAEP(sha1.New(), nil, a.key, encrypted, nil)
	if err != nil {
		reply(w, http.StatusBadRequest, "Failed to decrypt encrypted_key", struct{}{})
		return
	}
	a.v = append(a.v, v)
	replyOK(w, nil)
}

func (a *testAgent) takeNotification(w http.ResponseWriter, body []byte) {
	var n api.Notification
	_ = json.Unmarshal(body, &n)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.told = append(a.told, n)
	replyOK(w, nil)
}

// measure has the kernel measure a file with some content.
func (a *testAgent) measure(t testing.TB, path string) {
	t.Helper()
	if _, err := a.list.Add(path, fileDigest(path)); err != nil {
		t.Fatal(err)
	}
}

// asked lists the requests so far that have the prefix.
func (a *testAgent) asked(prefix string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []string
	for _, r := range a.requests {
		if strings.HasPrefix(r, prefix) {
			list = append(list, r)
		}
	}
	return list
}

func (a *testAgent) received() [][]byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.v)
}

func (a *testAgent) notifications() []api.Notification {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.told)
}

func (a *testAgent) connections() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.conns)
}

func fileDigest(path string) []byte {
	sum := sha256.Sum256([]byte("content of " + path))
	return sum[:]
}

// runtimePolicy allows the agent's boot aggregate and the named files.
func (a *testAgent) runtimePolicy(files ...string) string {
	boot := fleet.BootMeasurement(func(i int) []byte { return make([]byte, 32) })
	digests := map[string][]string{"boot_aggregate": {fmt.Sprintf("%x", boot.Digest)}}
	for _, f := range files {
		digests[f] = []string{fmt.Sprintf("%x", fileDigest(f))}
	}
	text, err := json.Marshal(map[string]any{
		"meta": map[string]any{"version": 1, "generator": 3}, "release": 0,
		"digests": digests, "excludes": []string{"/tmp/.*"}, "keyrings": map[string]any{},
		"ima":     map[string]any{"ignored_keyrings": []string{}, "log_hash_alg": "sha1", "dm_policy": nil},
		"ima-buf": map[string]any{}, "verification-keys": "",
	})
	if err != nil {
		panic(err)
	}
	return string(text)
}

// enrolment is what a tenant would send for the agent.
func (a *testAgent) enrolment(policy string) api.EnrolRequest {
	empty, version, meta, mask := "", "2.6", "{}", `{"mask": "0x400"}`
	if policy == "" {
		mask = `{"mask": "0x0"}`
	}
	ak := base64.StdEncoding.EncodeToString(a.tpm.AKPublic())
	encoded := base64.StdEncoding.EncodeToString([]byte(policy))
	return api.EnrolRequest{
		AgentIP: &a.host, AgentPort: json.RawMessage(strconv.Itoa(a.port)),
		TPMPolicy: &mask, RuntimePolicy: &encoded, RuntimePolicyName: &empty, RuntimePolicyKey: &empty,
		MBPolicyName: &empty, IMAVerificationKey: &empty, Metadata: &meta, RevocationKey: &empty,
		AcceptHash: []string{"sha512", "sha384", "sha256"}, AcceptEnc: []string{"ecc", "rsa"},
		AcceptSign: []string{"ecschnorr", "rsassa", "ecdsa"},
		AKTPM:      &ak, MTLSCert: &a.certPEM, SupportedVersion: &version,
	}
}

func replyOK(w http.ResponseWriter, results any) { reply(w, http.StatusOK, "Success", results) }

func reply(w http.ResponseWriter, code int, status string, results any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"code": code, "status": status, "results": results})
}

// softTPM makes a TPM of which nothing else is needed.
func softTPM(t testing.TB, alg string) *fleet.SoftTPM {
	t.Helper()
	soft, err := fleet.NewSoftTPM(rand.Reader, alg)
	if err != nil {
		t.Fatal(err)
	}
	return soft
}
