package registrar

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha512"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/internal/fleet"
	"keylime/internal/pki"
	"keylime/store/bolt"
	"keylime/tpm"
)

// site is a registrar that serves on both ports of loopback over a real store, with an administrator's certificate.
type site struct {
	*Registrar
	db     *bolt.DB
	log    *journal
	public *api.RegistrarClient // plain HTTP, as agents come
	admin  *api.RegistrarClient // mutual TLS
	plain  string               // base URLs
	secure string
	tls    *tls.Config // of the administrator
}

// journal collects log lines of concurrent writers.
type journal struct {
	mu   sync.Mutex
	text []byte
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.text = append(j.text, p...)
	return len(p), nil
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return string(j.text)
}

// configuration is what a registrar has without any, but for its working directory and ports.
func configuration(t testing.TB, dir string, environ ...string) config.Registrar {
	t.Helper()
	cfg, _, err := config.LoadRegistrar(sources(dir, environ...))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// start starts a registrar whose configuration the test may change.
func start(t testing.TB, change func(*config.Registrar)) *site {
	t.Helper()
	dir, err := workplace()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{log: &journal{}, tls: administrator(t, dir)}
	cfg := configuration(t, dir)
	if change != nil {
		change(&cfg)
	}
	if s.db, err = bolt.Open(filepath.Join(t.TempDir(), "registrar.db"), bolt.Options{}); err != nil {
		t.Fatal(err)
	}
	if s.Registrar, err = New(cfg, s.db, zerolog.New(s.log)); err != nil {
		t.Fatal(err)
	}
	settings, err := pki.ServerTLS(cfg.TLS.ServerFiles())
	if err != nil {
		t.Fatal(err)
	}
	plain, secure := listen(t), listen(t)
	s.plain, s.secure = "http://"+plain.Addr().String(), "https://"+secure.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, plain, secure, settings) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := s.db.Close(); err != nil {
			t.Errorf("close the store: %v", err)
		}
	})
	s.public = api.NewRegistrar(s.plain, httpClient(t, nil))
	s.admin = api.NewRegistrar(s.secure, httpClient(t, s.tls))
	return s
}

// workplace makes a working directory with the CA, the listener's certificate and the administrator's, for all tests.
var workplace = sync.OnceValues(func() (dir string, err error) {
	dir, err = os.MkdirTemp("", "registrar-test")
	if err != nil {
		return dir, err
	}
	cfg, _, err := config.LoadRegistrar(sources(dir))
	if err != nil {
		return dir, err
	}
	ca, _, err := config.LoadCA(sources(dir))
	if err != nil {
		return dir, err
	}
	if err := cfg.TLS.Provide(ca, cfg.IP); err != nil {
		return dir, err
	}
	return dir, issueAdministrator(dir)
})

func sources(dir string, environ ...string) config.Sources {
	return config.Sources{Root: dir, Environ: append([]string{
		"KEYLIME_DIR=" + dir, "KEYLIME_REGISTRAR_PORT=0", "KEYLIME_REGISTRAR_TLS_PORT=0",
	}, environ...)}
}

// issueAdministrator makes the client certificate in the working directory's CA, as the verifier does.
func issueAdministrator(dir string) error {
	options, _, err := config.LoadCA(sources(dir))
	if err != nil {
		return err
	}
	ca, err := pki.EnsureCA(filepath.Join(dir, "cv_ca"), options.Options())
	if err != nil {
		return err
	}
	if err := ca.EnsureLeaf(pki.Leaf{Name: "viewer", Kind: pki.Client, ReadOnly: true}); err != nil {
		return err
	}
	return ca.EnsureLeaf(pki.Leaf{Name: "client", Kind: pki.Client})
}

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, _ := workplace(); dir != "" {
		_ = os.RemoveAll(dir)
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// administrator is the TLS side of a client with the administrator's certificate.
func administrator(t testing.TB, dir string) *tls.Config { return operator(t, dir, "client") }

// operator is the TLS side of a client with the named certificate.
func operator(t testing.TB, dir, name string) *tls.Config {
	t.Helper()
	file := func(name string) string { return filepath.Join(dir, "cv_ca", name) }
	settings, err := pki.ClientTLS(pki.ClientFiles{
		CertFile: file(name + "-cert.crt"), KeyFile: file(name + "-private.pem"), ServerCAs: []string{file("cacert.crt")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return settings
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func httpClient(t testing.TB, settings *tls.Config) *http.Client {
	tr := &http.Transport{TLSClientConfig: settings}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// machine is an agent's side of registration, over a software TPM.
type machine struct {
	*fleet.SoftTPM
	id string
}

var elliptic sync.Mutex // key generation of several tests at once starves the machine

func newMachine(t testing.TB, id string) *machine {
	t.Helper()
	return modelled(t, id, fleet.Model{Alg: "ecc256"})
}

func modelled(t testing.TB, id string, m fleet.Model) *machine {
	t.Helper()
	elliptic.Lock()
	defer elliptic.Unlock()
	soft, err := fleet.Build(rand.Reader, m)
	if err != nil {
		t.Fatal(err)
	}
	return &machine{soft, id}
}

func text(s string) *string { return &s }

func b64(b []byte) *string { return text(base64.StdEncoding.EncodeToString(b)) }

// request is what the machine registers with.
func (m *machine) request() api.RegisterRequest {
	return api.RegisterRequest{
		EKTPM: b64(m.EKPublic()), AIKTPM: b64(m.AKPublic()), EKCert: text(""),
		IP: text("127.0.0.1"), Port: json.RawMessage("9002"), MTLSCert: text("disabled"),
	}
}

// tag answers a challenge.
func (m *machine) tag(t testing.TB, blob string) string {
	t.Helper()
	sealed, err := base64.StdEncoding.DecodeString(blob)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := m.Activate(sealed)
	if err != nil {
		t.Fatal(err)
	}
	return tagOf(string(secret), m.id)
}

func tagOf(secret, id string) string {
	mac := hmac.New(sha512.New384, []byte(base64.StdEncoding.EncodeToString([]byte(secret))))
	mac.Write([]byte(id))
	return hex.EncodeToString(mac.Sum(nil))
}

// register registers and activates, and fails the test when either is refused.
func (s *site) register(t testing.TB, m *machine, req api.RegisterRequest) {
	t.Helper()
	res, err := s.public.Register(t.Context(), "2.6", m.id, req)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.public.Activate(t.Context(), "2.6", m.id, m.tag(t, res.Blob)); err != nil {
		t.Fatal(err)
	}
}

// refused registers and wants an answer with that status, whose text it returns.
func (s *site) refused(t testing.TB, id string, req api.RegisterRequest, status int) string {
	t.Helper()
	_, err := s.public.Register(t.Context(), "2.6", id, req)
	if !api.IsStatus(err, status) {
		t.Fatalf("Register(%s) = %v, want status %d", id, err, status)
	}
	return err.Error()
}

// record is the active registration as the administrator sees it.
func (s *site) record(t testing.TB, id string) api.RegistrarAgent {
	t.Helper()
	a, err := s.admin.Agent(t.Context(), "2.6", id)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func parse(t testing.TB, public []byte) *tpm.Public {
	t.Helper()
	p, err := tpm.ParsePublic(public)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
