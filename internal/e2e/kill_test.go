package e2e

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"keylime/internal/fleet"
	"keylime/internal/pki"
)

// TestKill kills the server again and again while clients enrol and delete agents and policies. What was acknowledged
// is there after each restart, and what was deleted does not come back.
func TestKill(t *testing.T) {
	t.Parallel()
	w := newServerWorld(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 1))
	enrolment := enrolment(t, w)
	known := newLedger()

	kills := 12
	if testing.Short() {
		kills = 3
	}
	for life := range kills {
		server := w.launchServer(t)
		if life == 0 {
			w.connectAdmin(t)
		}
		known.verify(t, w)
		ctx, stop := context.WithCancel(context.Background())
		var clients sync.WaitGroup
		for c := range 8 {
			clients.Go(func() { known.load(ctx, w, fmt.Sprintf("life%d-client%d", life, c), enrolment) })
		}
		time.Sleep(time.Duration(100+dice.IntN(500)) * time.Millisecond)
		if err := server.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = server.Wait()
		stop()
		clients.Wait()
		w.admin.CloseIdleConnections()
	}
	server := w.launchServer(t)
	known.verify(t, w)
	_ = server.Process.Kill()
	_ = server.Wait()
	t.Logf("%d agents enrolled and %d deleted over %d kills", known.count(present), known.count(gone), kills)
	if known.count(present) == 0 || known.count(gone) == 0 {
		t.Error("the load enrolled or deleted nothing; the test proves nothing")
	}
}

// fate is what a client knows of an agent: what the server acknowledged last. Unknown is a request without an answer.
type fate int

const (
	unknown fate = iota
	present
	gone
)

// ledger is what the clients were told.
type ledger struct {
	mu     sync.Mutex
	agents map[string]fate
}

func newLedger() *ledger { return &ledger{agents: map[string]fate{}} }

func (l *ledger) set(id string, f fate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.agents[id] = f
}

func (l *ledger) count(f fate) (n int) {
	for _, have := range l.agents {
		if have == f {
			n++
		}
	}
	return n
}

// load enrols agents and deletes every second one until ctx ends or the server is gone.
func (l *ledger) load(ctx context.Context, w *world, prefix string, enrolment []byte) {
	for i := 0; ctx.Err() == nil; i++ {
		id := fmt.Sprintf("%s-%d", prefix, i)
		l.set(id, unknown)
		if w.send(ctx, http.MethodPost, id, enrolment) != http.StatusOK {
			return
		}
		l.set(id, present)
		if i%2 == 0 {
			continue
		}
		l.set(id, unknown)
		if w.send(ctx, http.MethodDelete, id, nil) != http.StatusOK {
			return
		}
		l.set(id, gone)
	}
}

// verify compares the ledger with the server.
func (l *ledger) verify(t *testing.T, w *world) {
	t.Helper()
	if len(l.agents) == 0 {
		return
	}
	var list struct{ UUIDs [][]string }
	if err := w.get(w.port.verifier, "/v2.6/agents", &list); err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, one := range list.UUIDs {
		listed[one[0]] = true
	}
	for id, f := range l.agents {
		if f == present && !listed[id] {
			t.Errorf("%s was acknowledged and is lost", id)
		}
		if f == gone && listed[id] {
			t.Errorf("%s was deleted and is back", id)
		}
		if f == unknown { // either is right, once; from now on it has to stay that way
			if l.agents[id] = gone; listed[id] {
				l.agents[id] = present
			}
		}
	}
}

// send makes one request about an agent as the administrator; 0 means that no answer came.
func (w *world) send(ctx context.Context, method, id string, body []byte) int {
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("https://127.0.0.1:%d/v2.6/agents/%s", w.port.verifier, id), bytes.NewReader(body))
	if err != nil {
		return 0
	}
	rsp, err := w.admin.Do(req)
	if err != nil {
		return 0
	}
	defer rsp.Body.Close()
	_, _ = io.Copy(io.Discard, rsp.Body)
	return rsp.StatusCode
}

// newServerWorld is a world without a TPM: only servers run in it.
func newServerWorld(t *testing.T) *world {
	t.Helper()
	w := &world{dir: t.TempDir()}
	if err := os.MkdirAll(filepath.Join(w.dir, "kl"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*int{&w.port.verifier, &w.port.registrar, &w.port.registrarTLS, &w.port.agent} {
		*p = freePort(t)
	}
	config := fmt.Sprintf("[verifier]\nport = %d\nretry_interval = 30\n[registrar]\nport = %d\ntls_port = %d\n",
		w.port.verifier, w.port.registrar, w.port.registrarTLS)
	if err := os.WriteFile(filepath.Join(w.dir, "keylime.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

// launchServer starts `keylime server` and waits until it answers.
func (w *world) launchServer(t *testing.T) *exec.Cmd {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(executable(t), "--config", filepath.Join(w.dir, "keylime.toml"), "server")
	cmd.Env = append(os.Environ(), "KEYLIME_DIR="+filepath.Join(w.dir, "kl"))
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		if t.Failed() {
			t.Logf("server:\n%s", lastBytes(log.Bytes(), 3000))
		}
	})
	eventually(t, 30*time.Second, "the server listens", func() error { return dial(w.port.verifier) })
	return cmd
}

// enrolment is a valid request to enrol an agent that no one runs.
func enrolment(t *testing.T, w *world) []byte {
	t.Helper()
	tpm, err := fleet.NewSoftTPM(crand.Reader, "ecc256")
	if err != nil {
		t.Fatal(err)
	}
	return enrolmentOf(t, w, tpm)
}

// enrolmentOf is a valid request to enrol the owner of a TPM.
func enrolmentOf(t *testing.T, w *world, tpm *fleet.SoftTPM) []byte {
	t.Helper()
	certificate, _, err := pki.SelfSigned("nobody", []string{"127.0.0.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{
		"v": nil, "cloudagent_ip": "127.0.0.1", "cloudagent_port": w.port.agent,
		"verifier_ip": "127.0.0.1", "verifier_port": w.port.verifier,
		"tpm_policy": `{"mask":"0x400"}`, "runtime_policy": "", "runtime_policy_name": "", "runtime_policy_key": "",
		"mb_policy": nil, "mb_policy_name": "", "ima_sign_verification_keys": "", "metadata": "{}", "revocation_key": "",
		"accept_tpm_hash_algs": []string{"sha256"}, "accept_tpm_encryption_algs": []string{"ecc"},
		"accept_tpm_signing_algs": []string{"ecdsa"},
		"ak_tpm":                  base64.StdEncoding.EncodeToString(tpm.AKPublic()),
		"mtls_cert":               string(certificate), "supported_version": "2.6",
	})
	if err != nil {
		t.Fatal(err)
	}
	return body
}
