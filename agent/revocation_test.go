package agent

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/recorded"
)

// notifier signs revocations as the verifier does.
type notifier struct{ key *rsa.PrivateKey }

func newNotifier(t testing.TB) notifier {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return notifier{key}
}

func (n notifier) certificate(t testing.TB) string {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "RevocationNotifier"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &n.key.PublicKey, n.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (n notifier) sign(t testing.TB, msg string) api.Notification {
	t.Helper()
	digest := sha256.Sum256([]byte(msg))
	signature, err := rsa.SignPSS(rand.Reader, n.key, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto})
	if err != nil {
		t.Fatal(err)
	}
	return api.Notification{Msg: msg, Signature: base64.StdEncoding.EncodeToString(signature)}
}

// newRevoker has a payload directory with the notifier's certificate and one action, "note", which appends the
// message to the file that noted names.
func newRevoker(t *testing.T, n notifier) (r *revoker, noted string) {
	t.Helper()
	work, unpacked := t.TempDir(), t.TempDir()
	noted = filepath.Join(work, "noted")
	cert := writeFile(t, filepath.Join(unpacked, "RevocationNotifier-cert.crt"), n.certificate(t), 0o600)
	writeFile(t, filepath.Join(unpacked, "note"), "#!/bin/sh\ncat \"$1\" >> "+noted+"\n", 0o700)
	writeFile(t, filepath.Join(unpacked, actionListFile), "note\n", 0o600)
	r = &revoker{
		certFile: cert, dirs: []string{unpacked}, unpacked: unpacked, workDir: work, agentID: exampleID, log: zerolog.Nop(),
		payloadFiles: new(sync.RWMutex), queue: make(chan api.Notification, 1), seen: digests{max: maxSeen},
	}
	if err := r.loadSigner(); err != nil {
		t.Fatal(err)
	}
	return r, noted
}

func read(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}

const revocationText = `{"type": "revocation", "ip": "127.0.0.1", "agent_id": "x", "port": 9002, "event_time": "Mon Nov 23 21:48:12 2026", "big": 12345678901234567890}`

func TestSignedRevocationRunsItsActions(t *testing.T) {
	t.Parallel()
	n := newNotifier(t)
	r, noted := newRevoker(t, n)
	if err := r.handle(t.Context(), n.sign(t, revocationText)); err != nil {
		t.Fatal(err)
	}
	want := `{"agent_id":"x","big":12345678901234567890,"event_time":"Mon Nov 23 21:48:12 2026","ip":"127.0.0.1","port":9002,"type":"revocation"}` + "\n"
	if got := read(t, noted); got != want {
		t.Errorf("action was given %q, want %q", got, want)
	}
	left, err := filepath.Glob(filepath.Join(r.workDir, ".tmp*"))
	if err != nil || left != nil {
		t.Errorf("left behind %v, %v", left, err)
	}
	if err := r.handle(t.Context(), n.sign(t, strings.Replace(revocationText, "revocation", "comm_error", 1))); err != nil {
		t.Errorf("comm_error: %v", err)
	}
}

// NT-62
func TestUnbelievableRevocationsAreIgnored(t *testing.T) {
	t.Parallel()
	n, other := newNotifier(t), newNotifier(t)
	good := n.sign(t, revocationText)
	deep := strings.Repeat("[", 100) + strings.Repeat("]", 100)
	cases := map[string]struct {
		message api.Notification
		want    string
	}{
		"unsigned":          {api.Notification{Msg: revocationText}, "not signed"},
		"another's":         {other.sign(t, revocationText), "not by the revocation certificate"},
		"signature cut":     {api.Notification{Msg: revocationText, Signature: good.Signature[4:]}, "not by the revocation certificate"},
		"signature no text": {api.Notification{Msg: revocationText, Signature: "!"}, "illegal base64"},
		"text altered":      {api.Notification{Msg: revocationText + " ", Signature: good.Signature}, "not by the revocation certificate"},
		"unknown type":      {n.sign(t, `{"type": "party"}`), `unknown type "party"`},
		"no type":           {n.sign(t, `{}`), "unknown type"},
		"type no text":      {n.sign(t, `{"type": 1}`), "unknown type"},
		"no object":         {n.sign(t, `["revocation"]`), "no JSON object"},
		"null":              {n.sign(t, `null`), "unknown type"},
		"no JSON":           {n.sign(t, `{"type": "revocation"`), "not valid JSON"},
		"two values":        {n.sign(t, `{"type": "revocation"} {}`), "not valid JSON"},
		"name twice":        {n.sign(t, `{"type": "party", "type": "revocation"}`), "not valid JSON"},
		"nested":            {n.sign(t, `{"type": "revocation", "x": `+deep+`}`), "not valid JSON"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, noted := newRevoker(t, n)
			if err := r.handle(t.Context(), c.message); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
			if got := read(t, noted); got != "" {
				t.Errorf("action ran with %q", got)
			}
		})
	}
}

// NT-62: replay
func TestRepeatedRevocationIsCarriedOutOnce(t *testing.T) {
	t.Parallel()
	n := newNotifier(t)
	r, noted := newRevoker(t, n)
	message := n.sign(t, revocationText)
	if err := r.handle(t.Context(), message); err != nil {
		t.Fatal(err)
	}
	once := read(t, noted)
	// PSS signatures are randomised: the same text signed again is the same message.
	for _, again := range []api.Notification{message, n.sign(t, revocationText)} {
		if err := r.handle(t.Context(), again); err == nil || !strings.Contains(err.Error(), "before") {
			t.Errorf("got %v", err)
		}
	}
	if got := read(t, noted); got != once {
		t.Errorf("action ran again: %q", got)
	}
}

func TestNothingIsBelievedBeforeAPayload(t *testing.T) {
	t.Parallel()
	n := newNotifier(t)
	r, noted := newRevoker(t, n)
	if err := os.Remove(r.certFile); err != nil {
		t.Fatal(err)
	}
	if err := r.loadSigner(); err != nil {
		t.Errorf("no certificate is an ordinary state, got %v", err)
	}
	if err := r.handle(t.Context(), n.sign(t, revocationText)); err == nil || !strings.Contains(err.Error(), "no payload") {
		t.Errorf("got %v", err)
	}
	if got := read(t, noted); got != "" {
		t.Errorf("action ran with %q", got)
	}
}

func TestDamagedCertificateIsReportedAndNothingBelieved(t *testing.T) {
	t.Parallel()
	n := newNotifier(t)
	for name, text := range map[string]string{"empty": "", "no certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "huge": strings.Repeat("x", maxCertificate+1)} {
		r, _ := newRevoker(t, n)
		writeFile(t, r.certFile, text, 0o600)
		if err := r.loadSigner(); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if err := r.handle(t.Context(), n.sign(t, revocationText)); err == nil {
			t.Errorf("%s: message of the certificate before is still believed", name)
		}
	}
}

func TestFailingActionStopsTheRest(t *testing.T) {
	t.Parallel()
	n := newNotifier(t)
	r, noted := newRevoker(t, n)
	writeFile(t, filepath.Join(r.unpacked, "fails"), "#!/bin/sh\nexit 1\n", 0o700)
	for i, list := range []string{"fails note", "missing, note", "../note note"} {
		writeFile(t, filepath.Join(r.unpacked, actionListFile), list, 0o600)
		text := strings.Replace(revocationText, "9002", json.Number(string(rune('1'+i))).String(), 1)
		if err := r.handle(t.Context(), n.sign(t, text)); err == nil {
			t.Errorf("%q: no error", list)
		}
		if got := read(t, noted); got != "" {
			t.Errorf("%q: the next action ran with %q", list, got)
		}
	}
	// Configured actions come first.
	r.configured = []string{"note", "fails"}
	if err := r.handle(t.Context(), n.sign(t, revocationText)); err == nil || read(t, noted) == "" {
		t.Errorf("got %v, noted %q", err, read(t, noted))
	}
}

// A recorded revocation verifies with the key that its agent was enrolled with.
func TestRecordedRevocationVerifies(t *testing.T) {
	t.Parallel()
	var enrol struct {
		RevocationKey string `json:"revocation_key"`
	}
	var message api.Notification
	for name, body := range map[string]any{"008-tenant-POST-v2.6_agents_ID": &enrol, "022-verifier-POST-v2.6_notifications_revocation": &message} {
		if err := json.Unmarshal([]byte(recorded.Read(t, "wire/cert/"+name+".json").Request.Body), body); err != nil {
			t.Fatal(err)
		}
	}
	block, _ := pem.Decode([]byte(enrol.RevocationKey))
	if block == nil {
		t.Fatal("no key in the recording")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := verifyRevocation(&key.(*rsa.PrivateKey).PublicKey, message); err != nil {
		t.Error(err)
	}
	if _, err := decodeRevocation(message.Msg); err != nil {
		t.Error(err)
	}
}
