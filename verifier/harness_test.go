package verifier

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/internal/pki"
	"keylime/internal/web"
	"keylime/store"
	"keylime/store/bolt"
)

// sharedDir holds what tests share: the CA, which takes its time to make.
var sharedDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "verifier-test")
	if err != nil {
		panic(err)
	}
	sharedDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			code = 1
		}
	}
	os.Exit(code)
}

// authority is the test CA with an administrator's identity.
type authority struct {
	dir    string
	pool   *x509.CertPool
	client *tls.Config // identity of the verifier towards agents, and of administrators
	err    error
}

var makeAuthority = sync.OnceValue(func() authority {
	a := authority{dir: filepath.Join(sharedDir, "cv_ca")}
	ca, err := pki.EnsureCA(a.dir, testCAOptions())
	if err != nil {
		return authority{err: err}
	}
	for _, leaf := range []pki.Leaf{
		{Name: "server", Kind: pki.Server, Hosts: []string{"127.0.0.1", "localhost"}},
		{Name: "client", Kind: pki.Client},
	} {
		if a.err = ca.EnsureLeaf(leaf); a.err != nil {
			return a
		}
	}
	a.pool = x509.NewCertPool()
	a.pool.AddCert(ca.Certificate())
	a.client, a.err = pki.ClientTLS(pki.ClientFiles{
		CertFile: filepath.Join(a.dir, "client-cert.crt"), KeyFile: filepath.Join(a.dir, "client-private.pem"),
		ServerCAs: []string{filepath.Join(a.dir, "cacert.crt")},
	})
	return a
})

func testCAOptions() pki.CAOptions {
	return pki.CAOptions{
		Password: "test", Country: "US", CommonName: "Test CA", State: "MA", Locality: "Lexington",
		Organization: "Keylime", OrgUnit: "53", Lifetime: 24 * time.Hour, LeafLifetime: 24 * time.Hour, Bits: 2048,
	}
}

func testCA(t testing.TB) authority {
	t.Helper()
	a := makeAuthority()
	if a.err != nil {
		t.Fatal(a.err)
	}
	return a
}

// testVerifier is a verifier over a real store that attests until the test ends.
type testVerifier struct {
	*Verifier
	store store.Verifier
	log   *syncBuffer
	stop  func()
}

// fastConfig polls every 20 ms and gives up after two more tries.
func fastConfig(t testing.TB) config.Verifier {
	t.Helper()
	cfg, _, err := config.LoadVerifier(config.Sources{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	cfg.QuoteInterval = 20 * time.Millisecond
	cfg.RetryInterval = 10 * time.Millisecond
	cfg.MaxRetries = 2
	cfg.RequestTimeout = 5 * time.Second
	cfg.ShutdownDrainTimeout = 2 * time.Second
	return cfg
}

func openStore(t testing.TB) *bolt.DB {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "verifier.db"), bolt.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// startVerifier runs a verifier over s.
func startVerifier(t testing.TB, cfg config.Verifier, s store.Verifier) *testVerifier {
	t.Helper()
	tv := newVerifier(t, cfg, s)
	tv.start(t)
	return tv
}

// newVerifier makes one that does not attest yet.
func newVerifier(t testing.TB, cfg config.Verifier, s store.Verifier) *testVerifier {
	t.Helper()
	buf := &syncBuffer{}
	v, err := New(t.Context(), cfg, s, Options{
		Client: testCA(t).client,
		Listen: netip.MustParseAddrPort("127.0.0.1:8881"),
		Log:    zerolog.New(buf),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return &testVerifier{Verifier: v, store: s, log: buf}
}

func (tv *testVerifier) start(t testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tv.Attest(ctx)
	}()
	tv.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(tv.stop)
}

// add enrols an agent as its tenant would.
func (tv *testVerifier) add(t testing.TB, a *testAgent, req api.EnrolRequest) {
	t.Helper()
	if err := tv.enrol(t.Context(), a.id, encode(t, req)); err != nil {
		t.Fatalf("enrol %s: %v", a.id, err)
	}
}

// serve serves the API over TLS and returns its base URL, with a client of an administrator.
func (tv *testVerifier) serve(t testing.TB) (base string, admin *http.Client) {
	t.Helper()
	ca := testCA(t)
	cfg, err := pki.ServerTLS(pki.ServerFiles{
		CertFile: filepath.Join(ca.dir, "server-cert.crt"), KeyFile: filepath.Join(ca.dir, "server-private.pem"),
		ClientCAs: []string{filepath.Join(ca.dir, "cacert.crt")},
	})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- web.Serve(ctx, ln, tv.Handler(), cfg, web.Limits{}, zerolog.Nop()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "https://" + ln.Addr().String(), clientWith(t, ca.client.Certificates...)
}

// clientWith is a client that trusts the test CA and presents the certificates. Redirects are shown, not followed.
func clientWith(t testing.TB, certs ...tls.Certificate) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: testCA(t).pool, Certificates: certs}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// status is the agent as the API shows it.
func (tv *testVerifier) status(t testing.TB, id string) api.VerifierAgent {
	t.Helper()
	a, err := tv.agent(t.Context(), id, false)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// until polls the agent's status until ok, and returns it.
func (tv *testVerifier) until(t testing.TB, id, what string, ok func(api.VerifierAgent) bool) api.VerifierAgent {
	t.Helper()
	var last api.VerifierAgent
	eventually(t, func() bool { last = tv.status(t, id); return ok(last) }, func() {
		t.Fatalf("%s: not within the time: %s\nstatus: %s\nlog:\n%s", id, what, encode(t, last), tv.log)
	})
	return last
}

// passes waits for n more good rounds.
func (tv *testVerifier) passes(t testing.TB, id string, n int) api.VerifierAgent {
	t.Helper()
	before := tv.status(t, id).AttestationCount
	return tv.until(t, id, "good rounds", func(a api.VerifierAgent) bool { return a.AttestationCount >= before+n })
}

func inState(s store.OperationalState) func(api.VerifierAgent) bool {
	return func(a api.VerifierAgent) bool { return a.OperationalState == int(s) }
}

// eventually polls for up to 15 seconds.
func eventually(t testing.TB, ok func() bool, otherwise func()) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(deadline) {
			otherwise()
			t.FailNow()
		}
	}
}

// syncBuffer is a log that may be read while it is written. It drops what is written of good rounds.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(`"level":"debug"`)) {
		return len(p), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
