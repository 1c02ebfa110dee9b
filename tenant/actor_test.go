package tenant

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/fleet"
	"keylime/internal/pki"
	"keylime/tpm"
)

// actor plays the agent's part over real mutual TLS, with a TPM in software and a measurement list. A test may change
// its answers.
type actor struct {
	dir          string // KEYLIME_DIR, with the CA whose clients it takes
	id           string
	soft         *fleet.SoftTPM
	list         *fleet.Measured
	transport    *rsa.PrivateKey
	pubkey, cert string
	agent        *scripted
	clients      *x509.CertPool // the CA of those who may talk to it, and of registrar and verifier

	mu   sync.Mutex // of what follows, and of binding and quoting
	u, v []byte
	ukey api.UKey
}

func newActor(t testing.TB, alg string) *actor {
	t.Helper()
	dir, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	a := &actor{dir: dir, id: defaultAgent, soft: softTPM(t, alg)}
	if a.list, err = fleet.NewMeasured(a.soft); err != nil {
		t.Fatal(err)
	}
	a.transport, a.pubkey = transportKey(t, 0)
	certPEM, keyPEM, err := pki.SelfSigned(a.id, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a.cert = string(certPEM)
	a.agent = serve(t, a.tls(t, certPEM, keyPEM))
	a.agent.on("GET /version", results(map[string]any{"supported_version": "2.6", "supported_versions": []string{"2.1", "2.2", "2.3", "2.4", "2.5", "2.6"}}))
	a.agent.on("GET /v2.6/quotes/identity", a.identity)
	a.agent.on("GET /v2.6/quotes/integrity", a.integrity)
	a.agent.on("POST /v2.6/keys/ukey", a.takeU)
	a.agent.on("POST /v2.6/keys/vkey", a.takeV)
	a.agent.on("GET /v2.6/keys/verify", a.proveKey)
	a.agent.on("POST /v2.6/notifications/revocation", results(nil))
	return a
}

func (a *actor) tls(t testing.TB, certPEM, keyPEM []byte) *tls.Config {
	t.Helper()
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(a.dir, "cv_ca", "cacert.crt"))
	if err != nil {
		t.Fatal(err)
	}
	a.clients = x509.NewCertPool()
	a.clients.AppendCertsFromPEM(text)
	return &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.clients}
}

func (a *actor) identity(w http.ResponseWriter, r *http.Request) {
	a.quote(w, r.URL.Query(), tpm.MaskOf(tpm.PCRData), false)
}

func (a *actor) integrity(w http.ResponseWriter, r *http.Request) {
	mask, err := tpm.ParseMask(r.URL.Query().Get("mask"))
	if err != nil {
		envelope(w, 400, err.Error(), struct{}{})
		return
	}
	a.quote(w, r.URL.Query(), mask.With(tpm.PCRData), true)
}

func (a *actor) quote(w http.ResponseWriter, query url.Values, mask tpm.Mask, ima bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.soft.BindData(a.pubkey)
	q, err := a.soft.Quote([]byte(query.Get("nonce")), mask, tpm.SHA256)
	ak, akErr := tpm.ParsePublic(a.soft.AKPublic())
	if err != nil || akErr != nil {
		envelope(w, 500, "Unable to retrieve quote", struct{}{})
		return
	}
	answer := api.QuoteResults{Quote: q.String(), HashAlg: "sha256", EncAlg: ak.EncAlg(), SignAlg: ak.SignAlg()}
	if query.Get("partial") != "1" {
		answer.PubKey = &a.pubkey
	}
	if ima {
		entry, _ := strconv.ParseUint(query.Get("ima_ml_entry"), 10, 64)
		lines, first := a.list.From(entry)
		text := string(lines)
		answer.IMA, answer.IMAEntry = &text, &first
	}
	envelope(w, 200, "Success", answer)
}

// share decrypts one share of the key.
func (a *actor) share(text string) ([]byte, error) {
	ciphertext, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, err
	}
	return rsa.DecryptOAEP(sha1.New(), rand.Reader, a.transport, ciphertext, nil)
}

func (a *actor) setShares(u, v []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if u != nil {
		a.u = u
	}
	if v != nil {
		a.v = v
	}
}

func (a *actor) takeU(w http.ResponseWriter, r *http.Request) {
	var body api.UKey
	err := json.NewDecoder(r.Body).Decode(&body)
	var u []byte
	if err == nil {
		u, err = a.share(body.EncryptedKey)
	}
	if err != nil {
		envelope(w, 400, err.Error(), struct{}{})
		return
	}
	a.setShares(u, nil)
	a.mu.Lock()
	a.ukey = body
	a.mu.Unlock()
	envelope(w, 200, "Success", nil)
}

func (a *actor) takeV(w http.ResponseWriter, r *http.Request) {
	var body api.VKey
	err := json.NewDecoder(r.Body).Decode(&body)
	var v []byte
	if err == nil {
		v, err = a.share(body.EncryptedKey)
	}
	if err != nil {
		envelope(w, 400, err.Error(), struct{}{})
		return
	}
	a.setShares(nil, v)
	envelope(w, 200, "Success", nil)
}

// key is K once both shares are there.
func (a *actor) key() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.u) != keySize || len(a.v) != keySize {
		return nil
	}
	k := make([]byte, keySize)
	for i := range k {
		k[i] = a.u[i] ^ a.v[i]
	}
	return k
}

func (a *actor) proveKey(w http.ResponseWriter, r *http.Request) {
	k := a.key()
	if k == nil {
		envelope(w, 400, "Bootstrap key not yet available.", struct{}{})
		return
	}
	mac := hmac.New(sha512.New384, k)
	mac.Write([]byte(r.URL.Query().Get("challenge")))
	envelope(w, 200, "Success", api.KeyVerify{HMAC: hex.EncodeToString(mac.Sum(nil))})
}

// register registers the actor at a registrar as agents do, and proves that its AK is in the TPM of its EK.
func (a *actor) register(t testing.TB, registrar *api.RegistrarClient, ekCert []byte) {
	t.Helper()
	text := func(b []byte) *string { s := base64.StdEncoding.EncodeToString(b); return &s }
	host := "127.0.0.1"
	req := api.RegisterRequest{EKTPM: text(a.soft.EKPublic()), AIKTPM: text(a.soft.AKPublic()), IP: &host, Port: json.RawMessage(strconv.Itoa(a.agent.port())), MTLSCert: &a.cert}
	if ekCert != nil {
		req.EKCert = text(ekCert)
	}
	res, err := registrar.Register(t.Context(), api.Current, a.id, req)
	if err != nil {
		t.Fatal(err)
	}
	blob, err := base64.StdEncoding.DecodeString(res.Blob)
	if err != nil {
		t.Fatal(err)
	}
	challenge, err := a.soft.Activate(blob)
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha512.New384, []byte(base64.StdEncoding.EncodeToString(challenge))) // the key is the text
	mac.Write([]byte(a.id))
	if err := registrar.Activate(t.Context(), api.Current, a.id, hex.EncodeToString(mac.Sum(nil))); err != nil {
		t.Fatal(err)
	}
}
