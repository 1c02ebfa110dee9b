package e2e

import (
	"context"
	crand "crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/fleet"
)

// callingAgent is a simulated agent that calls in, with what it was told.
type callingAgent struct {
	*fleet.PushAgent
	opened   int64 // index of the attestation opened last; -1 = none
	judged   int   // attestations that were acknowledged
	sessions int
}

// TestKillWhileAgentsCall kills the server again and again while agents call it. Sessions outlive it, no attestation
// gets a number that another had, none is stuck, and an agent that then stays silent is missed.
func TestKillWhileAgentsCall(t *testing.T) {
	t.Parallel()
	w := newServerWorld(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 2))
	appendConfig(t, w, "[verifier]\n", "quote_interval = 1\nsession_create_rate_limit_per_ip = 1000\n")

	server := w.launchServer(t)
	w.connectAdmin(t)
	agents := make([]*callingAgent, 6)
	for i := range agents {
		agents[i] = enrolCalling(t, w, fmt.Sprintf("caller%d", i))
	}
	kills := 6
	if testing.Short() {
		kills = 2
	}
	for range kills {
		ctx, stop := context.WithCancel(context.Background())
		var group sync.WaitGroup
		for _, a := range agents {
			group.Go(func() { a.callUntil(ctx, t) })
		}
		time.Sleep(time.Duration(1200+dice.IntN(600)) * time.Millisecond)
		if err := server.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = server.Wait()
		stop()
		group.Wait()
		w.admin.CloseIdleConnections()
		server = w.launchServer(t)
	}
	judged := 0
	for _, a := range agents {
		judged += a.judged
		if a.sessions != 1 {
			t.Errorf("%s: %d sessions were needed, want the first to outlive the server", a.ID, a.sessions)
		}
		eventually(t, 10*time.Second, a.ID+" attests after the last kill", func() error {
			_, err := a.Attest(t.Context())
			return err
		})
		var s status
		if err := w.get(w.port.verifier, "/v2.6/agents/"+a.ID, &s); err != nil || s.Status != "PASS" || s.Count == 0 {
			t.Errorf("%s: %+v %v", a.ID, s, err)
		}
	}
	if judged < len(agents) {
		t.Errorf("%d attestations were acknowledged over %d kills; the test proves nothing", judged, kills)
	}
	for _, a := range agents { // silent from now on; five intervals is the limit
		eventually(t, 20*time.Second, a.ID+" is missed", func() error {
			var s status
			if err := w.get(w.port.verifier, "/v2.6/agents/"+a.ID, &s); err != nil {
				return err
			}
			if s.Status != "TIMEOUT" {
				return fmt.Errorf("%w: %+v", errNotYet, s)
			}
			return nil
		})
	}
}

// callUntil attests until ctx ends or the server is gone.
func (a *callingAgent) callUntil(ctx context.Context, t *testing.T) {
	for ctx.Err() == nil {
		if a.Token() == "" {
			if a.OpenSession(ctx) != nil {
				continue
			}
			a.sessions++
		}
		location, wanted, err := a.Open(ctx)
		switch status := fleet.StatusOf(err); {
		case status == http.StatusUnauthorized:
			t.Errorf("%s: the session did not outlive the server: %v", a.ID, err)
			a.UseToken("")
			continue
		case err != nil: // too early, or nobody there
			time.Sleep(50 * time.Millisecond)
			continue
		}
		var index int64
		if _, err := fmt.Sscanf(filepath.Base(location), "%d", &index); err != nil || index <= a.opened {
			t.Errorf("%s: attestation %q after %d", a.ID, location, a.opened)
		}
		a.opened = index
		items, err := a.Collect(wanted)
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := a.Deliver(ctx, location, items); err == nil {
			a.judged++
		}
	}
}

// enrolCalling enrols a simulated agent as an operator does.
func enrolCalling(t *testing.T, w *world, id string) *callingAgent {
	t.Helper()
	soft, err := fleet.NewSoftTPM(crand.Reader, "ecc256")
	if err != nil {
		t.Fatal(err)
	}
	admin := w.admin.Transport.(*http.Transport).TLSClientConfig
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: admin.RootCAs}}}
	a, err := fleet.NewPushAgent(id, soft, fmt.Sprintf("https://127.0.0.1:%d", w.port.verifier), client)
	if err != nil {
		t.Fatal(err)
	}
	var request map[string]any
	if err := json.Unmarshal(enrolmentOf(t, w, soft), &request); err != nil {
		t.Fatal(err)
	}
	request["attestation_mode"], request["mtls_cert"] = api.ModePush, nil
	request["tpm_policy"] = fmt.Sprintf(`{"0":[%q]}`, "0000000000000000000000000000000000000000000000000000000000000000")
	body, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	if status := w.send(t.Context(), http.MethodPost, id, body); status != http.StatusOK {
		t.Fatalf("enrol %s: %d", id, status)
	}
	return &callingAgent{PushAgent: a, opened: -1}
}

// appendConfig adds lines below a table's name in the server's configuration.
func appendConfig(t *testing.T, w *world, table, lines string) {
	t.Helper()
	name := filepath.Join(w.dir, "keylime.toml")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	before, after, ok := strings.Cut(string(text), table)
	if !ok {
		t.Fatalf("no %q in %s", table, name)
	}
	if err := os.WriteFile(name, []byte(before+table+lines+after), 0o600); err != nil {
		t.Fatal(err)
	}
}
