package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLife runs one agent's life with each role played by one implementation or the other.
func TestLife(t *testing.T) {
	for _, c := range []struct {
		name                               string
		verifier, registrar, tenant, agent side
	}{
		{"agent ours rest Python", peer, peer, peer, ours},
		{"tenant Python rest ours", ours, ours, peer, ours},
		{"tenant and agent ours rest Python", peer, peer, ours, ours},
		{"registrar and tenant Python rest ours", ours, peer, peer, ours},
		{"verifier and tenant Python rest ours", peer, ours, peer, ours},
		{"all ours by upstream's names", ours, ours, ours, ours},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pull)
			measureBoot(t, w)
			w.start(t, c.verifier, "verifier", w.port.verifier)
			w.start(t, c.registrar, "registrar", w.port.registrar)
			w.startWebhook(t)
			w.connectAdmin(t)
			copyFile(t, filepath.Join(w.caDir(), "cacert.crt"), filepath.Join(w.agentDir(), "cv_ca", "cacert.crt"))
			w.start(t, c.agent, "agent", w.port.agent)

			enrol(t, w, c.tenant)
			attestTwenty(t, w)
			showListings(t, w, c.tenant)
			tamper(t, w)
			remove(t, w, c.tenant)
		})
	}
}

// enrol adds the agent with a certificate package: autorun.sh, a revocation action, and the key that signs
// revocations.
func enrol(t *testing.T, w *world, tenant side) {
	t.Helper()
	w.tenant(t, tenant, append([]string{"-c", "add", "-t", "127.0.0.1", "-tp", fmt.Sprint(w.port.agent), "-v", "127.0.0.1", "-u", agentID,
		"--verify"}, append(runtimePolicyArgs(t, w), payloadArgs(t, w)...)...)...)
	payloadArrives(t, w)
}

// runtimePolicyArgs are the arguments for a policy of what was measured so far.
func runtimePolicyArgs(t *testing.T, w *world) []string {
	t.Helper()
	file := filepath.Join(w.dir, "policy.json")
	if err := os.WriteFile(file, runtimePolicy(t, w.imaLog), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--runtime-policy", file, "--runtime-policy-name", "interop-policy"}
}

// payloadArgs are the arguments for a certificate package with a script and a revocation action.
func payloadArgs(t *testing.T, w *world) []string {
	t.Helper()
	include := filepath.Join(w.dir, "include")
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(include, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write("autorun.sh", fmt.Sprintf("#!/bin/sh\ncp secret.txt %s/autorun.ran\n", w.dir))
	write("secret.txt", "the secret payload\n")
	write("action_list", "local_action_record.sh\n")
	write("local_action_record.sh", fmt.Sprintf("#!/bin/sh\ncp \"$1\" %s/action.ran\n", w.dir))
	return []string{"--cert", filepath.Join(w.dir, "kl", "ca"), "--include", include}
}

func payloadArrives(t *testing.T, w *world) {
	t.Helper()
	eventually(t, 20*time.Second, "the payload's script runs", func() error {
		text, err := os.ReadFile(filepath.Join(w.dir, "autorun.ran"))
		if err == nil && string(text) != "the secret payload\n" {
			err = fmt.Errorf("%w: payload is %q", errNotYet, text)
		}
		return err
	})
}

func attestTwenty(t *testing.T, w *world) {
	t.Helper()
	measure(t, w, "/usr/bin/permitted-later", "permitted")
	measure(t, w, "/tmp/excluded", "anything")
	eventually(t, 60*time.Second, "20 good attestations", func() error {
		s, err := w.status()
		if err == nil && (s.Count < 20 || s.Status != "PASS" || s.Event != nil) {
			err = fmt.Errorf("%w: %+v", errNotYet, s)
		}
		return err
	})
}

func showListings(t *testing.T, w *world, tenant side) {
	t.Helper()
	for _, command := range []string{"status", "cvstatus", "regstatus", "cvlist", "reglist", "bulkinfo"} {
		out := w.tenant(t, tenant, "-c", command, "-u", agentID, "-v", "127.0.0.1")
		if !strings.Contains(out, agentID) {
			t.Errorf("tenant %s does not show the agent:\n%s", command, out)
		}
	}
	out := w.tenant(t, tenant, "-c", "listruntimepolicy")
	if !strings.Contains(out, "interop-policy") {
		t.Errorf("listruntimepolicy does not show the policy:\n%s", out)
	}
}

// tamper measures a file that no policy permits, and follows the failure to everyone who must know.
func tamper(t *testing.T, w *world) {
	t.Helper()
	measure(t, w, "/usr/bin/evil", "evil")
	eventually(t, 30*time.Second, "the agent fails", func() error {
		s, err := w.status()
		if err != nil {
			return err
		}
		if s.State != 9 || s.Event == nil || *s.Event != "ima.validation.ima-ng.not_in_allowlist" {
			return fmt.Errorf("%w: %+v", errNotYet, s)
		}
		return nil
	})
	failureIsTold(t, w)
}

// failureIsTold waits until the webhook and the agent's revocation action know.
func failureIsTold(t *testing.T, w *world) {
	t.Helper()
	eventually(t, 20*time.Second, "the webhook is told", func() error {
		bodies := w.webhookBodies()
		if len(bodies) == 0 {
			return errNotYet
		}
		return isRevocation(bodies[0])
	})
	eventually(t, 20*time.Second, "the agent's revocation action runs", func() error {
		text, err := os.ReadFile(filepath.Join(w.dir, "action.ran"))
		if err != nil {
			return err
		}
		var msg map[string]any
		if err := json.Unmarshal(text, &msg); err != nil || msg["agent_id"] != agentID || msg["type"] != "revocation" {
			return fmt.Errorf("action got %s (%v)", text, err)
		}
		return nil
	})
}

func remove(t *testing.T, w *world, tenant side) {
	t.Helper()
	w.tenant(t, tenant, "-c", "delete", "-u", agentID, "-v", "127.0.0.1")
	if s, err := w.status(); err == nil {
		t.Errorf("still at the verifier after delete: %+v", s)
	}
	w.tenant(t, tenant, "-c", "deleteruntimepolicy", "--runtime-policy-name", "interop-policy")
	w.tenant(t, tenant, "-c", "regdelete", "-u", agentID)
	var list struct{ UUIDs []string }
	if err := w.get(w.port.registrarTLS, "/v2.6/agents", &list); err != nil || len(list.UUIDs) != 0 {
		t.Errorf("registrar still lists %v (%v)", list.UUIDs, err)
	}
}

func isRevocation(body string) error {
	var wrapper struct{ Msg, Signature string }
	if err := json.Unmarshal([]byte(body), &wrapper); err != nil {
		return fmt.Errorf("webhook got %q: %w", body, err)
	}
	var msg struct {
		Type    string `json:"type"`
		AgentID string `json:"agent_id"`
		EventID string `json:"event_id"`
	}
	if err := json.Unmarshal([]byte(wrapper.Msg), &msg); err != nil {
		return fmt.Errorf("webhook message %q: %w", wrapper.Msg, err)
	}
	if msg.Type != "revocation" || msg.AgentID != agentID || msg.EventID != "ima.validation.ima-ng.not_in_allowlist" || wrapper.Signature == "" {
		return fmt.Errorf("webhook got %+v", wrapper)
	}
	return nil
}

// runtimePolicy permits what the log holds now, one file more, and everything below /tmp.
func runtimePolicy(t *testing.T, log string) []byte {
	t.Helper()
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	digests := map[string][]string{"/usr/bin/permitted-later": {hexDigest("permitted")}}
	for _, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		fields := strings.SplitN(line, " ", 5)
		digests[fields[4]] = []string{strings.TrimPrefix(fields[3], "sha256:")}
	}
	policy := map[string]any{
		"meta": map[string]any{"version": 1, "generator": 3}, "release": 0,
		"digests": digests, "excludes": []string{"/tmp/.*"}, "keyrings": map[string]any{},
		"ima":     map[string]any{"ignored_keyrings": []string{}, "log_hash_alg": "sha1", "dm_policy": nil},
		"ima-buf": map[string]any{}, "verification-keys": "",
	}
	data, err := json.Marshal(policy)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func hexDigest(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
