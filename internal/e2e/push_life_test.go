package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPushLife runs one life of an agent that calls in, with each of the other roles played by one implementation or
// the other. It has no port: whatever reaches it, it fetched.
func TestPushLife(t *testing.T) {
	for _, c := range []struct {
		name                        string
		verifier, registrar, tenant side
		count                       int
	}{
		{"agent ours rest Python", peer, peer, peer, 50},
		{"tenant Python rest ours", ours, ours, peer, 15},
		{"agent and tenant ours rest Python", peer, peer, ours, 10},
		{"registrar Python rest ours", ours, peer, ours, 15},
		{"all ours by upstream's names", ours, ours, ours, 15},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, push)
			measureBoot(t, w)
			w.start(t, c.verifier, "verifier", w.port.verifier)
			w.start(t, c.registrar, "registrar", w.port.registrar)
			w.startWebhook(t)
			w.connectAdmin(t)
			copyFile(t, filepath.Join(w.caDir(), "cacert.crt"), filepath.Join(w.agentDir(), "cv_ca", "cacert.crt"))
			w.startUntil(t, ours, pushAgent, calls)

			payload := c.verifier == ours && c.tenant == ours // which upstream's tenant and verifier do not have
			args := append([]string{"-c", "add", "--push-model", "-v", "127.0.0.1", "-u", agentID}, runtimePolicyArgs(t, w)...)
			if payload {
				args = append(args, payloadArgs(t, w)...)
			}
			if !payload && c.tenant == ours {
				payloadIsRefused(t, w)
			}
			w.tenant(t, c.tenant, args...)
			if payload {
				payloadArrives(t, w)
			}
			measure(t, w, "/usr/bin/permitted-later", "permitted")
			measure(t, w, "/tmp/excluded", "anything")
			passes(t, w, c.count)
			showListings(t, w, c.tenant)
			showAttestations(t, w)
			fails(t, w, c.verifier)
			if payload {
				failureIsTold(t, w)
			}
			if err := dial(w.port.agent); err == nil {
				t.Error("somebody listens on the agent's port")
			}
			remove(t, w, c.tenant)
		})
	}
}

// calls reports whether an agent is registered and calls its verifiers.
func calls(log string) error {
	text, err := os.ReadFile(log)
	if err == nil && !strings.Contains(string(text), "agent calls its verifiers") {
		err = errNotYet
	}
	return err
}

// payloadIsRefused: our tenant enrols nobody at a verifier that could not give the agent its payload.
func payloadIsRefused(t *testing.T, w *world) {
	t.Helper()
	args := append([]string{"-c", "add", "--push-model", "-v", "127.0.0.1", "-u", agentID}, payloadArgs(t, w)...)
	out, err := w.command(t.Context(), ours, "tenant", args...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "takes no payloads for agents that call in") {
		t.Errorf("add with a payload: %v\n%s", err, out)
	}
	if s, err := w.status(); err == nil {
		t.Errorf("the agent is enrolled all the same: %+v", s)
	}
}

// showAttestations: our tenant shows the attestations that either verifier keeps, as far as it lists them.
func showAttestations(t *testing.T, w *world) {
	t.Helper()
	cmd := w.command(t.Context(), ours, "tenant")
	cmd.Args = []string{"keylime", "tenant", "attestations", "-u", agentID, "-v", "127.0.0.1"}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "  pass ") {
		t.Errorf("tenant attestations: %v\n%s", err, out)
	}
}

// passes waits for good attestations.
func passes(t *testing.T, w *world, count int) {
	t.Helper()
	eventually(t, 90*time.Second, fmt.Sprintf("%d good attestations", count), func() error {
		s, err := w.status()
		if err == nil && (s.Count < count || s.Status != "PASS" || s.Event != nil) {
			err = fmt.Errorf("%w: %+v", errNotYet, s)
		}
		return err
	})
}

// fails measures a file that no policy permits. Upstream's verifier says no more than that the agent failed.
func fails(t *testing.T, w *world, verifier side) {
	t.Helper()
	measure(t, w, "/usr/bin/evil", "evil")
	eventually(t, 30*time.Second, "the agent fails", func() error {
		s, err := w.status()
		switch {
		case err != nil:
			return err
		case s.Status != "FAIL":
			return fmt.Errorf("%w: %+v", errNotYet, s)
		case verifier == ours && (s.Event == nil || *s.Event != "ima.validation.ima-ng.not_in_allowlist"):
			return fmt.Errorf("%w: %+v", errNotYet, s)
		}
		return nil
	})
}
