package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"keylime/internal/swtpm"
)

const agentID = "3f1c9a52-77b0-4a4e-9d0c-5b8f6a1e2d40"

// model is who calls whom: the verifier the agent, or the agent the verifier.
type model int

const (
	pull model = iota
	push
)

// pushAgent is the name of the program for agents that call in, without upstream's prefix.
const pushAgent = "push_model_agent"

// side is who plays a role.
type side int

const (
	ours side = iota
	peer      // upstream's Python
)

// world is one installation on loopback with all its state below dir.
type world struct {
	dir    string
	imaLog string
	tpm    *swtpm.Server
	list   *swtpm.List
	port   struct{ verifier, registrar, registrarTLS, agent, webhook, zmq int }
	model  model
	admin  *http.Client

	mu    sync.Mutex
	hooks []string // bodies that the webhook received
}

func newWorld(t *testing.T, m model) *world {
	t.Helper()
	requirePeer(t)
	swtpm.Require(t)
	w := &world{dir: t.TempDir(), model: m}
	for _, d := range []string{"conf", "kl", "agent/cv_ca", "agent/actions", "include", "bin", "log"} {
		if err := os.MkdirAll(filepath.Join(w.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	w.imaLog = filepath.Join(w.dir, "ima.log")
	for _, p := range []*int{&w.port.verifier, &w.port.registrar, &w.port.registrarTLS, &w.port.agent, &w.port.webhook, &w.port.zmq} {
		*p = freePort(t)
	}
	w.tpm = swtpm.ForTest(t)
	for _, name := range []string{"verifier", "registrar", "tenant", "agent", pushAgent} {
		if err := os.Symlink(executable(t), filepath.Join(w.dir, "bin", "keylime_"+name)); err != nil {
			t.Fatal(err)
		}
	}
	w.writeConf(t)
	return w
}

func (w *world) agentDir() string { return filepath.Join(w.dir, "agent") }
func (w *world) caDir() string    { return filepath.Join(w.dir, "kl", "cv_ca") }

// env is what both implementations find in their environment.
func (w *world) env(role string) []string {
	dir := filepath.Join(w.dir, "kl")
	if role == "agent" || role == pushAgent {
		dir = w.agentDir()
	}
	env := append(os.Environ(), "KEYLIME_DIR="+dir, "TCTI="+w.tpm.TCTI(), "NO_COLOR=1")
	for _, c := range []string{"verifier", "registrar", "tenant", "ca", "logging", "agent"} {
		env = append(env, "KEYLIME_"+strings.ToUpper(c)+"_CONFIG="+filepath.Join(w.dir, "conf", c+".conf"))
	}
	return env
}

// command is the program that plays the role, called by upstream's name and without arguments of its own.
func (w *world) command(ctx context.Context, who side, role string, args ...string) *exec.Cmd {
	program := filepath.Join(w.dir, "bin", "keylime_"+role)
	if who == peer {
		program = filepath.Join(os.Getenv("KEYLIME_PEER_VENV"), "bin", "keylime_"+role)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = filepath.Join(w.dir, "kl")
	cmd.Env = w.env(role)
	return cmd
}

// start runs a daemon until the test ends, and waits until it listens on the port; its log is shown when the test
// failed.
func (w *world) start(t *testing.T, who side, role string, port int) {
	t.Helper()
	w.startUntil(t, who, role, func(string) error { return dial(port) })
}

// startUntil is start for a daemon that is ready when the function, which is given its log's name, says so.
func (w *world) startUntil(t *testing.T, who side, role string, ready func(log string) error) {
	t.Helper()
	logName := filepath.Join(w.dir, "log", role+".log")
	logFile, err := os.Create(logName)
	if err != nil {
		t.Fatal(err)
	}
	defer logFile.Close()
	cmd := w.command(context.Background(), who, role)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", role, err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(10 * time.Second):
		}
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-exited
		if t.Failed() {
			t.Logf("%s:\n%s", logName, tail(logName, 6000))
		}
	})
	eventually(t, 60*time.Second, role+" is ready", func() error {
		select {
		case <-exited:
			t.Fatalf("%s exited:\n%s", role, tail(logName, 6000))
		default:
		}
		return ready(logName)
	})
}

// dial reports whether something listens on the port.
func dial(port int) error {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
	if err == nil {
		conn.Close()
	}
	return err
}

// tenant runs one command of the operator and returns its output, both streams.
func (w *world) tenant(t *testing.T, who side, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	out, err := w.command(ctx, who, "tenant", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("tenant %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// startWebhook serves the revocation webhook with a certificate that the verifier's trusted CA issued.
func (w *world) startWebhook(t *testing.T) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(w.caDir(), "server-cert.crt"), filepath.Join(w.caDir(), "server-private.pem"))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", w.port.webhook), &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		w.mu.Lock()
		w.hooks = append(w.hooks, string(body))
		w.mu.Unlock()
	})}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
}

func (w *world) webhookBodies() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.hooks...)
}

// connectAdmin makes the client that looks at the servers as an operator would.
func (w *world) connectAdmin(t *testing.T) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(w.caDir(), "client-cert.crt"), filepath.Join(w.caDir(), "client-private.pem"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(w.caDir(), "cacert.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	w.admin = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots},
	}}
}

// get asks a server as the administrator and decodes the envelope's results.
func (w *world) get(port int, path string, results any) error {
	rsp, err := w.admin.Get(fmt.Sprintf("https://127.0.0.1:%d%s", port, path))
	if err != nil {
		return err
	}
	defer rsp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(rsp.Body, 1<<20))
	if err != nil {
		return err
	}
	if rsp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", path, rsp.Status, body)
	}
	envelope := struct{ Results any }{results}
	return json.Unmarshal(body, &envelope)
}

// status is the part of the verifier's view of an agent that the tests judge.
type status struct {
	State  int     `json:"operational_state"`
	Count  int     `json:"attestation_count"`
	Event  *string `json:"last_event_id"`
	Status string  `json:"attestation_status"`
}

func (w *world) status() (status, error) {
	var s status
	err := w.get(w.port.verifier, "/v2.6/agents/"+agentID, &s)
	return s, err
}

func requirePeer(t *testing.T) {
	t.Helper()
	if os.Getenv("KEYLIME_PEER_VENV") != "" {
		return
	}
	if os.Getenv("KEYLIME_REQUIRE_TOOLS") != "" {
		t.Fatal("KEYLIME_PEER_VENV is not set: run make test")
	}
	t.Skip("skipped: KEYLIME_PEER_VENV names no environment with upstream's Python roles (make test makes one)")
}

// executable is the program under test as a user gets it.
func executable(t *testing.T) string {
	t.Helper()
	name, err := filepath.Abs("../../keylime")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(name); err != nil {
		t.Fatalf("%v: run make build first", err)
	}
	return name
}

func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// eventually polls until check succeeds, and fails the test with its last error when the time is over.
func eventually(t *testing.T, limit time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func tail(name string, max int) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	return lastBytes(data, max)
}

// lastBytes is the end of a text from the start of a line on.
func lastBytes(data []byte, max int) string {
	if len(data) > max {
		data = data[len(data)-max:]
		data = data[bytes.IndexByte(data, '\n')+1:]
	}
	return string(data)
}

var errNotYet = errors.New("not yet")
